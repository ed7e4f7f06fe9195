"""What the choices for the whole process rest on: the TLS context, the event loop, the garbage collector.

Dials and memory: our own `open_socket` against a TLS server, a process for each arm. Event loop: the hot path of
`transports` in two processes, in turns. Collector: the bridge with thousands of live sessions, as served and as Python
would have it; pauses are noted from the last login on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from scripts.benchmarks.children import child
from scripts.benchmarks.crowd import crowd, start
from scripts.benchmarks.hot_path import receiving, words
from scripts.benchmarks.report import Row, Spread
from scripts.benchmarks.transports import LOADS, interleaved
from tests.support.waiting import eventually

DIALS, DIALS_OF_OWN_CONTEXTS, DIAL_ROUNDS = 600, 100, 3
SESSIONS = 5_000
STEADY_S = 30.0
LOGINS_PER_SECOND = 5000
LIVE_WITHIN_S = 240.0

Reading = dict[str, Any]
CONTEXTS = {"shared": "one context for all", "own": "a context each"}
SERVED = ("uvloop", "websockets", "shared")
DIAL_ARMS = (
    SERVED,
    ("uvloop", "websockets", "own"),
    ("asyncio", "websockets", "shared"),
    ("uvloop", "picows", "shared"),
    ("asyncio", "picows", "shared"),
    ("uvloop", "aiohttp", "shared"),
)


async def measure(quick: bool) -> list[Row]:
    return [*await _dials(quick), *await _loops(quick)]


async def _dials(quick: bool) -> list[Row]:
    found: dict[tuple[str, ...], list[Reading]] = {arm: [] for arm in DIAL_ARMS}
    with tempfile.TemporaryDirectory() as folder:
        async with child("dials_server", folder, core=1) as server:
            door = await server.answer()
            where = (f"wss://127.0.0.1:{door['port']}", door["ca"])
            for _ in range(1 if quick else DIAL_ROUNDS):
                for arm in DIAL_ARMS:
                    count = DIALS_OF_OWN_CONTEXTS if "own" in arm else DIALS
                    async with child("dials_child", *arm, *where, str(count), core=0) as dialling:
                        found[arm].append(await dialling.answer())
    return [_dial_row(arm, found[arm], found[SERVED]) for arm in DIAL_ARMS]


def _dial_row(arm: tuple[str, ...], found: Sequence[Reading], served: Sequence[Reading]) -> Row:
    loop, transport, contexts = arm
    ratio = Spread.of([one["cpuMs"] / other["cpuMs"] for one, other in zip(found, served, strict=True)])
    return Row(
        figure=f"a socket over TLS: {transport} on {loop}, {CONTEXTS[contexts]}",
        ours=_cost(found),
        compared_with=f"as served: {_cost(served)}",
        ratio=f"processor time {ratio.text(2, ' ×')}, memory {_kib(found) / _kib(served):.1f} ×",
        data={"arm": arm, "readings": list(found)},
    )


def _cost(found: Sequence[Reading]) -> str:
    return f"{statistics.median(one['cpuMs'] for one in found):.2f} ms of processor time, {_kib(found):.0f} KiB"


def _kib(found: Sequence[Reading]) -> float:
    return statistics.median(float(one["kib"]) for one in found)


async def _loops(quick: bool) -> list[Row]:
    rows: list[Row] = []
    async with receiving("transports_sender") as (doors, account, sender):
        ports = str(doors["ours"]), str(doors["bare"])
        for what in LOADS:
            rounds = {}
            for loop in ("uvloop", "asyncio"):  # one after the other: each takes the newest connections of the sender
                async with child("transports_receiver", loop, *ports, account, core=0) as receiver:
                    known = await receiver.answer()
                    arms = dict.fromkeys(("websockets", "bare"), receiver)
                    rounds[loop] = await interleaved(sender, arms, known, what, quick=quick)
            ours = {loop: [each["websockets"] for each in found] for loop, found in rounds.items()}
            pairs = zip(ours["asyncio"], ours["uvloop"], strict=True)
            ratio = Spread.of([slow["cpuUs"] / fast["cpuUs"] for slow, fast in pairs])
            rows.append(
                Row(
                    figure=f"event loop uvloop: the whole pipeline, {LOADS[what]}",
                    ours=words(ours["uvloop"]),
                    compared_with=f"asyncio's own loop: {words(ours['asyncio'])}",
                    ratio=ratio.text(2, " ×"),
                    data={"rounds": rounds},
                )
            )
    return rows


async def collections(quick: bool) -> list[Row]:
    sessions = SESSIONS // 5 if quick else SESSIONS
    served, default = [await _collected(arm, sessions) for arm in ("served", "default")]
    longest = [max(each["maxMs"] for each in one["generations"].values()) for one in (served, default)]
    return [
        Row(
            figure=f"garbage collection with {sessions:,} live sessions, {STEADY_S:.0f} s of prices and flushes",
            ours=_pauses(served),
            compared_with=f"Python's own settings: {_pauses(default)}",
            ratio=f"longest pause {longest[0]:.1f} ms and {longest[1]:.1f} ms",
            data={"served": served, "default": default},
        )
    ]


def _pauses(one: Reading) -> str:
    parts = [
        f"generation {name}: {each['count']} × up to {each['maxMs']:.1f} ms"
        for name, each in one["generations"].items()
        if each["count"]
    ]
    whole = f"a whole collection takes {one['wholeMs']:.0f} ms of {one['tracked']:,} objects"
    return f"{', '.join(parts) or 'none'}; {whole}"


async def _collected(arm: str, sessions: int) -> Reading:
    """The collections of a serving process over some steady seconds, and what a whole one takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "collections.json"
        env = {"BENCH_GC": arm, "BENCH_GC_REPORT": str(path)}
        async with crowd(
            sessions,
            requests_per_second=LOGINS_PER_SECOND,
            env=env,
            bridge_module="scripts.benchmarks.collecting",
        ) as world:
            await start(world, world.users, live=sessions, within_s=LIVE_WITHIN_S)
            await _reported(world.bridge.pid, path)  # what the logins left is over
            await asyncio.sleep(STEADY_S)
            return await _reported(world.bridge.pid, path)


async def _reported(pid: int, path: Path) -> Reading:
    _ask(pid, path)

    async def written() -> bool:
        return _read(path) is not None

    await eventually(written, within_s=30, what="the process says what it collected")
    return _read(path) or {}


def _ask(pid: int, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)


def _read(path: Path) -> Reading | None:
    try:
        return dict(orjson.loads(path.read_bytes()))
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None  # not yet, or not to its end
