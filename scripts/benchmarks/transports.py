"""The WebSocket implementations in our own hot path: receive, decode, normalise and apply, in turns on the same bytes.

Each against a bare `websockets` receive and decode loop of the same round, in floods (many prices in a read) and
written one by one (few in a read, which is what thousands of quiet sockets cost).
"""

from __future__ import annotations

import asyncio
from typing import Any

from scripts.benchmarks.children import Child, child
from scripts.benchmarks.frames import BATCH
from scripts.benchmarks.hot_path import receiving, words
from scripts.benchmarks.report import Row, Spread

ROUNDS = 9
FRAMES, SINGLE_FRAMES = 100_000, 20_000
ARMS = ("websockets", "picows", "aiohttp", "bare")
LOADS = {"prices": "in a flood", "one by one": "each price in a write of its own"}

Round = dict[str, dict[str, float]]


async def measure(quick: bool) -> list[Row]:
    async with receiving("transports_sender") as (doors, account, sender):
        ports = str(doors["ours"]), str(doors["bare"])
        async with child("transports_receiver", "uvloop", *ports, account, core=0) as receiver:
            known = await receiver.answer()
            rows: list[Row] = []
            for what in LOADS:
                rounds = await interleaved(sender, dict.fromkeys(ARMS, receiver), known, what, quick=quick)
                rows += [_row(name, what, rounds) for name in ARMS if name != "bare"]
            return rows


async def interleaved(
    sender: Child, receivers: dict[str, Child], known: dict[str, Any], what: str, *, quick: bool
) -> list[Round]:
    """Rounds in which each arm has its turn, in changing order; the first round warms up. `a@b`: a, in child b."""
    frames = (SINGLE_FRAMES if what == "one by one" else FRAMES) // (4 if quick else 1) // BATCH * BATCH
    names, rounds = list(receivers), list[Round]()
    for number in range(ROUNDS + 1):
        found: Round = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            await receivers[name].ask(of=name.partition("@")[0], frames=frames)  # armed: its clock runs
            command = {**known, "frames": frames, "what": what, "to": name}
            _, found[name] = await asyncio.gather(sender.ask(**command), receivers[name].answer())
            if found[name]["surplus"]:
                raise RuntimeError(f"{name} counted {found[name]['surplus']} frames that were not sent")
        if number:
            rounds.append(found)
    return rounds


def _row(name: str, what: str, rounds: list[Round]) -> Row:
    ratio = Spread.of([each["bare"]["cpuUs"] / each[name]["cpuUs"] for each in rounds])
    return Row(
        figure=f"transport {name}: the whole pipeline, {LOADS[what]}",
        ours=words([each[name] for each in rounds]),
        compared_with=f"bare websockets recv() and decode: {words([each['bare'] for each in rounds])}",
        ratio=ratio.text(2, " ×"),
        data={"rounds": rounds},
    )
