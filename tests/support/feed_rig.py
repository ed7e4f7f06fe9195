"""A data stream that says what a test tells it to, and accounts that follow prices over it (Alpaca)."""

import random
from collections.abc import Callable, Iterable
from typing import Any

import msgpack

from bridge.brokers.alpaca import credential as credentials
from bridge.brokers.alpaca.dials import Dialer
from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.market import Following, Market
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.stats import Stats
from bridge.runtime.clock import SystemClock
from bridge.runtime.tasks import Tasks
from core.account import AccountMirror
from tests.support.scripted_streams import Message, ScriptedStreams
from tests.support.waiting import eventually

WITHIN_S = 5.0
AAPL, MSFT, BTC, OPTION = ("aapl-id", "msft-id", "btc-id", "option-id")


def keys(user: int) -> Any:
    entry = {"keyId": f"SIMKEY{user}", "secretKey": f"sim-alpaca-secret-{user}", "environment": "paper"}
    return credentials.read(f"g{user}", entry)


def assets() -> Assets:
    made = Assets()
    for key, symbol, kind in (
        (AAPL, "AAPL", "us_equity"),
        (MSFT, "MSFT", "us_equity"),
        (BTC, "BTC/USD", "crypto"),
        (OPTION, "AAPL350119C00240000", "us_option"),
    ):
        made.of_asset({"id": key, "symbol": symbol, "class": kind})
    return made


class Server(ScriptedStreams):
    """A data stream with a limit of symbols; `pack` is how it writes, `errors` what it answers an authentication."""

    def __init__(self, *, limit: int = 30, pack: Callable[[Any], Message] = msgpack.packb, **options: Any) -> None:
        welcome = [pack([{"T": "success", "msg": "connected"}])]
        super().__init__(self.reply, welcome=welcome, **options)
        self.limit = limit
        self.pack = pack
        self.error: int | None = None
        self.trades: set[str] = set()

    def reply(self, document: Any) -> Iterable[Message]:
        if document["action"] == "auth":
            self.trades = set()
            if self.error is not None:
                return [self.pack([{"T": "error", "code": self.error, "msg": "no"}])]
            return [self.pack([{"T": "success", "msg": "authenticated"}])]
        asked = set(document["trades"])
        wanted = self.trades | asked if document["action"] == "subscribe" else self.trades - asked
        if len(wanted) > self.limit:
            return [self.pack([{"T": "error", "code": 405, "msg": "symbol limit exceeded"}])]
        self.trades = wanted
        return [self.pack([{"T": "subscription", "trades": sorted(wanted), "quotes": [], "corrections": []}])]

    async def trade(self, symbol: str, *prices: float) -> None:
        now = msgpack.Timestamp(1_700_000_000, 7) if self.pack is msgpack.packb else "2023-11-14T22:13:20Z"
        await self.send(
            self.pack([{"T": "t", "S": symbol, "i": 2**60, "p": price, "s": 1, "t": now} for price in prices])
        )

    def count(self, action: str) -> int:
        return sum(one["action"] == action for one in self.received)


class Account:
    """A follower with a mirror."""

    def __init__(self, market: Market, known: Assets, credential: Any) -> None:
        self.mirror = AccountMirror("demo", "1", known.catalogue, 9)
        self.following: Following = market.following(self)
        self.changes = 0
        self._assets, self._credential = known, credential

    def fed_changed(self) -> None:
        self.changes += 1

    def hold(self, *instrument_ids: str) -> set[str]:
        return self.following.follow(dict.fromkeys(instrument_ids), self._assets, self._credential)

    def price(self, instrument_id: str) -> int | None:
        quote = self.mirror.quotes.get(instrument_id)
        assert quote is None or quote.bid == quote.ask
        return None if quote is None else quote.bid


class Rig:
    """A market with timers short enough for a test."""

    def __init__(self, tasks: Tasks, url: str, **changes: Any) -> None:
        values: dict[str, Any] = {
            "data_url": url,
            "ping_s": 0.1,
            "pong_timeout_s": 0.15,
            "auth_timeout_s": 10.0,
            "connect_timeout_s": 10.0,
            "close_timeout_s": 0.3,
            "backoff_first_s": 0.02,
            "backoff_cap_s": 0.05,
            "dials_per_second": 100,
            "data_retry_s": 0.3,
            "data_linger_s": 0.3,
            "slot_wait_s": 0.3,
            "slow_poll_s": 0.1,
        }
        settings = AlpacaSettings(**{**values, **changes})
        self.stats, self.clock = Stats(), SystemClock()
        dialer = Dialer(settings, self.clock, self.stats)
        self.market = Market(settings, self.clock, random.Random(3), tasks, self.stats, dialer)
        self.assets = assets()

    def account(self, user: int = 1) -> Account:
        return Account(self.market, self.assets, keys(user))


async def covered(account: Account, *instrument_ids: str) -> None:
    await eventually(lambda: all(account.following.covers(one) for one in instrument_ids), within_s=WITHIN_S)
