"""Hand-over where the broker admits one stream per account, and holds the slot of one that died without a word."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet_world import LEASE_S, Fleet, empty_fleet
from tests.support.waiting import eventually
from tests.support.world import World

USERS = 4
HELD_SLOT_S = 6.0
SLOT_WAIT_S = 2.0  # of the quick bridge, after each refusal


async def served_by(fleet: Fleet, name: str, *, within_s: float = 30.0) -> None:
    owner = await fleet.owner_of(name)
    last: Any = None

    async def served() -> bool:
        nonlocal last
        last = await fleet.sessions()
        return set(last.values()) == {("live", owner)} and len(last) == USERS

    await eventually(served, within_s=within_s, every_s=0.1, what=lambda: f"all live at {name}: {last}")


async def waits(fleet: Fleet, name: str) -> bool:
    """Every session says that it waits for its slot, and until when."""
    page = await fleet.running[name].api("GET", "/api/sessions")
    found = [(row["reason"] or {}).get("code") for row in page["sessions"] if row["nextAttemptAt"] is not None]
    return found == ["connection_limit"] * USERS


async def counters(world: World) -> Any:
    return await world.broker_sim("GET", "/counters")


@pytest.mark.timeout(150)
async def test_streams_are_closed_before_they_are_opened_elsewhere_and_a_dead_ones_slot_is_waited_for(
    tmp_path: Path, database_url: str
) -> None:
    async with empty_fleet(
        tmp_path,
        database_url,
        users=USERS,
        env={"DATABASE_SESSION_URL": database_url},
        module="tests.support.quick_bridge",
        simulator_arguments=("--alpaca-slot-seconds", str(HELD_SLOT_S)),
    ) as fleet:
        world = fleet.world.at("alpaca", fleet.world.users)
        await world.start_all()
        await served_by(fleet, "1")
        await fleet.add("2")
        await world.api("POST", "/api/fleet/drain", body={"owner": await fleet.owner_of("1")})
        await served_by(fleet, "2")  # handed over while both run
        await world.api("POST", "/api/fleet/drain", body={"owner": await fleet.owner_of("1"), "draining": False})
        second = fleet.running.pop("2")
        assert await second.bridge.stop() == 0
        await served_by(fleet, "1")  # followed at its end
        seen = await counters(world)
        assert (seen["refusedSlots"], seen["doubleLogins"]) == (0, 0)
        assert seen["authAttempts"] == 3 * USERS

        third = await fleet.add("3")
        first = fleet.running.pop("1")
        fleet.world.url = third.url
        first.bridge.send(signal.SIGSTOP)  # it may not see that the broker is told of a dead line
        await world.broker_sim("POST", "/faults", {"id": "N40", "holdSlot": True})
        first.bridge.send(signal.SIGKILL)
        await first.bridge.ended()
        await eventually(
            lambda: waits(fleet, "3"), within_s=LEASE_S + 10, every_s=0.05, what="the slots are waited for"
        )
        await served_by(fleet, "3")
        after = await counters(world)
        refused = after["refusedSlots"]
        assert USERS <= refused <= USERS * (HELD_SLOT_S / SLOT_WAIT_S + 1)  # one attempt, one wait
        assert (after["authAttempts"], after["doubleLogins"]) == (seen["authAttempts"] + refused + USERS, 0)
