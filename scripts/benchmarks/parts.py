"""The one list of what can be measured.

A new row is a module with `async def measure(quick: bool) -> list[Row]` and one line in `ALONE`; what needs a crowd of
live sessions shares one world and gets its line in `ON_THE_CROWD`. The table shows the parts in the order of `NAMES`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from scripts.benchmarks import (
    account_read,
    alpaca_events,
    alpaca_memory,
    backtesters,
    channels,
    event_store,
    fan_in,
    flush,
    freshness,
    greeks_iv,
    hot_path,
    memory,
    official_prices,
    recovery,
    runtime,
    transports,
)
from scripts.benchmarks.crowd import crowd, start
from scripts.benchmarks.report import Row
from tests.support.world import World

ALONE: dict[str, Callable[[bool], Awaitable[list[Row]]]] = {
    "hot-path": hot_path.measure,
    "official-prices": official_prices.measure,
    "fan-in": fan_in.measure,
    "memory": memory.measure,
    "flush": flush.measure,
    "cuts": recovery.single_cuts,
    "channels": channels.measure,
    "freshness": freshness.measure,
    "transports": transports.measure,
    "runtime": runtime.measure,
    "collections": runtime.collections,
    "alpaca-events": alpaca_events.measure,
    "alpaca-memory": alpaca_memory.measure,
    "greeks-iv": greeks_iv.measure,
    "backtesters": backtesters.measure,
}
ON_THE_CROWD: dict[str, Callable[[World, bool], Awaitable[list[Row]]]] = {
    "event-store": event_store.measure,
    "account": account_read.measure,
    "mass-cut": recovery.mass_cut,  # last: it cuts them all
}
NAMES = (
    *("hot-path", "official-prices", "fan-in", "memory", "flush", "cuts", "channels", "mass-cut", "freshness"),
    *("event-store", "account", "alpaca-events", "alpaca-memory", "transports", "runtime", "collections"),
    *("greeks-iv", "backtesters"),
)

Part = tuple[tuple[str, ...], Callable[[], Awaitable[dict[str, list[Row]]]]]


def parts(wanted: Collection[str], *, quick: bool) -> list[Part]:
    """What is to be done for the wanted names, each with the names it yields rows for."""
    found: list[Part] = [((name,), _alone(name, quick)) for name in NAMES if name in ALONE and name in wanted]
    if shared := tuple(name for name in ON_THE_CROWD if name in wanted):
        found.append((shared, lambda: _on_the_crowd(shared, quick)))
    return found


def _alone(name: str, quick: bool) -> Callable[[], Awaitable[dict[str, list[Row]]]]:
    async def measured() -> dict[str, list[Row]]:
        return {name: await ALONE[name](quick)}

    return measured


async def _on_the_crowd(wanted: Collection[str], quick: bool) -> dict[str, list[Row]]:
    users = 300 if quick else 1_000
    async with crowd(users, requests_per_second=recovery.MASS_RATE) as world:
        await start(world, world.users, live=users, within_s=120)
        return {name: await ON_THE_CROWD[name](world, quick) for name in wanted}
