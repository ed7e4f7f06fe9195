"""What an account's cash and quantities were before its executions of late. Pure.

REST may lag behind the stream by seconds, each of its answers for itself (reference/alpaca.md §8.1): executions may be
listed while positions or cash are still those before them. Invariant: what the stream made past does not come back on
the word of such an answer, nor past cash with a deposit or a fee on top, of which no message tells; anything else that
an answer says is no matter of this module.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from decimal import Decimal

from bridge.brokers.alpaca.holding import signed
from core.account import AccountMirror
from core.events import Fill
from core.positions import Position

CASH = ""
REMEMBERED = 1000
NEARER = 10
_ZERO = Decimal(0)


class Past:
    """One account. Times are monotonic seconds; `lag_s`: how long REST may take."""

    __slots__ = ("_lag_s", "_values")

    def __init__(self, lag_s: float) -> None:
        self._lag_s = lag_s
        self._values: deque[tuple[float, str, Decimal]] = deque(maxlen=REMEMBERED)  # until when, of what, what

    def note(self, mirror: AccountMirror, fills: Iterable[Fill], now: float) -> None:
        """These executions are about to be applied to the mirror."""
        keep, positions = self._values.append, mirror.positions
        if mirror.balance is not None:
            keep((now, CASH, mirror.balance))
        for fill in fills:
            key = fill.instrument_id
            keep((now, key, _held(positions[key]) if key in positions else _ZERO))

    def shown(self, said: Mapping[str, Decimal], mirror: AccountMirror, began: float) -> bool:
        """Whether an answer (`said`, as `picture` gives it) shows what was past already when it was asked for. How long
        it took to come is no matter: what it lags is counted from `began`."""
        past: dict[str, set[Decimal]] = {}
        then: dict[str, Decimal] = {}
        for until, what, value in self._values:
            if until >= began:
                then.setdefault(what, value)
            elif until > began - self._lag_s:
                past.setdefault(what, set()).add(value)
        for what, values in past.items():
            found, expected = said.get(what, _ZERO), then.get(what, _present(mirror, what))
            if found in values and found != expected:
                return True
            if what == CASH and expected is not None and _nearer(found, values, expected):
                return True
        return False


def picture(positions: Iterable[Position | None], cash: Decimal | None) -> dict[str, Decimal]:
    """Quantities by instrument, shorts negative, and the cash where it is told."""
    held = {each.instrument_id: _held(each) for each in positions if each is not None}
    return held if cash is None else {**held, CASH: cash}


def _nearer(cash: Decimal, past: Iterable[Decimal], expected: Decimal) -> bool:
    """Whether cash looks like a past one with a fee or a small deposit on top, of which no message told: much nearer to
    it than to what is expected. An error costs a wait of `lag_s`."""
    return any(NEARER * abs(cash - value) < abs(cash - expected) for value in past)


def _held(position: Position | None) -> Decimal:
    return _ZERO if position is None else signed(position.side, position.units)


def _present(mirror: AccountMirror, what: str) -> Decimal | None:
    return mirror.balance if what == CASH else _held(mirror.positions.get(what))
