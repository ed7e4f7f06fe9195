"""Sockets of `aiohttp`, as its users receive: awaited in a task. For comparison only; the bridge never dials with it.

It lacks what the fault suite asks of a transport: no end that is told at once, no slices in a flood.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping

import aiohttp

from bridge.brokers import transports
from bridge.brokers.sockets import MAX_MESSAGE_BYTES, DialRefused, SocketListener

NAME = "aiohttp"
_sessions: list[aiohttp.ClientSession] = []  # one for the process, as its documentation advises


class AiohttpSocket:
    """See `bridge.brokers.sockets.Socket`."""

    def __init__(self, listener: SocketListener, connection: aiohttp.ClientWebSocketResponse) -> None:
        self._listener = listener
        self._connection = connection
        self._sending: set[asyncio.Task[None]] = set()
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        listener, receive = self._listener, self._connection.receive
        while True:
            message = await receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                listener.heard(self, len(message.data))
                listener.receive(message.data)
            elif message.type is aiohttp.WSMsgType.TEXT:
                listener.heard(self, len(message.data))
                listener.receive_text(message.data.encode())
            elif message.type is aiohttp.WSMsgType.PONG:
                listener.pong(self)
            else:
                listener.ended(self)
                return

    def _send(self, work: object) -> bool:
        if self._connection.closed:
            return False
        task = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return True

    def transmit(self, data: bytes) -> bool:
        return self._send(self._connection.send_bytes(data))

    def transmit_text(self, data: bytes) -> bool:
        return self._send(self._connection.send_str(data.decode()))

    def transmit_ping(self) -> bool:
        return self._send(self._connection.ping())

    async def close(self) -> None:
        self._reading.cancel()
        await self._connection.close()

    def drop(self) -> None:
        self._reading.cancel()
        self._send(self._connection.close())

    abort = drop


async def connect(
    listener: SocketListener,
    url: str,
    *,
    tls: ssl.SSLContext | None,
    headers: Mapping[str, str] | None,
    close_timeout_s: float,
) -> AiohttpSocket:
    """See `bridge.brokers.sockets.Connect`."""
    if not _sessions:
        _sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
    try:
        connection = await _sessions[0].ws_connect(
            url,
            ssl=tls if tls is not None else True,
            headers=headers,
            compress=0,
            autoping=True,
            max_msg_size=MAX_MESSAGE_BYTES,
            timeout=aiohttp.ClientWSTimeout(ws_close=close_timeout_s),
        )
    except aiohttp.ClientError as error:
        raise DialRefused from error
    return AiohttpSocket(listener, connection)


def make_known() -> None:
    """Let adapters of this process be told to dial with it."""
    transports.KNOWN[NAME] = lambda: connect
