"""Carries out ownership for one process: keeps its lease, claims and gives up sessions, leaves in order.

Two tasks. One renews the lease, whatever else is going on; the other looks around, asks `shares` what to do, and does
it. Neither changes a session: the supervisor does. Invariant: whoever lost the lease begins anew under another name,
with nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks
from bridge.sessions.desired import StoredSession
from bridge.sessions.keeping import Keeper
from bridge.sessions.lease import RENEWED_AFTER, Lease
from bridge.sessions.machine import who
from bridge.sessions.ownership.fleet import Fleet, FleetLook
from bridge.sessions.ownership.handing import Handing
from bridge.sessions.ownership.shares import decide
from bridge.sessions.session import Session
from bridge.sessions.standing import Standing
from bridge.sessions.states import LOGIN_STATES, State
from bridge.sessions.supervisor import Supervisor
from bridge.sessions.turns import Turns
from bridge.sessions.views import OwnershipView
from bridge.telemetry.audit import Audit
from core.errors import BridgeError, Unavailable

log = logging.getLogger(__name__)

CLAIM_AT_ONCE = 500
BREATH_S = 0.05  # between two looks, so that many notices cost one
BUSY_S = 1.0  # until the next look while sessions move or wait for their logins, of which the others are told
EXPIRY_S = 0.2  # after another process's lease has ended, at most: then its sessions are free


def new_name(rng: Random) -> str:
    """A name for a process, never used before: 12 hex digits."""
    return f"{rng.getrandbits(48):012x}"


@dataclass(frozen=True, slots=True)
class Membership:
    """How this process belongs to the fleet. `capacity`: the weight of its share."""

    fleet: Fleet
    version: str
    capacity: int


class Steward:
    """Runs as two tasks until it leaves. `counts()`: this process's sessions by broker and status, for the others."""

    def __init__(
        self,
        membership: Membership,
        *,
        standing: Standing,
        supervisor: Supervisor,
        turns: Turns,
        keeper: Keeper,
        brokers: Sequence[str],
        clock: Clock,
        rng: Random,
        audit: Audit,
        counts: Callable[[], Mapping[str, int]],
    ) -> None:
        self._membership = membership
        self.fleet = membership.fleet
        self._standing = standing
        self._lease = standing.lease or Lease(0)
        self._supervisor = supervisor
        self._handing = Handing(self.fleet, standing, supervisor, turns, audit)
        self._keeper = keeper
        self._brokers = brokers
        self._clock = clock
        self._rng = rng
        self._counts = counts
        self._wake = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []
        self._joined = False
        self._away = False
        self._free_since: float | None = None
        self.look: FleetLook | None = None
        self.counters: Counter[str] = Counter()

    def start(self, tasks: Tasks) -> None:
        """Join, and begin to act."""
        self._running = [
            tasks.start(self._keep_lease(), name="lease", essential=True),
            tasks.start(self._act(), name="steward", essential=True),
        ]

    def wake(self) -> None:
        """Something has changed elsewhere: look now."""
        self._wake.set()

    async def leave(self) -> None:
        """Give everything back at once; the sockets must be closed by now. Raises Unavailable: the lease then ends."""
        for task in self._running:
            task.cancel()
        if self._joined:
            await self.fleet.leave(self._standing.owner)
            log.info("left the fleet: others may take over", extra={"owner": self._standing.owner})

    def figures(self) -> Mapping[str, float]:
        """For telemetry."""
        look, now = self.look, self._clock.monotonic()
        mine = None if look is None else look.reading.member(self._standing.owner)
        return {
            "owned": 0 if mine is None else mine.load,
            "unowned": 0 if look is None else look.reading.free,
            "members": 0 if look is None else len(look.processes),
            "lease_age_seconds": self._lease.age_s(now) or 0.0,
            "suspended": float(self._supervisor.suspended),
            **{name: self.counters[name] for name in ("claims", "hand_overs", "burials", "lapses", "renew_failures")},
        }

    def standing(self) -> OwnershipView:
        """For /health."""
        figures, age_s = self.figures(), self._lease.age_s(self._clock.monotonic())
        state = "draining" if self._standing.draining else "active"
        if self._standing.ending:
            state = "ending"
        elif not self._joined:
            state = "joining"
        elif not self._standing.may_act():
            state = "suspended"
        return OwnershipView(
            owner=self._standing.owner,
            state=state,
            lease_age_ms=None if age_s is None else round(age_s * 1000),
            owned=int(figures["owned"]),
            processes=int(figures["members"]),
        )

    def trouble(self) -> str | None:
        """One sentence while something about ownership needs a person to know, for alerts."""
        if self._supervisor.suspended:
            return "this process cannot renew its lease in the database, so its sessions are logged out until it can"
        free_since = self._free_since
        if free_since is not None and self._clock.monotonic() - free_since > 4 * self._lease.ttl_s:
            free = self.look.reading.free if self.look is not None else 0
            return f"{free} session(s) have been served by no process for long"
        return None

    # ------------------------------------------------------------ the lease

    async def _keep_lease(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._lease.ttl_s * RENEWED_AFTER):
                    await self._renew()
            except (Unavailable, TimeoutError) as error:
                self.counters["renew_failures"] += 1
                self._note_away(error)
                pause_s = self._lease.retry_s(self._rng)
            except BridgeError as error:
                log.error("the lease cannot be renewed", extra={"error": str(error)})
                pause_s = self._lease.ttl_s * RENEWED_AFTER
            else:
                self._note_back()
                pause_s = max(0.0, self._lease.renew_at(self._rng) - self._clock.monotonic()) if self._joined else 0.0
            await asyncio.sleep(pause_s)

    async def _renew(self) -> None:
        asked_at, owner, ttl_s = self._clock.monotonic(), self._standing.owner, self._lease.ttl_s
        if not self._joined:
            version, capacity = self._membership.version, self._membership.capacity
            await self.fleet.join(owner, version=version, capacity=capacity, ttl_s=ttl_s)
            self._joined = True
            log.info("joined the fleet", extra={"owner": owner, "lease_seconds": ttl_s})
        elif not await self.fleet.renew(owner, ttl_s=ttl_s):
            self._lost()
            return
        self._lease.renewed(asked_at)
        if self._supervisor.suspended and self._standing.may_act():
            log.warning("the lease is renewed: sessions go on")
            self._supervisor.resume()
        self._wake.set()

    def _lost(self) -> None:
        """Others have taken over. What is left here goes, and the process begins anew under another name."""
        self.counters["lapses"] += 1
        log.error("the lease was lost: others take over", extra={"owner": self._standing.owner})
        self._lease.lost()
        self._joined = False
        self._handing.unreleased.clear()
        for session in list(self._supervisor.table):
            self._supervisor.let_go(session)
        self._supervisor.suspended = False
        self._standing.owner = new_name(self._rng)

    def _note_away(self, error: BaseException) -> None:
        if not self._away:
            self._away = True
            log.warning("the lease is not renewed at present", extra={"error": str(error) or type(error).__name__})

    def _note_back(self) -> None:
        if self._away:
            self._away = False
            log.info("the lease is renewed again")

    # ------------------------------------------------------------ acting

    async def _act(self) -> None:
        while True:
            self._wake.clear()
            busy = False
            try:
                if self._joined and self._standing.may_act() and not self._standing.ending:
                    busy = await self._round()
            except Unavailable as error:
                log.debug("ownership cannot be looked after at present", extra={"error": str(error)})
            except Exception as error:  # last resort: sessions must not lose their steward; said each time
                log.error("unexpected error while looking after ownership", exc_info=error)
            await self._pause(busy)

    async def _pause(self, busy: bool) -> None:
        await asyncio.sleep(self._rng.uniform(BREATH_S / 2, BREATH_S))
        seconds = BUSY_S if busy else self._standing.look_every_s
        if self.look is not None:
            ends = (row.left_ms / 1000 for row in self.look.processes if row.owner != self._standing.owner)
            seconds = min(
                seconds, *(max(0.0, left_s) + self._rng.uniform(BREATH_S, EXPIRY_S) for left_s in ends), seconds
            )
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _round(self) -> bool:
        """One look, and what follows from it. True while sessions move, come in, or wait for others to catch up."""
        look = await self.fleet.look(self._standing.owner, brokers=self._brokers, sessions=self._counts())
        self._seen(look)
        if not look.alive:
            return False  # the renewal will find out, and begin anew
        decision = decide(look.reading, self._standing.owner, ttl_s=self._lease.ttl_s, waiting_s=self._waiting_s(look))
        moved = await self._claim(decision.claim)
        if not self._keeper.resumed:
            self._keeper.resumed = True
            if moved:
                log.info("sessions resumed", extra={"sessions": moved})
        leaving = {*self._handing.unreleased, *self._handing.named(look.moves)}
        leaving.update(self._movable(decision.give_up - len(leaving)))
        if leaving:
            given_up = await self._handing.hand_over(leaving)
            self.counters["hand_overs"] += given_up
            moved += given_up
        await self._reclaim()
        mine = look.reading.member(self._standing.owner)
        waiting = decision.more or bool(self._handing.unreleased) or (mine is not None and mine.backlog > 0)
        return moved > 0 or waiting

    def _seen(self, look: FleetLook) -> None:
        self.look = look
        for owner in look.buried:
            self.counters["burials"] += 1
            log.warning("the lease of another process has ended: its sessions are taken over", extra={"owner": owner})
        mine = look.reading.member(self._standing.owner)
        self._standing.draining = mine is not None and mine.draining

    def _waiting_s(self, look: FleetLook) -> float:
        if not look.reading.free:
            self._free_since = None
            return 0.0
        if self._free_since is None:
            self._free_since = self._clock.monotonic()
        return self._clock.monotonic() - self._free_since

    async def _claim(self, count: int) -> int:
        """Claim so many at most, at risk first; returns how many came."""
        claimed = 0
        while claimed < count and self._standing.may_act() and not self._standing.ending:
            limit = min(CLAIM_AT_ONCE, count - claimed)
            rows, _ = await self._keeper.each(partial(self._claim_some, limit), self._keeper.take_up)
            claimed += len(rows)
            if len(rows) < limit:
                break
        if claimed:
            self.counters["claims"] += claimed
            log.info("sessions claimed", extra={"sessions": claimed})
            self._keeper.wake()
        return claimed

    async def _claim_some(self, limit: int) -> list[StoredSession]:
        return await self.fleet.claim(self._standing.owner, brokers=self._brokers, limit=limit)

    # ------------------------------------------------------------ giving up

    def _movable(self, count: int) -> list[Session]:
        """Those whose move costs least: not live, then calm ones. Who is logging in is left to get there first."""
        if count <= 0:
            return []
        owned = [
            session
            for session in self._supervisor.table
            if session.state not in (State.STOPPED, State.FENCED, *LOGIN_STATES)
            and session not in self._handing.unreleased
        ]
        owned.sort(key=lambda session: (session.state is State.LIVE, session.at_risk, session.serial))
        return owned[:count]

    async def _reclaim(self) -> None:
        """Sessions, and last records, that a store refused although they are ours: claim them anew, after a while.

        A release before this one that begins to serve takes every record over and never claims one back; where it
        replaces this process, that has ended before the time is over.
        """
        before_ms = self._clock.now_ms() - self._lease.ttl_s * 1000
        fenced = [
            session
            for session in self._supervisor.table
            if (session.state is State.FENCED or (session.owes_record and session.refused))
            and session.since_ms <= before_ms
        ]
        if not fenced:
            return
        identities = [(session.user_keys.canonical, session.broker, session.account_id or "") for session in fenced]

        async def ours() -> list[StoredSession]:
            return await self.fleet.reclaim(self._standing.owner, identities)

        rows, _ = await self._keeper.each(ours, self._keeper.take_up)
        for session in fenced:
            if session.state is State.FENCED or session.refused:  # somebody else's, or wanted no more
                self._supervisor.let_go(session)
            elif session.state is not State.STOPPED:
                log.warning("session is served again after a refusal", extra=who(session))
        self.counters["claims"] += len(rows)
