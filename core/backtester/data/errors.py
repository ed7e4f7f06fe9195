"""What bad data gets: one error that names the field, the row and the rule that was broken."""

from __future__ import annotations

from core.errors import InvalidInput


class BadData(InvalidInput):
    """Data was refused whole. `row` counts from 0 (None: no single row); `rule` is a short stable name."""

    def __init__(self, message: str, *, field: str, rule: str, row: int | None = None) -> None:
        where = field if row is None else f"{field}, row {row}"
        super().__init__(f"{where}: {message} (rule {rule})", field=field)
        self.row = row
        self.rule = rule
