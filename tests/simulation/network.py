"""The network of the simulation: byte streams in memory between processes and brokers, as good or bad as each line is.

TCP as far as anybody can tell: bytes arrive in order or not at all, a close or a reset arrives after what was sent
before it, and a line that swallows everything tells nobody. Every piece arrives in the context of whom it is for, so a
dead process hears nothing and a frozen one later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.simulation.loop import OWNER, Owner, VirtualLoop

FIRST_PORT = 20_000
UNANSWERED_S = 5.0


@dataclass(slots=True, eq=False)
class Line:
    """The way between one process and one broker. Times in seconds. `dial`: "open", "refused" or "silent".

    `silent_in`, `silent_out`: what the broker (the process) sends is held back until it heals. `slices`: reads come in
    pieces of any size. `heard_at`: when bytes last arrived at the process.
    """

    service: str
    latency: tuple[float, float] = (0.0005, 0.003)
    dial: str = "open"
    silent_in: bool = False
    silent_out: bool = False
    slices: bool = False
    heard_at: float = float("-inf")
    pipes: list[Pipe] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.dial == "open" and not (self.silent_in or self.silent_out)

    def cut(self) -> None:
        """Reset every connection."""
        for pipe in list(self.pipes):
            pipe.cut()

    def heal(self) -> None:
        """What was held back arrives; the line is as good as new."""
        self.dial, self.silent_in, self.silent_out = "open", False, False
        for pipe in list(self.pipes):
            pipe.release()


class Pipe:
    """One connection: two ends."""

    def __init__(self, network: Network, line: Line, number: int) -> None:
        self.line = line
        self.number = number
        self.network = network
        self.client = End(self, inbound=True)
        self.server = End(self, inbound=False)
        self.client.peer, self.server.peer = self.server, self.client
        line.pipes.append(self)

    def release(self) -> None:
        """The line is good again."""
        for end in (self.client, self.server):
            end.release()

    def cut(self) -> None:
        """Somebody between resets both ends."""
        for end in (self.client, self.server):
            end.held.clear()
            end.arrive(ConnectionResetError("reset by peer"), 0.0)

    def reset(self) -> None:
        """The client's process is gone: its kernel says so, as far as anything gets through."""
        if self.line.silent_out:
            self.vanish()
            return
        self.client.closing = self.client.ended = True
        self.server.send(ConnectionResetError("its process has died"))
        self.forget()

    def vanish(self) -> None:
        """The client's machine is gone: the broker is told nothing, and finds out when nobody answers."""
        self.client.closing = self.client.ended = True
        self.server.arrive(TimeoutError("nobody answers"), UNANSWERED_S)
        self.forget()

    def forget(self) -> None:
        if self.client.ended and self.server.ended and self in self.line.pipes:
            self.line.pipes.remove(self)


