"""What seeds have found and has been mended, each played once more without dice."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from bridge.sessions.desired import Note, Start
from tests.simulation.knobs import Knobs, draw
from tests.simulation.leaks import sealed_off
from tests.simulation.loop import VirtualLoop
from tests.simulation.world import World

PLAIN = replace(
    draw(Random(0)),
    processes=1,
    users=2,
    brokers=("ctrader",),
    layout="postgres",
    flush_s=1.0,
    latency_s=0.2,
    wall_skew_ms=0,
    slices=False,
    channels=1,
    accounts_per_channel=None,
    requests_per_second=50,
)


def played(play: Callable[[World], Awaitable[Any]], knobs: Knobs = PLAIN) -> Any:
    """Let a world live as told."""
    loop = VirtualLoop(Random(1))

    async def life(world: World) -> Any:
        try:
            await world.open()
            await until(lambda: len(world.serving) == knobs.processes)
            return await play(world)
        finally:
            await world.close()

    with sealed_off(loop, Random(2)):
        try:
            return loop.run_until_complete(life(World(1, knobs, loop)))
        finally:
            loop.close()


async def until(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)  # of virtual time, until the next look


def live(world: World) -> set[str | None]:
    sessions = [session for process in world.alive for session in process.service._table]
    return {session.account_id for session in sessions if session.state.value == "live"}


def test_account_is_logged_out_when_its_session_stops_before_the_login_was_answered() -> None:
    async def play(world: World) -> list[Any]:
        (process,) = world.serving
        await world.commands.start(process, "user-2", "ctrader", None)
        await until(lambda: live(world) == {"1000021"})
        hub = world.brokers.ctrader.services.hub
        await world.commands.start(process, "user-1", "ctrader", None)
        await until(lambda: bool(hub.listeners(1000011)))  # the broker has authorised it, and its answer is on its way
        await world.commands.stop(process, "user-1", "ctrader", None)
        await asyncio.sleep(5)
        assert live(world) == {"1000021"}  # whose channel it is, too
        return list(hub.listeners(1000011))

    assert played(play) == []


def test_row_is_owned_no_more_when_its_session_was_started_and_stopped_again_elsewhere() -> None:
    async def play(world: World) -> list[str | None]:
        one, two = world.serving
        await world.commands.start(one, "user-1", "ctrader", None)
        await until(lambda: live(world) == {"1000011"})
        note, elsewhere = world.desired.note, two.standing.owner
        (row,) = world.desired.rows()

        async def noted(notes: Sequence[Note]) -> None:
            """The last record is noted just after the session was started anew, and then it is stopped again."""
            world.desired.note = note  # type: ignore[method-assign]
            start = Start(row.user_id, row.user_key, row.broker, row.account_id, row.environment)
            await world.desired.start(start, owner=elsewhere)
            await note(notes)
            await world.desired.stop(row.user_key, row.broker, row.account_id, owner=elsewhere)

        await asyncio.sleep(6)  # what else there was to note has been
        world.desired.note = noted  # type: ignore[method-assign]
        await world.commands.stop(one, "user-1", "ctrader", None)
        await asyncio.sleep(60)
        return [row.owner for row in world.desired.rows() if not row.wanted]

    assert played(play, replace(PLAIN, processes=2, hears=False, latency_s=0.001)) == [None]


def test_stopped_is_written_when_an_own_claim_lands_late_and_raises_the_fence() -> None:
    """Found by seed 5347."""

    async def play(world: World) -> list[str]:
        (process,) = world.serving
        await world.commands.start(process, "user-1", "ctrader", None)
        await until(lambda: live(world) == {"1000011"})
        (session,) = process.service._table
        store = world.stores["postgres"]
        await store.claim(session.keys)  # on its way since the start, and given up
        await world.commands.stop(process, "user-1", "ctrader", None)
        await asyncio.sleep(60)
        documents = [world.watcher.parsed(store.documents()[key]) for key in session.keys]
        return [document["status"] for document in documents]

    assert played(play) == ["stopped"]


def test_account_is_logged_out_when_its_login_is_carried_out_after_the_logout() -> None:
    """Found by seed 20422."""

    async def play(world: World) -> list[Any]:
        (process,) = world.serving
        await world.commands.start(process, "user-2", "ctrader", None)
        await until(lambda: live(world) == {"1000021"})
        hub = world.brokers.ctrader.services.hub
        world.brokers.ctrader.actions.fault("N42", delaySeconds=6, count=1)
        await world.commands.start(process, "user-1", "ctrader", None)
        await asyncio.sleep(2)
        await world.commands.stop(process, "user-1", "ctrader", None)
        await until(lambda: bool(hub.listeners(1000011)))
        await asyncio.sleep(20)
        assert live(world) == {"1000021"}  # whose channel it is, too
        return list(hub.listeners(1000011))

    assert played(play) == []
