"""Price levels that wake something up, sorted so that a quote costs only what it sets off.

One `TriggerBook` per instrument holds four sorted lists: bid or ask, rising to or falling to a level. A quote looks at
the ends of the lists; ten thousand resting levels that it does not reach cost nothing.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class Kind(StrEnum):
    """What a trigger wakes up."""

    ORDER = "order"
    ORDER_TRAIL = "order_trail"  # a favourable move: pull a trailing stop order along
    STOP_LOSS = "stop_loss"
    TAKE_PROFIT = "take_profit"
    TRAIL = "trail"  # a favourable move: pull a position's trailing stop along
    MARGIN = "margin"  # look at the account's margin level again


class Trigger:
    """Wakes `kind` of (`account_id`, `owner_id`) when the watched price reaches `level`; None = at the next quote.

    `on_ask` says which price is watched, `rising` from which side it comes. Fires once.
    """

    __slots__ = ("account_id", "armed", "key", "kind", "level", "on_ask", "owner_id", "rising")

    def __init__(
        self, kind: Kind, account_id: str, owner_id: int, *, on_ask: bool, rising: bool, level: Decimal | None
    ) -> None:
        self.kind = kind
        self.account_id = account_id
        self.owner_id = owner_id
        self.on_ask = on_ask
        self.rising = rising
        self.level = level
        self.armed = False
        self.key: tuple[Decimal, int] = (Decimal(0), 0)

    def reached(self, price: Decimal | None) -> bool:
        """Whether this price of the watched side sets it off."""
        if price is None:
            return False
        if self.level is None:
            return True
        return price >= self.level if self.rising else price <= self.level


# Sorted by (key, ...): the entry nearest to firing, oldest first among equals, is the last of its list.
_Entry = tuple[Decimal, int, Trigger]


@dataclass(frozen=True, slots=True)
class Levels:
    """The nearest prices at which something would happen, by watched side and direction; None where nothing waits.

    `trail_…`: those that only pull a trailing stop along, which a later price does as well as an earlier one while it
    is the only one of `trails`; with several, the order in which they move decides who goes first at an equal price.
    `next_quote`: something waits for any quote at all. A price that none of these is reached by changes nothing.
    """

    bid_falls_to: Decimal | None
    bid_rises_to: Decimal | None
    ask_falls_to: Decimal | None
    ask_rises_to: Decimal | None
    trail_bid_rises_to: Decimal | None
    trail_ask_falls_to: Decimal | None
    trail_bid_falls_to: Decimal | None
    trail_ask_rises_to: Decimal | None
    trails: int
    next_quote: bool


TRAILS = (Kind.ORDER_TRAIL, Kind.TRAIL)


class TriggerBook:
    """The armed triggers of one instrument."""

    def __init__(self) -> None:
        self._count = 0
        self._lists: dict[tuple[bool, bool], list[_Entry]] = {
            (on_ask, rising): [] for on_ask in (False, True) for rising in (False, True)
        }
        self._next_quote: dict[int, Trigger] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lists.values())) + len(self._next_quote)

    def arm(self, trigger: Trigger) -> None:
        """Start watching."""
        self._count += 1
        trigger.armed = True
        if trigger.level is None:
            trigger.key = (Decimal(0), -self._count)
            self._next_quote[-self._count] = trigger
            return
        trigger.key = (-trigger.level if trigger.rising else trigger.level, -self._count)
        insort(self._lists[trigger.on_ask, trigger.rising], (*trigger.key, trigger))

    def disarm(self, trigger: Trigger) -> None:
        """Stop watching; harmless when it has fired or was disarmed already."""
        if not trigger.armed:
            return
        trigger.armed = False
        if trigger.level is None:
            del self._next_quote[trigger.key[1]]
            return
        entries = self._lists[trigger.on_ask, trigger.rising]
        del entries[bisect_left(entries, trigger.key)]

    def fire(self, bid: Decimal | None, ask: Decimal | None) -> list[Trigger]:
        """Disarm and return what these prices set off, in the order the price would have met it."""
        fired = [trigger for trigger in self._next_quote.values() if trigger.reached(ask if trigger.on_ask else bid)]
        for trigger in fired:
            self.disarm(trigger)
        for (on_ask, _), entries in self._lists.items():
            price = ask if on_ask else bid
            while entries and entries[-1][2].reached(price):
                trigger = entries.pop()[2]
                trigger.armed = False
                fired.append(trigger)
        return fired

    def armed(self) -> list[Trigger]:
        """All of them, in the order they were armed."""
        entries = [entry[2] for entries in self._lists.values() for entry in entries]
        return sorted((*entries, *self._next_quote.values()), key=lambda each: -each.key[1])

    def levels(self) -> Levels:
        """What would set something off next; reads only."""
        return Levels(
            bid_falls_to=self._nearest(on_ask=False, rising=False, trails=False),
            bid_rises_to=self._nearest(on_ask=False, rising=True, trails=False),
            ask_falls_to=self._nearest(on_ask=True, rising=False, trails=False),
            ask_rises_to=self._nearest(on_ask=True, rising=True, trails=False),
            trail_bid_rises_to=self._nearest(on_ask=False, rising=True, trails=True),
            trail_ask_falls_to=self._nearest(on_ask=True, rising=False, trails=True),
            trail_bid_falls_to=self._nearest(on_ask=False, rising=False, trails=True),
            trail_ask_rises_to=self._nearest(on_ask=True, rising=True, trails=True),
            trails=sum(entry[2].kind in TRAILS for entries in self._lists.values() for entry in entries),
            next_quote=bool(self._next_quote),
        )

    def _nearest(self, *, on_ask: bool, rising: bool, trails: bool) -> Decimal | None:
        for entry in reversed(self._lists[on_ask, rising]):
            if (entry[2].kind in TRAILS) is trails:
                return entry[2].level
        return None
