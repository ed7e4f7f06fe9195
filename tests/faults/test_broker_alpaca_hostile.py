"""A hostile Alpaca: whatever its REST, its streams or its sign-in answer, the bridge stays small, alive and discreet.

A server of plain TCP, since libraries refuse to send most of this. Behind it stands a catcher on another port: whatever
reaches that was led astray, and a credential among it would have been stolen.
"""

import asyncio
import datetime as dt
import logging
import random
import re
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import orjson
import pytest
from websockets.exceptions import ConnectionClosed

from bridge.brokers.alpaca.broker import AlpacaBroker
from bridge.brokers.alpaca.credential import data_auth, stream_auth
from bridge.brokers.alpaca.data_socket import DataSocket
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.alpaca.stream import TradingStream
from bridge.brokers.alpaca.subscriptions import Subscriptions
from bridge.brokers.base import BrokerFault, Credential, Environment, FaultKind
from bridge.brokers.stats import MOST_NAMES
from bridge.runtime.clock import SystemClock
from bridge.runtime.tasks import Tasks
from bridge.simulator.certificates import make_certificates
from core.errors import BridgeError
from core.secret import Secret
from tests.contract.rigs.alpaca import alpaca_rig
from tests.contract.rigs.steps import watch
from tests.contract.rigs.watched import expected
from tests.support.scripted_streams import Message, ScriptedStreams
from tests.support.waiting import eventually

KEY_ID, SECRET_KEY = "PKCANARY0123456789AB", "canary-alpaca-secret/0123456789+abcdefgh"
TOKEN, CODE, CLIENT_SECRET = "canary-alpaca-token-0123456789", "canary-alpaca-code-0123456789", "canary-client-0123456"
SECRETS = (KEY_ID, SECRET_KEY, TOKEN, CODE, CLIENT_SECRET)
MEBI = 2**20
MOST_MEMORY = 80 * MEBI  # more than an answer of the largest size, its pieces and its copy; less than what is sent
Feed = Callable[[asyncio.StreamWriter], Any]


