"""From an HTTP request to a stream: the WebSocket handshake, after which aiohttp has no say any more."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from bridge.simulator.alpaca.streams.frames import MSGPACK_TYPE, Encoding
from bridge.simulator.alpaca.streams.socket import StreamSocket, Talk
from bridge.simulator.alpaca.streams.wire import StreamWire


async def serve(
    request: web.Request,
    talk: Talk,
    *,
    environment: str,
    plain: Encoding,
    max_message_bytes: int,
    on_open: Callable[[StreamSocket], None] | None = None,
) -> web.StreamResponse:
    """Turn a request into a stream and stay until it has ended. `plain`: the encoding unless MessagePack is asked for.

    `on_open` is told of the stream right after `talk`. Answers with an ordinary HTTP response when the request is no
    WebSocket handshake.
    """
    transport = request.transport
    if transport is None:
        return web.Response(status=400)
    wire = StreamWire(max_message_bytes)
    answer = wire.upgrade(_head(request))
    if answer.status_code != 101:
        return web.Response(status=answer.status_code, text="a WebSocket handshake is expected here\n")
    wants_msgpack = request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == MSGPACK_TYPE
    client = StreamSocket(
        talk,
        wire,
        transport,
        environment=environment,
        endpoint=request.path.rstrip("/"),
        encoding=Encoding.MSGPACK if wants_msgpack else plain,
    )
    client.begin()
    if on_open is not None:
        on_open(client)
    try:
        await client.gone.wait()
    finally:
        client.abort()
    # Nobody reads this: the transport is closed, and aiohttp notices that.
    return web.Response()


def _head(request: web.Request) -> bytes:
    """The handshake as it came, for the WebSocket core."""
    lines = [f"{request.method} {request.raw_path} HTTP/1.1".encode()]
    lines += [name + b": " + value for name, value in request.raw_headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"
