"""Single flight: who shares an attempt, who must not be handed an old one, and what each hears."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode
from bridge.brokers.flight import Flight
from bridge.runtime.tasks import Tasks


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks("test")
    yield tasks
    await tasks.close()
    assert tasks.crashes == 0


async def test_flight_runs_once_when_many_join(tasks: Tasks) -> None:
    flight: Flight[int] = Flight()
    gate = asyncio.Event()
    runs = 0

    async def work() -> int:
        nonlocal runs
        runs += 1
        await gate.wait()
        return runs

    joined = [asyncio.ensure_future(flight.join(tasks, work, "w")) for _ in range(10)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*joined) == [1] * 10
    assert not flight.active


async def test_flight_goes_on_when_its_first_caller_gives_up(tasks: Tasks) -> None:
    flight: Flight[str] = Flight()
    gate = asyncio.Event()

    async def work() -> str:
        await gate.wait()
        return "done"

    first = asyncio.ensure_future(flight.join(tasks, work, "w"))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(flight.join(tasks, work, "w"))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert await second == "done"
    assert first.cancelled()


async def test_flight_is_cancelled_when_everybody_gives_up(tasks: Tasks) -> None:
    flight: Flight[None] = Flight()
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    joined = [asyncio.ensure_future(flight.join(tasks, work, "w")) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in joined:
        task.cancel()
    await asyncio.wait(joined)
    async with asyncio.timeout(2):
        await ended.wait()
    assert not flight.active


async def test_every_caller_hears_the_fault_when_the_flight_fails(tasks: Tasks) -> None:
    flight: Flight[None] = Flight()

    async def work() -> None:
        raise BrokerFault(FaultKind.MAINTENANCE, Reason(ReasonCode.BROKER_MAINTENANCE, "closed"), retry_after_s=5.0)

    results = await asyncio.gather(*(flight.join(tasks, work, "w") for _ in range(4)), return_exceptions=True)
    assert all(isinstance(result, BrokerFault) and result.retry_after_s == 5.0 for result in results)


async def test_a_new_attempt_starts_when_a_caller_comes_in_the_turn_the_last_one_ended() -> None:
    tasks, flight, attempts = Tasks("test"), Flight[int](), []
    gate = asyncio.Event()

    async def work() -> int:
        attempts.append(None)
        await gate.wait()
        return len(attempts)

    async def late() -> int:
        # woken after the first attempt has returned, but before the loop has told anybody that it is done
        await gate.wait()
        return await flight.join(tasks, work, "second")

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        first = group.create_task(flight.join(tasks, work, "first"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = group.create_task(late())
        await asyncio.sleep(0)
        gate.set()
    assert (first.result(), second.result()) == (1, 2)
