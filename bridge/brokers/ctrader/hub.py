"""The account hub: everything the process holds of one broker account, whoever uses it.

One hub per (environment, account): one mirror, one authorisation, any number of sessions (DESIGN §5). It takes the
account's events, applies them or buffers them while a snapshot is read, and tells its sessions. The steps of a login
are in `login`, which works on a hub. What cannot be used is quarantined: counted, and the account reconciles.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from bridge.brokers.base import BrokerFault, Environment, FaultKind, Reason, ReasonCode, Stage
from bridge.brokers.ctrader import codec, farewells, faults, normalize
from bridge.brokers.ctrader.channel import Channel
from bridge.brokers.ctrader.context import Context
from bridge.brokers.ctrader.deals import DealBook
from bridge.brokers.ctrader.listing import Listed
from bridge.brokers.ctrader.market import Market
from bridge.brokers.ctrader.members import LoginRequest, Member
from bridge.brokers.ctrader.pool import Pool
from bridge.brokers.ctrader.price_classes import Kind
from bridge.brokers.ctrader.scheduling import market_class
from bridge.brokers.ctrader.shared_quote import SharedQuote
from bridge.brokers.ctrader.sharing import Sharing
from bridge.brokers.ctrader.upkeep import Upkeep
from bridge.brokers.flight import Flight
from core.account import AccountMirror
from core.errors import ProtocolViolation
from core.events import Execution
from core.instruments import Catalogue
from protos.ctrader import PAYLOAD_CLASSES, messages_pb2, model_pb2

M = TypeVar("M", bound=Message)

BUFFER_CAP = 1000
_OTHERS_FAULTS = frozenset({FaultKind.TOKEN, FaultKind.FATAL_USER, FaultKind.ACCOUNT_AUTH_LOST})
_SESSION_FAULTS = frozenset({*_OTHERS_FAULTS, FaultKind.CLIENT_AUTH_LOST})


class Steps(Protocol):
    """What is done with a hub, step by step; the module `login` is it."""

    async def make_live(self, hub: AccountHub, request: LoginRequest) -> None:
        """Authorise, read and feed the account. Raises BrokerFault."""

    async def reconcile_live(self, hub: AccountHub) -> int:
        """Compare with the broker's snapshot and repair; returns the number of lost events. Raises BrokerFault."""

    async def feed(self, hub: AccountHub) -> None:
        """Bring descriptions, chains and price subscriptions in step with what is held. Raises BrokerFault."""


