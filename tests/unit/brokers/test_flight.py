"""Single flight: who shares an attempt, and who must not be handed an old one."""

import asyncio

from bridge.brokers.flight import Flight
from bridge.runtime.tasks import Tasks


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


async def test_one_attempt_serves_all_when_callers_come_while_it_runs() -> None:
    tasks, flight, attempts = Tasks("test"), Flight[int](), []
    gate = asyncio.Event()

    async def work() -> int:
        attempts.append(None)
        await gate.wait()
        return 7

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        callers = [group.create_task(flight.join(tasks, work, "shared")) for _ in range(5)]
        await asyncio.sleep(0)
        gate.set()
    assert [caller.result() for caller in callers] == [7] * 5
    assert len(attempts) == 1
