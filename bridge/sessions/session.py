"""One row of the session table: a user's login to one broker account, over all its reconnects.

A row acts on nothing: what the adapter and the flusher tell it, it passes on to the supervisor, which alone changes
it. It has no task of its own while live, and stays below 2 KiB, because there are thousands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from bridge.brokers.base import AccountSession, BrokerFault, Credential, Environment, Reason, Stage
from bridge.cache.entry import Entry, RecordSource
from bridge.cache.record import Reading, RecordStatus, earlier_figures
from bridge.runtime.clock import Clock
from bridge.sessions.admission import Lane
from bridge.sessions.backoff import STEADY_S
from bridge.sessions.reactions import STARTING
from bridge.sessions.states import STATUS_OF, State
from bridge.sessions.views import Evidence
from core.account import AccountMirror, Quote
from core.user_key import UserKeys

REMEMBERED_EVIDENCE = 3


class Recorder(Protocol):
    """Where records are written, as sessions see it. The flusher is one."""

    def register(self, keys: tuple[str, ...], source: RecordSource, *, fence: int = 0) -> Entry:
        """Begin to keep the record of `source` under these keys, the canonical one first; it is written at once, under
        a fence that is not below `fence`.

        Keys that are still registered are taken over; an entry that was fenced, or is below, is replaced by one that
        claims anew.
        """

    def mark(self, entry: Entry, *, urgent: bool = False) -> None:
        """The reading differs from what was last written. Cheap: called from frame callbacks."""

    async def recorded(self, entry: Entry, timeout_s: float) -> None:
        """Wait until no urgent change of this entry is left to write, at most `timeout_s`; sooner if a store failed."""

    async def release(self, entry: Entry) -> None:
        """Wait (bounded) until the last state is written, then forget the entry; no-op for one that was replaced."""

    def forget(self, entry: Entry) -> None:
        """Write nothing more for this entry; no-op for one that was replaced."""


class Desk(Protocol):
    """The supervisor, as a row sees it: reports are taken down at once and acted on afterwards."""

    clock: Clock
    recorder: Recorder

    def staged(self, session: Session, stage: Stage) -> None:
        """A login has come this far."""

    def lost(self, session: Session, fault: BrokerFault) -> None:
        """The broker's side of a session has ended."""

    def refused(self, session: Session) -> None:
        """The primary store holds a higher fence."""


