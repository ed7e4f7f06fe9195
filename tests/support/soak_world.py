"""The running world of a soak: both brokers behind bad lines, Postgres and Valkey of its own, and two watchers."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge.embedded.postgres import PostgresServer
from tests.support.databases import make_database
from tests.support.fault_proxy import FaultProxy, Lines, fault_proxy
from tests.support.waiting import eventually
from tests.support.watcher import Watcher
from tests.support.world import APP_KEY, World, record_key, running_world

FIRST, SECOND = "ctrader", "alpaca"
SLOT_S = 1.0  # how long the second broker holds the slot of a stream that vanished
ALPACA_PER_MINUTE = 2_000
LEASE_S = 3.0


@dataclass
class SoakWorld:
    """`places`: the world as seen from each broker. `lines`: the proxies in front of it. `said`: what deeds chose."""

    places: Mapping[str, World]
    lines: Mapping[str, list[FaultProxy]]
    watchers: Mapping[str, Watcher]
    postgres: PostgresServer | None
    said: list[str] = field(default_factory=list)

    @property
    def first(self) -> World:
        return self.places[FIRST]

    @property
    def second(self) -> World:
        return self.places[SECOND]

    @property
    def sessions(self) -> int:
        return sum(len(place.users) for place in self.places.values())

    async def command(self, place: World, user: str, what: str) -> None:
        """`start` or `stop` one session; the bridge may have no room or no database for it at the moment."""
        body = {"userId": user, "broker": place.broker}

        async def taken() -> bool:
            answer: Any = await place.api("POST", f"/api/{what}-session", key=APP_KEY, body=body)
            assert answer["_status"] in (202, 429, 503), answer
            return bool(answer["_status"] == 202)

        await eventually(taken, within_s=30, every_s=0.25, what=f"{what} is accepted")


@asynccontextmanager
async def soak_world(
    folder: Path, *, users: int, second_users: int, leaks: bool = False, postgres: bool = True, census: str = ""
) -> AsyncIterator[SoakWorld]:
    """Everything running and all sessions live."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(PostgresServer()) if postgres else None
        lines = {
            FIRST: [await stack.enter_async_context(fault_proxy())],
            SECOND: [await stack.enter_async_context(fault_proxy()) for _ in range(3)],
        }
        (channels,), (rest, stream, prices) = lines[FIRST], lines[SECOND]
        env = {
            "CTRADER_DEMO_URL": f"ws://127.0.0.1:{channels.port}",
            "CTRADER_CHANNELS": "2",
            "ALPACA_PAPER_URL": f"http://127.0.0.1:{rest.port}",
            "ALPACA_PAPER_STREAM_URL": f"ws://127.0.0.1:{stream.port}/stream",
            "ALPACA_DATA_URL": f"ws://127.0.0.1:{prices.port}",
            "ALPACA_REQUESTS_PER_MINUTE": str(ALPACA_PER_MINUTE * 9 // 10),
            "ALPACA_DIALS_PER_SECOND": "50",
            "ALPACA_POLL_SECONDS": "1",
            "CACHE_FLUSH_INTERVAL": "0.5",
            "LOG_LEVEL": "WARNING",
            **({"DATABASE_URL": await make_database(server, "soak"), "LEASE_TTL": str(LEASE_S)} if server else {}),
            **({"SOAK_LEAK": "1"} if leaks else {}),
            **({"SOAK_CENSUS": census} if census else {}),
        }
        running = running_world(
            folder,
            users=max(users, second_users),
            simulator_arguments=(
                *("--alpaca-slot-seconds", str(SLOT_S)),
                *("--alpaca-requests-per-minute", str(ALPACA_PER_MINUTE)),
            ),
            bridge_env=env,
            bridge_module="tests.support.soak_bridge",
        )
        world = await stack.enter_async_context(running)
        channels.target = world.ports["ctrader"]
        for line in lines[SECOND]:
            line.target = world.ports["alpaca"]
        everybody = list(world.users)
        places = {FIRST: world, SECOND: world.at(SECOND, everybody[:second_users])}
        world.users = everybody[:users]
        heard = {FIRST: Lines(channels), SECOND: Lines(rest, stream)}
        watchers = {
            broker: stack.enter_context(
                Watcher(world.valkey.url, {user: record_key(user, broker) for user in place.users}, heard[broker])
            )
            for broker, place in places.items()
        }
        for place in places.values():
            await place.start_all()
        yield SoakWorld(places, lines, watchers, server)
