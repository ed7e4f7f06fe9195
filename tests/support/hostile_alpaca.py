"""A hostile Alpaca of plain TCP, and the ways in which an adapter talks to it: nobody may say a secret to anybody.

Libraries refuse to send most of what a hostile server may say, so `Tcp` sends bytes.
"""

import asyncio
import logging
import random
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from bridge.brokers.alpaca.broker import AlpacaBroker
from bridge.brokers.alpaca.credential import data_auth, stream_auth
from bridge.brokers.alpaca.data_socket import DataSocket
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.alpaca.stream import TradingStream
from bridge.brokers.alpaca.subscriptions import Subscriptions
from bridge.brokers.base import BrokerFault, Credential, Environment, FaultKind
from bridge.runtime.clock import SystemClock
from bridge.runtime.tasks import Tasks
from core.secret import Secret

KEY_ID, SECRET_KEY = "PKCANARY0123456789AB", "canary-alpaca-secret/0123456789+abcdefgh"
TOKEN, CODE, CLIENT_SECRET = "canary-alpaca-token-0123456789", "canary-alpaca-code-0123456789", "canary-client-0123456"
SECRETS = (KEY_ID, SECRET_KEY, TOKEN, CODE, CLIENT_SECRET)
MEBI = 2**20
MOST_MEMORY = 80 * MEBI  # more than an answer of the largest size, its pieces and its copy; less than what is sent
Feed = Callable[[asyncio.StreamWriter], Any]


class Tcp:
    """Accepts connections, reads the head of a request, and lets `serve` answer it."""

    def __init__(self, serve: Callable[[bytes, asyncio.StreamWriter], Any], tls: ssl.SSLContext | None = None) -> None:
        self._serve = serve
        self._tls = tls
        self.heard = b""
        self.connections = 0
        self.sent = 0
        self.port = 0

    async def __aenter__(self) -> "Tcp":
        self._server = await asyncio.start_server(self._one, "127.0.0.1", 0, ssl=self._tls)
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


HELD = "refused in time, memory grows by less than 80 MiB, no secret in any log or error"
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
