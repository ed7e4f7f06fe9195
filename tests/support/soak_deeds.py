"""What happens during a soak: trading, starts and stops, readers, bad lines, faults of brokers, stores that go away.

Each deed is an async function of the world and a generator of its own; when it returns, what it broke is whole again.
Chosen by a seed: the same seed begins the same deeds in the same order.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp

from tests.support import storm, two_brokers
from tests.support.soak_world import FIRST, SECOND, SoakWorld
from tests.support.world import APP_KEY, OPS_KEY, World

Deed = Callable[[SoakWorld, random.Random], Awaitable[None]]

HOLDINGS = 4  # positions, and orders, that an account may keep after a round
HELD_S = 2.5  # how long a line is mute, a store frozen, a fault on
# Faults that a broker gets over by itself; parameters beside the default ones.
FAULTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    FIRST: {
        **{name: {} for name in ("N01", "N02", "N03", "N04", "N12", "N14", "N15", "N16", "N17", "N18", "N19", "N20")},
        **{name: {} for name in ("N21", "N26", "N27", "N28", "N33", "N34", "N36", "N40", "N41", "N42")},
        "DROP_AFTER_REQUEST": {},
    },
    SECOND: {
        **{name: {} for name in ("N01", "N02", "N03", "N04", "N12", "N14", "N16", "N19", "N20", "N28", "N41", "N42")},
        **{name: {} for name in ("HEARTBEAT_BYTE", "MUTE_DATA", "NULL_DATA")},
        "N40": {"holdSlot": False},
    },
}


async def trade_first(world: SoakWorld, rng: random.Random) -> None:
    users = world.first.users
    await storm.trade(world.first, rng, users, 8 * len(users), deposits_for=users)


async def trade_second(world: SoakWorld, rng: random.Random) -> None:
    await two_brokers.trade_stocks(world.second, rng, 4 * len(world.second.users))


async def start_and_stop(world: SoakWorld, rng: random.Random) -> None:
    """Some sessions at either broker are stopped, started, and started again."""
    for place in world.places.values():
        for user in rng.sample(list(place.users), min(3, len(place.users))):
            await world.command(place, user, "stop")
            await asyncio.sleep(rng.uniform(0, 0.3))  # the pace of a user
            for _ in range(rng.randint(1, 2)):
                await world.command(place, user, "start")


async def renew_tokens(world: SoakWorld, rng: random.Random) -> None:
    for user in rng.sample(list(world.first.users), min(3, len(world.first.users))):
        await world.first.broker_sim("POST", f"/users/{user.removeprefix('user-')}/expire")


async def read(world: SoakWorld, rng: random.Random) -> None:
    """As the app and its operators do, errors included; what is answered is tested elsewhere."""
    paths = ("/account", "/positions", "/health", "/api/sessions?limit=5", "/openapi.json", "/nothing", "/health/ready")
    for _ in range(40):
        path, place = rng.choice(paths), rng.choice(list(world.places.values()))
        query = f"?broker={place.broker}" if path in ("/account", "/positions") else ""
        headers = {"Authorization": f"Bearer {OPS_KEY if 'sessions' in path else APP_KEY}"}
        headers |= {"X-User-Id": rng.choice(list(place.users))}
        async with place.http.get(f"{place.url}{path}{query}", headers=headers) as answer:
            await answer.read()


async def cut_lines(world: SoakWorld, rng: random.Random) -> None:
    for line in world.lines[rng.choice((FIRST, SECOND))]:
        line.cut(clients=rng.random() < 0.5)


async def mute_line(world: SoakWorld, rng: random.Random) -> None:
    lines = world.lines[rng.choice((FIRST, SECOND))]
    for line in lines:
        line.hold()
    await asyncio.sleep(HELD_S)  # the fault itself
    for line in lines:
        line.let_go()


async def slow_line(world: SoakWorld, rng: random.Random) -> None:
    lines = world.lines[rng.choice((FIRST, SECOND))]
    for line in lines:
        line.set(latency_s=0.1, slice_bytes=rng.choice((None, 100)))
    await asyncio.sleep(HELD_S)  # the fault itself
    for line in lines:
        await line.heal()


async def broker_fault(world: SoakWorld, rng: random.Random) -> None:
    broker = rng.choice((FIRST, SECOND))
    name = rng.choice(list(FAULTS[broker]))
    world.said.append(f"{broker} {name}")
    place: World = world.places[broker]
    await place.broker_sim("POST", "/faults", {"id": name, **FAULTS[broker][name]})
    trading = trade_first if broker == FIRST else trade_second
    await trading(world, rng)  # most faults are of messages
    await asyncio.sleep(rng.uniform(0, HELD_S))  # the fault itself
    await place.broker_sim("DELETE", "/faults")


async def lose_valkey(world: SoakWorld, rng: random.Random) -> None:
    """It comes back empty, or was frozen for a while."""
    valkey = world.first.valkey
    if rng.random() < 0.5:
        await asyncio.to_thread(valkey.restart)
        return
    with valkey.paused():
        await asyncio.sleep(HELD_S)  # the fault itself


async def restart_postgres(world: SoakWorld, rng: random.Random) -> None:
    if world.postgres is not None:
        await asyncio.to_thread(world.postgres.restart)


async def tidy(world: SoakWorld) -> None:
    """Close what has piled up: what is held must not grow, or it could not be told from a leak."""
    for place in world.places.values():
        for user in place.users:
            path = f"/accounts/{place.accounts[user]}"
            truth = await place.sim("GET", path.replace("/accounts", "/truth"))
            for order in truth["orders"] if len(truth["orders"]) > HOLDINGS else ():
                await place.sim("POST", f"{path}/cancel", {"orderId": order["id"]}, refusable=True)
            for position in truth["positions"] if len(truth["positions"]) > HOLDINGS else ():
                await place.sim("POST", f"{path}/close", {"positionId": position["id"]}, refusable=True)


CALM: Mapping[Deed, int] = {trade_first: 5, trade_second: 5, start_and_stop: 3, renew_tokens: 1, read: 4}
ROUGH: Mapping[Deed, int] = {
    cut_lines: 4,
    mute_line: 2,
    slow_line: 2,
    broker_fault: 6,
    lose_valkey: 2,
    restart_postgres: 1,
}


def choose(rng: random.Random, *, rough: bool = True) -> list[Deed]:
    """A round: some ordinary life, and mostly one thing that goes wrong, unless it must not."""
    chosen = rng.choices(list(CALM), list(CALM.values()), k=3)
    if rough and rng.random() < 0.8:
        chosen = [each for each in chosen if each is not renew_tokens]  # an answer that is lost costs the consent
        chosen += rng.choices(list(ROUGH), list(ROUGH.values()), k=1)
    return list(dict.fromkeys(chosen))


async def tolerant(deed: Deed, world: SoakWorld, rng: random.Random) -> None:
    """Whoever calls the bridge while it is cut off from its stores may get no answer in time; that is not its end."""
    try:
        await deed(world, rng)
    except (aiohttp.ClientError, TimeoutError):
        assert world.first.bridge.returncode is None, world.first.bridge.output
