"""The demo's table is readable in any terminal: columns go, cells are never cut."""

import io

import pytest
from rich.console import Console

from bridge.demo import COLUMNS, Row, _table

RECORD = {
    "accountId": "1000031",
    "login": "5000031",
    "status": "live",
    "fresh": True,
    "ageMs": 1234,
    "balance": 10_000_000,
    "equity": 9_999_705,
    "unrealizedPnl": -295,
    "currency": "JPY",
    "moneyDigits": 0,
    "positions": [],
    "version": 28,
}


@pytest.mark.parametrize(
    ("width", "missing"),
    [
        (140, set()),
        (100, set()),
        (80, {"P&L", "account", "flushes"}),
        (60, {"P&L", "account", "flushes", "events", "positions"}),
    ],
)
def test_columns_give_way_when_the_terminal_is_narrow(width: int, missing: set[str]) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(_table([Row("user-1", "ctrader", RECORD, 103), Row("user-2", "alpaca", None, 0)], width))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    header = shown.splitlines()[1].split()
    assert header == [name for name in COLUMNS if name not in missing]
    assert "10,000,000 JPY" in shown
    assert "fresh 1.2 s" in shown
