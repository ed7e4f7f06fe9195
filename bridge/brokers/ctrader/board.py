"""Who subscribes to which symbol for whom, on one channel (`CTRADER_QUOTES=shared`). Decides only; no clock, no I/O.

A feed is one symbol of one price class. Its members need the price; one account, the holder, has the subscription. The
holder is the member that came first, and keeps the duty when it needs the price no longer: moving a subscription is
dearer than keeping it. It is handed on

- when the holder's session is over (cut, disconnected by the broker, token ended, login failed): the price is withdrawn
  and the first member that can is asked, both in the same turn of the loop;
- when the holder is about to log out: the next one is asked first, and the holder serves until that one does;
- when a subscription is refused: for good (no such symbol for this account) or not, another member is asked at once.
  After `QUICK_PASSES` failures in a row the one asked last keeps trying at the pace of its upkeep instead, and passes
  on when that ends: a broker that refuses everybody must not be asked by everybody.

Decisions are taken in `settle`, at the end of a turn, whatever happened in it: when a channel is cut, all leave and
nobody is asked in between.

Invariant, after `settle`: a feed with a member that may be asked has exactly one account that serves it or is asked to,
two only while a leaving holder waits for its successor; a feed that nobody serves has no price.
"""

from __future__ import annotations

from bridge.brokers.ctrader.price_classes import Feed, Kind, PriceClass, PriceClasses
from bridge.brokers.ctrader.shared_quote import SharedQuote
from core.account import AccountMirror

QUICK_PASSES = 3


class Sharer:
    """One account on the board. `duties`: feeds it serves or is to serve; `holds`: what it did subscribe to."""

    __slots__ = ("duties", "feeds", "holds", "leaving", "mirror", "number", "price_class", "wanted")

    def __init__(self, number: int, mirror: AccountMirror, price_class: PriceClass) -> None:
        self.number = number
        self.mirror = mirror
        self.price_class = price_class
        self.wanted: frozenset[int] = frozenset()
        self.feeds: dict[int, Feed] = {}
        self.duties: dict[int, Feed] = {}
        self.holds: dict[int, SharedQuote] = {}
        self.leaving = False

    @property
    def serves_itself(self) -> bool:
        """True when every price it needs comes by its own subscriptions."""
        return all(feed.holder == self.number for feed in self.feeds.values())

    def rearm(self) -> None:
        """A reading of the mirror was taken: the next tick of any of its prices marks it dirty again."""
        for feed in self.feeds.values():
            feed.quote.waiting.add(self.mirror)


