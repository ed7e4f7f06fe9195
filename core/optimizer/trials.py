"""Trials and their outcomes: plain values between searches, workers and journals.

An objective is called once a trial. Whatever it raises or returns wrongly becomes that trial's failure, which names the
parameters; other trials never notice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.optimizer.errors import BadInput, integer
from core.optimizer.space import Params

Metrics = Mapping[str, float]
Objective = Callable[[Params, int], Metrics]
"""`(params, seed) -> metrics`; must be picklable, and must draw all its chance from the seed."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One call to make."""

    index: int
    params: Params
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a trial: metrics, or the error that took their place (then `metrics` is empty)."""

    trial: Trial
    metrics: Metrics
    error: str | None = None

    def __str__(self) -> str:
        told = self.error if self.error is not None else dict(self.metrics)
        return f"trial {self.trial.index} with {dict(self.trial.params)}: {told}"


def trial_seed(seed: int, index: int) -> int:
    """The seed of trial `index`: 63 bits that depend on these two numbers alone, so on no order and no worker."""
    state = np.random.SeedSequence(entropy=seed, spawn_key=(index,)).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def trials_of(candidates: Iterable[Params], seed: int) -> tuple[Trial, ...]:
    """A trial for each candidate, in order. Raises BadInput for a seed below 0."""
    integer("seed", seed, 0)
    return tuple(Trial(index, dict(params), trial_seed(seed, index)) for index, params in enumerate(candidates))


def attempt(objective: Objective, trial: Trial) -> Outcome:
    """Call the objective once."""
    try:
        metrics = checked_metrics(objective(dict(trial.params), trial.seed))
    except Exception as cause:  # noqa: BLE001 - foreign code: whatever it raises is the outcome of its own trial
        return Outcome(trial, {}, f"{type(cause).__name__}: {cause}")
    return Outcome(trial, metrics)


def checked_metrics(metrics: Any) -> dict[str, float]:
    """Metrics as plain floats. Raises BadInput when they are no mapping of names to numbers, or one is nan.

    Infinities pass: they are ordered, and a profit factor without a loss is one.
    """
    if not isinstance(metrics, Mapping):
        raise BadInput("metrics", f"an objective returns a mapping of names to numbers, not {metrics!r}")
    checked: dict[str, float] = {}
    for name, value in metrics.items():
        if not isinstance(name, str):
            raise BadInput("metrics", f"a name must be a str, not {name!r}")
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise BadInput(f"metrics.{name}", f"must be a number, not {value!r}")
        if math.isnan(value):
            raise BadInput(f"metrics.{name}", "must not be nan")
        checked[name] = float(value)
    return checked