class End(asyncio.Transport):
    """One end of a connection, the transport of its protocol. `inbound`: what arrives here comes from the broker."""

    def __init__(self, pipe: Pipe, *, inbound: bool) -> None:
        super().__init__()
        self.pipe = pipe
        self.inbound = inbound
        self.peer: End = self
        self.context: Context = copy_context()
        self.protocol: Any = None
        self.closing = False
        self.ended = False
        self.paused = False
        self.waiting: deque[bytes | BaseException | None] = deque()  # arrived while reading was paused
        self.held: deque[bytes | BaseException | None] = deque()  # sent into a silent line
        self._last_at = 0.0
        self._loop = pipe.network.loop

    # ------------------------------------------------------------ sending

    def write(self, data: Any) -> None:
        if self.closing or self.ended or not data or self._gone():
            return
        self.pipe.network.crossing(self, len(data))
        if not self._gone():
            self.peer.send(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def send(self, item: bytes | BaseException | None) -> None:
        """From the other end: data, a close (None) or a reset on its way here."""
        line = self.pipe.line
        if line.silent_in if self.inbound else line.silent_out:
            self.held.append(item)
        else:
            self._on_its_way(item)

    def release(self) -> None:
        held, self.held = self.held, deque()
        for item in held:
            self._on_its_way(item)

    def _on_its_way(self, item: bytes | BaseException | None) -> None:
        rng, line = self.pipe.network.rng, self.pipe.line
        pieces: list[bytes | BaseException | None] = [item]
        if isinstance(item, bytes) and line.slices and len(item) > 1 and rng.random() < 0.3:
            at = rng.randrange(1, len(item))
            pieces = [item[:at], item[at:]]
        for piece in pieces:
            self.arrive(piece, rng.uniform(*line.latency))

    def arrive(self, item: bytes | BaseException | None, delay_s: float) -> None:
        """After what was sent before."""
        self._last_at = max(self._last_at + 2e-6, self._loop.time() + delay_s)
        self._loop.call_at(self._last_at, self._arrived, item, context=self.context)

    def _arrived(self, item: bytes | BaseException | None) -> None:
        if self.ended or self.closing:
            if isinstance(item, bytes) and not self.peer.ended:
                self.peer.send(ConnectionResetError("reset by peer"))
        elif self.paused:
            self.waiting.append(item)
        else:
            self._take(item)

    def _take(self, item: bytes | BaseException | None) -> None:
        if isinstance(item, bytes):
            self.pipe.network.arrived(self, item)
            self.protocol.data_received(item)
        elif item is None:
            if not self.protocol.eof_received():
                self.close()
        else:
            self._lost(item)

    # ------------------------------------------------------------ ending

    def close(self) -> None:
        if self.closing:
            return
        self.closing = True
        if not self._gone():
            self.peer.send(None)
            self._loop.call_soon(self._lost, None, context=self.context)

    def abort(self) -> None:
        if self.ended:
            return
        self.closing = True
        if not self._gone():
            self.peer.send(ConnectionResetError("reset by peer"))
            self._loop.call_soon(self._lost, None, context=self.context)

    def _lost(self, error: BaseException | None) -> None:
        if self.ended:
            return
        self.closing = self.ended = True
        self.pipe.network.ended(self, error)
        self.pipe.forget()
        self.protocol.connection_lost(error)

    def _gone(self) -> bool:
        owner = self.context.get(OWNER)
        return owner is not None and owner.dead

    # ------------------------------------------------------------ the rest of a transport

    def is_closing(self) -> bool:
        return self.closing or self.ended

    def is_reading(self) -> bool:
        return not self.paused

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        self._loop.call_soon(self._resume, context=self.context)

    def _resume(self) -> None:
        while self.waiting and not self.paused and not self.closing:
            self._take(self.waiting.popleft())

    def get_write_buffer_size(self) -> int:
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return (0, 65_536)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered here."""

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.peer.send(None)

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name in ("peername", "sockname"):
            return ("127.0.0.1", 40_000 + self.pipe.number % 20_000)
        return default


class Server:
    """What `create_server` returns, and the one socket in it."""

    def __init__(self, network: Network, port: int, factory: Callable[[], Any]) -> None:
        self._network = network
        self.port = port
        self.factory = factory
        self.context = copy_context()
        self.sockets = [self]

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    def is_serving(self) -> bool:
        return self._network.servers.get(self.port) is self

    def close(self) -> None:
        self._network.servers.pop(self.port, None)

    async def start_serving(self) -> None:
        """It does already."""

    async def wait_closed(self) -> None:
        """At once."""


class Network:
    """`line_of(owner, port)` finds the line; `crossing(end, size)` is called whenever bytes leave, and may crash a
    process; `note` takes the trace."""

    def __init__(self, loop: VirtualLoop, rng: Random) -> None:
        self.loop = loop
        self.rng = rng
        self.servers: dict[int, Server] = {}
        self.line_of: Callable[[Owner | None, int], Line] = lambda owner, port: Line(str(port))
        self.crossing: Callable[[End, int], None] = lambda end, size: None
        self.note: Callable[..., None] = lambda *what: None
        self._next_port = FIRST_PORT
        self._next_pipe = 0
        loop.network = self

    def listen(self, factory: Callable[[], Any], port: int) -> Server:
        if not port:
            self._next_port += 1
            port = self._next_port
        server = self.servers[port] = Server(self, port, factory)
        return server

    async def reach(self, host: str, port: int) -> Line:
        """What a SYN meets. Raises ConnectionRefusedError; waits for ever where nothing answers."""
        line = self.line_of(OWNER.get(), port)
        await asyncio.sleep(self.rng.uniform(*line.latency))
        while line.dial == "silent" or line.silent_in or line.silent_out:
            await asyncio.sleep(0.5)  # the SYN is sent again
        if line.dial == "refused" or port not in self.servers:
            raise ConnectionRefusedError(111, f"connection to {port} refused")
        return line

    async def connect(self, factory: Callable[[], Any], host: str, port: int) -> tuple[End, Any]:
        line = await self.reach(host, port)
        server = self.servers.get(port)
        if server is None:
            raise ConnectionRefusedError(111, "refused")
        self._next_pipe += 1
        pipe = Pipe(self, line, self._next_pipe)
        pipe.server.context = server.context.copy()
        self.note("dial", line.service, pipe.number)
        protocol = factory()
        pipe.client.protocol = protocol
        self.loop.call_soon(self._accept, server, pipe, context=pipe.server.context)
        protocol.connection_made(pipe.client)
        return pipe.client, protocol

    def _accept(self, server: Server, pipe: Pipe) -> None:
        pipe.server.protocol = server.factory()
        pipe.server.protocol.connection_made(pipe.server)

    def arrived(self, end: End, data: bytes) -> None:
        self.note("bytes", end.pipe.number, end.inbound, len(data))
        if end.inbound:
            end.pipe.line.heard_at = self.loop.time()

    def ended(self, end: End, error: BaseException | None) -> None:
        self.note("ended", end.pipe.number, end.inbound, type(error).__name__)
