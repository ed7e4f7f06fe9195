"""A relay between bridge and broker, which knows when the broker last said anything and can be a bad line.

It passes TCP on, both ways, ends included. On request it holds everything back (half-open: nobody is told), is slow,
or drops what is open and whoever dials. It understands nothing of what it passes on.
"""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

_RESET = struct.pack("ii", 1, 0)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Heard(Protocol):
    """Whoever knows when a byte last went to the bridge (Unix ms)."""

    @property
    def last_sent_ms(self) -> int: ...


class Relay:
    """`last_sent_ms`: when a byte last went to the bridge. `delay_s`: what each piece takes longer on its way."""

    def __init__(self) -> None:
        self.upstream = 0
        self.port = 0
        self.last_sent_ms = now_ms()
        self.delay_s = 0.0
        self.down = False  # whoever dials is dropped
        self.connections = 0  # so far
        self._flows = asyncio.Event()
        self._flows.set()
        self._passing: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.StreamWriter] = set()

    def hold(self) -> None:
        """Let nothing through, ends of connections included."""
        self._flows.clear()

    def let_go(self) -> None:
        """What was held goes on its way."""
        self._flows.set()

    def cut(self) -> int:
        """Drop every connection, both ways; returns how many ends there were."""
        ends = list(self._open)
        for writer in ends:
            _reset(writer)
        return len(ends)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.down:
            _reset(writer)
            return
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            _reset(writer)
            return
        for source, sink, notes in ((reader, far_writer, False), (far_reader, writer, True)):
            task = asyncio.create_task(self._pass_on(source, sink, notes))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, notes: bool) -> None:
        self._open.add(sink)
        try:
            while data := await source.read(65536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)  # the fault itself
                await self._flows.wait()
                sink.write(data)
                if notes:
                    self.last_sent_ms = now_ms()
                await sink.drain()
            await self._flows.wait()
            sink.close()
        except ConnectionError:
            await self._flows.wait()
            _reset(sink)
        finally:
            self._open.discard(sink)

    async def close(self) -> None:
        for task in list(self._passing):
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)


class Relays:
    """Several relays to one broker, heard as one."""

    def __init__(self, *relays: Relay) -> None:
        self._relays = relays

    @property
    def last_sent_ms(self) -> int:
        return max(each.last_sent_ms for each in self._relays)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as it was ended on the other side: without a goodbye."""
    plug = writer.get_extra_info("socket")
    if plug is not None and plug.fileno() >= 0:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@asynccontextmanager
async def relay() -> AsyncIterator[Relay]:
    """A relay on a free port; set `upstream` before anybody dials."""
    passing = Relay()
    server = await asyncio.start_server(passing.accept, "127.0.0.1", 0)
    passing.port = server.sockets[0].getsockname()[1]
    try:
        yield passing
    finally:
        server.close()
        await passing.close()
