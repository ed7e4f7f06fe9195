"""What the catalogue says of one fault."""

from typing import NamedTuple


class Row(NamedTuple):
    """A fault and what must hold, in a few words each (reference/faults.md §2)."""

    fault: str
    required: str
