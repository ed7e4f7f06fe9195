"""`./scripts/bench`: measure what was asked for, print one table, and write it with the machine's facts as JSON."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Collection, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import orjson
import uvloop

from scripts.benchmarks import growth, machine, plots
from scripts.benchmarks.parts import NAMES, parts
from scripts.benchmarks.report import Row, show

PART_WITHIN_S = 600.0
BUILD = Path("build")  # git ignores it

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--rows", default=",".join(NAMES), help="comma-separated parts (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter; figures scatter more")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where every reading goes (default: build/bench.json, growth.json)"
    )
    parser.add_argument("--growth", action="store_true", help="how cost grows with users, positions, prices, flushes")
    parser.add_argument("--plots", type=Path, metavar="FROM.json", help="draw what --growth measured into docs/plots")
    arguments = parser.parse_args()
    if arguments.plots is not None:
        plots.draw(arguments.plots)
        return
    wanted = arguments.rows.split(",")
    if unknown := sorted(set(wanted) - set(NAMES)):
        parser.error(f"unknown rows {', '.join(unknown)}; there are {', '.join(NAMES)}")
    found = machine.facts()
    print(machine.one_line(found), flush=True)
    document: dict[str, Any] = {"machine": found, "quick": arguments.quick}
    failed: list[str] = []
    if arguments.growth:
        document["growth"] = _to_the_end(growth.measure(quick=arguments.quick))
        growth.show(document["growth"])
    else:
        rows, failed = _to_the_end(_measured(wanted, quick=arguments.quick))
        show(rows)
        document |= {"rows": [row.as_json() for row in rows], "notMeasured": failed}
    for line in failed:
        print(f"not measured: {line}", file=sys.stderr)
    _write(arguments.json or BUILD / ("growth.json" if arguments.growth else "bench.json"), document)
    sys.exit(1 if failed else 0)  # a missed target is told, not punished


def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Run it; SIGTERM and Ctrl-C end it and the processes it started."""

    async def watched() -> T:
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        with contextlib.redirect_stdout(sys.stderr):  # what the parts have to say is not part of the table
            return uvloop.run(watched())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("ended before anything could be told")


async def _measured(wanted: Collection[str], *, quick: bool) -> tuple[list[Row], list[str]]:
    """The rows in the order of NAMES, and what could not be measured."""
    rows: dict[str, list[Row]] = {}
    failed: list[str] = []
    for names, measure in parts(wanted, quick=quick):
        began = time.perf_counter()
        try:
            async with asyncio.timeout(PART_WITHIN_S):
                rows |= await measure()
        except (AssertionError, RuntimeError, OSError, TimeoutError, ExceptionGroup) as error:
            failed.append(f"{', '.join(names)}: {error!r}"[:2000])
        print(f"measured {', '.join(names)} in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return [row for name in NAMES for row in rows.get(name, ())], failed


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    print(f"every reading is in {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
