"""Who lives in the simulator: users, their accounts, and the engine that trades for them.

The rule, the same for every seed (n = number of the user, from 1):

- k = 1: hedged demo account, funded; currency USD, EUR, JPY, USD … by n; broker Sim for odd n, Simex for even n.
- k = 2, even n only: netted demo account at the other broker, funded; the next currency in that row.
- k = 3, odd n only: hedged live account at the same broker, funded; currency USD for n = 1, else the next in the row.
- ctidTraderAccountId = 1,000,000 + 10·n + k; trader login = 5,000,000 + 10·n + k.

JPY has moneyDigits 0, the others 2. The world must not know connections.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from decimal import Decimal

from bridge.simulator.ctrader.catalogue import BROKERS, ListedSymbol, ServerCatalogue, make_catalogue
from core.errors import NotFound
from core.paper_trader import AccountSettings, AccountType, Engine, EngineSettings, Event

CURRENCIES = ("USD", "EUR", "JPY")
MONEY_DIGITS = {"USD": 2, "EUR": 2, "JPY": 0}
ACCOUNT_BASE = 1_000_000
LOGIN_BASE = 5_000_000
# Margin levels, in percent, of the three margin calls and of the stop-out.
MARGIN_CALLS = (Decimal(100), Decimal(75), Decimal(60))
STOP_OUT = Decimal(50)


@dataclass(frozen=True, slots=True)
class Account:
    """A trader account as the broker files it; its money and positions are in the engine under `key`."""

    id: int
    login: int
    user: int
    live: bool
    server: ServerCatalogue
    currency: str
    money_digits: int
    registered_ms: int

    @property
    def key(self) -> str:
        """The engine's account id."""
        return str(self.id)


class World:
    """Users, accounts and servers on one engine. `accounts` is ordered by user, first account first."""

    def __init__(self, users: int, deposit: int, rng: random.Random, now_ms: int) -> None:
        self.engine = Engine(
            rng,
            EngineSettings(
                first_order_id=30_000_001, first_position_id=20_000_001, first_deal_id=40_000_001, first_cash_id=1_001
            ),
        )
        self.servers: dict[str, ServerCatalogue] = {}
        self.groups: dict[str, ServerCatalogue] = {}  # price groups, by their keys
        self.markups: dict[str, int] = {}  # of each of them, in points on either side, beyond the server's own
        self.accounts: dict[int, Account] = {}
        self.of_user: dict[int, list[Account]] = {}
        self.opening: list[Event] = []  # first deposits, for the desk to file
        for rules in BROKERS:
            for live in (False, True):
                self._open_server(make_catalogue(rules, live))
        for user in range(1, users + 1):
            self.add_user(user, deposit, now_ms)

    def _open_server(self, catalogue: ServerCatalogue) -> None:
        self.servers[catalogue.key] = catalogue
        self.engine.add_market(catalogue.key)
        for symbol in catalogue.symbols.values():
            self.engine.add_listing(catalogue.key, symbol.listing)

    def add_user(self, user: int, deposit: int, now_ms: int) -> list[Account]:
        """Open the accounts of one user by the rule above and fund them."""
        home, other = BROKERS[(user - 1) % 2], BROKERS[user % 2]
        currency, following = CURRENCIES[(user - 1) % 3], CURRENCIES[user % 3]
        self.of_user[user] = []
        self._open(user, 1, f"{home.title}-demo", currency, AccountType.HEDGED, deposit, now_ms)
        if user % 2 == 0:
            self._open(user, 2, f"{other.title}-demo", following, AccountType.NETTED, deposit, now_ms)
        else:
            live_currency = "USD" if user == 1 else following
            self._open(user, 3, f"{home.title}-live", live_currency, AccountType.HEDGED, deposit, now_ms)
        return self.of_user[user]

    def _open(
        self, user: int, k: int, server: str, currency: str, kind: AccountType, deposit: int, now_ms: int
    ) -> None:
        number = 10 * user + k
        catalogue = self.servers[server]
        digits = MONEY_DIGITS[currency]
        account = Account(
            ACCOUNT_BASE + number, LOGIN_BASE + number, user, catalogue.live, catalogue, currency, digits, now_ms
        )
        terms = AccountSettings(
            currency=currency,
            money_digits=digits,
            type=kind,
            margin_call_levels=MARGIN_CALLS,
            stop_out_level=STOP_OUT,
        )
        self.engine.open_account(account.key, server, terms, now_ms)
        amount = deposit * 100 if currency == "JPY" else deposit
        self.opening += self.engine.move_cash(account.key, Decimal(amount), now_ms, note="opening deposit")
        self.accounts[account.id] = account
        self.of_user[user].append(account)

    def priced(self) -> list[ServerCatalogue]:
        """Everything that has prices: the servers, then their price groups."""
        return [*self.servers.values(), *self.groups.values()]

    def move_to_group(self, account: Account, name: str) -> Account:
        """Put an account into a price group of its server, which is opened if need be, without prices yet.

        Raises InvalidInput while the account holds anything.
        """
        server = self.servers[account.server.base]
        group = self.groups.get(f"{server.key}/{name}") or replace(server, key=f"{server.key}/{name}")
        if group.key not in self.groups:
            self.groups[group.key] = group
            self.markups[group.key] = 0
            self.engine.add_market(group.key)
            for listing in self.engine.listings(server.key):
                self.engine.add_listing(group.key, listing)
        if account.server is group:
            return account
        self.engine.move_account(account.key, group.key)
        moved = self.accounts[account.id] = replace(account, server=group)
        self.of_user[account.user] = [moved if one.id == moved.id else one for one in self.of_user[account.user]]
        return moved

    def account(self, account_id: int) -> Account:
        """Raises NotFound."""
        try:
            return self.accounts[account_id]
        except KeyError as cause:
            raise NotFound(f"no account {account_id}") from cause

    def symbol(self, account: Account, instrument_id: str) -> ListedSymbol:
        """The listed symbol behind an engine's instrument id."""
        return account.server.symbols[int(instrument_id)]