class Tcp:
    """Accepts connections, reads the head of a request, and lets `serve` answer it."""

    def __init__(self, serve: Callable[[bytes, asyncio.StreamWriter], Any]) -> None:
        self._serve = serve
        self.heard = b""
        self.connections = 0
        self.sent = 0
        self.port = 0

    async def __aenter__(self) -> "Tcp":
        self._server = await asyncio.start_server(self._one, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heard += head
            if length := re.search(rb"(?i)content-length: (\d+)", head):
                body = await reader.readexactly(int(length[1]))
                self.heard += body
            await self._serve(head, writer)
            rest = await reader.read(65_536)
            self.heard += rest
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the bridge has had enough
        finally:
            writer.close()


async def send(writer: asyncio.StreamWriter, *parts: bytes, times: int = 1, pause_s: float = 0.0) -> None:
    for _ in range(times):
        for part in parts:
            writer.write(part)
            await writer.drain()
        if pause_s:
            await asyncio.sleep(pause_s)


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def bomb() -> bytes:
    """A hundred megabytes of zeros, compressed."""
    made, nothing = zlib.compressobj(wbits=31), bytes(MEBI)
    return b"".join(made.compress(nothing) for _ in range(100)) + made.flush()


BOMB = bomb()
CHUNK = b"10000\r\n" + b" " * 65_536 + b"\r\n"
STREAMED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
REST: dict[str, Feed] = {
    "a hundred megabytes": lambda to: send(to, *[STREAMED, *[CHUNK] * 1600]),
    "a hundred megabytes announced": lambda to: send(
        to, b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n", *[b"x" * 65_536] * 1600
    ),
    "a gzip bomb": lambda to: send(to, answer(BOMB, "Content-Encoding: gzip", "Content-Type: application/json")),
    "a deflate bomb of chunks": lambda to: send(
        to, b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nTransfer-Encoding: chunked\r\n\r\n", *[CHUNK] * 1600
    ),
    "deep lists": lambda to: send(to, answer(b"[" * MEBI)),
    "deep objects": lambda to: send(to, answer(b'{"a":' * MEBI)),
    "NaN": lambda to: send(to, answer(b'{"id": NaN, "cash": Infinity}')),
    "a number of a million digits": lambda to: send(to, answer(b'{"id": "a", "cash": ' + b"9" * MEBI + b"}")),
    "bytes that drip": lambda to: send(to, STREAMED, *[b"1\r\n \r\n"] * 50, pause_s=0.0, times=1),
    "headers without end": lambda to: send(to, b"HTTP/1.1 200 OK\r\n", *[b"X-A: " + b"y" * 4000 + b"\r\n"] * 30_000),
    "one header without end": lambda to: send(to, b"HTTP/1.1 200 OK\r\nX-A: ", *[b"y" * 65_536] * 1600),
    "a status line without end": lambda to: send(to, b"HTTP/1.1 200 ", *[b"y" * 65_536] * 1600),
    "chunk sizes without end": lambda to: send(to, STREAMED, *[b"0" * 65_536] * 1600),
    "early answers without end": lambda to: send(to, *[b"HTTP/1.1 100 Continue\r\n\r\n" * 100] * 2_000),
    "absurd rates": lambda to: send(
        to,
        answer(
            b"{}",
            *("X-RateLimit-Limit: 999999999999", "X-RateLimit-Remaining: -1", "X-RateLimit-Reset: 1e999"),
            *("Retry-After: 999999999999", "Date: Fri, 31 Dec 99999 23:59:59 GMT"),
        ),
    ),
    "cookies": lambda to: send(to, answer(b"{}", *[f"Set-Cookie: a{n}={'z' * 2000}" for n in range(100)])),
    "nonsense": lambda to: send(to, random.Random(1).randbytes(100_000)),
    "nothing": lambda to: send(to, b""),
}


def broker_for(port: int, tasks: Tasks, **changes: Any) -> AlpacaBroker:
    settings = AlpacaSettings(
        paper_url=f"http://127.0.0.1:{port}",
        live_url=f"http://127.0.0.1:{port}",
        data_url=f"ws://127.0.0.1:{port}",
        token_url=f"http://127.0.0.1:{port}/oauth/token",
        client_id="canary-app",
        client_secret=Secret(CLIENT_SECRET),
        **{"request_timeout_s": 1.0, "token_timeout_s": 1.0, "auth_timeout_s": 1.0, "connect_timeout_s": 1.0},
    )
    return AlpacaBroker(replace(settings, **changes), SystemClock(), random.Random(1), tasks)


def keys(broker: AlpacaBroker) -> Credential:
    return broker.read_credential("g", {"keyId": KEY_ID, "secretKey": SECRET_KEY, "environment": "paper"})


def most_memory(*, begin: bool = False) -> int:
    """The most bytes of memory that this process had since it was last asked with `begin`."""
    if begin:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@asynccontextmanager
async def discreet(caplog: pytest.LogCaptureFixture, port: int, **changes: Any) -> AsyncIterator[AlpacaBroker]:
    """A broker at this port. No task crashes, memory stays small, and nobody says a secret, any library included."""
    caplog.set_level(logging.DEBUG)
    before = most_memory(begin=True)
    tasks = Tasks("hostile")
    broker = broker_for(port, tasks, **changes)
    try:
        yield broker
    finally:
        await broker.close()
    grown = most_memory() - before
    assert grown < MOST_MEMORY, f"{grown / MEBI:.0f} MiB"
    assert tasks.crashes == 0
    said = "\n".join(f"{record.name} {record.getMessage()} {vars(record)}" for record in caplog.records)
    quiet = [record for record in caplog.records if record.name.startswith("asyncio") and record.levelno > logging.INFO]
    assert not quiet, [record.getMessage() for record in quiet]
    assert not any(secret in said for secret in SECRETS)


def whole(error: BaseException) -> str:
    """An error as anything may show it, with all that led to it."""
    shown, seen = "", []
    while error is not None and error not in seen:
        seen.append(error)
        shown += f"{error!r} {error} {error.args} {vars(error)}\n"
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return shown


@pytest.mark.parametrize("attack", REST)
async def test_an_answer_is_refused_in_time_and_small_when_it_is_hostile(
    attack: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Tcp(lambda head, writer: REST[attack](writer)) as server,
        discreet(caplog, server.port) as broker,
        asyncio.timeout(15),
    ):
        for asked in (
            broker.accounts(keys(broker)),
            broker.exchange_code(Secret(CODE), redirect_uri="https://bridge.example/back"),
        ):
            with pytest.raises(BridgeError) as refused:
                await asked
            assert isinstance(refused.value, BrokerFault)
            assert refused.value.kind in (FaultKind.TRANSIENT, FaultKind.FATAL_USER)
            assert not any(secret in whole(refused.value) for secret in SECRETS)
    assert SECRET_KEY.encode() in server.heard
    assert CODE.encode() in server.heard


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_nobody_else_hears_a_secret_when_every_door_redirects(
    status: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def catch(head: bytes, writer: asyncio.StreamWriter) -> None:
        await send(writer, answer(b"{}"))

    async with Tcp(catch) as catcher:
        target = f"http://127.0.0.1:{catcher.port}"

        async def redirect(head: bytes, writer: asyncio.StreamWriter) -> None:
            location = target.replace("http", "ws", 1) if b"upgrade: websocket" in head.lower() else target
            await send(writer, answer(b"", f"Location: {location}/{'x' * 20}", f"Refresh: 0; {target}", status=status))

        async with Tcp(redirect) as server, discreet(caplog, server.port) as broker, asyncio.timeout(10):
            for asked in (
                broker.accounts(keys(broker)),
                broker.exchange_code(Secret(CODE), redirect_uri="https://bridge.example/back"),
                open_stream(broker),
                open_feed(broker),
            ):
                await quietly(asked)
            assert server.connections >= 4
        assert (catcher.connections, catcher.heard) == (0, b"")


async def quietly(asked: Any) -> None:
    """Whatever comes of it, no secret is in a fault."""
    fault: BrokerFault | None = None
    try:
        await asked
    except BrokerFault as told:
        fault = told
    if fault is not None:
        assert fault.kind in (FaultKind.TRANSIENT, FaultKind.THROTTLE, FaultKind.FATAL_USER)
        assert not any(secret in whole(fault) for secret in SECRETS)


async def open_stream(broker: AlpacaBroker) -> None:
    """The trading stream as a hub opens it."""
    context = broker._context
    stream = TradingStream(Nobody(), context.dialer, context.settings, context.clock, context.stats)
    await stream.open(context.settings.stream_url(Environment.DEMO), orjson.dumps(stream_auth(keys(broker))))


async def open_feed(broker: AlpacaBroker) -> None:
    """A price stream as a feed opens it."""
    context, url = broker._context, broker._settings.stock_data_url()
    assert url is not None
    greeting = data_auth(keys(broker))
    socket = DataSocket(
        Nobody(), Subscriptions(), greeting, context.dialer, context.settings, context.clock, context.stats
    )
    await socket.run(url)


class Nobody:
    def update(self, data: dict[str, Any]) -> None: ...
    def unusable(self) -> None: ...
    def stream_ended(self, stream: object, fault: BrokerFault) -> None: ...
    def traded(self, symbol: str, price: int) -> None: ...
    def fed(self) -> None: ...


async def test_no_secret_is_shown_when_the_certificate_is_not_acceptable(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    context = make_certificates(tmp_path, dt.datetime.now(dt.UTC)).contexts["good"]
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    url = f"https://127.0.0.1:{port}"
    changes = {
        "paper_url": url,
        "live_url": url,
        "token_url": f"{url}/oauth/token",
        "data_url": f"wss://127.0.0.1:{port}",
    }
    async with discreet(caplog, port, **changes) as broker, asyncio.timeout(10):
        for asked in (
            broker.accounts(keys(broker)),
            broker.exchange_code(Secret(CODE), redirect_uri="https://bridge.example/back"),
            open_stream(broker),
            open_feed(broker),
        ):
            await quietly(asked)
    server.close()
    assert any("TLS was refused" in record.getMessage() for record in caplog.records)


# ---------------------------------------------------------------- streams


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
