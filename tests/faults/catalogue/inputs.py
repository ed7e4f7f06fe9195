"""What callers send."""

from tests.faults.catalogue.row import Row

ROWS: dict[str, Row] = {
    "I01": Row(
        "fields missing, empty, of the wrong type, nested, doubled", "refused with the path of the field; never a 500"
    ),
}

# what this code base cannot meet, and why
ELSEWHERE: dict[str, str] = {}
