"""An asyncio event loop on virtual time: nothing waits, nothing comes from outside, one seed gives one order of events.

Whose callback it is stands in its context (`OWNER`): callbacks of an owner that has crashed are never run again, those
of one that is frozen are kept until it thaws. Callbacks that are ready run in the order they became so, which asyncio
promises; timers of the same moment run in an order that the seed draws, which it leaves open. Threads, signals and
real sockets are refused.
"""

from __future__ import annotations

import asyncio
import heapq
import socket
from asyncio import events
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from random import Random
from typing import Any, NoReturn, Protocol

OWNER: ContextVar[Owner | None] = ContextVar("owner", default=None)
TIE_S = 1e-6  # timers are late by up to so much
MOST_TURNS_AT_ONCE = 200_000  # without the clock moving: somebody spins


class Owner(Protocol):
    """A simulated process. `dead`: nothing of it runs any more. `frozen`: nothing runs until it thaws."""

    dead: bool
    frozen: bool


class Dialling(Protocol):
    """The network under a loop."""

    async def reach(self, host: str, port: int) -> object:
        """What the first packet to a port meets. Raises OSError; waits for ever where nothing answers."""

    async def connect(self, factory: Callable[[], Any], host: str, port: int) -> tuple[Any, Any]:
        """As `loop.create_connection`."""

    def listen(self, factory: Callable[[], Any], port: int) -> Any:
        """As `loop.create_server`."""


class _NoSelector:
    """Where a real loop would wait for sockets."""

    def close(self) -> None:
        """Nothing is open."""


class VirtualLoop(asyncio.BaseEventLoop):
    """`rng` draws the order of timers that are due together. `network` must be set before anybody dials."""

    def __init__(self, rng: Random, *, start_s: float = 1000.0) -> None:
        super().__init__()
        self._now = start_s
        self._rng = rng
        self._selector = _NoSelector()
        self._held: deque[asyncio.Handle] = deque()
        self._ready: deque[asyncio.Handle]  # the base class's, as is `_stopping`
        self._stopping: bool
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timers_made = 0
        self._dropped: list[asyncio.Handle] = []
        self._turns = 0
        self._dialled: dict[int, tuple[str, int]] = {}
        self.network: Dialling | None = None
        self.handles_run = self.tasks_made = 0
        self.ending = False

    # ------------------------------------------------------------ time and turns

    def time(self) -> float:
        return self._now

    def call_at(  # type: ignore[override]  # plainer types than those of the library's stubs
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        when += self._rng.random() * TIE_S
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, handle))
        return handle

    def thaw(self) -> None:
        """Somebody is not frozen any more: what was kept runs now, in its order."""
        kept, self._held = self._held, deque()
        self._ready.extendleft(reversed(kept))

    def end(self) -> None:
        """The world is over: the dead and the frozen run as well, so that nothing is left to the garbage collector."""
        self.ending = True
        self._turns = 0
        self._ready.extend(self._dropped)
        self._dropped.clear()
        self.thaw()

    def _run_once(self) -> None:
        """One turn: jump to the next timer when nothing is ready, then run what is."""
        timers, ready = self._timers, self._ready
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not ready and not self._stopping:
            if not timers:
                raise RuntimeError("everybody waits for something that never comes")
            self._now = max(self._now, timers[0][0])
            self._turns = 0
        while timers and timers[0][0] <= self._now:
            ready.append(heapq.heappop(timers)[2])
        self._turns += 1
        if self._turns > MOST_TURNS_AT_ONCE:
            raise RuntimeError("somebody spins: the clock does not move any more")
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                self._run(handle)

    def _run(self, handle: asyncio.Handle) -> None:
        owner = None if self.ending else _context_of(handle).get(OWNER)
        if owner is not None:
            if owner.dead:
                self._dropped.append(handle)
                return
            if owner.frozen:
                self._held.append(handle)
                return
        self.handles_run += 1
        handle._run()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers leave the heap when their time comes."""

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector."""

    # ------------------------------------------------------------ the network

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        sock = options.get("sock")
        if sock is not None:  # aiohttp connects a socket first
            host, port = self._dialled.pop(id(sock))
            sock.close()
        if options.get("ssl") is not None:
            raise RuntimeError("there is no TLS in the simulation")
        return await self._net().connect(protocol_factory, host, port)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        self._dialled[id(sock)] = (address[0], address[1])
        try:
            await self._net().reach(address[0], address[1])
        except BaseException:
            self._dialled.pop(id(sock), None)
            raise

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        return self._net().listen(protocol_factory, port)

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    def _net(self) -> Dialling:
        if self.network is None:
            raise RuntimeError("no network")
        return self.network

    # ------------------------------------------------------------ what must not leak in

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError(f"no threads in the simulation: {func}")

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("no signals in the simulation")

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""


class NumberedTask(asyncio.Task[Any]):
    """A task that stands in a set by its number, not by its address: sets of tasks have the same order in every run."""

    def __init__(self, work: Any, *, loop: VirtualLoop, context: Context | None) -> None:
        loop.tasks_made += 1
        self._number = loop.tasks_made
        super().__init__(work, loop=loop, context=context)

    def __hash__(self) -> int:
        return self._number


def _context_of(handle: Any) -> Context:
    """Where the callback of a handle will run."""
    context: Context = handle._context
    return context


def running() -> VirtualLoop:
    """The loop that runs now."""
    loop = events.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop
