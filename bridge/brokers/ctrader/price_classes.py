"""Which accounts of a channel see the same prices: known by what the broker says, corrected by what it charges.

The API names no price group, so this is decided in three steps.

*Entry.* Accounts may share prices when they are of one kind: same channel (hence environment), same broker server (the
trader's `brokerName`: symbol ids mean nothing outside of it) and same product (account type, swap-free, limited risk:
what the trader entity tells of terms that brokers price differently). A newcomer joins the largest class of its kind,
so that one odd account that happened to come first does not give its prices to all who follow.

*Parting.* An account whose P&L by these prices is not the broker's own figure (`drift`) leaves for a class whose prices
give that figure, or else for one of its own. So there are as many subscriptions as there are price lists, even when it
was the first account that was the odd one.

*Coming back.* A class returns to the largest of its kind when at `LOOKS` looks in a row, `look_every_s` apart, every
symbol that both have priced, one at least, had the same bid and ask. After that its accounts do not part again within
`part_again_s`: where figures differ for another reason than prices, nothing is gained by asking for prices twice.

Decides only. Invariant: an account is in exactly one class, until it is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.brokers.ctrader.shared_quote import SharedQuote

LOOKS = 3


@dataclass(frozen=True, slots=True)
class Kind:
    """What must be equal before two accounts may share prices at all."""

    server: str
    product: str


class PriceClass:
    """Accounts with the same prices, and the feeds that bring these (by symbol id)."""

    __slots__ = ("accounts", "equal_looks", "feeds", "kind", "looked_at")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.accounts: set[int] = set()
        self.feeds: dict[int, Feed] = {}
        self.equal_looks = 0
        self.looked_at: float | None = None

    def ticks(self, symbol_ids: frozenset[int]) -> int | None:
        """A number that changes with every tick of these symbols; None unless all of them have a price."""
        total = 0
        for symbol_id in symbol_ids:
            feed = self.feeds.get(symbol_id)
            if feed is None or feed.quote.bid is None or feed.quote.ask is None:
                return None
            total += feed.quote.ticks
        return total


class Feed:
    """One symbol of one price class. `members`: accounts that need it, in the order in which they are asked."""

    __slots__ = ("asked", "cut", "failures", "holder", "members", "price_class", "quote", "refused", "symbol_id")

    def __init__(self, price_class: PriceClass, symbol_id: int) -> None:
        self.price_class = price_class
        self.symbol_id = symbol_id
        self.quote = SharedQuote()
        self.members: dict[int, None] = {}
        self.refused: set[int] = set()
        self.holder: int | None = None  # its subscription brings the price
        self.asked: int | None = None  # is to subscribe, or is doing so
        self.cut = False  # the holder went and nothing feeds the price
        self.failures = 0


@dataclass(slots=True)
class Standing:
    """Where an account belongs; the symbols whose prices the broker's figures have confirmed there, and when last."""

    price_class: PriceClass
    agreed: frozenset[int] = frozenset()
    checked_at: float | None = None
    stays_until: float = 0.0


class PriceClasses:
    """The classes of one channel."""

    def __init__(self, look_every_s: float, part_again_s: float) -> None:
        self._look_every_s = look_every_s
        self._part_again_s = part_again_s
        self._classes: dict[Kind, list[PriceClass]] = {}
        self._standings: dict[int, Standing] = {}

    def standing(self, account: int) -> Standing | None:
        """What is known of an account; None when it is not placed."""
        return self._standings.get(account)

    def place(self, account: int, kind: Kind) -> PriceClass:
        """The class of an account; one of another kind than before is placed anew."""
        standing = self._standings.get(account)
        if standing is not None and standing.price_class.kind == kind:
            return standing.price_class
        self.forget(account)
        price_class = self._largest(kind) or self._new(kind)
        price_class.accounts.add(account)
        self._standings[account] = Standing(price_class)
        return price_class

    def forget(self, account: int) -> None:
        """The account left the channel for good."""
        standing = self._standings.pop(account, None)
        if standing is not None:
            self._leave(account, standing.price_class)

    def agreed(self, account: int, symbol_ids: frozenset[int], now: float) -> None:
        """The broker's figures confirmed these prices."""
        standing = self._standings.get(account)
        if standing is not None:
            standing.agreed, standing.checked_at = symbol_ids, now

    def others(self, price_class: PriceClass) -> list[PriceClass]:
        """The other classes of its kind, largest first."""
        found = [one for one in self._classes.get(price_class.kind, ()) if one is not price_class]
        return sorted(found, key=lambda one: -len(one.accounts))

    def part(self, account: int, into: PriceClass | None, now: float) -> bool:
        """Prices of its class are not this account's: it goes to another class, or to a new one. False: it stays."""
        standing = self._standings.get(account)
        if standing is None or now < standing.stays_until or len(standing.price_class.accounts) == 1:
            return False
        self._move(account, standing, into or self._new(standing.price_class.kind))
        return True

    def look(self, account: int, now: float) -> tuple[int, ...]:
        """Compare the prices of this account's class with the largest's; returns the accounts that go back to it."""
        standing = self._standings.get(account)
        if standing is None:
            return ()
        mine, largest = standing.price_class, self._largest(standing.price_class.kind)
        if largest is None or largest is mine:
            return ()
        if mine.looked_at is not None and now < mine.looked_at + self._look_every_s:
            return ()
        mine.looked_at = now
        mine.equal_looks = mine.equal_looks + 1 if _equal(mine, largest) else 0
        if mine.equal_looks < LOOKS:
            return ()
        returning = tuple(mine.accounts)
        for one in returning:
            self._standings[one].stays_until = now + self._part_again_s
            self._move(one, self._standings[one], largest)
        return returning

    def count(self) -> tuple[int, int]:
        """How many classes there are, and how many accounts are in others than the largest of their kind."""
        kinds = [[len(one.accounts) for one in classes] for classes in self._classes.values()]
        return sum(map(len, kinds)), sum(sum(sizes) - max(sizes) for sizes in kinds)

    def _move(self, account: int, standing: Standing, into: PriceClass) -> None:
        into.accounts.add(account)
        self._leave(account, standing.price_class)
        standing.price_class, standing.agreed = into, frozenset()

    def _leave(self, account: int, price_class: PriceClass) -> None:
        price_class.accounts.discard(account)
        if not price_class.accounts:
            classes = self._classes[price_class.kind]
            classes.remove(price_class)
            if not classes:
                del self._classes[price_class.kind]

    def _new(self, kind: Kind) -> PriceClass:
        price_class = PriceClass(kind)
        self._classes.setdefault(kind, []).append(price_class)
        return price_class

    def _largest(self, kind: Kind) -> PriceClass | None:
        """The oldest of the largest."""
        return max(self._classes.get(kind, ()), key=lambda one: len(one.accounts), default=None)


def _equal(one: PriceClass, other: PriceClass) -> bool:
    """True when every symbol that both have priced, and one at least, has the same price in both."""
    compared = False
    for symbol_id, feed in one.feeds.items():
        theirs = other.feeds.get(symbol_id)
        if theirs is None or None in (feed.quote.bid, feed.quote.ask, theirs.quote.bid, theirs.quote.ask):
            continue
        if (feed.quote.bid, feed.quote.ask) != (theirs.quote.bid, theirs.quote.ask):
            return False
        compared = True
    return compared
