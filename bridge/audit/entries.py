"""Makes entries of what the rooms report: cut to size, in characters that every database and log takes. Pure.

Whatever is handed in, an entry comes out: nothing here raises. Registered secrets are masked in what is said besides;
not in action, actor and outcome, which are words of ours: a caller may present one of them as a secret of theirs.
"""

from __future__ import annotations

import random
import unicodedata
import uuid
from collections.abc import Mapping

import orjson

from bridge.audit.chain import Entry
from bridge.telemetry.audit import Detail
from bridge.telemetry.redaction import REDACTOR

LONGEST_WORD = 64  # characters of actor, action and outcome
LONGEST_VALUE = 200
MOST_FIELDS = 20
MOST_DIGITS = 2**53
REQUEST_ID = "request_id"  # this field of a detail has a column of its own
_UNFIT = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
DROPPED = "dropped_before"  # how many entries could not be taken since the one before this


def make_entry(
    rng: random.Random, at_ms: int, action: str, actor: str, outcome: str, detail: Detail | None, dropped: int = 0
) -> Entry:
    """An entry about nobody yet. `dropped`: how many were lost before it."""
    fields = clean(detail or {})
    request_id = fields.pop(REQUEST_ID, None)
    if dropped:
        fields[DROPPED] = dropped
    return Entry(
        id=str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        at_us=at_ms * 1000,
        actor=printable(actor)[:LONGEST_WORD],
        action=printable(action)[:LONGEST_WORD],
        subject=None,
        outcome=printable(outcome)[:LONGEST_WORD],
        detail=orjson.dumps(fields, option=orjson.OPT_SORT_KEYS).decode(),
        request_id=None if request_id is None else word(str(request_id), LONGEST_WORD),
    )


def clean(detail: Mapping[str, object]) -> dict[str, str | int | bool | None]:
    """The fields that may be stored."""
    return {word(name, LONGEST_WORD): _value(value) for name, value in list(detail.items())[:MOST_FIELDS]}


def word(text: str, longest: int) -> str:
    """`text` without control characters, broken Unicode and secrets."""
    return REDACTOR.redact(printable(text))[:longest]


def printable(text: str) -> str:
    """`text` without control characters and broken Unicode."""
    if text.isprintable():
        return text
    return "".join("?" if unicodedata.category(char) in _UNFIT else char for char in text)


def _value(value: object) -> str | int | bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= MOST_DIGITS else "a large number"
    return word(value, LONGEST_VALUE) if isinstance(value, str) else type(value).__name__
