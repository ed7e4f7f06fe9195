"""The simulated Alpaca's market-data streams, by clients written by hand."""

from decimal import Decimal
from typing import Any

import msgpack
import pytest

from bridge.simulator.alpaca import Simulator
from tests.support.alpaca_probe import keys, live_keys, reading, stream
from tests.support.waiting import eventually

CONNECTED = [{"T": "success", "msg": "connected"}]
AUTHENTICATED = [{"T": "success", "msg": "authenticated"}]


def error(code: int, text: str) -> list[dict[str, Any]]:
    return [{"T": "error", "code": code, "msg": text}]


class TestData:
    """Market data."""

    async def test_trades_and_quotes_come_as_arrays_when_one_subscribed(self, sim: Simulator) -> None:
        async with reading(sim.ports.alpaca, "/v2/iex", trades=["AAPL"], quotes=["AAPL", "MSFT"]) as talk:
            sim.actions.quote("AAPL", price=Decimal("200.5"))
            sim.actions.quote("MSFT", price=Decimal("300"))
            sim.actions.quote("SPY", price=Decimal("500"))
            await talk.until(lambda: len(talk.data) >= 3)
            assert [(each["T"], each["S"]) for each in talk.data] == [("t", "AAPL"), ("q", "AAPL"), ("q", "MSFT")]
            trade, quote, _ = talk.data
            assert set(trade) == {"T", "S", "i", "x", "p", "s", "t", "c", "z"}
            assert set(quote) == {"T", "S", "bx", "bp", "bs", "ax", "ap", "as", "t", "c", "z"}
            assert trade["p"] == 200.5
            assert len(talk.messages[-1]) == 3  # one batch
            assert {type(frame) for frame in talk.frames} == {str}

    async def test_messagepack_has_timestamps_as_the_extension(self, sim: Simulator) -> None:
        async with reading(sim.ports.alpaca, "/v2/iex", trades=["AAPL"], speaks_msgpack=True) as talk:
            sim.actions.quote("AAPL", price=Decimal("200.5"))
            await talk.until(lambda: talk.data)
            assert isinstance(talk.data[0]["t"], msgpack.Timestamp)
            assert {type(frame) for frame in talk.frames} == {bytes}

    async def test_crypto_has_books_and_slashed_symbols(self, sim: Simulator) -> None:
        path = "/v1beta3/crypto/us"
        async with reading(sim.ports.alpaca, path, trades=["*"], orderbooks=["BTC/USD"]) as talk:
            sim.actions.quote("BTC/USD", price=Decimal("60000"))
            await talk.until(lambda: len(talk.data) >= 2)
            trade, book = talk.data
            assert (trade["T"], trade["S"], trade["tks"] in "BS") == ("t", "BTC/USD", True)
            assert (book["T"], book["r"], len(book["a"])) == ("o", True, 1)

    async def test_the_test_feed_is_always_on(self, sim: Simulator) -> None:
        async with reading(sim.ports.alpaca, "/v2/test", trades=["FAKEPACA"], quotes=["FAKEPACA"]) as talk:
            await talk.until(lambda: len(talk.data) >= 2)
            assert {each["S"] for each in talk.data} == {"FAKEPACA"}
            assert talk.data[0]["i"] > 2**53

    @pytest.mark.parametrize("settings", [{"minute_seconds": 0.2}])
    async def test_bars_come_every_minute_of_simulated_time(self, sim: Simulator) -> None:
        async with reading(sim.ports.alpaca, "/v2/iex", bars=["*"], dailyBars=["AAPL"]) as talk:
            sim.actions.quote("AAPL", price=Decimal("200"))
            await talk.until(lambda: len(talk.data) >= 2)
            assert [each["T"] for each in talk.data] == ["b", "d"]
            assert set(talk.data[0]) == {"T", "S", "o", "h", "l", "c", "v", "t", "n", "vw"}
            assert talk.data[0]["c"] == 200

    @pytest.mark.parametrize("settings", [{"delayed_seconds": 0}])
    async def test_the_delayed_feed_tells_old_trades(self, sim: Simulator) -> None:
        async with reading(sim.ports.alpaca, "/v2/delayed_sip", trades=["AAPL"]) as talk:
            sim.actions.quote("AAPL", price=Decimal("200"))
            await talk.until(lambda: talk.data)
            assert talk.data[0]["p"] == 200

    async def test_rare_channels_follow_their_subscriptions(self, sim: Simulator) -> None:
        async with reading(sim.ports.alpaca, "/v2/sip", trades=["AAPL"], statuses=["*"]) as talk:
            tell = sim.services.streams.announce
            tell("us_equity", "statuses", "GME", {"T": "s", "S": "GME", "sc": "H", "sm": "Halted"})
            tell("us_equity", "corrections", "AAPL", {"T": "c", "S": "AAPL"})
            tell("us_equity", "corrections", "GME", {"T": "c", "S": "GME"})
            tell("us_equity", "lulds", "AAPL", {"T": "l", "S": "AAPL"})
            await talk.ask({"action": "subscribe", "quotes": []})
            assert [(each["T"], each["S"]) for each in talk.data] == [("s", "GME"), ("c", "AAPL")]

    async def test_subscriptions_add_up_and_are_answered_in_full(self, sim: Simulator) -> None:
        async with reading(sim.ports.alpaca, "/v2/iex", trades=["AAPL"]) as talk:
            (answer,) = await talk.ask({"action": "subscribe", "quotes": ["MSFT"]})
            assert (answer["trades"], answer["quotes"], answer["corrections"]) == (["AAPL"], ["MSFT"], ["AAPL"])
            (answer,) = await talk.ask({"action": "unsubscribe", "trades": ["AAPL"]})
            assert (answer["trades"], answer["quotes"], answer["cancelErrors"]) == ([], ["MSFT"], [])

    async def test_a_large_subscription_in_fragments_is_put_together(self, sim: Simulator) -> None:
        async with reading(sim.ports.alpaca, "/v2/sip", speaks_msgpack=True) as talk:
            symbols = sorted(f"S{number}" for number in range(12_000))
            raw = msgpack.packb({"action": "subscribe", "bars": symbols})
            await talk.socket.send(raw[start : start + 32_768] for start in range(0, len(raw), 32_768))
            await talk.until(lambda: len(talk.messages) > 2)
            assert talk.messages[-1][0]["bars"] == symbols

    async def test_compression_is_accepted_when_it_is_offered(self, sim: Simulator) -> None:
        async with stream(sim.ports.alpaca, "/v2/iex", compression="deflate") as talk:
            await talk.until(lambda: talk.messages == [CONNECTED])
            assert [each.name for each in talk.socket.protocol.extensions] == ["permessage-deflate"]
        async with stream(sim.ports.alpaca, "/v2/iex", compression=None) as talk:
            await talk.until(lambda: talk.messages == [CONNECTED])
            assert talk.socket.protocol.extensions == []

    @pytest.mark.parametrize("headers", [keys(), live_keys(), {"Authorization": "Bearer sim-alpaca-oauth-1"}])
    async def test_headers_authenticate(self, sim: Simulator, headers: dict[str, str]) -> None:
        async with stream(sim.ports.alpaca, "/v2/iex", headers=headers) as talk:
            await talk.until(lambda: talk.messages == [CONNECTED, AUTHENTICATED])
            assert await talk.ask({"action": "auth", "key": "a", "secret": "b"}) == error(403, "already authenticated")

    async def test_the_literal_oauth_stands_for_a_token(self, sim: Simulator) -> None:
        async with stream(sim.ports.alpaca, "/v2/iex") as talk:
            await talk.until(lambda: talk.messages)
            assert await talk.ask({"action": "auth", "key": "oauth", "secret": "sim-alpaca-oauth-2"}) == AUTHENTICATED

    async def test_a_token_without_the_scope_is_refused(self, sim: Simulator) -> None:
        access = sim.services.access
        code = access.mint_code(
            1, environments=frozenset({"paper"}), scopes=frozenset({"trading"}), now_ms=sim.services.clock.now_ms()
        )
        grant = access.exchange(code, None, sim.services.clock.now_ms())
        assert grant is not None
        async with stream(sim.ports.alpaca, "/v2/iex", headers={"Authorization": f"Bearer {grant.token}"}) as talk:
            await talk.until(lambda: talk.messages == [CONNECTED, error(411, "insufficient scope")])

    async def test_wrong_credentials_wishes_and_words_have_their_codes(self, sim: Simulator) -> None:
        async with stream(sim.ports.alpaca, "/v2/iex") as talk:
            await talk.until(lambda: talk.messages)
            assert await talk.ask({"action": "subscribe", "trades": ["AAPL"]}) == error(401, "not authenticated")
            assert await talk.ask({"action": "auth", "key": "a", "secret": "b"}) == error(402, "auth failed")
            assert await talk.ask({"action": "auth"}) == error(400, "invalid syntax")
            assert await talk.ask("hello") == error(400, "invalid syntax")
            assert await talk.ask({"action": "dance"}) == error(400, "invalid syntax")
            key, secret = keys().values()
            assert await talk.ask({"action": "auth", "key": key, "secret": secret}) == AUTHENTICATED
            assert await talk.ask({"action": "auth", "key": key, "secret": secret}) == error(
                403, "already authenticated"
            )
            thirty_one = [f"S{number}" for number in range(31)]
            assert await talk.ask({"action": "subscribe", "trades": thirty_one}) == error(405, "symbol limit exceeded")
            refused = error(410, "invalid subscribe action for this feed")
            assert await talk.ask({"action": "subscribe", "orderbooks": ["AAPL"]}) == refused
            (answer,) = await talk.ask({"action": "subscribe", "trades": thirty_one[:30]})
            assert len(answer["trades"]) == 30

    @pytest.mark.parametrize("settings", [{"data_auth_seconds": 0.05}])
    async def test_a_stream_that_never_authenticates_is_told_404_and_closed(self, sim: Simulator) -> None:
        async with stream(sim.ports.alpaca, "/v2/iex") as talk:
            assert await talk.ended() == 1008
            assert talk.messages == [CONNECTED, error(404, "auth timeout")]

    async def test_one_connection_per_endpoint_and_user(self, sim: Simulator) -> None:
        async with reading(sim.ports.alpaca, "/v2/iex"), stream(sim.ports.alpaca, "/v2/iex") as second:
            await second.until(lambda: second.messages)
            key, secret = live_keys().values()  # another key pair of the same user
            refused = await second.ask({"action": "auth", "key": key, "secret": secret})
            assert refused == error(406, "connection limit exceeded")
            async with reading(sim.ports.alpaca, "/v2/sip"), reading(sim.ports.alpaca, "/v2/iex", 2):
                pass

    async def test_a_406_may_be_tried_again_on_the_same_socket(self, sim: Simulator) -> None:
        key, secret = keys().values()
        async with stream(sim.ports.alpaca, "/v2/iex") as second:
            async with reading(sim.ports.alpaca, "/v2/iex"):
                await second.ask({"action": "auth", "key": key, "secret": secret})
            await eventually(lambda: sim.counters.data_streams == 1, within_s=5)
            assert await second.ask({"action": "auth", "key": key, "secret": secret}) == AUTHENTICATED

    @pytest.mark.parametrize("settings", [{"data_connection_limit": None, "sip_allowed": False}])
    async def test_plans_are_settings(self, sim: Simulator) -> None:
        async with reading(sim.ports.alpaca, "/v2/iex"), reading(sim.ports.alpaca, "/v2/iex"):
            pass
        async with stream(sim.ports.alpaca, "/v2/sip", headers=keys()) as talk:
            await talk.until(lambda: talk.messages == [CONNECTED, error(409, "insufficient subscription")])

    async def test_streams_end_when_the_credential_is_revoked(self, sim: Simulator) -> None:
        async with reading(sim.ports.alpaca, "/v2/iex") as talk:
            sim.actions.revoke(1)
            assert await talk.ended() == 1008
            assert talk.messages[-1] == error(402, "auth failed")
