"""The hot path: receive, decode, normalise and apply events on one channel, against a bare receive and decode loop.

One sender, one receiving process, the same bytes, rounds in turn. Rates are per second of the receiver's processor
time: the clock would also tell of whoever else uses the machine.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from scripts.benchmarks.children import Child, child
from scripts.benchmarks.frames import BATCH
from scripts.benchmarks.report import Row, Spread, Target, at_least
from tests.support.processes import bridge_process

ROUNDS = 9
FRAMES = 200_000
LEAST_BUSY = 0.9

Pair = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Kind:
    words: str
    target: Target | None


PRICES = Kind("price events", at_least(0.9, " ×"))
AMENDMENTS = Kind("order amendments", None)


async def measure(quick: bool) -> list[Row]:
    frames = (FRAMES // 4 if quick else FRAMES) // BATCH * BATCH
    return await compared(frames, ROUNDS)


async def compared(frames: int, rounds: int) -> list[Row]:
    async with (
        receiving() as (doors, account, sender),
        child("hot_path_receiver", str(doors["ours"]), str(doors["bare"]), account, core=0) as receiver,
    ):
        known = {**await receiver.answer(), "frames": frames}
        rows = [_row(PRICES, await _rounds(sender, receiver, {**known, "what": "prices"}, rounds))]
        async with aiohttp.ClientSession(doors["admin"], raise_for_status=True) as admin:
            await _order(admin, account, type="limit", limitPrice=0.9)
        known["frames"] //= 4
        rows.append(_row(AMENDMENTS, await _rounds(sender, receiver, {**known, "what": "amendments"}, rounds)))
        return rows


@asynccontextmanager
async def receiving(module: str = "hot_path_sender") -> AsyncIterator[tuple[dict[str, Any], str, Child]]:
    """A simulator behind a sender: the sender's ports (and the simulator's admin address), an account, the sender."""
    with tempfile.TemporaryDirectory() as folder:
        async with bridge_process(
            *("simulate", "--free-ports", "--users", "1", "--prices", "frozen", "--cert-dir", folder),
            *("--credentials", str(Path(folder) / "credentials.json")),
        ) as simulator:
            ports = json.loads(await simulator.line(lambda line: line.startswith("{"), within_s=60))
            address = f"http://127.0.0.1:{ports['admin']}"
            async with aiohttp.ClientSession(address, raise_for_status=True) as admin:
                account = await _account_with_positions(admin)
            async with child(module, f"ws://127.0.0.1:{ports['ctrader']}", core=1) as sender:
                yield {**await sender.answer(), "admin": address}, account, sender


async def _account_with_positions(admin: aiohttp.ClientSession) -> str:
    """The first user's first account, with two positions."""
    async with admin.get("/sim/accounts") as answer:
        account = str((await answer.json())["accounts"][0]["accountId"])
    await _order(admin, account)
    await _order(admin, account, symbol="USDJPY")
    return account


async def _order(admin: aiohttp.ClientSession, account: str, **more: object) -> None:
    body = {"symbol": "EURUSD", "side": "buy", "type": "market", "units": 1000, **more}
    async with admin.post(f"/sim/accounts/{account}/order", json=body):
        pass


async def _rounds(sender: Child, receiver: Child, command: dict[str, Any], rounds: int) -> list[Pair]:
    """Pairs of rounds, each receiver first in every other one; the first pair warms up."""
    pairs: list[Pair] = []
    for number in range(rounds + 1):
        order = ("ours", "bare") if number % 2 else ("bare", "ours")
        pair: Pair = {}
        for which in order:
            await receiver.ask(of=which, frames=command["frames"])  # armed: its clock runs
            _, pair[which] = await asyncio.gather(sender.ask(to=which, **command), receiver.answer())
            if pair[which]["surplus"]:
                raise RuntimeError(f"{which} counted {pair[which]['surplus']} frames that were not sent")
        if number:
            pairs.append(pair)
    return pairs


def _row(kind: Kind, pairs: list[Pair]) -> Row:
    ratio = Spread.of([pair["bare"]["cpuUs"] / pair["ours"]["cpuUs"] for pair in pairs])
    return Row(
        figure=f"hot path: receive, decode, normalise, apply {kind.words} on one channel",
        ours=words([pair["ours"] for pair in pairs]),
        compared_with=f"bare websockets recv() and decode: {words([pair['bare'] for pair in pairs])}",
        ratio=ratio.text(2, " ×"),
        target=kind.target,
        value=None if kind.target is None else ratio.median,
        data={"rounds": pairs},
    )


def words(results: list[dict[str, float]]) -> str:
    """Events per second of processor time; on the clock too when the receiver had its core for itself."""
    cpu_us = statistics.median(result["cpuUs"] for result in results)
    busy = statistics.median(result["busy"] for result in results)
    rate = statistics.median(result["perSecond"] for result in results)
    clock = f", {rate / 1000:.0f} k/s on the clock" if busy >= LEAST_BUSY else ""
    return f"{1000 / cpu_us:.0f} k/s of processor time ({cpu_us:.2f} µs each){clock}"
