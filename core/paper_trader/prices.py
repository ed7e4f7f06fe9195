"""Where simulated prices come from: a seeded random walk, and rows of a recording. Pure: no files, no clock.

A frozen market is simply one that nobody steps. Prices are kept as whole points, so they never gather decimals.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from core.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Tick:
    """A quote to feed to the engine; a side that did not change is None."""

    instrument_id: str
    at_ms: int
    bid: Decimal | None
    ask: Decimal | None


class RandomWalk:
    """A price that takes a symmetric random step of up to `step_points` each time, with a constant spread.

    It is pulled back to where it began once it strays by more than `range_points`, so that a long simulation stays in a
    sane region. The same generator state gives the same prices.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        bid: Decimal,
        price_digits: int,
        spread_points: int = 1,
        step_points: int = 3,
        range_points: int = 1000,
    ) -> None:
        self._rng = rng
        self._digits = price_digits
        self._home = self._points = int(bid.scaleb(price_digits))
        if self._home <= range_points or spread_points < 0 or step_points < 1:
            raise InvalidInput("a random walk needs a bid above its range, a spread ≥ 0 and a step ≥ 1", field="bid")
        self._spread = spread_points
        self._step = step_points
        self._range = range_points

    def step(self) -> tuple[Decimal, Decimal]:
        """Move once; (bid, ask)."""
        move = self._rng.randint(-self._step, self._step)
        astray = self._points - self._home
        if abs(astray) > self._range:
            move = -abs(move) if astray > 0 else abs(move)
        self._points = max(1, self._points + move)
        return self.prices()

    def prices(self) -> tuple[Decimal, Decimal]:
        """(bid, ask) as they stand."""
        return (
            Decimal(self._points).scaleb(-self._digits),
            Decimal(self._points + self._spread).scaleb(-self._digits),
        )


def replay(rows: Iterable[str]) -> Iterator[Tick]:
    """Ticks from CSV rows `at_ms,instrument_id,bid,ask` (a header is skipped, an empty side stays as it was).

    Raises InvalidInput naming the row number and field for anything malformed or out of time order.
    """
    last_ms = 0
    for number, row in enumerate(rows, start=1):
        text = row.strip()
        if not text or (number == 1 and text.startswith("at_ms")):
            continue
        cells = [cell.strip() for cell in text.split(",")]
        if len(cells) != 4 or not cells[1]:
            raise InvalidInput(f"row {number}: expected at_ms,instrument_id,bid,ask", field=f"rows[{number}]")
        if not cells[0].isdecimal() or int(cells[0]) < last_ms:
            raise InvalidInput(f"row {number}: at_ms must be Unix ms in rising order", field=f"rows[{number}].at_ms")
        last_ms = int(cells[0])
        yield Tick(cells[1], last_ms, _price(cells[2], number, "bid"), _price(cells[3], number, "ask"))


def _price(cell: str, number: int, name: str) -> Decimal | None:
    if not cell:
        return None
    try:
        price = Decimal(cell)
    except InvalidOperation as cause:
        raise InvalidInput(f"row {number}: {name} is not a number", field=f"rows[{number}].{name}") from cause
    if not price.is_finite() or price <= 0:
        raise InvalidInput(f"row {number}: {name} must be positive", field=f"rows[{number}].{name}")
    return price
