"""A hostile Alpaca: whatever its streams say, in handshakes and later, the bridge stays small, alive and discreet."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
import orjson
import pytest
from websockets.exceptions import ConnectionClosed

from bridge.brokers.alpaca.broker import AlpacaBroker
from bridge.brokers.base import BrokerFault
from bridge.brokers.stats import MOST_NAMES
from tests.contract.rigs.alpaca import alpaca_rig
from tests.contract.rigs.steps import watch
from tests.contract.rigs.watched import expected
from tests.support.fault_table import fault
from tests.support.hostile_alpaca import (
    BOMB,
    CHUNK,
    HELD,
    MEBI,
    MOST_MEMORY,
    REST,
    SECRETS,
    Feed,
    Tcp,
    answer,
    discreet,
    most_memory,
    open_feed,
    open_stream,
    quietly,
    send,
)
from tests.support.scripted_streams import Message, ScriptedStreams
from tests.support.waiting import eventually

HANDSHAKES: dict[str, Feed] = {
    "headers without end": REST["headers without end"],
    "one header without end": REST["one header without end"],
    "a status line without end": REST["a status line without end"],
    "a refusal of a hundred megabytes": lambda to: send(
        to, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 104857600\r\n\r\n", *[b"x" * 65_536] * 1600
    ),
    "a refusal without a length": lambda to: send(to, b"HTTP/1.1 403 Forbidden\r\n\r\n", *[b"x" * 65_536] * 1600),
    "a refusal of chunks": lambda to: send(
        to, b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n", *[CHUNK] * 1600
    ),
    "a refusal that is a bomb": lambda to: send(
        to, answer(BOMB, "Content-Encoding: gzip", status="429 Too Many Requests")
    ),
    "a wrong key": lambda to: send(
        to,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: bm9uc2Vuc2U=\r\n\r\n",
    ),
    "nonsense": REST["nonsense"],
    "nothing": REST["nothing"],
}


@fault("N13", "Alpaca: handshakes without end", HELD)
@pytest.mark.parametrize("attack", HANDSHAKES)
@pytest.mark.parametrize("opening", [open_stream, open_feed])
async def test_a_handshake_is_given_up_in_time_and_small_when_it_is_hostile(
    attack: str, opening: Callable[[AlpacaBroker], Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Tcp(lambda head, writer: HANDSHAKES[attack](writer)) as server,
        discreet(caplog, server.port) as broker,
        asyncio.timeout(10),
    ):
        await quietly(opening(broker))
        assert server.connections == 1
        assert not any(secret.encode() in server.heard for secret in SECRETS), "told before the upgrade"


LARGE = b'{"stream":"trade_updates","data":"' + b"x" * (17 * MEBI) + b'"}'
ODD: dict[str, list[Message]] = {
    "a message beyond all bounds": [LARGE],
    "many large messages": [LARGE[: 8 * MEBI]] * 8,
    "deep lists": [b"[" * MEBI, "[" * MEBI, b"\x91" * MEBI],
    "deep objects": [b'{"a":' * 100_000, '{"stream":' * 100_000],
    "numbers that are none": ['[{"T":"t","S":"AAPL","p":NaN}]', '{"stream":"trade_updates","data":NaN}'],
    "sizes that are not": [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"],
    "names that are lists": [
        msgpack.packb([{"T": "subscription", "trades": [[], {}, None, 7, "AAPL"]}]),
        msgpack.packb(
            [{"T": [], "S": [], "p": []}, {"T": {}}, {"T": "error", "code": []}, {"T": "success", "msg": []}]
        ),
        msgpack.packb([{"T": "t", "S": [], "p": 1.0}, {"T": "t", "S": "AAPL", "p": float("nan")}]),
        orjson.dumps({"stream": [], "data": []}),
        orjson.dumps({"stream": "listening", "data": {"streams": {}}}),
        orjson.dumps({"stream": "authorization", "data": {"status": []}}),
        orjson.dumps({"stream": "trade_updates", "data": {"event": [], "order": [], "timestamp": {}}}),
        orjson.dumps(
            {
                "stream": "trade_updates",
                "data": {
                    **{"event": "fill", "position_qtys": {}, "legs": [{"symbol": [], "id": {}}]},
                    "order": {"id": "o", "order_class": "mleg", "legs": [{"id": []}]},
                },
            }
        ),
    ],
    "codes without end": [msgpack.packb([{"T": "error", "code": code} for code in range(10**6, 10**6 + 5_000)])],
}


def trading(document: Any) -> list[Message]:
    """What a trading stream answers to whoever logs in."""
    if document["action"] == "authenticate":
        return [orjson.dumps({"stream": "authorization", "data": {"status": "authorized"}})]
    return [orjson.dumps({"stream": "listening", "data": {"streams": ["trade_updates"]}})]


def prices(document: Any) -> list[Message]:
    """What a data stream answers."""
    if document["action"] == "auth":
        return [msgpack.packb([{"T": "success", "msg": "authenticated"}])]
    return [msgpack.packb([{"T": "subscription", "trades": document["trades"]}])]


@fault("N14", "Alpaca: both streams of a live account say nonsense", "small, alive, true within 20 s")
@pytest.mark.parametrize("attack", ODD)
async def test_a_session_lives_on_and_is_true_when_its_streams_turn_hostile(
    attack: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Both streams of a live account say such things, twice; REST is as it should be."""
    async with ScriptedStreams(trading) as stream, ScriptedStreams(prices) as data:
        urls = {"paper_stream_url": stream.url, "data_url": data.url}
        async with alpaca_rig(**urls, ping_s=1.0, pong_timeout_s=3.0, data_retry_s=0.05) as rig:
            rig.open(rig.account(1), "AAPL")
            before = most_memory(begin=True)
            watched = watch(rig)
            for _ in range(2):
                await watched.come_back(within_s=20)
                await eventually(lambda: stream.connections and data.connections, within_s=5, what="both are open")
                for server in (stream, data):
                    with suppress(ConnectionClosed):
                        await server.send(*ODD[attack])
            rig.open(rig.account(1), "MSFT")  # nobody tells of it

            async def true() -> bool:
                await watched.come_back(within_s=20)
                with suppress(BrokerFault):
                    await watched.session.reconcile()
                return watched.reading() == expected(rig.truth(rig.account(1)))

            await eventually(true, within_s=20, every_s=0.05, what="the account is true")
            assert most_memory() - before < MOST_MEMORY
            assert len(rig.broker.metrics()) < MOST_NAMES + 50
    loud = [record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.ERROR]
    assert not loud, [record.getMessage() for record in loud]
