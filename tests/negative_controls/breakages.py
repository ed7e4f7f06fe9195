"""The breakages: each replaces one piece of the bridge by one that does not keep its promise.

As small as a wrong edit would be. Called once, before anything runs.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError

from bridge.brokers.ctrader import codec, login
from bridge.brokers.ctrader.routing import Router
from bridge.brokers.ctrader.scheduling import Lane
from bridge.cache import making
from bridge.cache.record import Reading, Record, RecordStatus, make_record
from bridge.cache.store import Refusal, Write
from bridge.cache.stores import redis
from bridge.cache.stores.memory import MemoryStore, _Held
from bridge.credentials.renewing import Renewals
from bridge.sessions import durable
from bridge.sessions.machine import Machine
from bridge.sessions.ownership.fencing import RecordFences
from core.errors import ProtocolViolation
from core.secret import Secret
from protos.ctrader import PAYLOAD_CLASSES

MONTH_S = 2_600_000.0

# ------------------------------------------------------------ records


def fresh_by_itself() -> None:
    """`asOf` is the time of writing, whenever the broker was last heard."""

    def made(reading: Reading, *, fence: int, version: int, now_ms: int) -> Record:
        if reading.status is RecordStatus.LIVE:
            reading = replace(reading, as_of_ms=now_ms)
        return make_record(reading, fence=fence, version=version, now_ms=now_ms)

    making.make_record = made  # type: ignore[attr-defined]
    making.RecordMaker.would_extend = lambda self, entry: True  # type: ignore[method-assign]


def never_renewed() -> None:
    """What did not change is not written again."""
    making.RecordMaker.would_extend = lambda self, entry: False  # type: ignore[method-assign]


def versions_stand_still() -> None:
    """Every record of a fence has the same version."""

    def made(reading: Reading, *, fence: int, version: int, now_ms: int) -> Record:
        return make_record(reading, fence=fence, version=1, now_ms=now_ms)

    making.make_record = made  # type: ignore[attr-defined]


def one_row_stops_all() -> None:
    """A record that cannot be made ends the flush it is in."""

    def made(self: making.RecordMaker, entry: Any, fence: int) -> bytes:
        reading = entry.source.reading()
        record = make_record(reading, fence=fence, version=entry.version + 1, now_ms=self._clock.now_ms())
        entry.version += 1
        return record.document

    making.RecordMaker._make_one = made  # type: ignore[method-assign]


# ------------------------------------------------------------ what brokers say


def required_unchecked() -> None:
    """What the parser takes is believed."""

    def decode(kind: type[codec.M], payload: bytes) -> codec.M:
        try:
            return kind.FromString(payload)
        except (DecodeError, UnicodeDecodeError) as error:
            raise ProtocolViolation(f"{kind.DESCRIPTOR.name} could not be read") from error

    codec.decode = decode


def one_bad_answer_believed() -> None:
    """A snapshot that empties an account is applied at once."""
    login._doubtful = lambda hub, snapshot: False


def foreign_event_believed() -> None:
    """An event of an unknown account goes to whoever is there."""
    original = Router._account_event

    def event(self: Router, payload_type: int, payload: bytes) -> None:
        account = codec.account_of(PAYLOAD_CLASSES[payload_type], payload)
        if account is not None and account not in self.routes and self.routes:
            next(iter(self.routes.values())).event(payload_type, payload)
            return
        original(self, payload_type, payload)

    Router._account_event = event  # type: ignore[method-assign]


def budget_ignored() -> None:
    """There is always room for one more request."""
    Lane.free_at = lambda self, priority, now: now  # type: ignore[method-assign]


def buffer_forgotten() -> None:
    """What happened while a snapshot was on its way is dropped."""

    def taken(hub: Any) -> list[Any]:
        hub.buffer = None
        return []

    login._take_buffered = taken


# ------------------------------------------------------------ owners


def fence_ignored() -> None:
    """Stores compare versions only."""

    async def write(self: MemoryStore, writes: Sequence[Write]) -> list[Refusal]:
        self._held.update({each.key: _Held(each.fence, each.version, each.document) for each in writes})
        return []

    MemoryStore.write = write  # type: ignore[method-assign]
    redis._WRITE = redis._WRITE.replace("old and new <= old", "old and false")


def fence_not_raised() -> None:
    """The fences of records stay where they are when their owner changes."""

    async def follow(self: RecordFences, connection: object, rows: object) -> None:
        return None

    RecordFences.follow = follow  # type: ignore[method-assign]


# ------------------------------------------------------------ sessions


def nobody_dials_again() -> None:
    """A retry is planned, for next month."""
    original = Machine.move

    def move(self: Machine, session: Any, event: Any, reason: Any, delay_s: float | None = None, **more: Any) -> None:
        if delay_s is None:
            original(self, session, event, reason, None, **more)
        else:
            original(self, session, event, reason, MONTH_S)

    Machine.move = move  # type: ignore[method-assign]


def nobody_queues() -> None:
    """Who waits for a login takes no place in the queue."""
    Machine.queue = lambda self, session: None  # type: ignore[method-assign]


def tasks_left_behind() -> None:
    """Every change of a session leaves tasks that nobody ends; ten, because a seed lasts minutes and not days."""
    original = Machine.move

    def move(self: Machine, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        for _ in range(10):
            self.tasks.start(asyncio.sleep(MONTH_S), name="left behind")

    Machine.move = move  # type: ignore[method-assign]


def renews_without_saying() -> None:
    """Tokens are renewed, and the audit trail says nothing of it."""
    Renewals._tell = lambda self, grant, outcome, attempt: None  # type: ignore[method-assign]


def stopped_but_connected() -> None:
    """The end of a session does not reach its broker."""
    Machine.log_out = lambda self, session: None  # type: ignore[method-assign]


def stop_not_stored() -> None:
    """A stop is answered, and changes nothing."""
    durable._STOP += "and false"


# ------------------------------------------------------------ secrets


def secrets_printed() -> None:
    """What is secret prints like any other text."""
    Secret.__repr__ = Secret.__str__ = lambda self: self.reveal()  # type: ignore[method-assign]


def used_before_committed() -> None:
    """The new pair is handed out, and stored if there is time."""

    async def commit(self: Renewals, grant: Any, issued: Any) -> str:
        return "ok"

    Renewals._commit = commit  # type: ignore[method-assign]