class Session:
    """A row. Fields are written by the supervisor only. Times: `_ms` Unix ms, the rest monotonic s.

    `user_keys` and `keys` (record keys, canonical first) name it; `account_id` None until login tells.
    `attempts`: failures since it was last steady; `quick`: re-authorisations at once since then. `epoch` grows when the
    session moves on, so that timers and reports of an earlier life are recognised. `task`: its one transient task.

    What the desired sessions hold of it: `command` (the last one carried out), `stored_at_risk`, `owes_record` (it has
    ended, and they do not know yet that its last record is written), `fence` (of its ownership; 0 without owners).
    `used_at`: a use they do not know of yet.
    """

    __slots__ = (
        "_earlier",
        "_mirror",
        "account",
        "account_id",
        "as_of_ms",
        "attempts",
        "broker",
        "command",
        "credential",
        "desk",
        "ended_at",
        "entry",
        "environment",
        "epoch",
        "events_before",
        "evidence",
        "fence",
        "keys",
        "last_event_at_ms",
        "live_before_s",
        "live_since",
        "next_attempt_at_ms",
        "owes_record",
        "quick",
        "reason",
        "reconnects",
        "serial",
        "since_ms",
        "started_at",
        "state",
        "stored_at_risk",
        "task",
        "used_at",
        "user_id",
        "user_keys",
        "waiting_since",
        "was_live",
    )

    def __init__(
        self,
        serial: int,
        *,
        user_id: str,
        user_keys: UserKeys,
        broker: str,
        environment: Environment,
        account_id: str | None,
        keys: tuple[str, ...],
        desk: Desk,
    ) -> None:
        self.serial = serial
        self.user_id = user_id
        self.user_keys = user_keys
        self.broker = broker
        self.environment = environment
        self.account_id = account_id
        self.keys = keys
        self.desk = desk
        self.command = 0
        self.fence = 0
        self.stored_at_risk = False
        self.owes_record = False
        self.used_at: float | None = None
        self.state = State.STOPPED
        self.reason: Reason | None = STARTING
        self.since_ms = desk.clock.now_ms()
        self.next_attempt_at_ms: int | None = None
        self.attempts = 0
        self.quick = 0
        self.reconnects = 0
        self.epoch = 0
        self.entry: Entry | None = None
        self.account: AccountSession | None = None
        self.credential: Credential | None = None
        self.task: asyncio.Task[Any] | None = None
        self.evidence: tuple[Evidence, ...] = ()
        self.as_of_ms: int | None = None
        self.last_event_at_ms: int | None = None
        self.events_before = 0
        self.started_at = self.waiting_since = desk.clock.monotonic()
        self.ended_at: float | None = None
        self.live_since: float | None = None
        self.live_before_s = 0.0
        self.was_live = False
        self._mirror: AccountMirror | None = None
        self._earlier: Mapping[str, Any] | None = None  # figures of another life, until there is a mirror

    # ------------------------------------------------------------ what it is

    @property
    def lane(self) -> Lane:
        """Where it queues."""
        return (self.broker, self.environment.value)

    @property
    def refused(self) -> bool:
        """True when its record may not be written under its present fence any more."""
        return self.entry is not None and self.entry.fenced

    @property
    def mirror(self) -> AccountMirror | None:
        """The account as last known, also when the broker's side has ended."""
        if self.account is not None and self.account.mirror is not None:
            return self.account.mirror
        return self._mirror

    @property
    def at_risk(self) -> bool:
        """True when positions or working orders were last seen, by this process or by an earlier one."""
        mirror = self.mirror
        return self.stored_at_risk if mirror is None else mirror.at_risk

    @property
    def events(self) -> int:
        """Events applied for this session since the process started."""
        mirror = self.account.mirror if self.account is not None else None
        return self.events_before + (mirror.events if mirror is not None else 0)

    def is_steady(self, now: float) -> bool:
        """True when live long enough for earlier failures to count no more."""
        return self.live_since is not None and now - self.live_since >= STEADY_S

    def uptime_percent(self, now: float) -> float:
        """Share of the time since start (until stop) in which it was live, 0 to 100."""
        end = now if self.ended_at is None else self.ended_at
        total = end - self.started_at
        live = self.live_before_s + (now - self.live_since if self.live_since is not None else 0.0)
        if total <= 0.0:
            return 100.0 if self.live_since is not None else 0.0
        return round(100.0 * min(1.0, live / total), 2)

    def remember(self, evidence: Evidence) -> None:
        """Keep what went wrong; newest first, only the last few."""
        self.evidence = (evidence, *self.evidence[: REMEMBERED_EVIDENCE - 1])

    def drop_account(self) -> AccountSession | None:
        """Let go of the broker's side and keep the numbers as they are now; returns it for its logout.

        The mirror may be shared with other users' sessions and go on changing: what is kept is a copy, so that a user
        who lost access is shown nothing newer.
        """
        account = self.account
        if account is None:
            return None
        self._note_contact()
        mirror = account.mirror
        if mirror is not None:
            self.events_before += mirror.events
            self._mirror = _still(mirror)
        self.account = None
        return account

    def _note_contact(self) -> None:
        contact = self.account.contact_monotonic if self.account is not None else None
        if contact is not None:
            clock = self.desk.clock
            self.as_of_ms = clock.now_ms() - max(0, round((clock.monotonic() - contact) * 1000))

    # ------------------------------------------------------------ RecordSource

    def reading(self) -> Reading:
        """What goes into the record now."""
        self._note_contact()
        mirror = self.mirror
        if mirror is not None and self._earlier is not None:
            self._earlier = None
        return Reading(
            broker=self.broker,
            environment=self.environment.value,
            account_id=self.account_id,
            status=STATUS_OF[self.state] or RecordStatus.STALE,
            reason=self.reason,
            mirror=mirror,
            as_of_ms=self.as_of_ms,
            earlier=self._earlier,
        )

    def recall(self, document: bytes) -> None:
        """From the flusher: what stood in the store. Of no interest once the account has been read."""
        if self.mirror is None:
            self._earlier = earlier_figures(
                document, broker=self.broker, environment=self.environment.value, account_id=self.account_id
            )

    def fenced(self, fence: int) -> None:
        """The primary refused a write; a refusal of an entry that was replaced since means nothing."""
        entry = self.entry
        if entry is not None and (entry.fence is None or fence > entry.fence):
            self.desk.refused(self)

    # ------------------------------------------------------------ SessionListener

    def stage(self, stage: Stage) -> None:
        """From the adapter, during a login."""
        self.desk.staged(self, stage)

    def changed(self, *, urgent: bool) -> None:
        """From the adapter, in the frame callback: once until the next reading, or for each urgent change."""
        self.last_event_at_ms = self.desk.clock.now_ms()
        if self.entry is not None:
            self.desk.recorder.mark(self.entry, urgent=urgent)

    def lost(self, fault: BrokerFault) -> None:
        """From the adapter: this live session ended."""
        self.desk.lost(self, fault)


def _still(mirror: AccountMirror) -> AccountMirror:
    """A copy that no later event reaches; the catalogue is shared, it holds no account's data."""
    return replace(
        mirror,
        positions={key: replace(position) for key, position in mirror.positions.items()},
        orders={key: replace(order) for key, order in mirror.orders.items()},
        quotes={key: Quote(quote.bid, quote.ask) for key, quote in mirror.quotes.items()},
        on_dirty=None,
        on_clean=None,
        _removed=None,
        _seen=None,
    )
