"""Price events on one connection: our whole adapter against the unmodified `ctrader-open-api`, on the same messages.

One sender, a receiving process each, rounds in turn. The official client has done its work when its callback has the
decoded event: it keeps no account. Rates are per second of the receiver's processor time.
"""

from __future__ import annotations

import asyncio

from scripts.benchmarks.children import Child, child, program
from scripts.benchmarks.frames import BATCH
from scripts.benchmarks.hot_path import FRAMES, Pair, receiving, words
from scripts.benchmarks.report import Row, Spread
from tests.support.official_client import PEERS_PROJECT, official_client_python

ROUNDS, QUICK_ROUNDS = 7, 3
OF_OURS = 4  # it is given a quarter of the events: it takes several times as long for each


async def measure(quick: bool) -> list[Row]:
    return await compared(FRAMES // (4 if quick else 1) // BATCH * BATCH, QUICK_ROUNDS if quick else ROUNDS)


async def compared(frames: int, rounds: int) -> list[Row]:
    python = await asyncio.to_thread(official_client_python)
    async with receiving() as (doors, account, sender):
        peer = str(PEERS_PROJECT / "ctrader_receiver.py")
        async with (
            child("hot_path_receiver", str(doors["ours"]), str(doors["bare"]), account, core=0) as ours,
            program(str(python), peer, str(doors["official"]), core=0) as theirs,
        ):
            known, _ = await ours.answer(), await theirs.answer()
            pairs = [
                await _pair(sender, {"ours": ours, "official": theirs}, known, frames, turned=bool(number % 2))
                for number in range(rounds + 1)
            ][1:]  # the first one warms up
    ratio = Spread.of([pair["official"]["cpuUs"] / pair["ours"]["cpuUs"] for pair in pairs])
    return [
        Row(
            figure="price events on one connection: receive, decode, normalise, apply",
            ours=words([pair["ours"] for pair in pairs]),
            compared_with="ctrader-open-api, until its callback has the event: "
            f"{words([pair['official'] for pair in pairs])}",
            ratio=ratio.text(1, " ×"),
            data={"rounds": pairs},
        )
    ]


async def _pair(
    sender: Child, receivers: dict[str, Child], known: dict[str, object], frames: int, *, turned: bool
) -> Pair:
    pair: Pair = {}
    for which in ("ours", "official") if turned else ("official", "ours"):
        count = frames if which == "ours" else frames // OF_OURS // BATCH * BATCH
        await receivers[which].ask(of=which, frames=count)  # armed: its clock runs
        command = {**known, "what": "prices", "frames": count}
        _, pair[which] = await asyncio.gather(sender.ask(to=which, **command), receivers[which].answer())
        if pair[which]["surplus"]:
            raise RuntimeError(f"{which} counted {pair[which]['surplus']} frames that were not sent")
    return pair
