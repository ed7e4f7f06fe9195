"""Walk-forward windows: train on the past, test on what follows, step on.

The windows are those of scikit-learn's `TimeSeriesSplit` for the same n_splits, max_train_size, test_size and gap, as
half-open spans of row numbers instead of index arrays. Invariant: what is chosen for a window was judged on its
training rows alone, and these all lie before its first test row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from core.errors import NotFound
from core.optimizer.errors import BadInput, integer
from core.optimizer.journal import fingerprint
from core.optimizer.running import DEFAULTS, Optimisation, Runner, RunSettings, metric_of
from core.optimizer.space import Params
from core.optimizer.trials import Metrics, Outcome, Trial, trial_seed, trials_of


@dataclass(frozen=True, slots=True)
class Span:
    """Rows start, start + 1, ..., stop - 1."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        """For cutting arrays: `bars.close[span.rows]`."""
        return slice(self.start, self.stop)


@dataclass(frozen=True, slots=True)
class Window:
    """Train, then test; `gap` rows lie between and belong to neither."""

    train: Span
    test: Span


def windows(
    samples: int, n_splits: int, *, max_train_size: int | None = None, test_size: int | None = None, gap: int = 0
) -> tuple[Window, ...]:
    """`n_splits` windows over `samples` rows, oldest first; the tests end with the last row and do not overlap.

    test_size: rows of each test, samples // (n_splits + 1) by default. gap: rows left out between train and test.
    max_train_size: None is anchored (every train starts at row 0), a number is rolling (no more rows than that).
    Raises BadInput when a number is out of range or the rows do not suffice for one training row.
    """
    integer("samples", samples, 1)
    integer("n_splits", n_splits, 2)
    integer("gap", gap, 0)
    if max_train_size is not None:
        integer("max_train_size", max_train_size, 1)
    if n_splits + 1 > samples:
        raise BadInput("n_splits", f"{n_splits} windows need at least {n_splits + 1} rows, there are {samples}")
    size = samples // (n_splits + 1) if test_size is None else integer("test_size", test_size, 1)
    first = samples - n_splits * size
    if first - gap <= 0:
        raise BadInput(
            "test_size", f"{n_splits} tests of {size} rows and a gap of {gap} leave no row of {samples} to train on"
        )
    return tuple(_window(start, size, gap, max_train_size) for start in range(first, samples, size))


def _window(start: int, size: int, gap: int, max_train_size: int | None) -> Window:
    stop = start - gap
    begin = 0 if max_train_size is None else max(0, stop - max_train_size)
    return Window(Span(begin, stop), Span(start, start + size))


def anchored(samples: int, n_splits: int, *, test_size: int | None = None, gap: int = 0) -> tuple[Window, ...]:
    """Windows whose training grows from row 0."""
    return windows(samples, n_splits, test_size=test_size, gap=gap)


def rolling(
    samples: int, n_splits: int, train_size: int, *, test_size: int | None = None, gap: int = 0
) -> tuple[Window, ...]:
    """Windows whose training keeps its length. Raises BadInput when the first has fewer than `train_size` rows."""
    integer("train_size", train_size, 1)
    made = windows(samples, n_splits, max_train_size=train_size, test_size=test_size, gap=gap)
    if len(made[0].train) < train_size:
        raise BadInput("train_size", f"{train_size} rows are more than the {len(made[0].train)} before the first test")
    return made


SpanObjective = Callable[[Params, int, Span], Metrics]
"""`(params, seed, rows) -> metrics`, judged on these rows; it may read earlier rows to warm up, never later ones."""


@dataclass(frozen=True, slots=True)
class Step:
    """One window: every candidate on the training rows, and the best of them on the test rows.

    `chosen` and `test` are None when no candidate succeeded in training, or the run was cancelled before.
    """

    window: Window
    train: Optimisation
    chosen: Outcome | None
    test: Outcome | None


@dataclass(frozen=True, slots=True)
class WalkForward:
    """The steps, oldest first."""

    steps: tuple[Step, ...]
    metric: str
    complete: bool

    def efficiency(self) -> float:
        """Mean of the metric in the tests / mean in the trainings that chose them: near 1 holds up, near 0 does not.

        Over windows whose test succeeded. Raises NotFound without any, BadInput when the mean in training is 0.
        """
        pairs = [
            (metric_of(step.chosen, self.metric), metric_of(step.test, self.metric))
            for step in self.steps
            if step.chosen is not None and step.test is not None and step.test.error is None
        ]
        if not pairs:
            raise NotFound("no window has a test that succeeded")
        trained, tested = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
        if trained == 0.0:
            raise BadInput("metric", f"the mean {self.metric} in training is 0: there is no ratio to it")
        return tested / trained


@dataclass(frozen=True, slots=True)
class _OnSpan:
    """Hands the rows of a trial, kept among its parameters as @start and @stop, to the objective as a span."""

    objective: SpanObjective

    def __call__(self, params: Params, seed: int) -> Metrics:
        own: dict[str, object] = dict(params)
        start, stop = integer("@start", own.pop("@start"), 0), integer("@stop", own.pop("@stop"), 0)
        return self.objective({name: params[name] for name in own}, seed, Span(start, stop))


def walk_forward(
    objective: SpanObjective,
    candidates: Iterable[Params],
    over: Sequence[Window],
    metric: str,
    *,
    seed: int,
    maximise: bool = True,
    settings: RunSettings = DEFAULTS,
) -> WalkForward:
    """In each window try every candidate on the training rows, then the best by `metric` on the test rows.

    Errors as with `running.optimise`. A cancelled run keeps the trainings it finished and tests nothing.
    """
    tried = [dict(params) for params in candidates]
    if not tried or not over:
        raise BadInput("candidates" if over else "over", "must hold at least one")
    train = trials_of((_with(params, window.train) for window in over for params in tried), seed)
    identity: Mapping[str, object] = {
        "seed": seed, "metric": metric, "maximise": maximise, "trials": fingerprint(train),
        "tests": [[window.test.start, window.test.stop] for window in over],
    }  # fmt: skip
    with Runner(_OnSpan(objective), settings, identity, len(train) + len(over)) as runner:
        trained = runner.run(train)
        parts = [_part(trained, number, len(tried)) for number in range(len(over))]
        best = [_chosen(part, metric, maximise) if trained.complete else None for part in parts]
        tests = [
            _test(chosen, window, len(train) + number, seed)
            for number, (window, chosen) in enumerate(zip(over, best, strict=True))
            if chosen is not None
        ]
        tested = runner.run(tests)
    found = {outcome.trial.index - len(train): outcome for outcome in tested.outcomes}
    steps = tuple(Step(window, parts[at], best[at], found.get(at)) for at, window in enumerate(over))
    return WalkForward(steps, metric, trained.complete and tested.complete)


def _with(params: Params, span: Span) -> Params:
    return {**params, "@start": span.start, "@stop": span.stop}


def _without(params: Params) -> Params:
    return {name: value for name, value in params.items() if not name.startswith("@")}


def _test(chosen: Outcome, window: Window, index: int, seed: int) -> Trial:
    return Trial(index, _with(_without(chosen.trial.params), window.test), trial_seed(seed, index))


def _part(trained: Optimisation, number: int, count: int) -> Optimisation:
    mine = range(number * count, (number + 1) * count)
    outcomes = tuple(outcome for outcome in trained.outcomes if outcome.trial.index in mine)
    return Optimisation(outcomes, len(outcomes) == count)


def _chosen(part: Optimisation, metric: str, maximise: bool) -> Outcome | None:
    return part.best(metric, maximise=maximise) if part.succeeded else None
