"""The journal of an optimisation: append-only JSON lines, so that a killed run goes on where it stopped.

The first line says which optimisation it belongs to; every further line is one outcome, written whole as soon as it is
known. Text comes and goes through `JournalText`; this module opens no file. Invariants: a journal of another
optimisation is refused, never mixed in; a last line cut short by a kill is dropped, a broken line anywhere else is an
error; numbers are read back exactly (Python writes the shortest text that reads back to the same float).
"""

from __future__ import annotations

import hashlib
import json  # noqa: TID251 - the library stands alone: the bridge's JSON package is no dependency of it
import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from core.optimizer.errors import BadInput
from core.optimizer.trials import Outcome, Trial, checked_metrics

FORMAT = 1


class JournalText(Protocol):
    """Where a journal's lines are kept."""

    def text(self) -> str:
        """Everything written so far, cut lines included."""

    def keep(self, characters: int) -> None:
        """Drop what follows the first so many characters (a line that a kill cut short)."""

    def append(self, line: str) -> None:
        """Add one line (ending included) and return when it would outlive this process."""


class MemoryJournal:
    """A journal in memory: for trying out, and for keeping one elsewhere than in a file."""

    def __init__(self, text: str = "") -> None:
        self._text = text

    def text(self) -> str:
        return self._text

    def keep(self, characters: int) -> None:
        self._text = self._text[:characters]

    def append(self, line: str) -> None:
        self._text += line


class Journal:
    """The outcomes known so far, and the place for new ones."""

    def __init__(self, place: JournalText, identity: Mapping[str, Any]) -> None:
        """Read `place`, or begin it. Raises BadInput when it is of another identity or a line is broken."""
        self._place = place
        self._known: dict[int, Outcome] = {}
        text = place.text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            place.keep(len(whole))
        mine = _plain({"format": FORMAT, **identity})
        if not whole:
            place.append(_line(mine))
            return
        rows = whole.splitlines()
        header = _row(rows[0], 0)
        if header != mine:
            different = sorted(key for key in {*mine, *header} if header.get(key) != mine.get(key))
            raise BadInput("journal", f"belongs to another optimisation: {', '.join(different)} differ", row=0)
        for row, line in enumerate(rows[1:], 1):
            outcome = _outcome(line, row)
            self._known[outcome.trial.index] = outcome

    def __len__(self) -> int:
        return len(self._known)

    def find(self, trial: Trial) -> Outcome | None:
        """The outcome of this very trial, or None. Raises BadInput when the journal tried something else there."""
        outcome = self._known.get(trial.index)
        if outcome is not None and (outcome.trial.seed != trial.seed or not _same(outcome.trial.params, trial.params)):
            raise BadInput(
                "journal",
                f"trial {trial.index} was made with {dict(outcome.trial.params)}, now it is {dict(trial.params)}",
            )
        return outcome

    def record(self, outcome: Outcome) -> None:
        """Write one outcome down."""
        self._place.append(_line(_written(outcome)))
        self._known[outcome.trial.index] = outcome


def fingerprint(trials: Iterable[Trial]) -> str:
    """A digest of the trials, parameters and seeds and their order: for the identity of a journal."""
    digest = hashlib.sha256()
    for trial in trials:
        digest.update(
            _line([trial.index, trial.seed, *([name, value] for name, value in trial.params.items())]).encode()
        )
    return digest.hexdigest()


def _line(value: object) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"), default=_number) + "\n"


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """As it will be read back: tuples as lists, numpy numbers as plain ones."""
    plain: dict[str, Any] = json.loads(_line(dict(identity)))
    return plain


def _number(value: object) -> object:
    if hasattr(value, "item"):  # a numpy scalar
        return value.item()
    raise BadInput("journal", f"cannot keep {value!r}")


def _written(outcome: Outcome) -> dict[str, Any]:
    """JSON knows no infinity: it is written as the text `inf` or `-inf`."""
    metrics = {name: value if math.isfinite(value) else str(value) for name, value in outcome.metrics.items()}
    trial = outcome.trial
    row: dict[str, Any] = {"index": trial.index, "seed": trial.seed, "params": dict(trial.params), "metrics": metrics}
    return row if outcome.error is None else {**row, "error": outcome.error}


def _row(line: str, row: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as cause:
        raise BadInput("journal", "is no JSON", row=row) from cause
    if not isinstance(value, dict):
        raise BadInput("journal", "must be a JSON object", row=row)
    return value


def _outcome(line: str, row: int) -> Outcome:
    value = _row(line, row)
    try:
        trial = Trial(int(value["index"]), dict(value["params"]), int(value["seed"]))
        metrics = {name: float(number) for name, number in value["metrics"].items()}
        error = value.get("error")
        return Outcome(trial, checked_metrics(metrics), None if error is None else str(error))
    except (KeyError, TypeError, ValueError, AttributeError, BadInput) as cause:
        raise BadInput("journal", "is no outcome: needs index, seed, params and metrics", row=row) from cause


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Equal names and values, and 1, 1.0 and True are different values."""
    return one.keys() == other.keys() and all(
        type(one[name]) is type(other[name]) and one[name] == other[name] for name in one
    )
