"""Alpaca's trade updates: receive, decode, normalise and apply, against the unmodified `alpaca-py` on the same frames.

One sender, a receiving process each, the same bytes, rounds in turn. `alpaca-py` has done its work when it calls the
handler with its parsed `TradeUpdate`: it keeps no account. Rates are per second of the receiver's processor time.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import aiohttp

from scripts.benchmarks.alpaca_sender import BATCH, LIFE, ORDERS
from scripts.benchmarks.children import Child, child
from scripts.benchmarks.hot_path import Pair, words
from scripts.benchmarks.report import Row, Spread, at_least
from tests.support.official_client import alpaca_py_python
from tests.support.processes import bridge_process
from tests.support.waiting import eventually

ROUNDS = 9
FRAMES = 20_000
REASON = (
    "the margin is small, and goes with the interpreter: Debian's Python 3.11.2 does alpaca-py's work in 32 µs, one "
    "built without such optimisation (3.11.7) in 36, while ours needs 11 and 12"
)
KEYS = {"APCA-API-KEY-ID": "SIMKEY1", "APCA-API-SECRET-KEY": "sim-alpaca-secret-1"}


async def measure(quick: bool) -> list[Row]:
    frames = (FRAMES // 4 if quick else FRAMES) // BATCH * BATCH
    python = await asyncio.to_thread(alpaca_py_python)
    with tempfile.TemporaryDirectory() as folder:
        async with bridge_process(
            *("simulate", "--free-ports", "--users", "1", "--prices", "frozen", "--cert-dir", folder),
            *("--credentials", str(Path(folder) / "credentials.json")),
        ) as simulator:
            ports = json.loads(await simulator.line(lambda line: line.startswith("{"), within_s=60))
            rest = f"http://127.0.0.1:{ports['alpaca']}"
            async with (
                aiohttp.ClientSession(rest, headers=KEYS, raise_for_status=True) as trading,
                child("alpaca_sender", f"{rest.replace('http', 'ws')}/stream", core=1) as sender,
            ):
                doors = await sender.answer()
                account = await _account_with_positions(trading)
                async with (
                    child("alpaca_receiver", rest, str(doors["ours"]), account, core=0) as ours,
                    child("alpaca_py_receiver", str(doors["theirs"]), core=0, python=python) as theirs,
                ):
                    await asyncio.gather(ours.answer(), theirs.answer())
                    await _show_orders(trading, sender)
                    return [_row(await _rounds(sender, {"ours": ours, "theirs": theirs}, frames))]


async def _account_with_positions(trading: aiohttp.ClientSession) -> str:
    """The first user's paper account, with two positions."""
    for symbol in ("AAPL", "MSFT"):
        await _order(trading, symbol, "buy")
    async with trading.get("/v2/account") as answer:
        return str((await answer.json())["id"])


async def _show_orders(trading: aiohttp.ClientSession, sender: Child) -> None:
    """Let the sender see a purchase and a sale: what it sends is made of them."""
    for side in ("buy", "sell"):
        await _order(trading, "AAPL", side)

    async def seen() -> bool:
        return bool((await sender.ask(do="look"))["captured"] == ORDERS * len(LIFE))

    await eventually(seen, within_s=20, what="the sender saw the life of two orders")


async def _order(trading: aiohttp.ClientSession, symbol: str, side: str) -> None:
    body = {"symbol": symbol, "side": side, "type": "market", "qty": "10", "time_in_force": "day"}
    async with trading.post("/v2/orders", json=body):
        pass


async def _rounds(sender: Child, receivers: dict[str, Child], frames: int) -> list[Pair]:
    """Pairs of rounds on the same frames, each receiver first in every other one; the first pair warms up."""
    pairs: list[Pair] = []
    for number in range(ROUNDS + 1):
        prepared = await sender.ask(do="prepare", first=number * frames, frames=frames)
        pair: Pair = {}
        for which in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
            await receivers[which].ask(frames=frames)  # armed: its clock runs
            _, pair[which] = await asyncio.gather(sender.ask(do="blast", to=which), receivers[which].answer())
        _check(pair, prepared)
        if number:
            pairs.append(pair)
    return pairs


def _check(pair: dict[str, dict[str, Any]], prepared: dict[str, Any]) -> None:
    """Both took what was sent, no more and no less, and our account knows the last execution of it."""
    for which, result in pair.items():
        if result["surplus"]:
            raise RuntimeError(f"{which} counted {result['surplus']} events that were not sent")
    if pair["ours"].pop("last") != prepared["last"]:
        raise RuntimeError("the last execution that was sent is not the account's last")


def _row(pairs: list[Pair]) -> Row:
    ratio = Spread.of([pair["theirs"]["cpuUs"] / pair["ours"]["cpuUs"] for pair in pairs])
    return Row(
        figure="Alpaca events through the stream: receive, decode, normalise, apply (orders made and filled)",
        ours=words([pair["ours"] for pair in pairs]),
        compared_with=f"alpaca-py's TradingStream, until its handler is called: "
        f"{words([pair['theirs'] for pair in pairs])}",
        ratio=ratio.text(2, " ×"),
        target=at_least(3, " ×"),
        value=ratio.median,
        data={"rounds": pairs},
        reason=REASON,
    )
