"""A small broker for paper accounts, and operations on them as Hypothesis draws them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from core.orders import OrderType, Side, TimeInForce
from core.paper_account import (
    Amend,
    Cancel,
    Close,
    PaperAccount,
    PaperTerms,
    Price,
    Protect,
    Refused,
    Request,
    from_plain,
    to_plain,
)
from core.paper_trader import (
    AccountSettings,
    AccountType,
    Commission,
    CommissionKind,
    EngineSettings,
    Event,
    Listing,
    MarketSettings,
    OrderChanges,
    OrderRequest,
    Slippage,
    Swap,
    SwapKind,
)
from core.paper_trader.settings import DAY_MS
from tests.unit.paper_trader.bench import PAIRS, dec, listing

START_MS = 1_700_000_000_000
START = {"EURUSD": 110_000, "USDJPY": 150_000, "GBPCHF": 112_000, "GBPUSD": 126_700, "USDCHF": 88_300}
KINDS: dict[str, dict[str, Any]] = {
    "hedged-usd": {"currency": "USD", "margin_call_levels": (dec(150), dec(100))},
    "netted-eur": {"currency": "EUR", "type": AccountType.NETTED, "margin_call_levels": (dec(100),)},
    "hedged-jpy": {"currency": "JPY", "money_digits": 0, "leverage": dec(30)},
}
MONEY = {"USD": dec(3_000), "EUR": dec(3_000), "JPY": dec(400_000)}


def listings() -> tuple[Listing, ...]:
    """Five pairs with commission and swap of every kind."""
    per_lot = Commission(CommissionKind.PER_LOT_QUOTE, dec("2.5"), dec("0.1"), "USD")
    return (
        listing(
            "EURUSD",
            commission=Commission(CommissionKind.PER_MILLION_USD, dec(35)),
            swap=Swap(SwapKind.PIPS, dec("-0.6"), dec("0.2")),
            max_deal_units=dec(300_000),
        ),
        listing("USDJPY", commission=per_lot, swap=Swap(SwapKind.PERCENT, dec("3"), dec("-4"))),
        listing("GBPUSD"),
        listing("USDCHF"),
        listing("GBPCHF", commission=per_lot, swap=Swap(SwapKind.POINTS, dec("-7"), dec("2")), max_leverage=dec(20)),
    )


def point(name: str) -> Decimal:
    return Decimal(1).scaleb(-PAIRS[name][2])


def price(name: str, offset: int = 0, spread: int = 2) -> Price:
    """So many points from where the name starts."""
    bid = (START[name] + offset) * point(name)
    return Price(name, bid, bid + spread * point(name))


def paper(
    kind: str = "hedged-usd", *, account_id: str = "", chance: float = 0.0, slip: int = 0, **more: Any
) -> PaperAccount:
    """An account with money and prices; `more`: other terms of the account."""
    terms = PaperTerms(
        account_id=account_id or kind,
        listings=listings(),
        account=AccountSettings(**(KINDS[kind] | more)),
        market=MarketSettings(partial_fill_chance=chance, slippage=Slippage(points=dec(slip))),
        engine=EngineSettings(first_order_id=100, first_position_id=50, first_deal_id=70, history_limit=40),
        seed=5,
    )
    account = PaperAccount(terms, START_MS)
    account.move_cash(MONEY[account.settings.currency], START_MS, note="opening deposit")
    account.quote([price(name) for name in START], START_MS + 1)
    return account


def again(value: Any) -> Any:
    """The value after it has been written down as JSON and read back."""
    return from_plain(type(value), json.loads(json.dumps(to_plain(value), allow_nan=False)))


def restored(account: PaperAccount) -> PaperAccount:
    return PaperAccount.from_plain(json.loads(json.dumps(account.to_plain(), allow_nan=False)))


def buy(units: int = 1_000, name: str = "EURUSD", **more: Any) -> OrderRequest:
    return OrderRequest(instrument_id=name, side=Side.BUY, type=OrderType.MARKET, units=dec(units), **more)


def limit(at: str, units: int = 1_000, name: str = "EURUSD", **more: Any) -> OrderRequest:
    more = {"limit_price": dec(at)} | more
    return OrderRequest(instrument_id=name, side=Side.BUY, type=OrderType.LIMIT, units=dec(units), **more)


names = st.sampled_from(["EURUSD", "USDJPY", "GBPCHF"])
offsets = st.integers(-400, 400)
legs = st.one_of(st.none(), st.integers(1, 300))
picks = st.integers(0, 5)
amounts = st.sampled_from([1, 500, 1_000, 3_000, 50_000, 400_000])
places = st.tuples(
    st.just("place"),
    names,
    st.sampled_from(list(Side)),
    st.sampled_from(list(OrderType)),
    amounts,
    offsets,
    st.sampled_from(["gtc", "ioc", "fok", "day", "gtd"]),
    legs,
    legs,
    st.booleans(),
)
requests = st.one_of(
    places,
    places,
    st.tuples(st.just("amend"), picks, offsets, amounts),
    st.tuples(st.just("cancel"), picks),
    st.tuples(st.just("close"), picks, st.one_of(st.none(), amounts)),
    st.tuples(st.just("protect"), picks, legs, legs, st.booleans()),
)
operations = st.one_of(
    st.tuples(st.just("apply"), st.lists(requests, min_size=1, max_size=4)),
    st.tuples(st.just("apply"), st.lists(requests, min_size=1, max_size=1)),
    st.tuples(st.just("quote"), st.lists(st.tuples(names, offsets, st.integers(0, 20)), min_size=1, max_size=3)),
    st.tuples(st.just("rate"), st.sampled_from(["GBPUSD", "USDCHF"]), offsets),
    st.tuples(st.just("cash"), st.integers(-3_000, 3_000)),
    st.tuples(st.just("wait"), st.integers(1, 3 * DAY_MS)),
    st.tuples(st.just("open"), names, st.booleans()),
    st.tuples(st.just("withdraw"), names),
)


@dataclass
class Actor:
    """Does drawn operations on an account, a millisecond apart; `refused`: what the last one was refused for."""

    account: PaperAccount
    now_ms: int = START_MS + 10
    refused: Refused | None = None

    def run(self, operation: tuple[Any, ...]) -> tuple[Event, ...]:
        self.now_ms += 1
        self.refused = None
        kind, *rest = operation
        try:
            events: tuple[Event, ...] = getattr(self, kind)(*rest)
        except Refused as refused:
            self.refused = refused
            return ()
        return events

    def apply(self, drawn: list[tuple[Any, ...]]) -> tuple[Event, ...]:
        return self.account.apply([self.request(each) for each in drawn], self.now_ms)

    def quote(self, rows: list[tuple[str, int, int]]) -> tuple[Event, ...]:
        return self.account.quote([price(*row) for row in rows], self.now_ms)

    def rate(self, name: str, offset: int) -> tuple[Event, ...]:
        return self.account.quote([price(name, offset)], self.now_ms)

    def cash(self, delta: int) -> tuple[Event, ...]:
        return self.account.move_cash(dec(delta), self.now_ms)

    def wait(self, span_ms: int) -> tuple[Event, ...]:
        self.now_ms += span_ms
        return self.account.advance(self.now_ms)

    def open(self, name: str, is_open: bool) -> tuple[Event, ...]:
        return self.account.set_open(name, is_open, self.now_ms)

    def withdraw(self, name: str) -> tuple[Event, ...]:
        return self.account.withdraw_price(name, self.now_ms)

    def request(self, drawn: tuple[Any, ...]) -> Request:
        kind, *rest = drawn
        request: Request = getattr(self, f"_{kind}")(*rest)
        return request

    def _place(
        self,
        name: str,
        side: Side,
        kind: OrderType,
        units: int,
        offset: int,
        tif: str,
        stop: int | None,
        target: int | None,
        trailing: bool,
    ) -> Request:
        at = price(name, offset).bid
        more: dict[str, Any] = {
            OrderType.MARKET: {},
            OrderType.LIMIT: {"limit_price": at},
            OrderType.STOP: {"stop_price": at},
            OrderType.STOP_LIMIT: {"stop_price": at, "slippage_points": abs(offset) % 20},
            OrderType.TRAILING_STOP: {"trail_amount": (abs(offset) + 1) * point(name)},
            OrderType.MARKET_RANGE: {"base_price": at, "slippage_points": 50},
        }[kind]
        if stop is not None:
            more |= {"relative_stop_loss": stop * point(name), "trailing_stop_loss": trailing}
        if target is not None:
            more["relative_take_profit"] = target * point(name)
        if tif == "gtd":
            more["expires_at_ms"] = self.now_ms + 100_000
        return OrderRequest(
            instrument_id=name, side=side, type=kind, units=dec(units), time_in_force=TimeInForce(tif), **more
        )

    def _amend(self, pick: int, offset: int, units: int) -> Request:
        orders = self.account.orders(protections=True)
        if not orders:
            return Amend(999, OrderChanges(units=dec(units)))
        order = orders[pick % len(orders)]
        changes: dict[str, Any] = {"units": dec(units)}
        field = {OrderType.LIMIT: "limit_price", OrderType.STOP: "stop_price"}.get(order.type)
        if field:
            changes[field] = price(order.instrument_id, offset).bid
        return Amend(order.id, OrderChanges(**changes))

    def _cancel(self, pick: int) -> Request:
        orders = self.account.orders()
        return Cancel(orders[pick % len(orders)].id if orders else 999)

    def _close(self, pick: int, units: int | None) -> Request:
        return Close(self._position(pick), None if units is None else dec(units))

    def _protect(self, pick: int, stop: int | None, target: int | None, trailing: bool) -> Request:
        held = {each.id: each for each in self.account.positions()}.get(self._position(pick))
        if held is None:
            return Protect(999)
        sign = 1 if held.side is Side.BUY else -1
        now, step = self.account.price(held.instrument_id) or price(held.instrument_id), point(held.instrument_id)
        at = now.bid if sign > 0 else now.ask
        return Protect(
            held.id,
            None if stop is None else at - sign * stop * step,
            None if target is None else at + sign * target * step,
            trailing and stop is not None,
        )

    def _position(self, pick: int) -> int:
        held = self.account.positions()
        return held[pick % len(held)].id if held else 999
