"""Deals whose outcome is certain: they are written down and not put through the engine, until something asks for it.

While a strategy only buys and sells at the market without protection and closes whole positions, with money to spare,
everything follows from the open of the next bar. So it is worked out in whole numbers. Whatever is not certain, and
whatever asks for the events, ends this for good: the engine is put through all deals so far and goes on from there.
Holds nothing of the future. Invariant: what it tells and leaves in the ledger is what the engine would have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from core.backtester.carrying import carry_out
from core.backtester.desk import Desk, Quoted
from core.backtester.fast_money import NotFast
from core.backtester.ledger import Held, Ledger
from core.backtester.orders import Action, Close
from core.backtester.settings import ACCOUNT, BacktestSettings
from core.backtester.terms import check_size
from core.backtester.tracks import FAR
from core.backtester.valued import account_truth, open_position, position_truth
from core.backtester.whole import Fills, Size
from core.money import round_money
from core.orders import Side
from core.paper_trader import AccountTruth, Event, Listing, OrderRequest, Position

MARGIN_SLACK = 1.0001


@dataclass(frozen=True, slots=True)
class Dealt:
    """What was asked of the engine at one open, and the quotes then."""

    moment: int
    at_ms: int
    bid: int
    ask: int
    actions: tuple[Action, ...]


@dataclass(slots=True)
class Opened:
    """An open position: scaled entry price, bid in points, opening charge ≥ 0 in minor units, margin a bit too high."""

    position_id: int
    size: Size
    sign: int
    moment: int
    at_ms: int
    entry: int
    bid: int
    charge: int
    margin: float
    labels: tuple[str | None, str | None]
    position: Position | None = None


@dataclass(slots=True)
class Certain:
    """The account of a run on one instrument so far. `dealt_at`: the moment of the newest deals."""

    settings: BacktestSettings
    listing: Listing
    desk: Desk
    ledger: Ledger
    quoted: Quoted
    fills: Fills
    balance: int
    dealt_at: int = -1
    changes: int = 0
    log: list[Dealt] = field(default_factory=list)
    opened: dict[int, Opened] = field(default_factory=dict)
    _sizes: dict[tuple[Decimal, Side], Size] = field(default_factory=dict)
    _next_id: int = 1
    _digits: int = field(init=False)

    def __post_init__(self) -> None:
        self._digits = self.settings.account.money_digits

    def deal(self, dealt: Dealt, bounds: tuple[int, int, int, int]) -> bool:
        """Carry out requests at an open; False where that, or the rest of the bar, is not certain: then give up.

        `bounds`: lowest and highest bid, lowest and highest ask of the bar.
        """
        if not self.quoted.quiet(*bounds):
            return False
        for action in dealt.actions:
            done = self._close(action, dealt) if isinstance(action, Close) else self._open(action, dealt)
            if not done:
                return False
        if not self._watch(dealt.bid, dealt.ask) or not self.quoted.quiet(*bounds):
            return False
        self.log.append(dealt)
        self.dealt_at = dealt.moment
        self.desk.version += 1
        self.desk.busy = bool(self.opened)
        self.ledger.balances.append((dealt.moment, self._money(self.balance)))
        return True

    def close_all(self, moment: int, at_ms: int) -> bool:
        """Close what is open at the last prices, oldest first; False where that is not certain."""
        bid, ask = self.quoted.bid, self.quoted.ask
        for each in list(self.opened.values()):
            price = self._leave(each, bid, ask)
            if price < self.fills.least:
                return False
            self._settle(each, price, moment, at_ms, "end")
        self.ledger.balances.append((moment, self._money(self.balance)))
        return True

    def finish(self, total: int) -> None:
        """Leave in the ledger what is still open at the end."""
        for each in self.opened.values():
            self._hold(each, total)
        self.ledger.balances.append((total, self._money(self.balance)))

    def positions(self) -> tuple[Position, ...]:
        """Open positions, oldest first."""
        return tuple(self._position(each) for each in self.opened.values())

    def truth(self) -> AccountTruth:
        """The account at the present prices."""
        digits = self.listing.instrument.price_digits
        bid, ask = (Decimal(each).scaleb(-digits) for each in (self.quoted.bid, self.quoted.ask))
        valued = [
            position_truth(self.settings, self._position(each), bid if each.sign > 0 else ask)
            for each in self.opened.values()
        ]
        return account_truth(self.settings, self._money(self.balance), self.changes, valued)

    def replay(self) -> tuple[Event, ...]:
        """Put the engine and the ledger through everything so far; the events of the newest deals."""
        desk, quoted, ledger = self.desk, self.quoted, self.ledger
        now_ms, bid, ask = desk.at_ms, quoted.bid, quoted.ask
        ledger.forget()
        events: tuple[Event, ...] = ()
        for each in self.log:
            desk.at_ms, quoted.bid, quoted.ask = each.at_ms, each.bid, each.ask
            desk.quote(quoted)
            for action in each.actions:
                desk.note(carry_out(desk, action))
            events, desk.events = tuple(desk.events), []
            ledger.take(events)
            ledger.snapshot(each.moment, desk.engine.account(ACCOUNT).balance, desk.engine.positions(ACCOUNT))
        desk.at_ms, quoted.bid, quoted.ask = now_ms, bid, ask
        if bid:  # a price is known
            desk.quote(quoted)
        desk.refresh()
        return events

    def _open(self, action: Action, dealt: Dealt) -> bool:
        if not isinstance(action, OrderRequest):
            return False
        size = self._size(action)
        if size is None:
            return False
        buys = action.side is Side.BUY
        price = self.fills.price(dealt.ask if buys else dealt.bid, buys=buys, closing=False)
        margin = self._margin(size, dealt.bid)
        if price < self.fills.least or self._used() + margin >= self._equity(dealt.bid, dealt.ask):
            return False
        self.opened[self._next_id] = Opened(
            position_id=self._next_id,
            size=size,
            sign=1 if buys else -1,
            moment=dealt.moment,
            at_ms=dealt.at_ms,
            entry=price,
            bid=dealt.bid,
            charge=size.charge(price),
            margin=margin,
            labels=(action.label, action.comment),
        )
        self._next_id += 1
        return True

    def _close(self, action: Close, dealt: Dealt) -> bool:
        each = self.opened.get(action.position.id)
        if each is None:
            return False
        price = self._leave(each, dealt.bid, dealt.ask)
        if price < self.fills.least:
            return False
        self._settle(each, price, dealt.moment, dealt.at_ms, "order")
        return True

    def _leave(self, each: Opened, bid: int, ask: int) -> int:
        return self.fills.price(bid if each.sign > 0 else ask, buys=each.sign < 0, closing=True)

    def _settle(self, each: Opened, price: int, moment: int, at_ms: int, reason: str) -> None:
        """Book a closing deal: the row that `Ledger` would have made of its event."""
        size, places, digits = each.size, self.fills.places, self.listing.instrument.price_digits
        gross = size.result(each.sign * (price - each.entry))
        charges = each.charge + size.charge(price)
        self.balance += gross - charges
        self.changes += 1
        del self.opened[each.position_id]
        self._hold(each, moment)
        scale, price_scale, units = 10**self._digits, 10**places, size.units
        self.ledger.trades.append(
            (
                each.position_id,
                self.quoted.instrument_id,
                each.sign,
                units,
                each.at_ms,
                at_ms,
                each.entry / price_scale,
                price / price_scale,
                gross / scale,
                -charges / scale,
                0.0,
                (gross - charges) / scale,
                units * Decimal(each.bid).scaleb(-digits),
                units * Decimal(price).scaleb(-places),
                self.balance / scale,
                reason,
            )
        )

    def _hold(self, each: Opened, stop: int) -> None:
        if stop > each.moment:
            entry = Decimal(each.entry).scaleb(-self.fills.places)
            held = Held(
                self.quoted.instrument_id,
                each.moment,
                stop,
                each.sign,
                each.size.units,
                entry,
                self._money(-each.charge),
            )
            self.ledger.held.append(held)

    def _watch(self, bid: int, ask: int) -> bool:
        """Set the range in which neither margin call nor stop-out can come near; False when one is near already."""
        quoted = self.quoted
        quoted.low_bid, quoted.high_ask = -FAR, FAR
        if not self.opened:
            return True
        account = self.settings.account
        level = max(Decimal(100), account.stop_out_level, *account.margin_call_levels)
        room = self._equity(bid, ask) - self._used() * float(level) / 100 * MARGIN_SLACK
        if room <= 0:
            return False
        exposed = sum(float(each.size.units) for each in self.opened.values())
        points = int(min(room / exposed * 10.0**quoted.digits * 0.9999, 2.0**60))
        quoted.low_bid, quoted.high_ask = bid - points, ask + points
        return True

    def _equity(self, bid: int, ask: int) -> float:
        """In the deposit currency, a little too low."""
        minor, least = self.balance, self.fills.least
        for each in self.opened.values():
            move = (bid if each.sign > 0 else ask) * least - each.entry
            minor += each.size.result(each.sign * move, each.charge) - 1
        return float(minor - 1) / 10.0**self._digits

    def _used(self) -> float:
        return sum(each.margin for each in self.opened.values())

    def _margin(self, size: Size, bid: int) -> float:
        """Used margin, a little too high."""
        listing, account = self.listing, self.settings.account
        value = float(size.units) * bid * 10.0**-self.quoted.digits
        if listing.margin_fraction is not None:
            margin = value * float(listing.margin_fraction)
        else:
            margin = value / float(min(account.leverage, listing.max_leverage or account.leverage))
        return margin * (1 + 1e-9) + 10.0**-self._digits

    def _size(self, request: OrderRequest) -> Size | None:
        """Terms of a request's number of units; None where the listing could refuse it."""
        key = request.units, request.side
        size = self._sizes.get(key)
        if size is None:
            try:
                check_size(self.listing, request.side, request.units)
            except NotFast:
                return None
            size = self._sizes[key] = Size(request.units, self.listing, self.settings, self.fills.places)
        return size

    def _position(self, each: Opened) -> Position:
        if each.position is None:
            each.position = open_position(
                self.settings,
                self.listing,
                position_id=each.position_id,
                side=Side.BUY if each.sign > 0 else Side.SELL,
                units=each.size.units,
                opened_ms=each.at_ms,
                entry=Decimal(each.entry).scaleb(-self.fills.places),
                commission=self._money(-each.charge),
                bid=Decimal(each.bid).scaleb(-self.quoted.digits),
                labels=each.labels,
            )
        return each.position

    def _money(self, minor: int) -> Decimal:
        return Decimal(minor).scaleb(-self._digits)


def certain_of(settings: BacktestSettings, listing: Listing, desk: Desk, ledger: Ledger, quoted: Quoted) -> Certain:
    """An account with nothing but its deposit; the terms must have been found plain (`terms`)."""
    digits = settings.account.money_digits
    balance = int(round_money(settings.balance, digits).scaleb(digits))
    return Certain(settings, listing, desk, ledger, quoted, Fills(listing, settings), balance)
