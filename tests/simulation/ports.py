"""The doors from a process to what is shared: every call crosses the network, and anything may happen to it there.

A call may fail before it has an effect or after, be answered late or never, have its effect after its caller has died,
and crash its caller at any of these points. What stands behind a door carries out each call as one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from core.errors import BridgeError
from tests.simulation.loop import running

if TYPE_CHECKING:
    from tests.simulation.processes import BridgeProcess

GIVE_UP_S = 4.0  # as the database's driver does


@dataclass(slots=True)
class Service:
    """One shared thing: "database" or "redis". Shares of calls that fail, by how; `latency` in seconds.
    `delays`: share of calls that arrive when their caller has long given up.

    `cut_off`: names of processes that cannot reach it.
    """

    name: str
    rng: Random
    up: bool = True
    latency: tuple[float, float] = (0.0005, 0.004)
    refuses: float = 0.0
    loses_request: float = 0.0
    loses_reply: float = 0.0
    delays: float = 0.0
    cut_off: frozenset[str] = frozenset()

    def heal(self) -> None:
        """As good as new."""
        self.up, self.cut_off, self.latency = True, frozenset(), (0.0005, 0.004)
        self.refuses = self.loses_request = self.loses_reply = self.delays = 0.0

    @property
    def well(self) -> bool:
        """Whether calls succeed, and soon."""
        return (
            self.up
            and self.latency[1] < 0.1
            and not (self.refuses or self.loses_request or self.loses_reply or self.delays)
        )

    def reaches(self, process: BridgeProcess) -> bool:
        """Whether anything passes between them now."""
        return process.name not in self.cut_off

    def fate(self) -> str:
        """What becomes of one call."""
        if not self.up:
            return "refused"
        dice = self.rng.random()
        for fate, share in (
            ("refused", self.refuses),
            ("request lost", self.loses_request),
            ("reply lost", self.loses_reply),
            ("delayed", self.delays),
        ):
            if dice < share:
                return fate
            dice -= share
        return "answered"


class Door:
    """The way of one process to one service. `failure`: what a call that fails raises."""

    def __init__(self, service: Service, process: BridgeProcess, failure: type[BridgeError]) -> None:
        self.service = service
        self._process = process
        self._failure = failure

    async def call(self, name: str, effect: Callable[[], Any]) -> Any:
        """Let `effect` happen behind the door, and return what it returned or raise what it raised."""
        loop, service, process = running(), self.service, self._process
        where = f"{service.name}.{name}"
        await process.cross(where)
        fate = service.fate() if service.reaches(process) else "request lost"
        answer: asyncio.Future[Any] = loop.create_future()
        delay_s = service.rng.uniform(*service.latency)
        if fate == "refused":
            await asyncio.sleep(delay_s)
            raise self._failure(f"{service.name} is away")
        if fate == "delayed":  # on its way for so long that others may have taken over when it arrives
            delay_s = service.rng.uniform(1.0, 1.5 * process.world.knobs.lease_s)
        if fate != "request lost":
            self._send(delay_s, where, effect, answer if fate == "answered" else None)
        try:
            async with asyncio.timeout(GIVE_UP_S):
                outcome = await answer
        except TimeoutError as error:
            raise self._failure(f"{service.name} did not answer") from error
        await process.cross(f"{where} done")
        return outcome

    def _send(self, delay_s: float, where: str, effect: Callable[[], Any], answer: asyncio.Future[Any] | None) -> None:
        """The call arrives after so long, if it can, whatever has become of its caller; `answer` None: it is lost."""
        loop, service, process = running(), self.service, self._process

        def land() -> None:
            if not (service.up and service.reaches(process)):
                return
            if process.dead:
                process.world.sometimes("effect after its process has died")
            outcome, error = None, None
            try:
                outcome = effect()
            except BridgeError as refusal:
                error = refusal
            process.world.note("effect", process.name, where, type(error).__name__)
            if answer is not None:
                back_s = service.rng.uniform(*service.latency)
                loop.call_later(back_s, _settle, answer, outcome, error, context=process.context)

        loop.call_later(delay_s, land, context=process.world.context)


def _settle(answer: asyncio.Future[Any], outcome: Any, error: BridgeError | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(outcome)
    else:
        answer.set_exception(error)


def at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("it waits")


class Behind:
    """An object as seen through a door: its coroutine methods cross it, everything else is plain.

    `around(name, work)`: how a call is carried out, where more happens in the same step.
    """

    def __init__(self, target: Any, door: Door, around: Callable[[str, Callable[[], Any]], Any] | None = None) -> None:
        self._target = target
        self._door = door
        self._around = around or (lambda name, work: work())

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*arguments: Any, **named: Any) -> Any:
            return await self._door.call(name, lambda: self._around(name, lambda: at_once(found(*arguments, **named))))

        return call


def in_context(context: Context, work: Callable[[], Any]) -> Any:
    """Run something as whoever the context belongs to."""
    return context.run(work)
