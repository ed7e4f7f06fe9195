"""Implied volatility of batches of 35-option chains: ours beside `py_vollib_vectorized`, on the same prices.

Each is called in its own natural way: ours with a column for what a chain has in common, the other with all arrays of
one length, prepared beforehand. It runs in another process, in an environment of its own, and compiles itself before
the first round. Both must find the volatilities that the prices were made of, or nothing is told.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.greeks import implied_volatility, price
from scripts.benchmarks.children import Child, child
from scripts.benchmarks.report import Row, Spread, at_least
from tests.support.official_client import pyvollib_python

STRIKES = 35
BATCH, BATCH_QUICK = 500, 200  # chains
ROUNDS, ROUNDS_QUICK = 7, 3
ROUND_S = 0.25
RATE, DIVIDEND_YIELD = 0.03, 0.01
AGREE = 1e-9


@dataclass(frozen=True)
class Chains:
    """Strikes within ±2.5 standard deviations, days to two years, calls and puts at random, a random smile."""

    sign: np.ndarray
    strike: np.ndarray
    years: np.ndarray  # a column
    volatility: np.ndarray
    price: np.ndarray

    @classmethod
    def random(cls, count: int, seed: int = 6) -> Chains:
        draw = np.random.default_rng(seed)
        years = np.exp(draw.uniform(np.log(2 / 365), np.log(2.0), (count, 1)))
        at_the_money = draw.uniform(0.1, 0.6, (count, 1))
        away = np.linspace(-2.5, 2.5, STRIKES)
        strike = 100.0 * np.exp(away * at_the_money * np.sqrt(years))
        volatility = at_the_money * (1.0 + draw.uniform(0.0, 0.03, (count, 1)) * np.square(away))
        sign = draw.choice([1.0, -1.0], (count, STRIKES))
        worth = price(sign, 100.0, strike, years, RATE, volatility, DIVIDEND_YIELD)
        return cls(sign, strike, years, volatility, worth)

    def solved(self) -> np.ndarray:
        found = implied_volatility(self.sign, self.price, 100.0, self.strike, self.years, RATE, DIVIDEND_YIELD)
        return np.asarray(found.volatility)

    def flat(self) -> dict[str, np.ndarray]:
        """What the other takes."""
        shape = self.price.shape
        return {
            "price": self.price.ravel(),
            "spot": np.full(self.price.size, 100.0),
            "strike": self.strike.ravel(),
            "years": np.broadcast_to(self.years, shape).ravel(),
            "flag": np.where(self.sign > 0, "c", "p").ravel(),
            "rate": np.full(self.price.size, RATE),
            "dividend_yield": np.full(self.price.size, DIVIDEND_YIELD),
        }


async def measure(quick: bool) -> list[Row]:
    python = await asyncio.to_thread(pyvollib_python)
    with tempfile.TemporaryDirectory() as folder:
        return [
            await _row(Chains.random(count), Path(folder), python, ROUNDS_QUICK if quick else ROUNDS, judged=count > 1)
            for count in (BATCH_QUICK if quick else BATCH, 1)
        ]


async def _row(chains: Chains, folder: Path, python: Path, rounds: int, *, judged: bool) -> Row:
    count = len(chains.price)
    inputs, answers = folder / f"{count}.npz", folder / f"{count}.npy"
    np.savez(inputs, **chains.flat())
    ours: list[float] = []
    theirs: list[float] = []
    async with child("greeks_pyvollib", str(inputs), str(answers), python=python) as other:
        await other.answer()
        _same(chains.solved(), chains.volatility, "our volatilities")
        _same(np.load(answers).reshape(chains.price.shape), chains.volatility, "those of py_vollib_vectorized")
        for _ in range(rounds):
            ours.append(per_call_s(chains.solved) / count * 1e6)
            theirs.append(await _their_round(other) / count * 1e6)
    ratio = Spread.of([other / own for own, other in zip(ours, theirs, strict=True)])
    batch = f"{count} chains at once" if judged else "one chain at a time"
    return Row(
        figure=f"implied volatility of {STRIKES}-option chains, {batch}",
        ours=f"{Spread.of(ours).median:.2f} µs a chain",
        compared_with=f"py_vollib_vectorized: {Spread.of(theirs).median:.2f} µs a chain",
        ratio=ratio.text(1, " ×"),
        target=at_least(10, " ×") if judged else None,
        value=ratio.median if judged else None,
        data={"chains": count, "oursUs": ours, "theirsUs": theirs},
    )


async def _their_round(other: Child) -> float:
    return float((await other.ask(seconds=ROUND_S))["perCallS"])


def _same(found: np.ndarray, expected: np.ndarray, whose: str) -> None:
    worst = float(np.max(np.abs(found - expected)))
    if not worst < AGREE:
        raise RuntimeError(f"{whose} are wrong by up to {worst:.1e}")


def per_call_s(call: Callable[[], object]) -> float:
    """The least time of a call within a short round: what the others on the machine do only ever adds."""
    best, end = float("inf"), time.perf_counter() + ROUND_S
    while (began := time.perf_counter()) < end:
        call()
        best = min(best, time.perf_counter() - began)
    return best
