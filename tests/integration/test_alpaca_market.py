"""Price feeds over real sockets: who gets which price, what is subscribed to, and what becomes of each error code."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgpack
import orjson
import pytest
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from bridge.brokers.alpaca import feed
from bridge.runtime.tasks import Tasks
from core.secret import Secret
from tests.support.feed_rig import AAPL, BTC, MSFT, OPTION, WITHIN_S, Rig, Server, covered
from tests.support.scripted_streams import Message
from tests.support.waiting import eventually

MakeRig = Callable[..., Rig]


@pytest.fixture
async def rig() -> AsyncIterator[MakeRig]:
    tasks, made = Tasks("test"), list[Rig]()

    def make(url: str, **changes: Any) -> Rig:
        made.append(Rig(tasks, url, **changes))
        return made[-1]

    yield make
    for one in made:
        await one.market.close()
    await tasks.close()
    assert tasks.crashes == 0


# ---------------------------------------------------------------- prices


async def test_no_socket_is_opened_when_nothing_that_needs_one_is_held(rig: MakeRig) -> None:
    async with Server() as server:
        one = rig(server.url)
        account = one.account()
        account.hold()
        account.hold(OPTION)
        await asyncio.sleep(2 * feed.GATHER_S)  # by then a socket would have been asked for
        assert server.opened == 0
        assert not account.following.covers(OPTION)


@pytest.mark.parametrize("pack", [msgpack.packb, lambda it: orjson.dumps(it).decode()], ids=["msgpack", "json"])
async def test_last_price_reaches_the_mirror_when_a_held_symbol_trades(
    rig: MakeRig, pack: Callable[[Any], Message]
) -> None:
    async with Server(pack=pack) as server:
        one = rig(server.url)
        account = one.account()
        account.hold(AAPL)
        account.hold(AAPL, MSFT)  # in the same moment
        await covered(account, AAPL, MSFT)
        assert server.received == [
            {"action": "auth", "key": "SIMKEY1", "secret": "sim-alpaca-secret-1"},
            {"action": "subscribe", "trades": ["AAPL", "MSFT"]},
        ]
        assert server.headers[0]["Content-Type"] == "application/msgpack"
        assert account.following.priced_at(AAPL) is None
        await server.trade("AAPL", 226.41, 226.42)
        await server.trade("MSFT", 0.000000001)
        await server.trade("SPY", 5.0)  # nobody's
        await eventually(lambda: account.price(MSFT) == 1, within_s=WITHIN_S)
        assert account.price(AAPL) == 226_420_000_000
        assert account.following.priced_at(AAPL) is not None
        assert one.market.trades == 3


@pytest.mark.parametrize(
    "trade",
    [
        {"T": "t", "S": "AAPL", "p": float("nan")},
        {"T": "t", "S": "AAPL", "p": float("inf")},
        {"T": "t", "S": "AAPL", "p": -1.0},
        {"T": "t", "S": "AAPL", "p": 0},
        {"T": "t", "S": "AAPL", "p": 1e18},
        {"T": "t", "S": "AAPL", "p": "226"},
        {"T": "t", "S": "AAPL", "p": True},
        {"T": "t", "S": "AAPL"},
        {"T": "t", "S": 7, "p": 1.0},
        {"T": "t", "p": 1.0},
        7,
    ],
)
async def test_price_stays_when_a_trade_is_absurd(rig: MakeRig, trade: Any) -> None:
    async with Server() as server:
        one = rig(server.url)
        account = one.account()
        account.hold(AAPL)
        await covered(account, AAPL)
        await server.trade("AAPL", 10.0)
        await server.send(msgpack.packb([trade]), b"\xc1", msgpack.packb({"T": "t"}), msgpack.packb([{"T": "?"}]))
        await eventually(lambda: one.stats.get("feed_garbage") == 3, within_s=WITHIN_S)
        assert account.price(AAPL) == 10_000_000_000
        assert account.following.covers(AAPL)


async def test_each_kind_of_asset_has_a_socket_of_its_own_when_both_are_held(rig: MakeRig) -> None:
    async with Server() as server:
        paths: list[str] = []

        def note(connection: ServerConnection, request: Request) -> Response | None:
            paths.append(request.path)
            return None

        server.gate = note
        one = rig(server.url)
        account = one.account()
        account.hold(AAPL, BTC)
        await eventually(lambda: server.count("subscribe") == 2, within_s=WITHIN_S)
        assert sorted(paths) == ["/v1beta3/crypto/us", "/v2/iex"]
        await covered(account, BTC)
        await server.trade("BTC/USD", 65_000.5)
        await eventually(lambda: account.price(BTC) == 65_000_500_000_000, within_s=WITHIN_S)
        assert one.market.sockets == 2


async def test_every_user_has_a_socket_of_the_own_when_the_house_has_no_key(rig: MakeRig) -> None:
    async with Server() as server:
        one = rig(server.url)
        first, again, second = one.account(1), one.account(1), one.account(2)
        for account in (first, again, second):
            account.hold(AAPL)
        for account in (first, again, second):
            await covered(account, AAPL)
        assert server.opened == 2


async def test_one_socket_serves_all_when_the_house_has_a_key(rig: MakeRig) -> None:
    async with Server() as server:
        one = rig(server.url, data_key_id=Secret("HOUSE"), data_secret=Secret("house-secret-1"))
        first, second = one.account(1), one.account(2)
        first.hold(AAPL)
        second.hold(AAPL, MSFT)
        await covered(first, AAPL)
        await covered(second, AAPL, MSFT)
        assert server.opened == 1
        assert server.received[0] == {"action": "auth", "key": "HOUSE", "secret": "house-secret-1"}
        await server.trade("AAPL", 7.0)
        await server.trade("MSFT", 8.0)
        await eventually(lambda: second.price(MSFT) == 8_000_000_000, within_s=WITHIN_S)
        assert first.price(AAPL) == second.price(AAPL) == 7_000_000_000
        assert first.price(MSFT) is None
        assert second.hold(MSFT) == {AAPL}
        first.following.leave()
        await eventually(lambda: server.trades == {"MSFT"}, within_s=WITHIN_S)
        assert server.received[-1] == {"action": "unsubscribe", "trades": ["AAPL"]}


async def test_socket_is_closed_after_a_while_when_nobody_holds_anything(rig: MakeRig) -> None:
    async with Server() as server:
        one = rig(server.url)
        account = one.account()
        account.hold(AAPL)
        await covered(account, AAPL)
        account.hold()
        await eventually(lambda: server.trades == set(), within_s=WITHIN_S)
        account.hold(AAPL)  # back before the while is over: on the same socket
        await covered(account, AAPL)
        assert server.opened == 1
        account.following.leave()
        await eventually(lambda: server.closed_cleanly == 1, within_s=WITHIN_S)
        account.hold(AAPL)
        await covered(account, AAPL)
        assert server.opened == 2


async def test_prices_are_polled_only_when_feeds_are_off(rig: MakeRig) -> None:
    async with Server() as server:
        account = rig(server.url, data_feed="off").account()
        account.hold(AAPL, BTC)
        await asyncio.sleep(2 * feed.GATHER_S)  # by then a socket would have been asked for
        assert server.opened == 0


# ---------------------------------------------------------------- trouble


async def test_what_does_not_fit_is_not_covered_when_the_symbol_limit_is_reached(rig: MakeRig) -> None:
    async with Server(limit=1) as server:
        one = rig(server.url)
        account = one.account()
        account.hold(AAPL, MSFT)
        await eventually(lambda: one.stats.get("feed_errors.405") == 2, within_s=WITHIN_S)
        assert [account.following.covers(one) for one in (AAPL, MSFT)] == [True, False]
        account.hold(MSFT)  # room is made
        await covered(account, MSFT)
        assert server.opened == 1


@pytest.mark.parametrize("code", [402, 404, 406, 407, 409, 411, 500])
async def test_feed_comes_back_by_itself_when_it_was_refused_with(rig: MakeRig, code: int) -> None:
    async with Server() as server:
        server.error = code
        one = rig(server.url, data_retry_s=0.02)  # refused for good is tried again after twenty times that
        account = one.account()
        account.hold(AAPL)
        await eventually(lambda: one.stats.get(f"feed_errors.{code}") >= 2, within_s=WITHIN_S)
        assert not account.following.covers(AAPL)
        server.error = None
        await covered(account, AAPL)


@pytest.mark.parametrize("code", [402, 406, 409])
async def test_refused_feed_is_not_hammered(rig: MakeRig, code: int) -> None:
    async with Server() as server:
        server.error = code
        one = rig(server.url, data_retry_s=30.0, slot_wait_s=95.0)
        account = one.account()
        account.hold(AAPL)
        await eventually(lambda: one.stats.get(f"feed_errors.{code}") == 1, within_s=WITHIN_S)
        account.hold(AAPL, MSFT)
        await asyncio.sleep(0.3)  # what hammers comes back after hundredths of a second here
        assert server.opened == 1


async def test_followers_are_told_and_the_feed_comes_back_when_the_socket_is_cut(rig: MakeRig) -> None:
    async with Server() as server:
        one = rig(server.url)
        account = one.account()
        account.hold(AAPL)
        await covered(account, AAPL)
        await server.trade("AAPL", 7.0)
        await eventually(lambda: account.price(AAPL), within_s=WITHIN_S)
        before = account.changes
        server.abort()
        await eventually(lambda: account.changes > before, within_s=WITHIN_S)
        await covered(account, AAPL)
        assert account.following.priced_at(AAPL) is None  # the price is from before the cut
        assert one.stats.get("reconnects.feed_broken") == 1


async def test_feed_connects_again_when_pings_are_not_answered(rig: MakeRig) -> None:
    async with Server() as server:
        one = rig(server.url)
        account = one.account()
        account.hold(AAPL)
        await covered(account, AAPL)
        server.freeze()
        await eventually(lambda: server.opened == 2, within_s=WITHIN_S)
        await covered(account, AAPL)


async def test_mute_socket_is_given_up_when_the_broker_says_other_prices(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MUTE_AGAIN_S", 3600.0)
    async with Server() as server:
        one = rig(server.url)
        account = one.account()
        account.hold(AAPL)
        await covered(account, AAPL)
        account.following.doubt(AAPL)
        await asyncio.sleep(0.05)  # by then it would have been given up
        assert server.opened == 1  # too young to be judged
        monkeypatch.setattr(feed, "MUTE_AGAIN_S", 0.0)

        def doubted() -> bool:
            account.following.doubt(AAPL)
            return server.opened == 2

        await eventually(doubted, within_s=WITHIN_S)
        assert one.stats.get("reconnects.feed_mute") == 1


async def test_socket_that_tells_prices_is_kept_when_it_is_doubted(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MUTE_AGAIN_S", 0.0)
    async with Server() as server:
        one = rig(server.url, slow_poll_s=5.0)
        account = one.account()
        account.hold(AAPL)
        await covered(account, AAPL)
        await server.trade("AAPL", 7.0)
        await eventually(lambda: account.price(AAPL), within_s=WITHIN_S)
        account.following.doubt(AAPL)
        await asyncio.sleep(0.05)  # by then it would have been given up
        assert server.opened == 1


@pytest.mark.parametrize(("status", "trouble"), [(401, "refused"), (429, "slot"), (503, "broken")])
async def test_refused_handshake_is_told_by_what_it_means(rig: MakeRig, status: int, trouble: str) -> None:
    async with Server(gate=lambda connection, _: connection.respond(status, "no")) as server:
        one = rig(server.url)
        account = one.account()
        account.hold(AAPL)
        await eventually(lambda: one.stats.get(f"reconnects.feed_{trouble}") >= 1, within_s=WITHIN_S)
        assert not account.following.covers(AAPL)


async def test_feed_tries_again_when_the_login_is_never_answered(rig: MakeRig) -> None:
    async with Server() as server:
        server.answer = None
        account = rig(server.url, auth_timeout_s=0.1).account()
        account.hold(AAPL)
        await eventually(lambda: server.opened >= 2, within_s=WITHIN_S)
        server.answer = server.reply
        await covered(account, AAPL)
