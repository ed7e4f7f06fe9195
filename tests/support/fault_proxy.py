"""A bad line in front of any TCP server, in this process: what Toxiproxy does, and half-open peers and silent dials.

Each direction is a `Lane` with faults of its own, which may change while bytes are on their way. Nothing here knows
what the bytes mean, so a proxy stands in front of brokers, Redis and Postgres alike. Invariant: without faults every
byte arrives in order, and each end learns of the other's end in the way it came: by the close of a direction, or by a
reset.
"""

import asyncio
import random
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn, Protocol

HOST = "127.0.0.1"
CHUNK = 65_536
MOST_QUEUED = 64  # pieces on their way in one direction of one connection; more wait in the sender's socket
NARROW_S = 0.05  # a narrow line takes pieces that need about so long
_RESET = struct.pack("ii", 1, 0)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Heard(Protocol):
    """Whoever knows when a byte last went to the client (Unix ms)."""

    @property
    def last_sent_ms(self) -> int: ...


class Lane:
    """One direction of all connections. What is set holds from the next piece on.

    `passed`, `swallowed`: bytes so far; `last_ms`: when the last one arrived (Unix ms).
    """

    latency_s: float
    jitter_s: float  # up to so much more, in order all the same
    bytes_per_s: float | None
    slice_bytes: int | None  # pieces no larger than this
    slice_gap_s: float  # between them
    limit_bytes: int | None  # a connection is closed after so many, counted from when this was set
    flip_every: int | None  # in about one of so many bytes a bit is flipped
    close_after_s: float  # an end is passed on so much later
    swallow: bool  # nothing arrives, ends included, and nobody is told

    def __init__(self) -> None:
        self.passed = 0
        self.swallowed = 0
        self.last_ms = now_ms()
        self.flows = asyncio.Event()
        self.clear()

    def clear(self) -> None:
        """No fault any more."""
        self.latency_s = self.jitter_s = self.slice_gap_s = self.close_after_s = 0.0
        self.bytes_per_s = self.slice_bytes = self.limit_bytes = self.flip_every = None
        self.swallow = False
        self.flows.set()

    def set(self, **faults: Any) -> None:
        """Sets these faults by name."""
        unknown = faults.keys() - Lane.__annotations__.keys()
        if unknown:
            raise TypeError(f"no such faults: {sorted(unknown)}")
        vars(self).update(faults)

    def hold(self) -> None:
        """Half-open: nothing arrives, ends included, until `let_go`; nothing is lost."""
        self.flows.clear()

    def let_go(self) -> None:
        """What was held goes on its way."""
        self.flows.set()


class _Ended(Exception):
    """The end of a connection, as its sender caused it. `hard`: by a reset; `both`: nothing goes back either."""

    def __init__(self, *, hard: bool = False, both: bool = False) -> None:
        self.hard, self.both = hard, both


class _Passage:
    """One direction of one connection."""

    def __init__(
        self, lane: Lane, source: asyncio.StreamReader, sink: asyncio.StreamWriter, rng: random.Random
    ) -> None:
        self.lane, self.sink = lane, sink
        self.spoilt = False  # bytes were lost: what comes later can make no sense to the receiver
        self._source, self._rng = source, rng
        self._on_the_way: asyncio.Queue[tuple[float, bytes | _Ended]] = asyncio.Queue(MOST_QUEUED)
        self._limit: int | None = None
        self._left = 0
        self._until_flip: int | None = None

    async def run(self) -> _Ended:
        """Until this direction has ended, and how."""
        reading = asyncio.create_task(self._read())
        try:
            while True:
                due, piece = await self._on_the_way.get()
                await asyncio.sleep(due - time.monotonic())  # the latency
                if isinstance(piece, _Ended):
                    await self._end(piece)
                await self._pass_on(piece)
        except _Ended as ended:
            return ended
        except OSError:
            return _Ended(hard=True)  # the receiver is gone
        finally:
            reading.cancel()

    async def _read(self) -> None:
        due = 0.0
        piece: bytes | _Ended = b""
        while not isinstance(piece, _Ended):
            try:
                piece = await self._source.read(CHUNK) or _Ended()
            except OSError:
                piece = _Ended(hard=True)
            late_s = self.lane.latency_s + self._rng.uniform(0.0, self.lane.jitter_s)
            due = max(due, time.monotonic() + late_s)
            await self._on_the_way.put((due, piece))

    async def _pass_on(self, data: bytes) -> None:
        lane = self.lane
        while data:
            await lane.flows.wait()
            if lane.swallow:
                lane.swallowed += len(data)
                self.spoilt = True
                return
            piece = data[: self._size()]
            data = data[len(piece) :]
            await self._write(piece)
            if lane.bytes_per_s:
                await asyncio.sleep(len(piece) / lane.bytes_per_s)
            if lane.slice_bytes and data:
                await asyncio.sleep(lane.slice_gap_s)

    def _size(self) -> int:
        size = self.lane.slice_bytes or CHUNK
        if self.lane.bytes_per_s:
            size = min(size, max(1, int(self.lane.bytes_per_s * NARROW_S)))
        return size

    async def _write(self, piece: bytes) -> None:
        lane = self.lane
        if lane.limit_bytes != self._limit:
            self._limit, self._left = lane.limit_bytes, lane.limit_bytes or 0
        if self._limit is not None:
            piece = piece[: self._left]
            self._left -= len(piece)
        self.sink.write(self._flipped(piece) if lane.flip_every else piece)
        lane.passed += len(piece)
        lane.last_ms = now_ms()
        await self.sink.drain()
        if self._limit is not None and self._left == 0:
            raise _Ended(both=True)

    def _flipped(self, piece: bytes) -> bytes:
        """Flips by the count of bytes, so that it does not matter how they were cut."""
        spoilt = bytearray(piece)
        at = self._gap() if self._until_flip is None else self._until_flip
        while at < len(spoilt):
            spoilt[at] ^= 1 << self._rng.randrange(8)
            at += 1 + self._gap()
        self._until_flip = at - len(spoilt)
        return bytes(spoilt)

    def _gap(self) -> int:
        return int(self._rng.expovariate(1 / (self.lane.flip_every or 1)))

    async def _end(self, ended: _Ended) -> NoReturn:
        await asyncio.sleep(self.lane.close_after_s)
        await self.lane.flows.wait()
        if self.lane.swallow:
            self.spoilt = True
            await asyncio.Event().wait()  # for ever: the receiver is not told
        raise ended


