"""What the functions of migration 0002 are asked and how their answers read, for each way to call them.

No I/O. Invariant: an answer that does not account for every record of the chunk is no answer; nothing counts as written
because it was not mentioned.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

import orjson

from bridge.cache.making import shown
from bridge.cache.store import CHUNK, MAX_FENCE, Refusal, Stored, StoreUnavailable, Write

log = logging.getLogger(__name__)

EMPTY = "_empty"  # in a key-value table: this value holds a fence and no record
SAID_AT_MOST = 10_000


class Answers:
    """Reads the answers for one store; says once per key that a document cannot be stored."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._said: set[str] = set()
        self.unstorable = 0  # documents that could not be stored, since start

    def arguments(self, writes: Sequence[Write]) -> tuple[list[str], list[int], list[int], list[str]]:
        """Keys, fences, versions and documents of a chunk, sorted by key as the functions want it."""
        if len(writes) > CHUNK:
            raise ValueError(f"more than {CHUNK} records in one write")
        rows = sorted(writes, key=lambda write: write.key)
        return (
            [write.key for write in rows],
            [write.fence for write in rows],
            [write.version for write in rows],
            [_text(write.document) for write in rows],
        )

    def refusals(self, answer: object, writes: Sequence[Write]) -> list[Refusal]:
        """The refused ones. Raises StoreUnavailable for an answer that does not account for every record."""
        match answer:
            case {"accepted": int(accepted), "refused": list(refused), "failed": list(failed)}:
                pass
            case _:
                raise StoreUnavailable(f"{self._store}: the answer to a write cannot be read")
        try:
            found = [Refusal(key, int(fence), int(version)) for key, fence, version, *_ in (*refused, *failed)]
        except (TypeError, ValueError) as error:
            raise StoreUnavailable(f"{self._store}: the answer to a write cannot be read") from error
        named = {refusal.key for refusal in found}
        if accepted + len(found) != len(writes) or len(named) != len(found) or not named <= {w.key for w in writes}:
            raise StoreUnavailable(f"{self._store}: the answer to a write does not account for every record")
        for refusal, (*_, code) in zip(found[len(refused) :], failed, strict=True):
            self.cannot_store(refusal, code)
        return found

    def fences(self, answer: object, keys: Sequence[str]) -> list[int]:
        """The fences of a claim, in order."""
        if not isinstance(answer, list) or len(answer) != len(keys) or not all(_is_stamp(fence) for fence in answer):
            raise StoreUnavailable(f"{self._store}: the answer to a claim cannot be read")
        return answer

    def cannot_store(self, refusal: Refusal, code: object) -> Refusal:
        """Count and say it."""
        self.unstorable += 1
        if refusal.key not in self._said and len(self._said) < SAID_AT_MOST:
            self._said.add(refusal.key)
            told = {"store": self._store, "key": shown(refusal.key), "sqlstate": str(code)}
            log.error("a record cannot be stored", extra=told)
        return refusal


def stored_value(key: str, text: str | None) -> Stored:
    """What a key-value table holds under a key, from the text of its jsonb; a value of another shape counts as older
    than anything.
    """
    try:
        value: Any = orjson.loads(text or "null")
    except orjson.JSONDecodeError:
        value = None  # what Postgres takes and we cannot read (a number beyond doubles)
    document = (text or "").encode()
    if not isinstance(value, dict):
        return Stored(key, 0, 0, document)
    fence, version = value.get("fence"), value.get("version")
    if not (_is_stamp(fence) and _is_stamp(version)):
        return Stored(key, 0, 0, document)
    return Stored(key, fence, version, b"" if EMPTY in value else document)


def in_order(keys: Iterable[str], found: Iterable[Stored]) -> list[Stored | None]:
    """What was read, in the order it was asked for."""
    by_key = {stored.key: stored for stored in found}
    return [by_key.get(key) for key in keys]


def _is_stamp(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_FENCE


def _text(document: bytes) -> str:
    """What no text column can hold goes as an empty document: that one fails, not the whole chunk."""
    try:
        text = document.decode()
    except UnicodeDecodeError:
        return ""
    return "" if "\0" in text else text
