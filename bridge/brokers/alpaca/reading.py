"""Readings of an account over REST, and the judgement whether one may become the mirror. Pure.

A reading takes several requests while the account goes on trading, and REST may lag behind the stream by seconds
(reference/alpaca.md §2.3, §8.1). Executions show both: one that the stream told of and REST does not show yet makes a
reading stale, one that REST shows and nobody knew at its start makes it newer than it can be trusted to be. What the
stream told before must be shown before the account is read: shown only afterwards, the account may still be without it.
Invariant: an execution enters the mirror once, by the stream or by an accepted reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice

from bridge.brokers.alpaca.activities import Activity, fill_of
from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.alpaca.updates import Facts
from bridge.brokers.alpaca.values import Document
from core.events import Fill, OrderChanged, OrderGone
from core.orders import OrderStatus

REMEMBERED = 5000  # executions; more than one search for them can show
REMEMBERED_ORDERS = 1000
_ENDING = frozenset({OrderStatus.PENDING_CANCEL, OrderStatus.PENDING_REPLACE})  # no wonder when REST lists it no more


class Verdict(Enum):
    """What to do with a reading."""

    ACCEPT = auto()
    NEWER = auto()  # something was executed meanwhile: read again
    STALE = auto()  # REST lags behind the stream: read again a little later


@dataclass(frozen=True, slots=True)
class Mark:
    """The moment a reading began: what was known then, and since when executions are looked for (Unix ms)."""

    serial: int
    started_ms: int
    since_ms: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading as the broker sent it; executions oldest first. `complete`: they reach back to where they must.
    `before`: executions that were shown before the rest was read, looked up when the stream had told of some."""

    account: Document
    positions: tuple[Document, ...]
    orders: tuple[Document, ...]
    fills: tuple[Activity, ...]
    mark: Mark
    complete: bool = True
    before: frozenset[str] = frozenset()


