"""Sockets of the HTTP server: how many, for how long, and what happens to those that drip (faults.md I02, I03, I18).

aiohttp reads requests; this adds what it lacks: an absolute deadline for the head of a request and for a caller to take
its answer, a cap on open sockets in all and per address, and problem documents for what is not HTTP. When a cap is
reached the oldest socket without a complete request makes room, so that drippers push out one another and not a caller.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from bridge.api.dispatch import WHOLE_REQUEST_S, problem_response
from bridge.api.problems import Problem

log = logging.getLogger(__name__)

MOST_SOCKETS = 2048
MOST_PER_ADDRESS = 512
IDLE_S = 75.0  # a kept-alive connection without a request
ANSWER_TAKEN_S = 10.0  # for a caller to take its answer off our hands
LONGEST_FIELD = 8190
Answer = Callable[[BaseRequest, float], Awaitable[web.Response]]


class Connection(RequestHandler):
    """One socket of a caller."""

    def __init__(self, server: Connections, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._head_timer: asyncio.TimerHandle | None = None
        self._began: float | None = None  # loop time of the first byte of the request to come
        self.address = "unknown"
        self.admitted = False

    @property
    def busy(self) -> bool:
        """A complete request head is here or in work."""
        return self._request_in_progress or bool(self._messages)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else "local"
        super().connection_made(transport)
        self.admitted = self._server.admit(self)
        if not self.admitted:
            self.force_close()
            return
        self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_is_here()
        self._server.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.busy and self._began is None:
            self._expect_head()
        super().data_received(data)
        if self.busy:
            self._head_is_here()

    def take_deadline(self) -> float:
        """By when the request that begins now must be answered (loop time)."""
        began, self._began = self._began, None
        return (self._loop.time() if began is None else began) + WHOLE_REQUEST_S

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer; a caller that does not read it loses the connection, which would be at work for ever."""
        try:
            async with asyncio.timeout(ANSWER_TAKEN_S):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            self.drop()
            return resp, True

    def drop(self) -> None:
        """End the connection at once. An orderly close would wait for the caller to take what is still to be sent."""
        transport = self.transport
        self.force_close()
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Not HTTP, or not what we take: a problem document, and the connection ends."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way already")
        if status >= 500:
            log.error("connection failed", exc_info=exc)
            return problem_response(Problem("internal", "something went wrong here", close=True))
        return problem_response(Problem("bad-request", "this is not a proper HTTP request", close=True))

    def _expect_head(self) -> None:
        self._began = self._loop.time()
        self._head_is_here()
        self._head_timer = self._loop.call_at(self._began + WHOLE_REQUEST_S, self._too_late)

    def _head_is_here(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_late(self) -> None:
        self._head_timer = None
        if self.busy or self.transport is None:
            return
        problem = problem_response(Problem("request-timeout", "the request did not arrive in time"))
        body = bytes(problem.body) if isinstance(problem.body, (bytes, bytearray)) else b""
        head = (
            "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n"
            f"Content-Type: {problem.headers['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.force_close()


class Connections(web.Server):
    """All sockets of the server."""

    def __init__(self, answer: Answer, *, most: int = MOST_SOCKETS, most_per_address: int | None = MOST_PER_ADDRESS):
        super().__init__(self._handle)
        self._answer = answer
        self._most = most
        self._most_per_address = most_per_address  # None behind a proxy, whose address all callers share
        self._open: dict[Connection, None] = {}  # oldest first
        self._per_address: dict[str, int] = {}
        self.evicted = 0
        self.refused = 0

    def __len__(self) -> int:
        return len(self._open)

    def __call__(self) -> RequestHandler:
        return Connection(
            self,
            loop=self._loop,
            keepalive_timeout=IDLE_S,
            lingering_time=0,
            auto_decompress=False,
            access_log=None,
            max_line_size=LONGEST_FIELD,
            max_field_size=LONGEST_FIELD,
        )

    def admit(self, connection: Connection) -> bool:
        """Count a new socket in, making room when a cap is reached. False when there is none to be made."""
        address = connection.address
        if self._most_per_address is not None and self._per_address.get(address, 0) >= self._most_per_address:
            room = self._evict(address)
        else:
            room = len(self._open) < self._most or self._evict(None)
        if not room:
            self.refused += 1
            return False
        self._open[connection] = None
        self._per_address[address] = self._per_address.get(address, 0) + 1
        return True

    def forget(self, connection: Connection) -> None:
        """A socket has ended."""
        if connection in self._open:
            del self._open[connection]
            left = self._per_address[connection.address] - 1
            if left:
                self._per_address[connection.address] = left
            else:
                del self._per_address[connection.address]

    def _evict(self, address: str | None) -> bool:
        for connection in self._open:
            if not connection.busy and address in (None, connection.address):
                self.evicted += 1
                self.forget(connection)
                connection.drop()
                return True
        return False

    async def _handle(self, request: BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        deadline = protocol.take_deadline() if isinstance(protocol, Connection) else 0.0
        return await self._answer(request, deadline)
