"""The account hub: everything the process holds of one account, whoever uses it.

One hub per (environment, account): one trading stream, one request budget, one mirror, any number of sessions (DESIGN
§5). Trade updates are applied in the receive callback, at once; what REST must say afterwards is the upkeep's to ask.
The steps of a login are in `login`, which works on a hub. What cannot be used is quarantined: counted, and the account
is read again.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from bridge.brokers.alpaca import faults, frames, strangers, updates, usual
from bridge.brokers.alpaca.budget import Priority
from bridge.brokers.alpaca.context import Context
from bridge.brokers.alpaca.gate import Gate
from bridge.brokers.alpaca.members import Login, Member
from bridge.brokers.alpaca.pace import Pace
from bridge.brokers.alpaca.past import Past
from bridge.brokers.alpaca.reading import Executions
from bridge.brokers.alpaca.requests import Requests
from bridge.brokers.alpaca.stream import TradingStream
from bridge.brokers.alpaca.updates import Facts, TradeUpdate
from bridge.brokers.alpaca.upkeep import Upkeep
from bridge.brokers.alpaca.values import QUOTE_DIGITS, raw_price
from bridge.brokers.base import BrokerFault, Environment, FaultKind, ReasonCode, Stage
from bridge.brokers.flight import Flight
from core.account import AccountMirror, EquityRule
from core.errors import ProtocolViolation
from core.events import Fill

BUFFER_CAP = 1000
COUNTED_AS = {event: f"events.{event}" for event in updates.SAY_ALL}  # made once, not with every message
_OTHERS_FAULTS = frozenset({FaultKind.TOKEN, FaultKind.FATAL_USER})


class Steps(Protocol):
    """What is done with a hub, step by step; the module `login` is it."""

    async def make_live(self, hub: AccountHub, login: Login) -> None:
        """Open the stream, read the account, feed it prices. Raises BrokerFault."""

    async def read_live(self, hub: AccountHub, priority: Priority) -> int:
        """Compare with a reading and repair; returns the number of lost events. Raises BrokerFault."""


class AccountHub:
    """One account. Implements `stream.StreamOwner` and `feed.Follower`."""

    __slots__ = (
        "_flight",
        "_flight_fingerprint",
        "_following",
        "_reading",
        "_steps",
        "account_id",
        "assets",
        "buffer",
        "closing",
        "context",
        "environment",
        "following",
        "gate",
        "held",
        "leaving",
        "live",
        "members",
        "memory",
        "mirror",
        "overflowed",
        "pace",
        "past",
        "requests",
        "serving",
        "stream",
        "updates",
        "upkeep",
    )

    def __init__(
        self, context: Context, environment: Environment, account_id: str, gate: Gate, login: Login, steps: Steps
    ) -> None:
        self._steps = steps
        self.context = context
        self.environment = environment
        self.account_id = account_id
        self.gate = gate
        self.assets = context.assets[environment]
        self.mirror = AccountMirror(
            environment.value, account_id, self.assets.catalogue, QUOTE_DIGITS, EquityRule.VALUE
        )
        self.mirror.on_dirty = self._tell_changed
        self.memory = Executions(context.settings)
        self.past = Past(context.settings.order_lag_s)
        self.members: list[Member] = []
        self.stream: TradingStream | None = None
        self.closing: asyncio.Task[None] | None = None  # the goodbye of the last one
        self.live = False
        self.updates = 0  # trade updates applied so far
        self.buffer: list[TradeUpdate | bytes] | None = None  # those since a reading began, some as they came
        self.overflowed = False
        self.leaving: asyncio.Future[None] | None = None
        self.pace = Pace(context.settings, context.rng)
        self.following = context.market.following(self)
        self.held: dict[str, None] = {}  # the instruments whose prices are followed
        self.upkeep = Upkeep(self)
        self._following = False
        self._flight: Flight[None] = Flight()
        self._flight_fingerprint: str | None = None
        self._reading: Flight[int] = Flight()
        self.serve(login)

    @property
    def state(self) -> str:
        """A word for /health."""
        if self.live:
            return "up"
        return "connecting" if self._flight.active else "down"

    @property
    def last_heard(self) -> float | None:
        """When the stream or REST last answered (monotonic s); None while the stream is not open."""
        if self.stream is None or not self.stream.up:
            return None
        return max(self.stream.last_heard, self.requests.heard_at or 0.0)

    # ------------------------------------------------------------ login, readings, logout

    def serve(self, login: Login) -> None:
        """Use this login for REST and for prices from now on."""
        context = self.context
        self.serving = login
        self.requests = Requests(
            context.settings, context.clock, context.stats, context.client, self.gate, login.credential
        )

    async def log_in(self, member: Member, login: Login) -> None:
        """Make the account live for a member, sharing a login that is under way. Raises BrokerFault."""
        if member.login is not None and member.login.fingerprint == self.serving.fingerprint:
            self.serve(login)  # the secrets in use were replaced
        member.login = login
        for _ in range(3):
            if self.live:
                return
            if not self._flight.active:
                self._flight_fingerprint = login.fingerprint
            mine = self._flight_fingerprint == login.fingerprint
            try:
                await self._flight.join(
                    self.context.tasks, lambda: self._steps.make_live(self, login), f"login-{self.account_id}"
                )
            except BrokerFault as fault:
                if mine or fault.kind not in _OTHERS_FAULTS:
                    raise
                continue  # another's credential was refused, which says nothing about this one
            return
        raise faults.transient(ReasonCode.BROKER_ERROR, "The account could not be opened; it is tried again.")

    async def reconcile(self) -> int:
        """Read the account and repair the mirror; returns how many events had been lost. Raises BrokerFault.

        Sessions on one account share it: while there are several, a fresh one is not repeated.
        """
        if not self.live:
            raise not_live()
        age_ms = self.context.clock.now_ms() - (self.mirror.confirmed_at_ms or 0)
        if len(self.members) > 1 and 0 <= age_ms < self.context.settings.reconcile_s * 500:
            return 0
        return await self.read(Priority.RECONCILE)

    async def read(self, priority: Priority) -> int:
        """One reading, shared by all who want one now; whoever joins is told of no lost events. Raises BrokerFault."""
        joins, requests = self._reading.active, self.requests
        try:
            lost = await self._reading.join(
                self.context.tasks, lambda: self._steps.read_live(self, priority), f"read-{self.account_id}"
            )
        except BrokerFault as fault:
            if requests is self.requests:
                self.judge(fault)
            raise
        return 0 if joins else lost

    def judge(self, fault: BrokerFault) -> None:
        """A request of a live account failed: what only the user can mend ends it, and the sessions are told."""
        if not self.live or fault.kind is not FaultKind.FATAL_USER:
            return
        spent = self.serving.fingerprint
        self._stop()
        for member in self._leave_all():
            own = member.login is not None and member.login.fingerprint == spent
            member.listener.lost(fault if own else not_live())

    async def log_out(self) -> None:
        """The last session left: close the stream and forget the account. Bounded; never raises a fault."""
        self.leaving = asyncio.get_running_loop().create_future()
        stream = self.stream
        try:
            self._stop(close=False)
            if stream is not None:
                await stream.close()
        finally:
            self.leaving.set_result(None)

    def left(self, member: Member) -> None:
        """A member left others behind: its credential is not used any more."""
        gone, member.login = member.login, None
        if gone is None or gone.fingerprint != self.serving.fingerprint:
            return
        for other in self.members:
            if other.login is not None:
                self.serve(other.login)
                self.follow()
                return

    # ------------------------------------------------------------ what arrives

    def usual(self, frame: frames.Frame) -> bool:
        """Apply a trade update that looks as nearly all do; False for any other frame."""
        found = usual.facts(frame, self.mirror, self.assets, self.memory.included)
        if found is None:
            return False
        if self.buffer is not None:
            self._keep(bytes(frame))
        self._take(*found)
        return True

    def update(self, data: dict[str, Any]) -> None:
        """One trade update."""
        try:
            update = updates.read(data)
        except ProtocolViolation:
            self.unusable()
            return
        if update.parts and self.live and strangers.is_strange(update, self.mirror, self.memory):
            strangers.look_up(self, update)
        else:
            self.apply(update)

    def apply(self, update: TradeUpdate) -> None:
        """Apply it at once; kept as well while a reading is under way."""
        try:
            facts = updates.facts(update, self.mirror, self.assets, self.memory.included)
        except ProtocolViolation:
            self.unusable()
            return
        if self.buffer is not None:
            self._keep(update)
        self._take(update.event if update.known else "unknown", facts)

    def _keep(self, update: TradeUpdate | bytes) -> None:
        if self.buffer is not None and len(self.buffer) < BUFFER_CAP:
            self.buffer.append(update)
        else:
            self.overflowed = True

    def kept(self) -> list[TradeUpdate]:
        """The updates since the reading that is under way began."""
        kept = self.buffer or ()
        return [updates.read(frames.read(each)["data"]) if isinstance(each, bytes) else each for each in kept]

    def _take(self, event: str, facts: Facts) -> None:
        context, mirror, fills = self.context, self.mirror, facts.fills
        context.stats.count(COUNTED_AS.get(event) or f"events.{event}")
        self.updates += 1
        now = context.clock.monotonic()
        if fills:
            self.past.note(mirror, fills, now)
        changed = mirror.apply(facts.execution, context.clock.now_ms())
        self.memory.heard(facts, now)
        if fills:
            self._note(fills)
        if self.live:
            if changed and facts.execution.urgent:
                self._tell_urgent()
            if facts.read_soon:
                self.upkeep.ask(context.settings.reading_delay_s, now)

    def _note(self, fills: tuple[Fill, ...]) -> None:
        """Executions: what they were paid is the first price known of what is new."""
        mirror = self.mirror
        self.context.stats.count("fills", len(fills))
        for fill in fills:
            mirror.note_fill(fill)
            if fill.instrument_id in mirror.positions and fill.instrument_id not in mirror.quotes:
                price = raw_price(fill.price)
                mirror.set_quote(fill.instrument_id, price, price)
        if not self._following and mirror.positions.keys() != self.held.keys():  # a position has its instrument's name
            self._following = True
            asyncio.get_running_loop().call_soon(self._follow_now)

    def unusable(self) -> None:
        """Something could not be used: count it, and read the account anew soon."""
        self.context.stats.count("quarantined")
        if self.live:
            self.upkeep.ask(self.context.settings.repair_delay_s, self.context.clock.monotonic())

    def stream_ended(self, stream: TradingStream, fault: BrokerFault) -> None:
        """The stream was cut: the sessions are told when they may come back."""
        if stream is not self.stream:
            return
        self.stream = None
        if self.live:
            self.context.stats.count(f"reconnects.{fault.reason.code}")
            self.ended(self.pace.lost(fault, self.context.clock.monotonic()))

    def ended(self, fault: BrokerFault) -> None:
        """The account is live no more; every session is told once."""
        self._stop()
        for member in self._leave_all():
            member.listener.lost(fault)

    def _leave_all(self) -> list[Member]:
        joined = [member for member in self.members if member.joined]
        for member in joined:
            member.joined = False
        return joined

    def _stop(self, *, close: bool = True) -> None:
        """Nothing of this account is followed or asked any more."""
        stream, self.stream = self.stream, None
        self.live = False
        self.upkeep.stop()
        self.following.leave()
        self.gate.close()
        if close and stream is not None:
            self.closing = self.context.tasks.start(stream.close(), name=f"close-{self.account_id}")

    def _tell_urgent(self) -> None:
        for member in self.members:
            if member.joined:
                member.listener.changed(urgent=True)

    def _tell_changed(self) -> None:
        for member in self.members:
            if member.joined:
                member.listener.changed(urgent=False)

    # ------------------------------------------------------------ prices

    def follow(self) -> None:
        """Keep the price feeds in step with what is held; a price that nobody renews is forgotten."""
        mirror = self.mirror
        self.held = held = {position.instrument_id: None for position in mirror.positions.values()}
        self.following.follow(held, self.assets, self.serving.credential)
        mirror.forget_quotes([key for key in mirror.quotes if key not in held])
        self.upkeep.replan()

    def _follow_now(self) -> None:
        """What several executions of one moment changed is followed once."""
        self._following = False
        if self.live:
            self.follow()

    def fed_changed(self) -> None:
        """A feed began or ceased to tell some prices."""
        if self.live:
            self.upkeep.replan()

    def tell_stage(self, stage: Stage) -> None:
        """A shared login reached this stage."""
        for member in self.members:
            if member.waiting:
                member.listener.stage(stage)


def not_live() -> BrokerFault:
    """Nothing can be asked of this account now."""
    return faults.transient(ReasonCode.ACCOUNT_SESSION_ENDED, "The account must be opened again.")
