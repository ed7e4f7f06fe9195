"""What else could have happened: trades in another order, other draws of the same trades, slightly other parameters.

Blocks and confidence intervals are in `bootstrap`. Every draw comes from the given seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from core.optimizer.bootstrap import Kind, block_indices
from core.optimizer.errors import BadInput, Floats, finite, integer, real
from core.optimizer.running import Optimisation, metric_of
from core.optimizer.space import Choice, Params, Space, Value

CELLS = 2_000_000  # numbers held at a time


@dataclass(frozen=True, slots=True)
class Paths:
    """One number for each path: its last and lowest equity, its deepest fall from a peak in money and as a share.

    The first equity, `start`, counts as a peak and as a low.
    """

    start: float
    final: Floats
    lowest: Floats
    drawdown: Floats
    drawdown_share: Floats

    def ruin(self, level: float) -> float:
        """The share of paths that touch `level` or less."""
        return float(np.mean(self.lowest <= real("level", level)))


def shuffle_trades(results: Floats, *, start: float, runs: int, seed: int, compounding: bool = False) -> Paths:
    """Paths of the same trades in random orders: their sum stays, the way there does not.

    results: profit of each trade in money, or as a share of the equity before it when `compounding` (then >= -1, and
    equity = start * Π (1 + r)). start: equity before the first, > 0. Raises BadInput.
    """
    trades = _trades(results, compounding)
    integer("runs", runs, 1)
    random = np.random.default_rng(integer("seed", seed, 0))
    parts = (
        random.permuted(np.broadcast_to(trades, (count, len(trades))), axis=1) for count in _parts(runs, len(trades))
    )
    return _paths(parts, start, compounding)


def resample_trades(
    results: Floats, *, start: float, runs: int, seed: int, block: int = 1, kind: Kind = "circular",
    compounding: bool = False,
) -> Paths:  # fmt: skip
    """Paths of trades drawn anew, in blocks to keep what neighbours have in common; else as `shuffle_trades`."""
    trades = _trades(results, compounding)
    integer("runs", runs, 1)
    seeds = np.random.SeedSequence(integer("seed", seed, 0))
    parts = (
        trades[block_indices(len(trades), count, block, kind, int(own.generate_state(1, np.uint64)[0]))]
        for count, own in zip(_parts(runs, len(trades)), _children(seeds), strict=False)
    )
    return _paths(parts, start, compounding)


def jittered(space: Space, params: Params, *, count: int, scale: float, seed: int) -> tuple[Params, ...]:
    """`count` neighbours of `params` to try with `optimise`: a strategy worth having is about as good there.

    Each parameter moves on its axis by a normal step of `scale` (a share of the axis' length, in (0, 1); in logarithms
    for log parameters), reflected at the ends. Choices have no neighbours and stay. Raises BadInput.
    """
    integer("count", count, 1)
    if not 0.0 < real("scale", scale) < 1.0:
        raise BadInput("scale", f"must lie strictly between 0 and 1, not {scale}")
    base = space.check(params)
    units = [axis.unit(base[name]) for name, axis in space.parameters.items()]
    steps = np.random.default_rng(integer("seed", seed, 0)).normal(0.0, scale, (count, len(units)))
    moved = np.abs((np.array(units) + steps + 1.0) % 2.0 - 1.0)  # a mirror at 0 and at 1
    made: list[Params] = []
    for row in moved.tolist():
        near: dict[str, Value] = space.at(row)
        made.append({name: base[name] if isinstance(space.parameters[name], Choice) else near[name] for name in near})
    return tuple(made)


@dataclass(frozen=True, slots=True)
class Robustness:
    """A metric over neighbours: `kept` is the median neighbour / the base, 1 on a plateau, near 0 on a lone peak."""

    base: float
    median: float
    worst: float
    best: float
    kept: float | None  # None when the base is 0
    failed: int


def robustness(base: float, neighbours: Optimisation, metric: str) -> Robustness:
    """Judge a metric by what `optimise` found for `jittered` candidates. Raises BadInput when none succeeded."""
    real("base", base)
    values = [metric_of(outcome, metric) for outcome in neighbours.succeeded]
    if not values:
        raise BadInput("neighbours", "no neighbour succeeded")
    median = float(np.median(values))
    kept = median / base if base else None
    return Robustness(base, median, min(values), max(values), kept, len(neighbours.failed))


def _trades(results: Floats, compounding: bool) -> Floats:
    trades = finite("results", results)
    if compounding and (trades < -1.0).any():
        raise BadInput("results", "a share of equity cannot be below -1", row=int(np.argmax(trades < -1.0)))
    return trades


def _parts(runs: int, width: int) -> Iterator[int]:
    """Numbers of runs that add up to `runs`."""
    most = max(CELLS // width, 1)
    for begun in range(0, runs, most):
        yield min(most, runs - begun)


def _children(seeds: np.random.SeedSequence) -> Iterator[np.random.SeedSequence]:
    while True:
        yield seeds.spawn(1)[0]


def _paths(parts: Iterator[Floats], start: float, compounding: bool) -> Paths:
    if real("start", start) <= 0.0:
        raise BadInput("start", f"must be above 0, not {start}")
    rows = [_summary(part, start, compounding) for part in parts]
    final, lowest, drawdown, share = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Paths(start, final, lowest, drawdown, share)


def _summary(trades: Floats, start: float, compounding: bool) -> tuple[Floats, Floats, Floats, Floats]:
    walked = start * np.cumprod(1.0 + trades, axis=1) if compounding else start + np.cumsum(trades, axis=1)
    equity = np.concatenate((np.full((len(trades), 1), start), walked), axis=1)
    peak = np.maximum.accumulate(equity, axis=1)
    fall = peak - equity
    return equity[:, -1], equity.min(axis=1), fall.max(axis=1), (fall / peak).max(axis=1)