class FaultProxy:
    """`target`: the server's port, to be set before anybody dials. `port`: where clients dial.

    `upstream` goes to the server, `downstream` to the client. `last_sent_ms`: when a byte last went to a client.
    """

    def __init__(self, target: int = 0, *, seed: int = 0) -> None:
        self.target = target
        self.upstream, self.downstream = Lane(), Lane()
        self.connections = 0  # accepted so far
        self._seed = seed
        self._place = _bound(0)  # keeps the port while nobody listens on it
        self.port: int = self._place.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._deaf: list[socket.socket] = []
        self._passages: dict[_Passage, _Passage] = {}  # to the way back
        self._links: set[asyncio.Task[None]] = set()

    @property
    def last_sent_ms(self) -> int:
        return self.downstream.last_ms

    # ------------------------------------------------------------ dials

    async def serve(self) -> None:
        """Whoever dials is passed on, as at first."""
        self._stop_listening()
        self._server = await asyncio.start_server(self._accept, sock=_bound(self.port))

    def refuse(self) -> None:
        """Down: whoever dials is refused. Connections stay, see `cut`."""
        self._stop_listening()

    async def ignore(self) -> None:
        """Whoever dials hears nothing at all. Connections stay, see `cut`."""
        self._stop_listening()
        listening = _bound(self.port)
        listening.listen(0)
        self._deaf = [listening, socket.create_connection((HOST, self.port))]  # room for one, and he is in

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        while self._deaf:
            self._deaf.pop().close()

    # ------------------------------------------------------------ connections

    def set(self, **faults: Any) -> None:
        """Sets these faults of both directions, by their names in `Lane`."""
        self.upstream.set(**faults)
        self.downstream.set(**faults)

    def hold(self) -> None:
        self.upstream.hold()
        self.downstream.hold()

    def let_go(self) -> None:
        self.upstream.let_go()
        self.downstream.let_go()

    def cut(self, *, clients: bool = True, server: bool = True) -> int:
        """Resets every connection, towards both ends or one; returns how many ends there were."""
        wanted = {self.downstream: clients, self.upstream: server}
        ends = [each.sink for each in self._passages if wanted[each.lane]]
        for sink in ends:
            _reset(sink)
        return len(ends)

    async def heal(self) -> None:
        """No fault any more; connections that have lost bytes are reset."""
        self.upstream.clear()
        self.downstream.clear()
        for passage, back in self._passages.items():
            if passage.spoilt or back.spoilt:
                _reset(passage.sink)
        if self._server is None:
            await self.serve()

    async def close(self) -> None:
        self._stop_listening()
        self._place.close()
        for task in self._links:
            task.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self.target)
        except OSError:
            _reset(writer)
            return
        there = _Passage(self.upstream, reader, far_writer, random.Random(f"{self._seed} {number} up"))
        back = _Passage(self.downstream, far_reader, writer, random.Random(f"{self._seed} {number} down"))
        task = asyncio.create_task(self._link(there, back))
        self._links.add(task)
        task.add_done_callback(self._links.discard)

    async def _link(self, there: _Passage, back: _Passage) -> None:
        both = {there: back, back: there}
        self._passages |= both
        try:
            await asyncio.gather(_until_ended(there, back), _until_ended(back, there))
        finally:
            for passage in both:
                del self._passages[passage]
                passage.sink.close()


async def _until_ended(passage: _Passage, other: _Passage) -> None:
    ended = await passage.run()
    if ended.hard:
        _reset(passage.sink)
    elif ended.both:
        passage.sink.close()
        other.sink.close()
    else:
        with suppress(OSError):  # the receiver is gone
            passage.sink.write_eof()


class Lines:
    """Several proxies in front of one broker, heard as one."""

    def __init__(self, *lines: FaultProxy) -> None:
        self._lines = lines

    @property
    def last_sent_ms(self) -> int:
        return max(each.last_sent_ms for each in self._lines)


def _bound(port: int) -> socket.socket:
    """A socket at this port, beside others at the same one."""
    plug = socket.socket()
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    plug.bind((HOST, port))
    return plug


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection without a goodbye: its other end gets a reset."""
    plug = writer.get_extra_info("socket")
    if plug is not None and plug.fileno() >= 0:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@asynccontextmanager
async def fault_proxy(target: int = 0, *, seed: int = 0) -> AsyncIterator[FaultProxy]:
    """A proxy on a free port, without faults; nothing of it is left when the block ends."""
    proxy = FaultProxy(target, seed=seed)
    await proxy.serve()
    try:
        yield proxy
    finally:
        await proxy.close()
