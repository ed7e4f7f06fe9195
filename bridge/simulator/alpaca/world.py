"""The simulated Alpaca as one object: who lives in it, and everything that can be asked of it.

The rule, the same for every seed (n = number of the user, from 1): every user has a paper account, every odd user a
live one as well; ids are uuid5 of environment and user, numbers PA1000000n and 1000000n. Pure and synchronous: the
wall clock is passed in as `now_ms`, randomness as a generator; what happens leaves through `on_update` and
`prices.on_tick`. The world must not know sockets, credentials or budgets.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca.accounts import activities
from bridge.simulator.alpaca.accounts.account import LIVE, PAPER, Account, account_id, account_number
from bridge.simulator.alpaca.hours import STATES, Hours
from bridge.simulator.alpaca.market import calendar, listing
from bridge.simulator.alpaca.market.catalogue import Catalogue
from bridge.simulator.alpaca.market.prices import Prices, Tick
from bridge.simulator.alpaca.refusals import missing
from bridge.simulator.alpaca.requests import closing, placing, replacing
from bridge.simulator.alpaca.requests.configuring import configure
from bridge.simulator.alpaca.stamps import MS_NS, Stamps
from bridge.simulator.alpaca.trading import money
from bridge.simulator.alpaca.trading.consequences import Consequences
from bridge.simulator.alpaca.trading.desk import Desk, OnUpdate
from bridge.simulator.alpaca.views import history, order_list, positions, truth
from bridge.simulator.alpaca.views.account import account_document
from core.errors import InvalidInput, NotFound

__all__ = ["Account", "Tick", "World", "WorldSettings"]

Query = Mapping[str, str]
Body = Mapping[str, Any]
Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSettings:
    """`prices`: walk, frozen, or a CSV file to replay. `partial_fill_share`: how many fills take only a random part
    first (reference §8.1: 10 %). `pending_ms`: how long a cancel or replace is on its way, at least until the next
    advance. `crypto_fee`: share of what a crypto trade brings. Deposits in USD."""

    users: int = 3
    prices: str = "walk"
    strangers: frozenset[str] = frozenset()  # symbols of another broker that replays the same file
    speed: float = 1.0
    partial_fill_share: float = 0.1
    pending_ms: int = 0
    paper_deposit: int = 100_000
    live_deposit: int = 50_000
    crypto_fee: Decimal = Decimal("0.0025")


class World:
    """Users, accounts and their market. REST operations raise ApiRefusal; the others NotFound and InvalidInput."""

    def __init__(self, settings: WorldSettings, rng: random.Random, now_ms: int) -> None:
        self._settings = settings
        self._stamps = Stamps(rng)
        self.catalogue = Catalogue()
        self.prices = Prices(
            self.catalogue,
            rng,
            self._stamps,
            source=settings.prices,
            speed=settings.speed,
            now_ms=now_ms,
            strangers=settings.strangers,
        )
        self.desk = Desk(
            self.catalogue,
            self.prices,
            self._stamps,
            rng,
            partial_fill_share=settings.partial_fill_share,
            crypto_fee=settings.crypto_fee,
            now_ms=now_ms,
        )
        self.desk.rules = Consequences(self.desk)
        self._hours = Hours(self.desk, now_ms)
        self.accounts: dict[str, Account] = self.desk.accounts
        self.of_user: dict[int, list[Account]] = {}
        for user in range(1, settings.users + 1):
            self.add_user(user, now_ms)
        self._hours.sample()

    # ---- who lives here

    def add_user(self, user: int, now_ms: int) -> list[Account]:
        """Open and fund the accounts of a user."""
        self.of_user[user] = []
        for environment, deposit in ((PAPER, self._settings.paper_deposit), (LIVE, self._settings.live_deposit)):
            if environment == PAPER or user % 2 == 1:
                name, number = account_id(user, environment), account_number(user, environment)
                account = Account(name, number, user, environment, self._stamps.next_ns(now_ms))
                self.desk.open_account(account, now_ms)
                money.deposit(self.desk, account, Decimal(deposit))
                self.of_user[user].append(account)
        return self.of_user[user]

    def account(self, name: str) -> Account:
        """Raises NotFound."""
        account = self.accounts.get(name)
        if account is None:
            raise NotFound(f"no account {name}")
        return account

    @property
    def on_update(self) -> OnUpdate:
        """Told (account id, data of trade_updates) for everything that happens to an order, in order."""
        return self.desk.on_update

    @on_update.setter
    def on_update(self, callback: OnUpdate) -> None:
        self.desk.on_update = callback

    # ---- time, market and money (admin)

    def advance(self, now_ms: int) -> None:
        """Let time pass: cancels and replaces take effect, orders expire, auctions happen, rests are tried again."""
        self._hours.advance(now_ms)

    @property
    def market_state(self) -> str:
        return self.desk.state

    def set_market(self, state: str, now_ms: int) -> None:
        """Open, close, or leave open to extended-hours orders ("extended") only. Crypto never closes."""
        if state not in STATES:
            raise InvalidInput(f"market state must be one of {', '.join(STATES)}", field="state")
        self._hours.set_state(state, now_ms)

    def end_session(self, now_ms: int) -> None:
        """Have the close now: CLS orders trade, today's equity and prices become yesterday's."""
        self._at(now_ms)
        self._hours.end_session()

    def set_quote(self, symbol: str, now_ms: int, **quote: Decimal | None) -> None:
        """Set a price; see Prices.set_quote."""
        self._at(now_ms)
        self.prices.set_quote(symbol, now_ms, **quote)

    def deposit(self, account: Account, amount: Decimal, now_ms: int) -> None:
        """Pay in (CSD), or out (CSW) when negative."""
        self._at(now_ms)
        money.deposit(self.desk, account, amount)

    def pay(self, account: Account, kind: str, amount: Decimal, now_ms: int, symbol: str | None = None) -> None:
        """Other money that moves without a trade: DIV, FEE, INT …"""
        self._at(now_ms)
        money.pay(self.desk, account, kind, amount, symbol)

    def truth(self, account: Account) -> Document:
        """The record as the broker itself believes it."""
        return truth.truth_of(self.desk, account)

    # ---- orders (REST)

    def place(self, account: Account, body: Body, now_ms: int) -> Document:
        self._at(now_ms)
        return placing.place(self.desk, account, body)

    def replace(self, account: Account, order_id: str, body: Body, now_ms: int) -> Document:
        self._at(now_ms)
        return replacing.replace_order(self.desk, account, account.order(order_id), body, self._settings.pending_ms)

    def cancel(self, account: Account, order_id: str, now_ms: int) -> None:
        self._at(now_ms)
        placing.cancel(self.desk, account, account.order(order_id), self._settings.pending_ms)

    def cancel_all(self, account: Account, now_ms: int) -> list[Document]:
        self._at(now_ms)
        return placing.cancel_all(self.desk, account, self._settings.pending_ms)

    def order(self, account: Account, order_id: str, nested: bool = False) -> Document:
        return self.desk.document(account, account.order(order_id), nested=nested)

    def order_by_client_id(self, account: Account, client_order_id: str) -> Document:
        order_id = account.by_client_id.get(client_order_id)
        if order_id is None:
            raise missing(f"order not found for {client_order_id}")
        return self.order(account, order_id)

    def orders(self, account: Account, query: Query) -> list[Document]:
        return order_list.orders(self.desk, account, query)

    # ---- positions (REST)

    def positions(self, account: Account) -> list[Document]:
        return positions.positions(account, self.prices)

    def position(self, account: Account, symbol_or_id: str) -> Document:
        held = positions.position_of(account, self.catalogue, symbol_or_id)
        return positions.position_document(account, held, self.prices)

    def close_position(self, account: Account, symbol_or_id: str, query: Query, now_ms: int) -> Document:
        self._at(now_ms)
        return closing.close_position(self.desk, account, symbol_or_id, query)

    def close_all(self, account: Account, cancel_orders: bool, now_ms: int) -> list[Document]:
        self._at(now_ms)
        return closing.close_all(self.desk, account, cancel_orders=cancel_orders)

    def exercise(self, account: Account, symbol_or_id: str, now_ms: int) -> Document:
        self._at(now_ms)
        return closing.exercise(self.desk, account, symbol_or_id)

    def do_not_exercise(self, account: Account, symbol_or_id: str, now_ms: int) -> Document:
        self._at(now_ms)
        return closing.do_not_exercise(self.desk, account, symbol_or_id)

    # ---- account and market data (REST)

    def account_document(self, account: Account) -> Document:
        return account_document(self.desk, account)

    def configurations(self, account: Account) -> Document:
        return asdict(account.configurations)

    def configure(self, account: Account, body: Body, now_ms: int) -> Document:
        self._at(now_ms)
        return configure(account, body)

    def activities(self, account: Account, query: Query, activity_type: str | None = None) -> list[Document]:
        return activities.select(account.activities, query, activity_type)

    def portfolio_history(self, account: Account, query: Query, now_ms: int) -> Document:
        return history.portfolio_history(account, self.desk.figures(account).equity, query, now_ms)

    def clock(self, now_ms: int) -> Document:
        return calendar.clock(now_ms, now_ms * MS_NS, self.desk.state == "open")

    def calendar(self, query: Query, now_ms: int) -> list[Document]:
        return listing.calendar(query, now_ms)

    def assets(self, query: Query) -> list[Document]:
        return listing.assets(self.catalogue, query)

    def asset(self, symbol_or_id: str) -> Document:
        return listing.asset(self.catalogue, symbol_or_id)

    def option_contracts(self, query: Query) -> Document:
        return listing.option_contracts(self.catalogue, self.prices, query)

    def option_contract(self, symbol_or_id: str) -> Document:
        return listing.option_contract(self.catalogue, self.prices, symbol_or_id)

    def _at(self, now_ms: int) -> None:
        self.desk.now_ms = max(self.desk.now_ms, now_ms)
