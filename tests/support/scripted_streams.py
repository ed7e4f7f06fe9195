"""A WebSocket server that says what a test tells it to: for streams, where a simulator is too well-behaved.

It records every message it receives, decoded, and the headers of every handshake. `answer` says what is sent back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import msgpack
import orjson
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

Message = str | bytes
Answer = Callable[[Any], Iterable[Message]]
Gate = Callable[[ServerConnection, Request], Response | None]


class ScriptedStreams:
    """Use as an async context manager. `welcome`: what a new connection is told first."""

    def __init__(
        self, answer: Answer | None = None, *, welcome: Iterable[Message] = (), gate: Gate | None = None
    ) -> None:
        self.answer = answer
        self.welcome = tuple(welcome)
        self.gate = gate
        self.received: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.connections: list[ServerConnection] = []
        self.opened = 0
        self.closed_cleanly = 0
        self._server: Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def send(self, *messages: Message) -> None:
        """Send to every open connection."""
        for connection in list(self.connections):
            for message in messages:
                await connection.send(message)

    def abort(self) -> None:
        """Drop every connection without a word."""
        for connection in list(self.connections):
            connection.transport.abort()

    def freeze(self) -> None:
        """Read and answer nothing any more, pings included; the sockets stay up."""
        for connection in self.connections:
            connection.transport.pause_reading()

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve, "127.0.0.1", 0, process_request=self._judge, compression=None, ping_interval=None
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.abort()
        await asyncio.wait_for(self._server.wait_closed(), 5)

    def _judge(self, connection: ServerConnection, request: Request) -> Response | None:
        self.headers.append(dict(request.headers.raw_items()))
        return None if self.gate is None else self.gate(connection, request)

    async def _serve(self, connection: ServerConnection) -> None:
        self.opened += 1
        self.connections.append(connection)
        try:
            for message in self.welcome:
                await connection.send(message)
            async for raw in connection:
                document = _decoded(raw)
                self.received.append(document)
                for message in self.answer(document) if self.answer is not None else ():
                    await connection.send(message)
            self.closed_cleanly += 1
        except ConnectionClosed:
            pass  # the client's or the test's doing
        finally:
            self.connections.remove(connection)


def _decoded(raw: Message) -> Any:
    if isinstance(raw, str):
        return orjson.loads(raw)
    return msgpack.unpackb(raw) if raw[:1] not in (b"{", b"[") else orjson.loads(raw)
