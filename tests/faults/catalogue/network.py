"""What networks and brokers do."""

from tests.faults.catalogue.row import Row

ROWS: dict[str, Row] = {
    "N01": Row("connection reset while live", "every session on it says so within a flush, and is read again"),
}

# what this code base cannot meet, and why
ELSEWHERE: dict[str, str] = {}
