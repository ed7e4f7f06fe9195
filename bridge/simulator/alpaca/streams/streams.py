"""The streams of one simulated Alpaca, in one object: what the state and the server talk to.

    streams = Streams(services, faults)
    app.add_routes(streams.routes())      # for each port; the application says its ENVIRONMENT
    state.on_update = streams.publish     # every trade update, in order
    prices.on_tick = streams.tick
    streams.step()                        # at least once a second
    await streams.close()                 # before the server is cleaned up

It must not change accounts or prices: it only tells.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from aiohttp import web

from bridge.simulator.alpaca.market.prices import Tick
from bridge.simulator.alpaca.services import Services
from bridge.simulator.alpaca.streams import market_messages
from bridge.simulator.alpaca.streams.data import DataStream
from bridge.simulator.alpaca.streams.frames import NANOS
from bridge.simulator.alpaca.streams.hooks import StreamHooks
from bridge.simulator.alpaca.streams.minute_bars import Bar, BarKind, MinuteBars
from bridge.simulator.alpaca.streams.socket import StreamSocket
from bridge.simulator.alpaca.streams.trading import TradingStream

TEST_SYMBOL = "FAKEPACA"
_AT_ONCE = {"us_equity": ("/v2/iex", "/v2/sip"), "crypto": ("/v1beta3/crypto/us",)}
_TEST = ("/v2/test",)
_DELAYED = ("/v2/delayed_sip",)
MOST_DELAYED = 100_000  # ticks
BIG_ID = 1 << 53  # trade ids may exceed what a double can hold (reference/alpaca.md §3.3)


class Streams:
    """Trading and market-data streams of both environments."""

    def __init__(self, services: Services, hooks: StreamHooks) -> None:
        settings = services.settings
        self.trading = TradingStream(services, hooks)
        self.data = DataStream(services, hooks)
        self._clock = services.clock
        self._world = services.world
        self._bars = MinuteBars(round(settings.minute_seconds / settings.speed * NANOS))
        self._classes: dict[str, str] = {}  # asset class of every symbol that was traded
        self._delay_ns = round(settings.delayed_seconds * NANOS)
        self._test_at_ms = 0  # when the test feed last had a trade
        self._test_prints = 0
        self._delayed: deque[Tick] = deque(maxlen=MOST_DELAYED)
        services.access.on_revoked.append(self.revoked)

    def routes(self) -> list[web.RouteDef]:
        """What a port serves beside REST."""
        trading = [web.get(path, self.trading.handle) for path in ("/stream", "/stream/")]
        return trading + [web.get(path, self.data.handle) for path in self.data.feeds]

    def publish(self, account_id: str, payload: dict[str, Any] | None) -> None:
        """Send a trade update to whoever listens to the account."""
        self.trading.publish(account_id, payload)

    def tick(self, tick: Tick) -> None:
        """Tell a trade and the quote beside it."""
        paths = self._paths(tick)
        if not paths:
            return  # options have no stream here
        if tick.asset_class == "us_equity" and paths != _TEST:
            self._delayed.append(tick)
        if paths == _TEST:
            self._test_at_ms = tick.at_ns // 1_000_000
        self._classes[tick.symbol] = tick.asset_class
        self._tell(paths, tick)
        for channel, symbol, bar in self._bars.add(tick.symbol, tick.at_ns, tick.price, tick.size):
            self._tell_bar(channel, symbol, bar)

    def announce(self, asset_class: str, channel: str, symbol: str, message: dict[str, Any]) -> None:
        """Send a message of a rare channel: statuses, lulds, corrections, cancelErrors. `T` is in the message."""
        paths = _TEST if symbol == TEST_SYMBOL else _AT_ONCE.get(asset_class, ())
        self.data.publish(paths, channel, symbol, message)

    def step(self) -> None:
        """Time passes: minutes end, delayed trades come out, slots fall free."""
        now_ns = self._clock.now_ms() * 1_000_000
        for channel, symbol, bar in self._bars.roll(now_ns):
            self._tell_bar(channel, symbol, bar)
        until_ns = now_ns - self._delay_ns
        while self._delayed and self._delayed[0].at_ns <= until_ns:
            self._tell(_DELAYED, self._delayed.popleft())
        self._keep_test_feed_alive(now_ns // 1_000_000)
        now = self._clock.monotonic()
        self.trading.tick(now)
        self.data.tick(now)

    def revoked(self, user: int) -> None:
        """Credentials of a user died."""
        self.trading.revoked(user)
        self.data.revoked(user)

    def clients(self) -> Iterator[StreamSocket]:
        """Every open stream."""
        yield from list(self.trading.clients)
        yield from list(self.data.clients)

    def is_trading(self, client: StreamSocket) -> bool:
        return client.endpoint == "/stream"

    async def close(self) -> None:
        """End every stream."""
        for client in self.clients():
            client.abort(orderly=True)

    def _keep_test_feed_alive(self, now_ms: int) -> None:
        """The test feed is always on: its last trade is told again each second in which the price stood still."""
        if now_ms < self._test_at_ms + 1_000 or not self.data.has_readers(_TEST[0]):
            return
        last = self._world.prices.quote(TEST_SYMBOL)
        self._test_prints += 1
        again = replace(last, id=BIG_ID + self._test_prints, at_ns=now_ms * 1_000_000)
        self.tick(again)

    def _paths(self, tick: Tick) -> tuple[str, ...]:
        return _TEST if tick.symbol == TEST_SYMBOL else _AT_ONCE.get(tick.asset_class, ())

    def _tell(self, paths: tuple[str, ...], tick: Tick) -> None:
        publish = self.data.publish
        publish(paths, "trades", tick.symbol, market_messages.trade(tick))
        publish(paths, "quotes", tick.symbol, market_messages.quote(tick))
        if tick.asset_class == "crypto":
            publish(paths, "orderbooks", tick.symbol, market_messages.book(tick))

    def _tell_bar(self, channel: BarKind, symbol: str, bar: Bar) -> None:
        paths = _TEST if symbol == TEST_SYMBOL else _AT_ONCE[self._classes[symbol]]
        self.data.publish(paths, channel, symbol, market_messages.bar(channel, symbol, bar))
