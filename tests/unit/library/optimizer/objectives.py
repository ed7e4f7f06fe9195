"""Objectives that processes can load, and a program that is killed while it optimises."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from core.optimizer.grid import grid
from core.optimizer.journal_file import JournalFile
from core.optimizer.running import Progress, RunSettings, optimise
from core.optimizer.space import Integer, Params, Space
from core.optimizer.walk_forward import Span

SPACE = Space({"fast": Integer(1, 5), "slow": Integer(10, 14)})
SEED = 7


def score(params: Params, seed: int) -> Mapping[str, float]:
    """A metric with noise from the seed alone."""
    noise = float(np.random.default_rng(seed).normal())
    return {"score": -((int(params["fast"]) - 3) ** 2) - (int(params["slow"]) - 12) ** 2 + noise / 10, "noise": noise}


def slow_score(params: Params, seed: int) -> Mapping[str, float]:
    """The same, slow enough to be met in the middle."""
    time.sleep(0.05)
    return score(params, seed)


def picky(params: Params, seed: int) -> Mapping[str, float]:
    """Some parameters fail, each in its own way."""
    match params["fast"]:
        case 1:
            raise ValueError("too fast")
        case 2:
            return {"score": float("nan")}
        case 4:
            return {"score": float("inf")}
    return score(params, seed)


def deadly(params: Params, seed: int) -> Mapping[str, float]:
    """One parameter takes its whole process with it."""
    if params["fast"] == 2:
        os._exit(11)
    return score(params, seed)


def once_deadly(params: Params, seed: int) -> Mapping[str, float]:
    """The process is killed from outside the first time that one parameter is tried."""
    mark = Path(os.environ["PULSE_TEST_MARK"])
    if params["fast"] == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return score(params, seed)


def endless(params: Params, seed: int) -> Mapping[str, float]:
    """Never comes back."""
    while True:
        time.sleep(1)


def drift(params: Params, seed: int, rows: Span) -> Mapping[str, float]:
    """On each span another value is the best one: the number of its training rows / 10."""
    target = len(rows) / 10
    return {"profit": -abs(float(params["fast"]) - target), "rows": float(len(rows)), "start": float(rows.start)}


def main(path: str, workers: str) -> None:
    """Optimise with a journal; print each line of progress, so that the test knows when to kill."""

    def progress(now: Progress) -> None:
        print(now.done, flush=True)

    with JournalFile(path) as journal:
        settings = RunSettings(workers=int(workers), journal=journal, progress=progress)
        optimise(slow_score, grid(SPACE), seed=SEED, settings=settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
