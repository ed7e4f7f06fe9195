"""Running trials: over processes, from and into a journal, with progress and cancel.

Invariant: the outcomes depend on the trials alone; not on the number of workers, the order in which they finish, or
how often the run was killed and resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from core.errors import NotFound
from core.optimizer.errors import BadInput, integer
from core.optimizer.journal import Journal, JournalText, fingerprint
from core.optimizer.pool import Cancelled, Workers
from core.optimizer.space import Params
from core.optimizer.trials import Objective, Outcome, Trial, attempt, trials_of

MAX_WORKERS = 256


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; `outcome` is the one just known, None when it says where a resumed run starts."""

    done: int
    total: int
    failed: int
    outcome: Outcome | None


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Optimisation:
    """The outcomes known, by rising trial index; `complete` is False when the run was cancelled."""

    outcomes: tuple[Outcome, ...]
    complete: bool

    @property
    def succeeded(self) -> tuple[Outcome, ...]:
        """Those with metrics."""
        return tuple(outcome for outcome in self.outcomes if outcome.error is None)

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Those whose objective raised or whose worker died; each names its parameters."""
        return tuple(outcome for outcome in self.outcomes if outcome.error is not None)

    def ranked(self, metric: str, *, maximise: bool = True) -> tuple[Outcome, ...]:
        """The succeeded ones, best first, equal ones by index. Raises BadInput when one has no such metric."""
        sign = -1.0 if maximise else 1.0
        return tuple(sorted(self.succeeded, key=lambda outcome: sign * metric_of(outcome, metric)))

    def best(self, metric: str, *, maximise: bool = True) -> Outcome:
        """The first of `ranked`. Raises NotFound when no trial succeeded, and names the first failure."""
        ranked = self.ranked(metric, maximise=maximise)
        if not ranked:
            told = f"; the first failure: {self.failed[0]}" if self.failed else ""
            raise NotFound(f"no trial succeeded{told}")
        return ranked[0]


def metric_of(outcome: Outcome, metric: str) -> float:
    """One metric of an outcome. Raises BadInput when it has none of that name."""
    if metric not in outcome.metrics:
        raise BadInput("metric", f"there is no {metric!r} in {outcome}")
    return outcome.metrics[metric]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How to run: none of it changes a result.

    workers: 0 calls the objective in this process (for debugging: it need not be picklable, and a cancel is seen
    between trials only); otherwise so many processes, which a cancel ends at once. Programs that start processes need
    the usual `if __name__ == "__main__":`.
    journal: outcomes are kept there as they come, and those it holds are not tried again; failures count as outcomes.
    label: goes into the journal's identity beside the objective's name, the seed and the candidates; put there what
    else the results depend on, such as the data.
    progress: called after each outcome, and once before the first. cancelled: asked between outcomes and while waiting.
    """

    workers: int = 1
    journal: JournalText | None = None
    label: str = ""
    progress: OnProgress | None = None
    cancelled: Cancelled | None = None

    def __post_init__(self) -> None:
        integer("workers", self.workers, 0, MAX_WORKERS)


DEFAULTS = RunSettings()


class Runner:
    """Runs batches of trials with one set of workers and one journal; a context."""

    def __init__(self, objective: Objective, settings: RunSettings, identity: Mapping[str, object], total: int) -> None:
        """`identity`: what the journal must belong to. `total`: for progress. Raises BadInput as `optimise`."""
        self._objective = objective
        self._settings = settings
        self._workers = Workers(objective, settings.workers) if settings.workers else None
        self._journal: Journal | None = None
        if settings.journal is not None:
            named = {"objective": name_of(objective), "label": settings.label, **identity}
            self._journal = Journal(settings.journal, named)
        self._total = total
        self._done = self._failed = 0

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._workers is not None:
            self._workers.__exit__(kind, error, at)

    def run(self, trials: Sequence[Trial]) -> Optimisation:
        """The outcomes of these trials: from the journal where it has them, else by calling the objective."""
        known: dict[int, Outcome] = {}
        for trial in trials:
            outcome = self._journal.find(trial) if self._journal is not None else None
            if outcome is not None:
                known[trial.index] = outcome
        self._count(known.values(), None)
        missing = [trial for trial in trials if trial.index not in known]
        for outcome in self._attempts(missing):
            if self._journal is not None:
                self._journal.record(outcome)
            known[outcome.trial.index] = outcome
            self._count((outcome,), outcome)
        return Optimisation(tuple(known[index] for index in sorted(known)), len(known) == len(trials))

    def _attempts(self, trials: Sequence[Trial]) -> Iterator[Outcome]:
        if self._workers is not None:
            yield from self._workers.run(trials, self._cancel)
            return
        for trial in trials:
            if self._cancel():
                return
            yield attempt(self._objective, trial)

    def _count(self, outcomes: Iterable[Outcome], last: Outcome | None) -> None:
        for outcome in outcomes:
            self._done += 1
            self._failed += outcome.error is not None
        if self._settings.progress is not None:
            self._settings.progress(Progress(self._done, self._total, self._failed, last))

    def _cancel(self) -> bool:
        return self._settings.cancelled is not None and self._settings.cancelled()


def optimise(
    objective: Objective, candidates: Iterable[Params], *, seed: int, settings: RunSettings = DEFAULTS
) -> Optimisation:
    """Try every candidate (of `grid`, `random_candidates`, `jittered`, or any list).

    Raises BadInput for no candidates, a seed below 0, an objective that cannot be sent to a process, or a journal that
    is broken or belongs to another optimisation. What the objective raises is in the outcomes.
    """
    trials = trials_of(candidates, seed)
    if not trials:
        raise BadInput("candidates", "must hold at least one candidate")
    with Runner(objective, settings, {"seed": seed, "trials": fingerprint(trials)}, len(trials)) as runner:
        return runner.run(trials)


def name_of(objective: object) -> str:
    """What a journal calls an objective: its own name, that of what it wraps (a partial), or that of its class."""
    wrapped = getattr(objective, "func", None) or getattr(objective, "objective", None)
    if wrapped is not None:
        return name_of(wrapped)
    return str(getattr(objective, "__qualname__", type(objective).__qualname__))
