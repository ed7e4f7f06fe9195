"""What caches and databases do."""

from tests.faults.catalogue.row import Row

ROWS: dict[str, Row] = {
    "C01": Row("Redis refuses or is killed", "sessions stay up; the newest version of every record is written later"),
}

# what this code base cannot meet, and why
ELSEWHERE: dict[str, str] = {}
