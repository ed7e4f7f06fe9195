"""Worker processes for trials.

Each worker has a pipe of its own and one trial at a time. So a worker that dies takes only its own trial with it (the
standard pool would lose all that were waiting), the parent needs no threads, and workers whose parent was killed read
the end of their pipe and leave (the standard pool's would wait for ever). A trial whose worker died is tried once more:
a death from outside (memory, a kill of the whole group that meets the worker first) says nothing about the trial.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType

from core.optimizer.errors import BadInput
from core.optimizer.space import Params
from core.optimizer.trials import Metrics, Objective, Outcome, Trial, attempt

POLL_S = 0.1  # how long a cancel waits at most to be seen
LEAVE_S = 5.0  # how long a worker that was told to end may take

Cancelled = Callable[[], bool]


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    trial: Trial | None = None


@dataclass(frozen=True, slots=True)
class _Death:
    """A worker ended during this trial."""

    trial: Trial
    exit_code: int | None


class Workers:
    """Up to `count` processes that call one objective; a context that ends them all. Started when first needed."""

    def __init__(self, objective: Objective, count: int) -> None:
        """Raises BadInput when the objective cannot be sent to a process."""
        try:
            self._objective = pickle.dumps(objective)
        except (pickle.PicklingError, AttributeError, TypeError) as cause:
            raise BadInput("objective", f"must be picklable to run in processes: {cause}") from cause
        self._count = count
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self._workers:
            worker.process.kill()  # trials that matter are in the journal; a busy objective need not answer
        for worker in self._workers:
            self._bury(worker)
        self._workers.clear()

    def run(self, trials: Sequence[Trial], cancelled: Cancelled) -> Iterator[Outcome]:
        """Outcomes as they come, in no order; ends early, without the trials under way, once `cancelled()`."""
        waiting = deque(trials)
        died: set[int] = set()
        while not cancelled():
            self._feed(waiting)
            busy = [worker for worker in self._workers if worker.trial is not None]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy], POLL_S)
            for worker in busy:
                if worker.pipe not in ready or worker.trial is None:
                    continue
                answer = self._collect(worker, worker.trial)
                if isinstance(answer, Outcome):
                    yield answer
                elif answer.trial.index in died:
                    yield Outcome(
                        answer.trial, {}, f"the worker process ended with exit code {answer.exit_code}, twice"
                    )
                else:
                    died.add(answer.trial.index)
                    waiting.appendleft(answer.trial)

    def _feed(self, waiting: deque[Trial]) -> None:
        """Give every free worker a trial; start workers while there are too few."""
        while waiting:
            worker = next((worker for worker in self._workers if worker.trial is None), None)
            if worker is None:
                if len(self._workers) == self._count:
                    return
                worker = self._start()
            worker.trial = waiting.popleft()
            try:
                worker.pipe.send(worker.trial)
            except (BrokenPipeError, ConnectionResetError):
                return  # it died before its first word: reading its pipe tells, and makes that the trial's outcome

    def _collect(self, worker: _Worker, trial: Trial) -> Outcome | _Death:
        worker.trial = None
        try:
            outcome: Outcome = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._workers.remove(worker)
            return _Death(trial, self._bury(worker))
        return outcome

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
        mine, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._objective), daemon=True)
        process.start()
        theirs.close()  # so that a dead worker reads as the end of the pipe
        worker = _Worker(process, mine)
        self._workers.append(worker)
        return worker

    def _bury(self, worker: _Worker) -> int | None:
        worker.pipe.close()
        worker.process.join(LEAVE_S)
        code = worker.process.exitcode
        if code is None:
            worker.process.kill()
            worker.process.join()
        worker.process.close()
        return code


def _work(pipe: Connection, pickled: bytes) -> None:
    """The life of a worker: a trial in, an outcome out, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's interrupt is the parent's to answer
    objective = _loaded(pickled)
    try:
        while True:
            pipe.send(attempt(objective, pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _loaded(pickled: bytes) -> Objective:
    try:
        objective: Objective = pickle.loads(pickled)  # noqa: S301 - from our own parent, through our own pipe
    except Exception as cause:  # noqa: BLE001 - unpickling runs foreign imports; every trial then says why it failed
        told = f"cannot be loaded in a worker process: {type(cause).__name__}: {cause}"

        def refuse(params: Params, seed: int) -> Metrics:
            raise BadInput("objective", told)

        return refuse
    return objective