class Executions:
    """What is known of an account's executions and of what the stream said last; bounded, kept over reconnects."""

    def __init__(self, settings: AlpacaSettings) -> None:
        self._overlap_ms = round(settings.overlap_s * 1000)
        self._baseline_ms = settings.baseline_ms
        self._lag_s = settings.activity_lag_s
        self._order_lag_s = settings.order_lag_s
        self._serial = 0
        self._included: dict[str, int] = {}  # in the mirror: id -> serial
        self._pending: dict[str, int] = {}  # shown by a reading that was not accepted
        self._recent: dict[str, float] = {}  # told by the stream, not yet seen in a reading: id -> monotonic
        self._working: dict[str, float] = {}  # orders that the stream said work: id -> monotonic
        self._gone: dict[str, int] = {}  # orders that the stream said work no more: id -> their version
        self._accepted_ms: int | None = None  # when the last accepted reading began
        self.unconfirmed = 0  # executions that the stream told of and REST never showed

    def included(self, execution_id: str) -> bool:
        """Whether the mirror holds it already."""
        return execution_id in self._included

    def heard(self, facts: Facts, now: float) -> None:
        """The stream told these facts and they were applied; `now` monotonic seconds."""
        for fill in facts.fills:
            key = fill.execution_id
            serial = self._pending.pop(key, None) if self._pending else None  # what was known stays known since then
            if serial is None:  # REST has not shown it yet
                _keep(self._recent, key, now, REMEMBERED)
                serial = self._serial = self._serial + 1
            _keep(self._included, key, serial, REMEMBERED)
        for event in facts.execution.events:
            if type(event) is OrderGone:
                key = event.order_id
                self._working.pop(key, None)
                _keep(self._gone, key, event.at_ms, REMEMBERED_ORDERS)
            elif type(event) is OrderChanged:
                if event.order.status in _ENDING:
                    self._working.pop(event.order.id, None)
                else:
                    _keep(self._working, event.order.id, now, REMEMBERED_ORDERS)

    def mark(self, now_ms: int) -> Mark:
        """A reading begins."""
        last_ms = now_ms if self._accepted_ms is None else min(self._accepted_ms, now_ms)
        return Mark(self._serial, now_ms, last_ms - self._overlap_ms)

    def unseen(self, reading: Reading) -> list[Activity]:
        """Executions in a reading that were not known when it began. An account's first one defines what was before."""
        first = self._accepted_ms is None
        before_ms = reading.mark.started_ms - self._baseline_ms
        return [
            row
            for row in reading.fills
            if self._since(row.execution_id) > reading.mark.serial and not (first and row.at_ms < before_ms)
        ]

    def waits(self, now: float) -> bool:
        """Whether the stream told of executions that no accepted reading has shown yet."""
        return any(at > now - self._lag_s for at in self._recent.values())

    def lagging(self, reading: Reading, began: float) -> bool:
        """Whether the stream told of an execution that the reading does not show, or may not hold, so shortly before
        the reading began (monotonic seconds) that REST may lag behind it, however long the reading took."""
        shown = {row.execution_id for row in reading.fills}
        for key, at in self._recent.items():
            where = reading.before if self.told_before(reading, key) else shown
            if at > began - self._lag_s and key not in where:
                return True
        return False

    def lately_working(self, began: float) -> list[str]:
        """Orders that the stream said work, so lately that a reading begun then may not list them yet."""
        return [key for key, at in self._working.items() if at > began - self._order_lag_s]

    def gone_since(self, order_id: str, version_ms: int) -> bool:
        """Whether the stream said that the order works no more, in this version or a later one."""
        return self._gone.get(order_id, -1) >= version_ms

    def told_before(self, reading: Reading, execution_id: str) -> bool:
        """Whether an execution was in the mirror before the reading began, by the stream or an earlier one."""
        return self._included.get(execution_id, self._serial + 1) <= reading.mark.serial

    def shown(self, reading: Reading) -> None:
        """A reading was judged: what it shows is known from now on, whether it is accepted or not."""
        for row in reading.fills:
            key = row.execution_id
            if key in self._included:
                self._included[key] = self._included.pop(key)  # what is still looked at is forgotten last
            elif key not in self._pending:
                self._serial += 1
                _keep(self._pending, key, self._serial, REMEMBERED)

    def accept(self, reading: Reading, assets: Assets, now: float) -> tuple[Fill, ...]:
        """The mirror is this reading now. Returns the executions in it that no message told of, oldest first; of an
        account's first reading none: all that happened before is in it."""
        first = self._accepted_ms is None
        recovered: list[Fill] = []
        for row in reading.fills:
            self._recent.pop(row.execution_id, None)
            if row.execution_id in self._included:
                continue
            self._include(row.execution_id)
            fill = None if first else fill_of(row, assets, recovered=True)
            if fill is not None:
                recovered.append(fill)
        self._pending.clear()
        self._accepted_ms = reading.mark.started_ms
        for key in [key for key, at in self._recent.items() if at <= now - self._lag_s]:
            del self._recent[key]
            self.unconfirmed += 1
        return tuple(recovered)

    def _include(self, execution_id: str) -> None:
        serial = self._pending.pop(execution_id, None)  # what was known stays known since then
        if serial is None:
            serial = self._serial = self._serial + 1
        _keep(self._included, execution_id, serial, REMEMBERED)

    def _since(self, execution_id: str) -> int:
        """The serial under which it became known; beyond all when it is not."""
        known = self._included.get(execution_id)
        return self._pending.get(execution_id, self._serial + 1) if known is None else known


def judge(reading: Reading, memory: Executions, missing_orders: Iterable[str], began: float) -> Verdict:
    """Whether a reading may become the mirror. `missing_orders`: of those that the mirror says work, those that the
    reading does not list (`snapshot.missing_orders`); `began`: when the reading did, monotonic seconds."""
    if memory.lagging(reading, began):
        return Verdict.STALE
    if memory.unseen(reading):
        return Verdict.NEWER
    if not set(missing_orders).isdisjoint(memory.lately_working(began)):
        return Verdict.STALE
    return Verdict.ACCEPT


def _keep(held: dict[str, int] | dict[str, float], key: str, value: float, limit: int) -> None:
    """Remember, the newest last. Beyond the limit the oldest twentieth is forgotten: a dict whose first keys were
    deleted is slow to find the next."""
    if key in held:
        del held[key]
    held[key] = value  # type: ignore[assignment]  # ints stay ints
    if len(held) > limit:
        for old in list(islice(held, limit // 20 or 1)):
            del held[old]
