"""What the brokers themselves believed, at every moment: each account's cuts in their order.

A cut is what an account held between two changes. Taken by looking after whatever can change one; what is not looked
at in between was over within the same step, and nobody outside could have seen it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.world import World

CUTS_KEPT = 400
# the name of what is traded may be unknown for a while, and the id says as much
POSITION = ("side", "units", "entryPrice", "stopLoss", "takeProfit")
ORDER = ("side", "type", "units", "filledUnits", "limitPrice", "stopPrice")


@dataclass(frozen=True, slots=True)
class Cut:
    """What an account held from `since` (loop seconds) until the next cut's."""

    since: float
    positions: frozenset[tuple[Any, ...]]
    orders: frozenset[tuple[Any, ...]]
    balance: Any

    def holds(self, other: Cut) -> bool:
        """The same positions and orders."""
        return self.positions == other.positions and self.orders == other.orders


def cut_of(document: Any, since: float) -> Cut:
    """The cut that a record or a truth shows."""

    def rows(kind: str, names: tuple[str, ...]) -> frozenset[tuple[Any, ...]]:
        return frozenset((str(row["id"]), *(row[name] for name in names)) for row in document[kind] or ())

    return Cut(since, rows("positions", POSITION), rows("orders", ORDER), document["balance"])


class Ledgers:
    """The history of every account."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._cuts: dict[tuple[str, str], deque[Cut]] = {}

    def begin(self) -> None:
        """The brokers are there: follow every change at either."""
        brokers = self._world.brokers
        desk = brokers.ctrader.services.desk
        deliver = desk.deliver

        def delivered(events: Any, *caller: Any) -> None:
            deliver(events, *caller)
            for each in {event.account_id for event in events if getattr(event, "account_id", None)}:
                self.look("ctrader", str(each))

        desk.deliver = delivered  # type: ignore[method-assign, assignment]
        brokers.ctrader.services.prices.deliver = delivered
        alpaca = brokers.alpaca.services.world
        told = alpaca.on_update

        def updated(account_id: str, payload: dict[str, Any]) -> None:
            self.look("alpaca", account_id)
            told(account_id, payload)

        alpaca.on_update = updated
        for broker, account_id in self.accounts():
            self.look(broker, account_id)

    def accounts(self) -> list[tuple[str, str]]:
        brokers = self._world.brokers
        ours = [("ctrader", str(each)) for each in brokers.ctrader.services.world.accounts]
        return [*ours, *(("alpaca", each) for each in brokers.alpaca.services.world.accounts)]

    def truth(self, broker: str, account_id: str) -> dict[str, Any]:
        """What the broker believes now."""
        brokers = self._world.brokers
        if broker == "ctrader":
            return brokers.ctrader.actions.truth(int(account_id))
        return brokers.alpaca.actions.truth(account_id)

    def look(self, broker: str, account_id: str) -> None:
        """Take a cut, if the account has changed."""
        cuts = self._cuts.setdefault((broker, account_id), deque(maxlen=CUTS_KEPT))
        cut = cut_of(self.truth(broker, account_id), self._world.loop.time())
        last = cuts[-1] if cuts else None
        if last is None or not last.holds(cut) or last.balance != cut.balance:
            cuts.append(cut)
            self._world.note("ledger", broker, account_id, len(cut.positions), len(cut.orders), str(cut.balance))

    def shown_since(self, broker: str, account_id: str, shown: Cut) -> float | None:
        """When the account last held this: until when (loop seconds; now, if it still does); None: never."""
        until = self._world.loop.time()
        for cut in reversed(self._cuts.get((broker, account_id), ())):
            if cut.holds(shown):
                return until
            until = cut.since
        return None
