"""What the paper account refuses: one error that names the field, the row and the rule that was broken."""

from __future__ import annotations

from core.errors import InvalidInput


class Refused(InvalidInput):
    """Refused whole; nothing changed, not even the account's time.

    `field` is a dotted path. `row` counts from 0 in the list that was handed over (None: no list). `rule` is a short
    stable name: of a rule of form ("known", "number", "positive", "digits", "crossed", "kind", "range", …), or the
    broker's own code where the broker refused ("NOT_ENOUGH_MONEY", "TRADING_BAD_STOPS", …; `core.paper_trader.Code`).
    """

    def __init__(self, message: str, *, field: str, rule: str, row: int | None = None) -> None:
        where = field if row is None else f"{field}, row {row}"
        super().__init__(f"{where}: {message} (rule {rule})", field=field)
        self.row = row
        self.rule = rule