class AccountHub:
    """One broker account. Implements `routing.Route`."""

    __slots__ = (
        "_flight",
        "_flight_token",
        "_logged_out",
        "_reconciling",
        "_steps",
        "asked",
        "authorised",
        "authorised_by",
        "buffer",
        "channel",
        "context",
        "current",
        "deals",
        "environment",
        "holds",
        "kind",
        "leaving",
        "listed",
        "live",
        "market",
        "members",
        "mirror",
        "number",
        "overflowed",
        "pool",
        "symbols",
        "unquotable",
        "upkeep",
    )

    def __init__(self, context: Context, pool: Pool, listed: Listed, steps: Steps) -> None:
        self._steps = steps
        self.context = context
        self.pool = pool
        self.listed = listed
        self.number = listed.number
        self.environment: Environment = pool.environment
        self.channel: Channel | None = None
        self.market: Market | None = None
        self.mirror = AccountMirror(str(pool.environment), str(listed.number), Catalogue())
        self.mirror.on_dirty = self._tell_changed
        self.deals = DealBook()
        self.symbols: dict[int, str] = {}
        self.holds: dict[int, SharedQuote] = {}
        self.kind: Kind | None = None  # known from the first snapshot on
        self.unquotable: frozenset[int] = frozenset()
        self.members: list[Member] = []
        self.asked = False  # for an authorisation, and what became of it is not known: it may be there
        self.authorised = False
        self.authorised_by: str | None = None
        self.current = False  # the mirror follows the stream
        self.live = False  # and the login is complete
        self.buffer: list[Message] | None = None
        self.overflowed = False
        self.leaving: asyncio.Future[None] | None = None
        self._flight: Flight[None] | None = None
        self._flight_token: str | None = None
        self._reconciling: Flight[int] | None = None
        self.upkeep = Upkeep(self, partial(steps.feed, self))
        self._logged_out: asyncio.Future[None] | None = None

    # ------------------------------------------------------------ login, reconcile, logout

    def place(self) -> Channel:
        """The channel of this account, assigned at the first login and again when its channel was given up."""
        if self.channel is not None and self.channel.retired:
            self._leave_channel()
        if self.channel is None:
            self.channel = self.pool.assign()
        return self.channel

    async def log_in(self, member: Member, request: LoginRequest) -> None:
        """Make the account live for a member, sharing a login that is under way. Raises BrokerFault."""
        fingerprint = request.fingerprint
        renewed = member.fingerprint is not None and member.fingerprint == self.authorised_by != fingerprint
        if renewed:
            self.live = False  # the token that holds the authorisation was replaced: authorise with the new one
        member.fingerprint = fingerprint
        for _ in range(3):
            if self.live:
                return
            if self._flight is None:
                self._flight = Flight()
            if not self._flight.active:
                self._flight_token = fingerprint
            mine = self._flight_token == fingerprint
            try:
                await self._flight.join(
                    self.context.tasks, lambda: self._steps.make_live(self, request), f"login-{self.number}"
                )
            except BrokerFault as fault:
                if mine or fault.kind not in _OTHERS_FAULTS:
                    raise
                continue  # the other's token was refused, which says nothing about this one
            return
        raise faults.transient(ReasonCode.BROKER_ERROR, "The account could not be authorised; it is tried again.")

    async def reconcile(self) -> int:
        """Read the full snapshot and repair the mirror; returns how many events had been lost. Raises BrokerFault.

        Sessions on one account share it: while there are several, a fresh one is not repeated.
        """
        if not self.live:
            raise faults.transient(ReasonCode.ACCOUNT_SESSION_ENDED, "The account is not live.")
        age_ms = self.context.clock.now_ms() - (self.mirror.confirmed_at_ms or 0)
        if len(self.members) > 1 and 0 <= age_ms < self.context.settings.reconcile_floor_s * 500:
            return 0
        if self._reconciling is None:
            self._reconciling = Flight()
        joins = self._reconciling.active
        try:
            lost = await self._reconciling.join(
                self.context.tasks, lambda: self._steps.reconcile_live(self), f"reconcile-{self.number}"
            )
        except BrokerFault as fault:
            self.judge(fault)
            raise
        return 0 if joins else lost

    def judge(self, fault: BrokerFault) -> None:
        """A request of a live account failed: some faults end its authorisation, and the sessions are told."""
        if not self.live or fault.shared:
            return
        if fault.kind is FaultKind.CLIENT_AUTH_LOST and self.channel is not None:
            self.channel.authorisation_lost(fault)
        elif fault.kind in _SESSION_FAULTS:
            self.ended(fault)

    async def log_out(self) -> None:
        """The last session left: tell the broker and forget the account. Bounded; never raises a fault."""
        self.leaving = asyncio.get_running_loop().create_future()
        try:
            if (self.authorised or self.asked) and self.channel is not None and self.channel.up:
                if (sharing := self.sharing) is not None:
                    await sharing.hand_on(self.number, self.context.settings.quotes_hand_on_s)
                await self._say_goodbye(self.channel)
        finally:
            self._forget_authorisation()
            self.upkeep.stop()
            self._leave_channel()
            self.leaving.set_result(None)

    def _leave_channel(self) -> None:
        if self.channel is not None:
            self.channel.router.depart(self.number)
            if (sharing := self.sharing) is not None:
                sharing.forget(self.number)
            self.pool.release(self.channel)
            self.channel = None

    async def _say_goodbye(self, channel: Channel) -> None:
        timeout_s = self.context.settings.logout_timeout_s
        self._logged_out = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await farewells.ask_logout(channel, self.number, timeout_s)
                await self._logged_out  # only the event makes it final (ctrader.md §2.2)
            if self.asked:  # for a login that the broker may carry out after it
                farewells.repeat_later(self.context, channel, self.number, None)
        except (BrokerFault, TimeoutError) as error:
            self.context.stats.count("logouts_unconfirmed")
            farewells.repeat_later(self.context, channel, self.number, None if self.asked else error)
        finally:
            self._logged_out = None

    # ------------------------------------------------------------ what arrives

    def event(self, payload_type: int, payload: bytes) -> None:
        """One account event. Buffered while a snapshot is read, applied when the mirror follows the stream."""
        if payload_type == codec.ACCOUNT_DISCONNECT:
            self._disconnected()
            return
        if self.buffer is None and not self.current:
            self.context.stats.count("late_events")
            return
        try:
            message = codec.decode(PAYLOAD_CLASSES[payload_type], payload)
        except ProtocolViolation:
            self.quarantine()
            return
        if isinstance(message, messages_pb2.ProtoOASymbolChangedEvent):
            self.upkeep.reread(tuple(message.symbolId))
            return
        if self.buffer is not None:
            if len(self.buffer) < BUFFER_CAP:
                self.buffer.append(message)
            else:
                self.overflowed = True
        if self.current:
            self._apply(message)

    def ended(self, fault: BrokerFault) -> None:
        """The authorisation of this account is over; the sessions that had it are told, each once."""
        self._forget_authorisation()
        self._tell_lost(fault)

    def login_failed(self) -> None:
        """A login did not get through. An authorisation it had won stays, for the next login or a logout to find."""
        self.live = self.current = False
        self.unfeed()
        self._tell_lost(faults.transient(ReasonCode.BROKER_ERROR, "The account must be authorised again."))

    def _tell_lost(self, fault: BrokerFault) -> None:
        for member in self.members:
            if member.joined:
                member.joined = False
                member.listener.lost(fault)

    def token_invalidated(self) -> None:
        """The broker ended the token that authorised this account."""
        if not self.live:
            return  # a login under way finds out by itself
        spent = self.authorised_by
        if spent is not None and not self.context.just_issued(spent):
            self.context.listings.drop(spent)
        else:
            spent = None  # about the predecessor of a token we have just been given
        self._forget_authorisation()
        for member in self.members:
            if member.joined:
                member.joined = False
                member.listener.lost(faults.token_ended() if member.fingerprint == spent else faults.session_ended())

    def quarantine(self) -> None:
        """Something could not be used: count it, and read the account anew soon."""
        self.context.stats.count("quarantined")
        self.upkeep.repair_soon()

    def normalised(self, message: Message) -> Execution:
        """A decoded account event as facts. Raises ProtocolViolation."""
        scales = self.scales()
        match message:
            case messages_pb2.ProtoOAExecutionEvent():
                return normalize.execution(message, scales)
            case messages_pb2.ProtoOATraderUpdatedEvent():
                currency = self.market.asset(message.trader.depositAssetId) if self.market is not None else None
                return normalize.trader(message.trader, currency, self.listed.broker_title)
            case messages_pb2.ProtoOAMarginChangedEvent():
                return normalize.margin_changed(message, scales)
            case messages_pb2.ProtoOATrailingSLChangedEvent():
                held = self.mirror.positions.get(str(message.positionId))
                symbol_id = int(held.instrument_id) if held is not None else None
                return normalize.trailing_stop_changed(message, symbol_id, scales)
        return Execution(())

    def taken(self, message: Message) -> Execution:
        """As `normalised`; the deal that it tells of is noted. Raises ProtocolViolation."""
        execution = self.normalised(message)
        if isinstance(message, messages_pb2.ProtoOAExecutionEvent) and message.HasField("deal"):
            self.deal(message.deal)
        return execution

    def deal(self, deal: model_pb2.ProtoOADeal, *, recovered: bool = False) -> None:
        """Note what a deal executed, once. Raises ProtocolViolation."""
        fill = normalize.fill(deal, recovered=recovered)
        if fill is None:
            self.context.stats.count("deals_unfilled")
        elif self.deals.note(fill):
            self.mirror.note_fill(fill)
            self.context.stats.count("fills")
            if fill.instrument_id not in self.mirror.catalogue.instruments:
                self.upkeep.describe(deal.symbolId)
            if recovered:
                self.context.stats.count("fills_recovered")

    def scales(self) -> normalize.Scales:
        """What this account's messages may leave unsaid."""
        digits = self.market.price_digits if self.market is not None else normalize.no_digits
        return normalize.Scales(self.mirror.money_digits, digits)

    def _apply(self, message: Message) -> None:
        try:
            execution = self.taken(message)
        except ProtocolViolation:
            self.quarantine()
            return
        if not self.mirror.apply(execution, self.context.clock.now_ms()):
            return
        if execution.urgent:
            for member in self.members:
                if member.joined:
                    member.listener.changed(urgent=True)
        self.follow()

    def _tell_changed(self) -> None:
        for member in self.members:
            if member.joined:
                member.listener.changed(urgent=False)

    def _disconnected(self) -> None:
        if self._logged_out is not None:
            if not self._logged_out.done():
                self._logged_out.set_result(None)
            return
        self.authorised = False  # a login under way notices
        self.unfeed()
        if self.live:
            self.ended(faults.session_ended())

    def _forget_authorisation(self) -> None:
        self.asked = self.authorised = self.live = self.current = False
        self.authorised_by = None
        self.unfeed()
        self.unquotable = frozenset()

    # ------------------------------------------------------------ market data

    @property
    def sharing(self) -> Sharing | None:
        """The shared subscriptions of its channel; None when every account has its own."""
        return None if self.channel is None else self.channel.sharing

    def unfeed(self) -> None:
        """Its subscriptions are over, or are to be made anew."""
        self.symbols = {}
        if (sharing := self.sharing) is not None:
            sharing.drop(self.number)

    def follow(self) -> None:
        """What is held may have changed: keep the price subscriptions in step."""
        self.upkeep.follow()

    async def ask_market(self, request: Message, reply: type[M]) -> M:
        """Implements `market.Asker`. A fault of this account is no fault of others who wait for the same data."""
        if self.channel is None:
            raise faults.session_ended()
        timeout_s = self.context.settings.market_timeout_s
        try:
            return await self.channel.call(request, reply, market_class(self.live), timeout_s, self.number)
        except BrokerFault as fault:
            if fault.kind not in _SESSION_FAULTS:
                raise
            reason = Reason(ReasonCode.BROKER_ERROR, "Market data could not be read; it is tried again.")
            raise BrokerFault(FaultKind.TRANSIENT, reason, broker_code=fault.broker_code) from fault

    def tell_stage(self, stage: Stage) -> None:
        """A shared login reached this stage."""
        for member in self.members:
            if member.waiting:
                member.listener.stage(stage)
