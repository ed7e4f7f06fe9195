"""`./scripts/simulate-many --seeds 10000`: many seeds over several interpreters, with progress; ends with what failed.

Exit code 1 when a seed fails, each with the command that replays it. Rare things that were never seen are said.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from multiprocessing import get_context

from tests.simulation.rare import RARE
from tests.simulation.run import Outcome, breakage, simulate

EVERY_S = 5.0


def attempt(seed: int) -> Outcome:
    """Run a seed; an error of the simulation itself is a failure of that seed."""
    try:
        return simulate(seed)
    except Exception as error:  # noqa: BLE001  whatever it is, it belongs to its seed and must not end the others
        return Outcome(seed=seed, trace="", broken=f"the simulation failed: {error!r}", seen=Counter(), tail=())


class Tally:
    """What has come of the seeds so far."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.seen: Counter[str] = Counter()
        self.failed: list[Outcome] = []
        self._began = self._said = time.monotonic()

    def take(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self.done += 1
            self.seen.update(outcome.seen.keys())
            if outcome.broken is not None:
                self.failed.append(outcome)
                print(f"seed {outcome.seed} fails: {outcome.broken}\n  {outcome.replay}", flush=True)
            if time.monotonic() - self._said >= EVERY_S:
                self._said = time.monotonic()
                self._progress()

    def _progress(self) -> None:
        passed_s = time.monotonic() - self._began
        left_s = passed_s / self.done * (self.total - self.done)
        print(f"{self.done} of {self.total} seeds, {len(self.failed)} failed, {left_s:.0f} s left", flush=True)

    def sum_up(self) -> int:
        passed_s = time.monotonic() - self._began
        print(f"{self.done} seeds in {passed_s:.0f} s ({passed_s / max(1, self.done):.2f} s each)")
        if missing := sorted(RARE - self.seen.keys()):
            print(f"never seen: {', '.join(missing)}")
        for outcome in self.failed:
            print(f"failed: {outcome.replay}")
        return 1 if self.failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/simulate-many", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--break", dest="breakage", metavar="MODULE:FUNCTION", help="break something on purpose first")
    asked = parser.parse_args(arguments)
    seeds = range(asked.first, asked.first + asked.seeds)
    tally = Tally(len(seeds))
    begin = breakage(asked.breakage) if asked.breakage else None
    with get_context("spawn").Pool(asked.processes, initializer=begin, maxtasksperchild=200) as pool:
        tally.take(pool.imap_unordered(attempt, seeds))
    return tally.sum_up()


if __name__ == "__main__":
    sys.exit(main())
