"""Market data of all accounts: which feed prices an account's holdings come over (alpaca.md §3).

One socket per user and kind of asset, or one for the whole house when it has a key of its own; opened when something is
held that needs it. What no feed covers (options, refused symbols, a feed in trouble) is polled by the account itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from bridge.brokers.alpaca import credential as credentials
from bridge.brokers.alpaca.dials import Dialer
from bridge.brokers.alpaca.feed import Feed, Follower
from bridge.brokers.alpaca.instruments import AssetClass, Assets
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import Credential
from bridge.brokers.stats import Stats
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks

Key = tuple[str, str]  # address, whose key
_HOUSE = "house"


class Market:
    """The feeds of one adapter."""

    def __init__(
        self, settings: AlpacaSettings, clock: Clock, rng: random.Random, tasks: Tasks, stats: Stats, dialer: Dialer
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._tasks = tasks
        self._stats = stats
        self._dialer = dialer
        self._feeds: dict[Key, Feed] = {}
        self._past = 0  # trades of feeds that are gone

    def following(self, follower: Follower) -> Following:
        """The feeds of one account."""
        return Following(self, follower)

    def feed(self, kind: AssetClass, credential: Credential) -> Feed | None:
        """The feed for this kind of asset with this credential, or the house's; None: such prices are polled."""
        settings = self._settings
        url = {AssetClass.EQUITY: settings.stock_data_url(), AssetClass.CRYPTO: settings.crypto_data_url()}.get(kind)
        if url is None:
            return None
        if settings.data_key_id is not None and settings.data_secret is not None:
            whose, greeting = _HOUSE, credentials.house_data_auth(settings.data_key_id, settings.data_secret)
        else:
            whose, greeting = credentials.fingerprint(credential), credentials.data_auth(credential)
        feed = self._feeds.get((url, whose))
        if feed is None:
            feed = Feed(
                url,
                greeting,
                self._dialer,
                settings,
                self._clock,
                self._rng,
                self._tasks,
                self._stats,
                lambda feed: self._drop((url, whose), feed),
            )
            self._feeds[url, whose] = feed
        return feed

    @property
    def sockets(self) -> int:
        """Data sockets that are open and authenticated."""
        return sum(feed.up for feed in self._feeds.values())

    @property
    def trades(self) -> int:
        """Prices taken so far."""
        return self._past + sum(feed.trades for feed in self._feeds.values())

    async def close(self) -> None:
        """End all feeds."""
        await asyncio.gather(*(feed.close() for feed in list(self._feeds.values())))
        self._feeds.clear()

    def _drop(self, key: Key, feed: Feed) -> None:
        if feed.unused and self._feeds.get(key) is feed:
            del self._feeds[key]
            self._past += feed.trades


class Following:
    """Which feeds one account follows now, and what they cover."""

    __slots__ = ("_feeds", "_follower", "_market", "_symbols")

    def __init__(self, market: Market, follower: Follower) -> None:
        self._market = market
        self._follower = follower
        self._feeds: dict[Feed, dict[str, str]] = {}
        self._symbols: dict[str, tuple[Feed, str]] = {}  # instrument id -> feed, symbol

    def follow(self, instrument_ids: Mapping[str, object], assets: Assets, credential: Credential) -> set[str]:
        """Follow exactly these instruments. Returns those that were followed and are no longer."""
        wanted: dict[Feed, dict[str, str]] = {}
        symbols: dict[str, tuple[Feed, str]] = {}
        for instrument_id in instrument_ids:
            kind, symbol = assets.asset_class(instrument_id), assets.stream_symbol(instrument_id)
            feed = None if kind is None or symbol is None else self._market.feed(kind, credential)
            if feed is not None and symbol is not None:
                wanted.setdefault(feed, {})[symbol] = instrument_id
                symbols[instrument_id] = (feed, symbol)
        gone = self._symbols.keys() - symbols.keys()
        old, self._feeds, self._symbols = self._feeds, wanted, symbols
        for feed in old.keys() - wanted.keys():
            feed.follow(self._follower, {})
        for feed, of_feed in wanted.items():
            feed.follow(self._follower, of_feed)
        return set(gone)

    def leave(self) -> None:
        """Follow nothing any more."""
        for feed in self._feeds:
            feed.follow(self._follower, {})
        self._feeds, self._symbols = {}, {}

    def covers(self, instrument_id: str) -> bool:
        """Whether the instrument's prices come over a socket now."""
        found = self._symbols.get(instrument_id)
        return found is not None and found[0].covers(found[1])

    def priced_at(self, instrument_id: str) -> float | None:
        """When a socket told its last price (monotonic s); None when none did."""
        found = self._symbols.get(instrument_id)
        return None if found is None else found[0].traded_at(found[1])

    def doubt(self, instrument_id: str) -> None:
        """The broker says another price than the socket does."""
        found = self._symbols.get(instrument_id)
        if found is not None:
            found[0].doubt()
