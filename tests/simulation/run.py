"""Runs one seed: operations and faults, each followed by a check of everything; then calm, and all must come to rest.

The same seed gives the same trace, whatever the hash seed of the interpreter. What is broken comes back with the
outcome, together with the command that replays it.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from unittest.mock import patch

import aiohttp

from bridge.brokers.ctrader import login
from bridge.brokers.ctrader.hub import AccountHub
from core.events import Execution
from tests.simulation import invariants
from tests.simulation.faults import Faults
from tests.simulation.knobs import Knobs, draw
from tests.simulation.leaks import sealed_off
from tests.simulation.loop import VirtualLoop
from tests.simulation.operations import Operations
from tests.simulation.world import Violation, World

SETTLE_S = 420.0  # the longest wait of all is 95 s for a slot, and a reconcile may be needed after it
REST_S = 3.0  # what has come to rest must stay so
Breakage = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`broken`: None, or what was found wrong. `seen`: rare things, and how often. Times in seconds."""

    seed: int
    trace: str
    broken: str | None
    seen: Counter[str] = field(repr=False)
    tail: tuple[str, ...] = field(repr=False)
    virtual_s: float = 0.0
    settled_s: float = 0.0
    real_s: float = 0.0
    turns: int = 0

    @property
    def replay(self) -> str:
        """The command that runs this seed again."""
        return f".venv/bin/python -m tests.simulation --seed {self.seed}"


def simulate(seed: int, *, steps: int | None = None, knobs: Knobs | None = None) -> Outcome:
    """Run one seed in this interpreter."""
    began = time.perf_counter()
    loop = VirtualLoop(Random(f"{seed} ties"))
    with sealed_off(loop, Random(f"{seed} libraries")) as sessions:
        world = World(seed, knobs or draw(Random(f"{seed} knobs"), steps), loop)
        broken = None
        settled_s = 0.0
        with _listening(world):
            try:
                settled_s = loop.run_until_complete(_life(world, sessions))
            except Violation as violation:
                broken = str(violation)
            finally:
                loop.close()
    return Outcome(
        seed=seed,
        trace=world.trace,
        broken=broken,
        seen=world.seen,
        tail=tuple(world.tail),
        virtual_s=loop.time() - 1000.0,
        settled_s=settled_s,
        real_s=time.perf_counter() - began,
        turns=loop.handles_run,
    )


async def _life(world: World, sessions: list[aiohttp.ClientSession]) -> float:
    """Returns how long the world took to come to rest after the last fault. Closes every HTTP session in the end."""
    try:
        await world.open()
        operations, faults = Operations(world), Faults(world)
        await _until(lambda: bool(world.serving), 5.0)
        await operations.start_all()
        world.armed = True
        for _ in range(world.knobs.steps):
            if world.rng.random() < world.knobs.turbulence:
                faults.act()
            else:
                await operations.act()
            await asyncio.sleep(world.rng.expovariate(1 / world.knobs.pause_s))
            world.step()
        faults.stop()
        settled_s = await _settled(world)
        for check in invariants.IN_THE_END:
            check(world)
        world.judge()
        return settled_s
    finally:
        await world.close()
        for session in sessions:
            with suppress(TimeoutError):
                async with asyncio.timeout(0):  # nobody tells it any more that its lines are closed
                    await session.close()
            session.detach()


async def _settled(world: World) -> float:
    """Wait until everything has come to rest. Raises Violation with what has not, after a generous time."""
    began = world.loop.time()
    for name, _ in [(row.owner, row) for row in (await world.fleet.processes())[0] if row.draining]:
        await world.fleet.drain(name, draining=False)
    while True:
        if not world.alive:  # the last one was on its way out
            world.spawn()
        await asyncio.sleep(1.0)  # of virtual time, until the next look
        world.step()
        left = invariants.unsettled(world)
        if not left:
            settled_s = world.loop.time() - began
            await asyncio.sleep(REST_S)
            world.step()
            if not (left := invariants.unsettled(world)):
                return settled_s
        if world.loop.time() - began > SETTLE_S:
            for number, text in left:
                world.report(number, f"after {SETTLE_S:.0f} s of calm: {text}")
            world.judge()


async def _until(holds: Callable[[], bool], within_s: float) -> None:
    for _ in range(int(within_s / 0.05)):
        if holds():
            return
        await asyncio.sleep(0.05)  # of virtual time, until the next look
    raise RuntimeError("the world does not begin")


class _Listener(logging.Handler):
    """Keeps what is logged, for the search for secrets, and reports errors that nobody expected."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if self._world.over:
            return
        self._world.log.append(f"{record.getMessage()} {record.__dict__}")
        if record.exc_info and record.levelno >= logging.ERROR:
            self._world.report(0, f"{record.getMessage()}: {record.exc_info[1]!r}")


@contextmanager
def _listening(world: World) -> Iterator[None]:
    take = login._take_buffered

    def taken(hub: AccountHub) -> list[Execution]:
        if hub.buffer:
            world.sometimes("snapshot with buffered events")
        return take(hub)

    handler, root = _Listener(world), logging.getLogger("bridge")
    level, propagate = root.level, root.propagate
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    root.propagate = False
    try:
        with patch.object(login, "_take_buffered", taken):
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        root.propagate = propagate


def breakage(name: str) -> Breakage:
    """The function `module:function` that breaks something on purpose."""
    module, _, function = name.partition(":")
    found: Breakage = getattr(importlib.import_module(module), function)
    return found


def failing_seeds(seeds: range, breakages: Callable[[], None] | None = None) -> list[Outcome]:
    """Run seeds after something was broken on purpose (this process stays broken); returns those that fail."""
    if breakages is not None:
        breakages()
    return [outcome for outcome in map(simulate, seeds) if outcome.broken is not None]