class Board:
    """All feeds of one channel."""

    def __init__(self, classes: PriceClasses) -> None:
        self.classes = classes
        self.handed_on = 0
        self._sharers: dict[int, Sharer] = {}
        self._unsettled: dict[Feed, None] = {}
        self._calls: dict[int, None] = {}

    @property
    def unsettled(self) -> bool:
        """True when `settle` has something to do."""
        return bool(self._unsettled or self._calls)

    def sharer(self, number: int) -> Sharer | None:
        """An account that is on the board."""
        return self._sharers.get(number)

    def count(self) -> tuple[int, int]:
        """Subscriptions held, and prices that accounts use (account x symbol)."""
        held = sum(len(sharer.holds) for sharer in self._sharers.values())
        return held, sum(len(sharer.feeds) for sharer in self._sharers.values())

    # ------------------------------------------------------------ accounts come, need prices, and go

    def want(self, number: int, mirror: AccountMirror, kind: Kind, symbol_ids: frozenset[int]) -> Sharer:
        """This account's session is good, and these are the prices it needs now."""
        price_class = self.classes.place(number, kind)
        sharer = self._sharers.get(number)
        if sharer is None:
            sharer = self._sharers[number] = Sharer(number, mirror, price_class)
            mirror.on_clean = sharer.rearm
        if sharer.leaving:
            return sharer
        if sharer.price_class is not price_class:
            self._lay_down(sharer)
            for symbol_id in list(sharer.feeds):
                self._leave(sharer, symbol_id)
            sharer.price_class = price_class
        for symbol_id in sharer.feeds.keys() - symbol_ids:
            self._leave(sharer, symbol_id)
        for symbol_id in sorted(symbol_ids - sharer.feeds.keys()):
            self._join(sharer, symbol_id)
        sharer.wanted = symbol_ids
        return sharer

    def retire(self, number: int) -> None:
        """The account is about to log out: it serves until others do, and needs nothing itself."""
        sharer = self._sharers.get(number)
        if sharer is not None:
            sharer.leaving = True
            self._keep_prices(sharer)
            self._unsettled.update(dict.fromkeys(sharer.duties.values()))

    def relieved(self, number: int) -> bool:
        """True when nobody waits any more for a successor of this leaving account."""
        sharer = self._sharers.get(number)
        return sharer is None or not any(
            feed.holder == number and feed.asked is not None for feed in sharer.duties.values()
        )

    def drop(self, number: int) -> None:
        """The account's session is over, and with it its subscriptions. The last prices stay in its mirror."""
        sharer = self._sharers.pop(number, None)
        if sharer is not None:
            self._keep_prices(sharer)
            self._lay_down(sharer)
            sharer.holds.clear()
            sharer.mirror.on_clean = None

    def forget(self, number: int) -> None:
        """The account left the channel for good."""
        self.drop(number)
        self.classes.forget(number)

    # ------------------------------------------------------------ how subscriptions went

    def subscribed(self, number: int, symbol_ids: list[int]) -> None:
        """The broker confirmed: this account serves these symbols now, and a leaving holder is relieved."""
        for feed in self._duties(number, symbol_ids):
            if feed.asked != number:
                continue
            before, feed.holder = feed.holder, number
            feed.asked, feed.cut, feed.failures = None, False, 0
            if before is not None:
                self._relieve(feed, before)

    def refused(self, number: int, symbol_ids: list[int]) -> None:
        """The broker does not let this account have these symbols."""
        for feed in self._duties(number, symbol_ids):
            feed.refused.add(number)
            self._vacate(feed, number)

    def failed(self, number: int, symbol_ids: list[int]) -> None:
        """A subscription did not come about; it might another time, or for another account."""
        for feed in self._duties(number, symbol_ids):
            feed.failures += 1
            if feed.failures <= QUICK_PASSES:
                self._pass_on(feed, number)

    def gave_up(self, number: int) -> None:
        """The account's own tries are over: others have theirs."""
        sharer = self._sharers.get(number)
        for feed in list(sharer.duties.values()) if sharer is not None else ():
            if feed.asked == number:
                feed.failures = 0
                self._pass_on(feed, number)

    # ------------------------------------------------------------ deciding

    def settle(self) -> list[int]:
        """Fill every vacancy; returns the accounts whose subscriptions must be brought in step with their duties."""
        unsettled, self._unsettled = self._unsettled, {}
        for feed in unsettled:
            self._settle(feed)
        calls, self._calls = self._calls, {}
        return list(calls)

    def work(self, number: int) -> tuple[list[int], list[int]]:
        """What this account must unsubscribe from and subscribe to now."""
        sharer = self._sharers.get(number)
        if sharer is None:
            return [], []
        duties, holds = sharer.duties, sharer.holds
        stop = [key for key, quote in holds.items() if key not in duties or duties[key].quote is not quote]
        return sorted(stop), sorted(key for key in duties if key not in holds or key in stop)

    def due(self, number: int, kind: Kind, symbol_ids: frozenset[int]) -> bool:
        """True when an account that needs these prices has something to do."""
        sharer = self._sharers.get(number)
        if sharer is None or sharer.leaving or sharer.wanted != symbol_ids:
            return sharer is None or not sharer.leaving
        standing = self.classes.standing(number)
        if standing is None or standing.price_class is not sharer.price_class or sharer.price_class.kind != kind:
            return True
        stop, start = self.work(number)
        return bool(stop or start)

    def _settle(self, feed: Feed) -> None:
        if not feed.members:
            for number in (feed.holder, feed.asked):
                if number is not None:
                    self._relieve(feed, number)
            feed.holder = feed.asked = None
            if feed.price_class.feeds.get(feed.symbol_id) is feed:
                del feed.price_class.feeds[feed.symbol_id]
            return
        if (feed.holder is None or self._sharers[feed.holder].leaving) and feed.asked is None:
            self._ask(feed)
        if feed.holder is None and feed.cut:
            feed.cut = False
            feed.quote.withdraw()

    def _ask(self, feed: Feed) -> None:
        number = self._candidate(feed)
        if number is not None:
            feed.asked = number
            self._sharers[number].duties[feed.symbol_id] = feed
            self._calls[number] = None

    def _candidate(self, feed: Feed, but: int | None = None) -> int | None:
        return next((one for one in feed.members if one not in feed.refused and one != but), None)

    def _pass_on(self, feed: Feed, number: int) -> None:
        """Ask another member, if there is one; this one comes last from now on."""
        if self._candidate(feed, but=number) is None:
            return
        if number in feed.members:
            del feed.members[number]
            feed.members[number] = None
        self._vacate(feed, number)

    def _vacate(self, feed: Feed, number: int) -> None:
        """This account does not serve the feed, nor is it to."""
        if feed.holder == number:
            feed.holder, feed.cut = None, True
            self.handed_on += bool(feed.members)
        if feed.asked == number:
            feed.asked = None
        sharer = self._sharers.get(number)
        if sharer is not None and sharer.duties.get(feed.symbol_id) is feed:
            del sharer.duties[feed.symbol_id]
        self._unsettled[feed] = None

    def _relieve(self, feed: Feed, number: int) -> None:
        """Others serve the feed, or nobody needs it: this account is to end its subscription."""
        sharer = self._sharers.get(number)
        if sharer is not None and sharer.duties.get(feed.symbol_id) is feed:
            del sharer.duties[feed.symbol_id]
            self._calls[number] = None
            self.handed_on += bool(feed.members)

    def _lay_down(self, sharer: Sharer) -> None:
        """All duties of an account end now."""
        for feed in list(sharer.duties.values()):
            self._vacate(feed, sharer.number)

    def _duties(self, number: int, symbol_ids: list[int]) -> list[Feed]:
        sharer = self._sharers.get(number)
        return [] if sharer is None else [sharer.duties[key] for key in symbol_ids if key in sharer.duties]

    # ------------------------------------------------------------ members

    def _join(self, sharer: Sharer, symbol_id: int) -> None:
        feeds, mirror = sharer.price_class.feeds, sharer.mirror
        feed = feeds.get(symbol_id)
        if feed is None:
            feed = feeds[symbol_id] = Feed(sharer.price_class, symbol_id)
        feed.members[sharer.number] = None
        sharer.feeds[symbol_id] = feed
        mirror.quotes[str(symbol_id)] = feed.quote
        feed.quote.waiting.add(mirror)
        if feed.quote.bid is not None or feed.quote.ask is not None:
            mirror.mark_dirty()
        self._unsettled[feed] = None

    def _leave(self, sharer: Sharer, symbol_id: int) -> None:
        """It needs this price no more. It may go on serving it."""
        feed = sharer.feeds.pop(symbol_id)
        feed.members.pop(sharer.number, None)
        feed.refused.discard(sharer.number)
        feed.quote.waiting.discard(sharer.mirror)
        sharer.mirror.forget_quotes((str(symbol_id),))
        self._unsettled[feed] = None

    def _keep_prices(self, sharer: Sharer) -> None:
        """It needs no prices any more; its mirror keeps those that were the last."""
        for symbol_id, feed in list(sharer.feeds.items()):
            self._leave(sharer, symbol_id)
            sharer.mirror.quotes[str(symbol_id)] = feed.quote.still()
        sharer.wanted = frozenset()
