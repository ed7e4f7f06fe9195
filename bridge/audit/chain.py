"""The chain: how a row of the audit log is hashed, sealed and verified. Pure.

    hash = SHA-256(previous hash + canonical row)        seal = HMAC-SHA-256(audit key, hash)

The canonical row is a JSON array of the columns in a fixed order, which no two rows share. The hashes show any edit,
insertion, removal or change of order. Somebody who may write to the database could compute all of them anew: that, the
seal shows, which takes a key that the database does not hold. An end that was cut off together with the head is shown
only by a head that was kept elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import orjson

from core.errors import BridgeError
from core.secret import Secret

GENESIS = bytes(32)
LONGEST_ROTATION_US = 24 * 3600 * 1_000_000  # µs in which processes may still seal with the key of before
_FORMAT = b"pulse-bridge audit row 1\n"
_PURPOSE = b"pulse-bridge audit key 1"


@dataclass(frozen=True, slots=True)
class Entry:
    """What was done. `at_us`: Unix µs. `subject`: the user's audit id. `detail`: JSON text of an object."""

    id: str
    at_us: int
    actor: str
    action: str
    subject: str | None
    outcome: str
    detail: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """The last row: where the next one joins."""

    seq: int = 0
    hash: bytes = GENESIS


@dataclass(frozen=True, slots=True)
class ChainRow:
    """An entry in its place. `seal` and `seal_key_id` None: not sealed."""

    seq: int
    entry: Entry
    prev_hash: bytes
    hash: bytes
    seal_key_id: str | None = None
    seal: bytes | None = None

    @property
    def head(self) -> Head:
        """Where the chain ends when this row is its last."""
        return Head(self.seq, self.hash)


class RootKey(Protocol):
    """A key that audit keys are made of: its public id, and the base64 of 32 bytes."""

    @property
    def id(self) -> str: ...

    @property
    def key(self) -> Secret: ...


class Sealer:
    """Seals rows with a key made of the first of `keys`, and checks seals with all of them. Without keys it seals
    nothing."""

    def __init__(self, keys: Iterable[RootKey] = ()) -> None:
        self._keys = {each.id: _audit_key(each.key) for each in keys}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def seal(self, row_hash: bytes) -> tuple[str | None, bytes | None]:
        """Id of the key, and the seal."""
        for key_id, key in self._keys.items():
            return key_id, _sealed(key, row_hash)
        return None, None

    def is_good(self, row: ChainRow) -> bool | None:
        """Whether a row's seal is right; None when its key is not here."""
        key = self._keys.get(row.seal_key_id or "")
        return None if key is None or row.seal is None else hmac.compare_digest(_sealed(key, row.hash), row.seal)


def link(head: Head, entries: Iterable[Entry], sealer: Sealer) -> list[ChainRow]:
    """The rows that add `entries`, in order, after `head`."""
    rows: list[ChainRow] = []
    for entry in entries:
        row_hash = hash_of(head.seq + 1, head.hash, entry)
        rows.append(ChainRow(head.seq + 1, entry, head.hash, row_hash, *sealer.seal(row_hash)))
        head = rows[-1].head
    return rows


def hash_of(seq: int, prev_hash: bytes, entry: Entry) -> bytes:
    """The hash of a row at this place."""
    columns = [
        *(seq, entry.id, entry.at_us, entry.actor, entry.action, entry.subject),
        *(entry.outcome, entry.detail, entry.request_id),
    ]
    return hashlib.sha256(prev_hash + _FORMAT + orjson.dumps(columns)).digest()


class ChainBroken(BridgeError):
    """The log is not what was written. `seq`: the first place where that shows."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(f"row {seq}: {reason}")
        self.seq = seq


class Verifier:
    """Follows the chain row by row. `start`: a head that is known to be good. `expected`: hashes known from elsewhere,
    by row. Counts rows by how far they could be checked.

    Rows of a key that is not here are from before a rotation, or somebody made the key up: they may stand before rows
    that our keys sealed, and among those for as long as a rotation takes, under a key of before, but not behind."""

    def __init__(self, sealer: Sealer, *, start: Head | None = None, expected: Iterable[Head] = ()) -> None:
        self._sealer = sealer
        self.head = start or Head()
        self._expected = {head.seq: head.hash for head in expected}
        self.rows = self.sealed = self.unsealed = self.unknown_key = 0
        self._retired: set[str | None] = set()  # keys that are not here, of rows before any that could be checked
        self._checked_from_us = self._checked_to_us = 0

    def take(self, row: ChainRow) -> None:
        """The next row. Raises ChainBroken."""
        wanted = self.head.seq + 1
        if row.seq != wanted:
            raise ChainBroken(wanted, f"is missing: row {row.seq} follows row {self.head.seq}")
        if row.prev_hash != self.head.hash:
            raise ChainBroken(row.seq, "does not follow the row before it")
        if row.hash != hash_of(row.seq, row.prev_hash, row.entry):
            raise ChainBroken(row.seq, "was changed: it does not have its own hash")
        if self._expected.pop(row.seq, row.hash) != row.hash:
            raise ChainBroken(row.seq, "is not the row that was there: it had another hash")
        self._take_seal(row)
        self.rows += 1
        self.head = row.head

    def _take_seal(self, row: ChainRow) -> None:
        if row.seal is None:
            if self.sealed or self.unknown_key:
                raise ChainBroken(row.seq, "has no seal, though rows before it have one")
            self.unsealed += 1
            return
        good = self._sealer.is_good(row)
        if good is False:
            raise ChainBroken(row.seq, "has a wrong seal: its hash was made by somebody without the key")
        if good is None:
            self._take_unknown(row)
        else:
            self._checked_to_us = row.entry.at_us
            self._checked_from_us = self._checked_from_us or row.entry.at_us
            self.sealed += 1

    def _take_unknown(self, row: ChainRow) -> None:
        """A row that may be forged. Times are those of rows that could be checked."""
        if not self.sealed:
            self._retired.add(row.seal_key_id)
        late = self._checked_to_us - self._checked_from_us > LONGEST_ROTATION_US
        if row.seal_key_id not in self._retired or late:
            reason = f"has a seal by key {row.seal_key_id!r}, which is not here, though rows before it could be checked"
            raise ChainBroken(row.seq, reason)
        self.unknown_key += 1

    def end(self, head: Head) -> None:
        """There are no more rows, and the database says that the chain ends at `head`. Raises ChainBroken."""
        last = max([head.seq, *self._expected], default=0)
        if last > self.head.seq:
            raise ChainBroken(self.head.seq + 1, f"is missing, and all to row {last}: the end was cut off")
        if head != self.head:
            raise ChainBroken(self.head.seq, f"is not where the log ends: its head is row {head.seq}")


def _audit_key(root: Secret) -> bytes:
    """A key for this purpose only."""
    return hmac.digest(base64.b64decode(root.reveal(), validate=True), _PURPOSE, "sha256")


def _sealed(key: bytes, row_hash: bytes) -> bytes:
    return hmac.digest(key, row_hash, "sha256")
