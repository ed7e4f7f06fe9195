"""`./scripts/bench`: measure what was asked for, print one table, and write it with the machine's facts as JSON."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import orjson
import uvloop

from scripts.benchmarks import (
    account_read,
    alpaca_events,
    alpaca_memory,
    event_store,
    flush,
    greeks_iv,
    hot_path,
    machine,
    memory,
    recovery,
)
from scripts.benchmarks.crowd import crowd, start
from scripts.benchmarks.report import Row, show
from tests.support.world import World

ROWS = (
    *("hot-path", "flush", "event-store", "account", "mass-cut", "cuts", "memory"),
    *("alpaca-events", "alpaca-memory", "greeks-iv"),
)
ON_THE_CROWD = ("event-store", "account", "mass-cut")  # in this order: the cut comes last
PART_WITHIN_S = 420.0

Part = tuple[str, Callable[[], Awaitable[list[Row]]]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--rows", default=",".join(ROWS), help="comma-separated parts (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter; figures scatter more")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write rows, raw readings and machine facts")
    arguments = parser.parse_args()
    wanted = arguments.rows.split(",")
    if unknown := sorted(set(wanted) - set(ROWS)):
        parser.error(f"unknown rows {', '.join(unknown)}; there are {', '.join(ROWS)}")
    found = machine.facts()
    print(machine.one_line(found), flush=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what the parts have to say is not part of the table
            rows, failed = uvloop.run(_run(wanted, quick=arguments.quick))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("ended before anything could be told")
    show(rows)
    for line in failed:
        print(f"not measured: {line}", file=sys.stderr)
    if arguments.json is not None:
        document = {"machine": found, "rows": [row.as_json() for row in rows], "notMeasured": failed}
        document["quick"] = arguments.quick
        arguments.json.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    sys.exit(1 if failed else 0)  # a missed target is told, not punished


async def _run(wanted: Sequence[str], *, quick: bool) -> tuple[list[Row], list[str]]:
    """The rows, and what could not be measured."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    rows: list[Row] = []
    failed: list[str] = []
    for name, part in _parts(wanted, quick=quick):
        began = time.perf_counter()
        try:
            async with asyncio.timeout(PART_WITHIN_S):
                rows += await part()
        except (AssertionError, RuntimeError, OSError, TimeoutError, ExceptionGroup) as error:
            failed.append(f"{name}: {error!r}"[:2000])
        print(f"measured {name} in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return rows, failed


def _parts(wanted: Sequence[str], *, quick: bool) -> list[Part]:
    alone: dict[str, Callable[[], Awaitable[list[Row]]]] = {
        "hot-path": lambda: hot_path.measure(quick),
        "flush": lambda: flush.measure(quick),
        "cuts": lambda: recovery.single_cuts(quick),
        "memory": lambda: memory.measure(quick),
        "alpaca-events": lambda: alpaca_events.measure(quick),
        "alpaca-memory": lambda: alpaca_memory.measure(quick),
        "greeks-iv": lambda: greeks_iv.measure(quick),
    }
    parts: list[Part] = []
    shared = [name for name in ON_THE_CROWD if name in wanted]
    for name in ROWS:
        if name in alone and name in wanted:
            parts.append((name, alone[name]))
        elif shared and name == shared[0]:
            parts.append((", ".join(shared), lambda: _on_the_crowd(shared, quick=quick)))
    return parts


async def _on_the_crowd(wanted: Sequence[str], *, quick: bool) -> list[Row]:
    """The parts that need many live sessions share one world."""
    users = 300 if quick else 1_000
    rows: list[Row] = []
    async with crowd(users, requests_per_second=recovery.MASS_RATE) as world:
        await start(world, world.users, live=users, within_s=120)
        for name in wanted:
            rows += await _one(name, world, quick=quick)
    return rows


async def _one(name: str, world: World, *, quick: bool) -> list[Row]:
    match name:
        case "event-store":
            return await event_store.measure(world, quick)
        case "account":
            return await account_read.measure(world, quick)
        case _:
            return await recovery.mass_cut(world, rate=recovery.MASS_RATE * 0.9)


if __name__ == "__main__":
    main()
