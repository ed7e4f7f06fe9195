"""Bayesian search through optuna's tree-structured Parzen estimator; an optional extra (`library-bayes`).

Candidates are asked for in batches of a fixed size and their results told in the order of the trials, so that neither
the number of workers nor a kill and a resume changes what is tried. Optuna is imported when a search begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from core.errors import ConfigurationError
from core.optimizer.errors import BadInput, integer
from core.optimizer.running import DEFAULTS, Optimisation, Runner, RunSettings, metric_of
from core.optimizer.space import Choice, Integer, Log, Parameter, Params, Real, Space
from core.optimizer.trials import Objective, Outcome, Trial, trial_seed


def bayes_search(
    objective: Objective,
    space: Space,
    metric: str,
    *,
    trials: int,
    seed: int,
    maximise: bool = True,
    batch: int = 4,
    settings: RunSettings = DEFAULTS,
) -> Optimisation:
    """Try `trials` candidates, each batch chosen by what the batches before it gave.

    batch: candidates chosen at once; as many workers as that can be busy, and a smaller one learns sooner. It belongs
    to the result as the seed does. Errors as with `running.optimise`; a trial that fails is told as failed.
    Raises ConfigurationError without optuna.
    """
    integer("trials", trials, 1)
    integer("batch", batch, 1)
    integer("seed", seed, 0)
    optuna = _optuna()
    axes = {name: _distribution(optuna, axis) for name, axis in space.parameters.items()}
    identity: Mapping[str, object] = {
        "seed": seed, "metric": metric, "maximise": maximise, "batch": batch, "space": repr(space),
        "search": f"optuna {optuna.__version__} TPE",
    }  # fmt: skip
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=trial_seed(seed, 0) % 2**32),
        direction="maximize" if maximise else "minimize",
    )
    outcomes: list[Outcome] = []
    with Runner(objective, settings, identity, trials) as runner:
        while len(outcomes) < trials:
            asked = [study.ask(axes) for _ in range(min(batch, trials - len(outcomes)))]
            found = runner.run(
                [
                    Trial(index, _params(space, one.params), trial_seed(seed, index))
                    for index, one in enumerate(asked, len(outcomes))
                ]
            )
            outcomes += found.outcomes
            if not found.complete:
                break
            for one, outcome in zip(asked, found.outcomes, strict=True):
                _tell(optuna, study, one, outcome, metric)
    return Optimisation(tuple(outcomes), len(outcomes) == trials)


def _optuna() -> Any:
    try:
        optuna: Any = import_module("optuna")
    except ImportError as cause:
        raise ConfigurationError("Bayesian search needs optuna: pip install '.[library-bayes]'") from cause
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # progress is told through the callback
    return optuna


def _distribution(optuna: Any, axis: Parameter) -> Any:
    match axis:
        case Integer():
            return optuna.distributions.IntDistribution(axis.low, axis.high, step=axis.step)
        case Real():
            return optuna.distributions.FloatDistribution(axis.low, axis.high)
        case Log():
            return optuna.distributions.FloatDistribution(axis.low, axis.high, log=True)
        case Choice():  # by place: optuna would take 1, 1.0 and True for the same
            return optuna.distributions.CategoricalDistribution(tuple(range(len(axis.values))))
    raise BadInput("space", f"Bayesian search knows no {type(axis).__name__}")


def _params(space: Space, drawn: Mapping[str, Any]) -> Params:
    values = {
        name: axis.values[drawn[name]] if isinstance(axis, Choice) else drawn[name]
        for name, axis in space.parameters.items()
    }
    return space.check(values)


def _tell(optuna: Any, study: Any, one: Any, outcome: Outcome, metric: str) -> None:
    if outcome.error is None:
        study.tell(one, metric_of(outcome, metric))
    else:
        study.tell(one, state=optuna.trial.TrialState.FAIL)
