"""The desk: keeps every working order in the engine when it may trade, and tells what happens in the order it happened.

The engine (`core.paper_trader`) matches; orders, cash, positions and events are the simulator's own. An order that must
wait (market closed, exit still held, auction order) is simply not in the engine. Engine events are queued and handled
one after another, so that an event never overtakes the one that led to it.
Invariant: an order in a final state is not in the engine and not among the open orders.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.margin import Figures, figures
from bridge.simulator.alpaca.accounts.orders import FINAL, Order, Status, order_document
from bridge.simulator.alpaca.market.catalogue import CRYPTO, Asset, Catalogue
from bridge.simulator.alpaca.market.prices import Offer, Prices
from bridge.simulator.alpaca.stamps import Stamps, utc_text
from bridge.simulator.alpaca.trading.routing import engine_request, target_units
from bridge.simulator.alpaca.trading.rules import Rules
from core.orders import TimeInForce
from core.paper_trader import (
    AccountSettings,
    AccountType,
    Engine,
    Event,
    Level,
    MarketSettings,
    OrderAccepted,
    OrderCancelled,
    OrderFilled,
    OrderPartiallyFilled,
    OrderReplaced,
    OrderTriggered,
    RequestRejected,
)

MARKET = "alpaca"
# The engine must never refuse for money: what an account can pay is decided here.
ENGINE_FUND = Decimal(10**12)
ENGINE_ACCOUNT = AccountSettings(
    currency="USD", type=AccountType.NETTED, leverage=Decimal(100_000), stop_out_level=Decimal(0)
)
OnUpdate = Callable[[str, dict[str, Any]], None]


class Desk:
    """Orders on their way through the market. `state`: open | extended | closed (crypto never closes)."""

    def __init__(
        self,
        catalogue: Catalogue,
        prices: Prices,
        stamps: Stamps,
        rng: random.Random,
        *,
        partial_fill_share: float,
        crypto_fee: Decimal,
        now_ms: int,
    ) -> None:
        self.catalogue = catalogue
        self.prices = prices
        self.stamps = stamps
        self.crypto_fee = crypto_fee
        self.rules: Rules
        self.on_update: OnUpdate = lambda account_id, payload: None
        self.accounts: dict[str, Account] = {}
        self.state = "open"
        self.now_ms = now_ms
        self.combos: dict[str, tuple[Account, Order]] = {}  # mleg orders that wait for their net price
        self.pending: dict[str, tuple[Account, Order]] = {}  # orders whose cancel or replace takes effect later
        self.next_expiry_ms: int | None = None
        self.rests: dict[str, Asset] = {}  # assets in which part of an order is left to be tried again
        self._queue: deque[Event] = deque()
        self._draining = False
        self._engine = Engine(rng)
        self._engine.add_market(MARKET, MarketSettings(queue_when_closed=True, partial_fill_chance=partial_fill_share))
        for asset in catalogue.assets:
            self._engine.add_listing(MARKET, asset.listing())
            self.offer(prices.offers[asset.id], now_ms)
        prices.on_offer = self.offer

    def open_account(self, account: Account, now_ms: int) -> None:
        """Let an account trade."""
        self.accounts[account.id] = account
        self._engine.open_account(account.id, MARKET, ENGINE_ACCOUNT, now_ms)
        self._engine.move_cash(account.id, ENGINE_FUND, now_ms)

    # ---- prices

    def offer(self, offer: Offer, now_ms: int) -> None:
        """A new quote: let the market act on it."""
        self.now_ms = max(self.now_ms, now_ms)
        self._deliver(
            self._engine.quote(
                MARKET,
                offer.asset.id,
                self.now_ms,
                bids=(Level(offer.bid, offer.bid_size),),
                asks=(Level(offer.ask, offer.ask_size),),
            )
        )
        for account, order in list(self.combos.values()):
            if any(account.orders[leg].asset is offer.asset for leg in order.legs):
                self.rules.combine(account, order)

    def retry_rests(self) -> None:
        """Evaluate what is left of partial fills again at the present prices, unless those offer so much only."""
        waiting, self.rests = self.rests, {}
        for asset in waiting.values():
            offer = self.prices.offers[asset.id]
            if offer.bid_size is None and offer.ask_size is None:
                self.offer(offer, self.now_ms)

    def price_for(self, asset: Asset, side: str) -> Decimal:
        """What an order of that side meets: ask for buy, bid for sell."""
        offer = self.prices.offers[asset.id]
        return offer.ask if side == "buy" else offer.bid

    def figures(self, account: Account) -> Figures:
        """The account's figures at the last trades."""
        return figures(account, self.prices.last_of)

    # ---- orders

    def file(self, account: Account, order: Order) -> None:
        """Take an order into the books; it does nothing yet."""
        account.add(order)
        if order.expires_ms is not None:
            self.next_expiry_ms = min(order.expires_ms, self.next_expiry_ms or order.expires_ms)

    def await_effect(self, account: Account, order: Order, status: Status, delay_ms: int) -> None:
        """A cancel or a replace is on its way: it takes effect at the first advance after the delay."""
        order.effective_ms = self.now_ms + delay_ms
        self.pending[order.id] = (account, order)
        self.move(account, order, status, status.value)

    def stamp(self) -> int:
        return self.stamps.next_ns(self.now_ms)

    def may_work(self, order: Order) -> bool:
        """Whether the market takes the order now."""
        asset = order.asset
        if asset is not None and asset.asset_class == CRYPTO:
            return True
        if order.time_in_force in ("opg", "cls"):
            return False
        return self.state == "open" or (self.state == "extended" and order.extended_hours)

    def begin(self, account: Account, order: Order) -> None:
        """Take an order (a fresh one, a replacement, or an exit whose time has come) to the market, or let it wait."""
        if self.may_work(order):
            self.start(account, order)
        else:
            self.move(account, order, Status.ACCEPTED, "accepted")

    def start(self, account: Account, order: Order) -> None:
        """The order works from here on."""
        if order.type == "trailing_stop" and order.asset is not None and order.hwm is None:
            order.hwm = self.price_for(order.asset, order.side)
        self.move(account, order, Status.NEW, "new")
        self.route(account, order)

    def route(self, account: Account, order: Order) -> None:
        """Put an order into the engine with what is left of it."""
        asset = order.asset
        if asset is None:
            self.combos[order.id] = (account, order)
            self.rules.combine(account, order)
            return
        if self.rules.stays_out(account, order):
            return
        price = self.price_for(asset, order.side)
        if order.target is None:
            order.target = target_units(order, price, account.ledger.qty(asset))
        events = self._engine.place(account.id, engine_request(order, asset, price), self.now_ms)
        for event in events:
            if isinstance(event, OrderAccepted) and event.order.client_order_id == order.id:
                order.engine_id = event.order.id
        self.rules.triggered(account, order)
        self._deliver(events)

    def unroute(self, account: Account, order: Order) -> bool:
        """Take an order out of the engine; False when it has just traded its last and only has not heard of it yet."""
        self.combos.pop(order.id, None)
        if order.engine_id is None:
            return True
        engine_id, order.engine_id = order.engine_id, None
        events = self._engine.cancel(account.id, engine_id, self.now_ms)
        self._deliver(events)
        return not any(isinstance(event, RequestRejected) for event in events)

    def trade_whole(self, account: Account, leg: Order) -> Decimal:
        """Trade one leg of many at once and whole; its price. What the engine says about it is heard here only."""
        asset = leg.asset
        if asset is None:
            raise ValueError("legs have assets")
        request = replace(engine_request(leg, asset, self.price_for(asset, leg.side)), time_in_force=TimeInForce.FOK)
        events = self._engine.place(account.id, request, self.now_ms)
        fills = [each for each in events if isinstance(each, OrderFilled | OrderPartiallyFilled)]
        return fills[-1].deal.price

    def move(self, account: Account, order: Order, status: Status, event: str) -> None:
        """Change an order's state and tell it; legs of an mleg order follow it."""
        at_ns = self.stamp()
        legs = [account.orders[leg] for leg in order.legs] if order.order_class == "mleg" else []
        for each in (order, *legs):
            each.move(status, at_ns)
            if status in FINAL:
                account.open_orders.pop(each.id, None)
        extra = {"execution_id": self.stamps.new_uuid()} if event in ("new", "canceled") else {}
        self.announce(account, order, event, at_ns, **extra)

    def end(self, account: Account, order: Order, status: Status, event: str) -> None:
        """Bring an open order to a final state other than filled, with what that means for its group."""
        if order.is_final or not self.unroute(account, order):
            return
        self.move(account, order, status, event)
        if status is not Status.REPLACED:
            self.rules.ended(account, order)

    def announce(self, account: Account, order: Order, event: str, at_ns: int, **extra: Any) -> None:
        """Send one trade update."""
        payload = {
            "event": event,
            "at": utc_text(at_ns),
            "event_id": self.stamps.new_ulid(at_ns),
            "timestamp": utc_text(at_ns),
            "order": self.document(account, order, nested=True, on_stream=True),
            **extra,
        }
        self.on_update(account.id, payload)

    def document(self, account: Account, order: Order, *, nested: bool, on_stream: bool = False) -> dict[str, Any]:
        """The order's document; legs are shown when `nested`, and always for mleg."""
        legs = None
        if order.legs and (nested or order.order_class == "mleg"):
            legs = [order_document(account.orders[leg], None, on_stream=on_stream) for leg in order.legs]
        return order_document(order, legs, on_stream=on_stream)

    # ---- what the engine says

    def _deliver(self, events: list[Event]) -> None:
        self._queue.extend(events)
        if self._draining:
            return
        self._draining = True
        try:
            while self._queue:
                self._handle(self._queue.popleft())
        finally:
            self._draining = False

    def _handle(self, event: Event) -> None:
        account = self.accounts.get(event.account_id)
        if account is None:
            return
        match event:
            case OrderFilled() | OrderPartiallyFilled():
                order = account.orders.get(event.order.client_order_id or "")
                if order is not None:
                    order.triggered = order.triggered or event.order.triggered
                    self.rules.filled(account, order, event.deal.filled_units, event.deal.price)
            case OrderCancelled():
                order = account.orders.get(event.order.client_order_id or "")
                if order is not None and order.engine_id == event.order.id:
                    order.engine_id = None
                    self.end(account, order, Status.CANCELED, "canceled")
            case RequestRejected() if event.client_order_id is not None:
                order = account.orders[event.client_order_id]
                self.end(account, order, Status.REJECTED, "rejected")
            case OrderAccepted() | OrderReplaced() | OrderTriggered():
                order = account.orders.get(event.order.client_order_id or "")
                if order is None or order.is_final:
                    return
                order.triggered = order.triggered or event.order.triggered
                if order.type == "trailing_stop":
                    order.hwm, order.stop_price = event.order.trail_extreme, event.order.stop_price
                self.rules.triggered(account, order)
