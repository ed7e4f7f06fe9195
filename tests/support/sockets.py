"""A broker's socket of either implementation on a transport that a test feeds: no network, every byte in its place."""

import asyncio
import re
from typing import Any

from picows.picows import WSProtocol  # type: ignore[attr-defined]
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri
from websockets.utils import accept_key

from bridge.brokers.sockets import MAX_MESSAGE_BYTES, Socket, SocketListener
from bridge.brokers.transports import picows, websockets

TRANSPORTS = ("websockets", "picows")
LARGEST_READ = 256 * 1024  # of a transport that brings its own buffer
RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
)


class _NoSocket:
    """What picows asks of a transport's socket when it is made."""

    def fileno(self) -> int:
        return -1

    def setsockopt(self, *_: int) -> None:
        pass

    def getsockopt(self, *_: int) -> int:
        return 0


class Transport(asyncio.Transport):
    """Reads go in when the protocol wants any, as a loop's transport does it; what is written is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None
        self.reading = True
        self.calls: list[str] = []
        self.closing = False
        self.written: list[bytes] = []
        self._waiting = b""

    def arrive(self, data: bytes) -> None:
        """Bytes from the network."""
        self._waiting += data
        self._pump()

    def _pump(self) -> None:
        while self._waiting and self.reading and not self.closing:
            if isinstance(self.protocol, asyncio.BufferedProtocol):
                buffer = self.protocol.get_buffer(-1)
                size = min(len(buffer), len(self._waiting))
                buffer[:size], self._waiting = self._waiting[:size], self._waiting[size:]
                self.protocol.buffer_updated(size)
            else:
                part, self._waiting = self._waiting[:LARGEST_READ], self._waiting[LARGEST_READ:]
                self.protocol.data_received(part)

    async def drained(self) -> None:
        """Wait until all that arrived was read, or never will be."""
        while (self._waiting or not self.reading) and not self.closing:
            await asyncio.sleep(0)

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 1  # picows writes past a transport that has nothing to write

    def pause_reading(self) -> None:
        self.reading = False
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.reading = True
        self.calls.append("resume")
        asyncio.get_running_loop().call_soon(self._pump)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _NoSocket() if name == "socket" else default


def dialled(kind: str, listener: SocketListener) -> tuple[Socket, Transport, bytes]:
    """A socket that has asked for the upgrade, and the answer that it waits for."""
    transport = Transport()
    made: Any
    if kind == "picows":
        socket = picows.PicowsSocket(listener)
        made = transport.protocol = picows._Protocol(socket, "ws://127.0.0.1:1", None)
        assert isinstance(made, WSProtocol)
        made.connection_made(transport)
        found = re.search(rb"Sec-WebSocket-Key: (\S+)", b"".join(transport.written))
        assert found is not None
        key = found[1].decode()
        transport.written.clear()
        return socket, transport, RESPONSE % accept_key(key).encode()
    protocol = ClientProtocol(parse_uri("ws://127.0.0.1:1"), max_size=MAX_MESSAGE_BYTES)
    made = transport.protocol = websockets.WebsocketsSocket(listener, protocol)
    made.connection_made(transport)
    protocol.send_request(protocol.connect())
    assert protocol.key is not None
    return made, transport, RESPONSE % accept_key(protocol.key).encode()


def opened(kind: str, listener: SocketListener) -> tuple[Any, Transport]:
    """A socket that is open."""
    if kind == "picows":
        socket, transport, response = dialled(kind, listener)
        transport.arrive(response)
        return socket, transport
    transport = Transport()
    protocol = ClientProtocol(parse_uri("ws://127.0.0.1:1"), state=State.OPEN, max_size=MAX_MESSAGE_BYTES)
    made = transport.protocol = websockets.WebsocketsSocket(listener, protocol)
    made.connection_made(transport)
    made.response = Response(101, "Switching Protocols", Headers())
    return made, transport
