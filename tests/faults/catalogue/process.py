"""What happens to the process itself."""

from tests.faults.catalogue.row import Row

ROWS: dict[str, Row] = {
    "P01": Row("SIGTERM in the middle of a flush", "the last version is stored, marked as no longer live; exit code 0"),
}

# what this code base cannot meet, and why
ELSEWHERE: dict[str, str] = {}
