"""A line between bridge and broker which, when told to, repeats one of the broker's messages thousands of times over.

It passes WebSocket frames on as they come and remembers the last whole one that the broker sent by itself, so that what
it repeats is a real event of a real account. Invariant: it never cuts into a frame.
"""

import asyncio
import time
from contextlib import suppress

from protos.ctrader.common_messages_pb2 import ProtoMessage

EVENTS = (2126, 2131)  # execution, spot: what a broker sends without being asked
TICK_S = 0.01
HEADER = 2  # bytes, before a longer length


class Flood:
    """Listens at `port`, passes on to `target`."""

    def __init__(self) -> None:
        self.port = self.target = 0
        self.last_sent_ms = _now_ms()
        self._event = b""
        self._sinks: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for sink in list(self._sinks):
            sink.transport.abort()

    async def run(self, per_s: int, seconds: float) -> int:
        """Repeat the last event so often; returns how many were sent."""
        assert self._event, "the broker has sent no event yet"
        sent, begun = 0, time.monotonic()
        while sent < per_s * seconds:
            due = int((time.monotonic() - begun) * per_s) - sent
            for sink in list(self._sinks):
                sink.write(self._event * due)
                self.last_sent_ms = _now_ms()
                with suppress(OSError):
                    await sink.drain()  # as fast as the bridge takes them
            sent += due
            await asyncio.sleep(TICK_S)  # the pace of the flood
        return sent

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._up(reader, far_writer))
                    group.create_task(self._down(far_reader, writer))
            except* (OSError, asyncio.IncompleteReadError):
                pass  # one end has gone: so does the other
            finally:
                self._sinks.discard(writer)
                for end in (writer, far_writer):
                    end.transport.abort()

    async def _up(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
        raise ConnectionError("the bridge has gone")

    async def _down(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        sink.write(await source.readuntil(b"\r\n\r\n"))  # the answer to the upgrade
        self._sinks.add(sink)
        while True:
            frame, body = await _frame(source)
            if frame[0] & 0x0F == 2 and ProtoMessage.FromString(body).payloadType in EVENTS:
                self._event = frame
            sink.write(frame)
            self.last_sent_ms = _now_ms()
            await sink.drain()


async def _frame(source: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """One unmasked frame: all of it, and what it carries."""
    head = await source.readexactly(HEADER)
    size = head[1] & 0x7F
    if size >= 126:
        more = await source.readexactly(2 if size == 126 else 8)
        head, size = head + more, int.from_bytes(more, "big")
    body = await source.readexactly(size)
    return head + body, body


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
