"""One physical WebSocket to a broker host: dialling, application authorisation, heartbeat and probe.

Messages are read, decoded and applied inside the receive callback: no task switch and no await per message (DESIGN
§4). A channel never retries by itself: a login that needs it dials, one dial for all, and while it must not be dialled
everyone is told until when. Frames and tokens are never logged.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode
from bridge.brokers.ctrader import codec, faults
from bridge.brokers.ctrader.liveness import Act, Liveness
from bridge.brokers.ctrader.requests import Pending, Requests
from bridge.brokers.ctrader.routing import Router
from bridge.brokers.ctrader.scheduling import Priority
from bridge.brokers.ctrader.settings import CtraderSettings, Quotes
from bridge.brokers.ctrader.sharing import Sharing
from bridge.brokers.dialing import DialBackoff
from bridge.brokers.flight import Flight
from bridge.brokers.sockets import Socket
from bridge.brokers.stats import Stats
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks
from core.errors import ProtocolViolation
from protos.ctrader import PAYLOAD_CLASSES, messages_pb2

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)


class ChannelOwner(Protocol):
    """What a channel needs of its pool."""

    async def dial(self, channel: Channel) -> Socket:
        """Open a socket within the host's dial budget. Raises BrokerFault."""

    def application_wait(self, now: float) -> BrokerFault | None:
        """The application-level fault that forbids dialling now, if any."""

    def application_refused(self, fault: BrokerFault, wait_s: float) -> None:
        """The application itself is blocked or refused: nobody may dial before."""

    def application_accepted(self) -> None:
        """The application is authorised on some channel."""

    def limit_reached(self, channel: Channel) -> float:
        """The broker allows no more connections. Returns how many seconds this channel's accounts must wait."""


class Channel:
    """One socket, its request budget and the accounts routed over it. Lives on while the socket comes and goes."""

    def __init__(
        self,
        owner: ChannelOwner,
        settings: CtraderSettings,
        clock: Clock,
        rng: random.Random,
        tasks: Tasks,
        stats: Stats,
    ) -> None:
        self._owner = owner
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self._stats = stats
        self.requests = Requests(settings, clock, rng, stats, self._transmit, self._unanswered)
        self.router = Router(self, self.requests, stats)
        self.receive = self.router.receive
        self.sharing = Sharing(settings, self.router.routes) if settings.quotes is Quotes.SHARED else None
        self.up = False
        self.retired = False  # the broker allows fewer channels: accounts move away at their next login
        self.unsure = False  # a logout was not confirmed: the broker may believe that somebody is logged in here
        self.accounts = 0  # accounts assigned to this channel, authorised or not
        self.bytes_in = 0
        self._socket: Socket | None = None
        self._liveness = Liveness(settings.heartbeat_s, settings.probe_after_s, settings.probe_timeout_s)
        self._backoff = DialBackoff(rng, settings.backoff_first_s, settings.backoff_cap_s, settings.stable_s)
        self._opening: Flight[None] = Flight()
        self._waiting = 0  # callers that wait for it to open, or have not gone on yet since it is
        self._not_before = 0.0
        self._fault: BrokerFault | None = None
        self._maintenance_failures = 0
        self._idle_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._questioning = False

    @property
    def state(self) -> str:
        """A word for /health."""
        if self.up:
            return "up"
        if self._opening.active:
            return "connecting"
        if self._fault is None:
            return "idle"
        return "maintenance" if self._fault.kind is FaultKind.MAINTENANCE else "down"

    @property
    def busy(self) -> int:
        """Requests that wait for their turn or for an answer."""
        return self.requests.unanswered

    @property
    def last_inbound(self) -> float | None:
        """When the last byte came in (monotonic s); None while the channel is not up."""
        return self._liveness.last_inbound if self.up else None

    # ------------------------------------------------------------ opening

    async def ready(self) -> None:
        """Return when the channel is open and the application authorised; dial if need be, one dial for all.

        Who waited goes on before who comes when it is just open: accounts at risk wait longest. Raises a shared
        BrokerFault at once while dialling must wait; `retry_after_s` says how long.
        """
        while self.up and self._waiting:  # noqa: ASYNC110  they go on within a turn or two of the loop
            await asyncio.sleep(0)
        if self.up:
            return
        if not self._opening.active:
            now = self._clock.monotonic()
            blocked = self._owner.application_wait(now)
            if blocked is not None:
                raise blocked
            if self._fault is not None and now < self._not_before:
                raise _again(self._fault, self._not_before - now)
        self._waiting += 1
        try:
            await self._opening.join(self._tasks, self._open, "dial")
        finally:
            self._waiting -= 1

    async def _open(self) -> None:
        try:
            self._socket = await self._owner.dial(self)
            self._liveness.start(self._clock.monotonic(), self.router.frames)
            await self._authorise_application()
        except BrokerFault as fault:
            raise self._dial_failed(fault) from fault
        finally:
            if not self.up:
                self._end(_lost())

    async def _authorise_application(self) -> None:
        request = messages_pb2.ProtoOAApplicationAuthReq(
            clientId=self._settings.client_id, clientSecret=self._settings.client_secret.reveal()
        )
        reply = messages_pb2.ProtoOAApplicationAuthRes
        try:
            await self.call(request, reply, Priority.AUTH_AT_RISK, self._settings.auth_timeout_s)
        except BrokerFault as fault:
            if fault.broker_code != faults.ALREADY_AUTHENTICATED:
                raise
        if self._socket is None:
            raise _lost()  # it ended in the same turn as the answer came
        now = self._clock.monotonic()
        self.up = True
        self._fault = None
        self._idle_since = None
        self._maintenance_failures = 0
        self._backoff.up(now)
        self._owner.application_accepted()
        self._set_timer(now)

    def _dial_failed(self, fault: BrokerFault) -> BrokerFault:
        """Decide when the next dial may be; every waiting login is told."""
        now = self._clock.monotonic()
        wait_s = self._backoff.down(now)
        if fault.kind is FaultKind.MAINTENANCE:
            wait_s = self.maintenance_wait_s(fault)
        elif fault.kind is FaultKind.FATAL_APP:
            wait_s = max(self._settings.app_refused_s, fault.retry_after_s or 0.0)
            self._owner.application_refused(fault, wait_s)
        elif fault.reason.code is ReasonCode.CONNECTION_LIMIT:
            wait_s = self._owner.limit_reached(self)
        elif fault.retry_after_s is not None:
            wait_s = max(wait_s, fault.retry_after_s)
        self._stats.count(f"dials_failed.{fault.reason.code}")
        self._not_before = now + wait_s
        self._fault = _again(fault, wait_s)
        return self._fault

    def maintenance_wait_s(self, fault: BrokerFault) -> float:
        """How long to wait after a maintenance answer; grows while the broker gives no usable end."""
        settings = self._settings
        failures, self._maintenance_failures = self._maintenance_failures, self._maintenance_failures + 1
        return faults.maintenance_wait_s(fault, failures, settings.maintenance_default_s, settings.maintenance_cap_s)

    # ------------------------------------------------------------ ending

    async def close(self) -> None:
        """Say goodbye and close within the close timeout. Accounts are not told."""
        self.router.end()
        socket = self._socket
        if socket is None:
            return
        self._forget(socket)
        self.requests.fail_all(_lost())
        try:
            async with asyncio.timeout(self._settings.close_timeout_s):
                await socket.close()
        except TimeoutError:
            socket.abort()
        except asyncio.CancelledError:  # no more time is given: nobody may be logged in here afterwards
            socket.abort()
            raise

    def ended(self, socket: Socket) -> None:
        """The peer closed, or the transport is gone."""
        if socket is self._socket:
            self._end(_lost())

    def _end(self, fault: BrokerFault) -> None:
        """Drop the socket, settle what waits for it and tell the accounts."""
        socket = self._socket
        if socket is None:
            return
        was_up = self.up
        self._forget(socket)
        socket.drop()
        if was_up:
            now = self._clock.monotonic()
            wait_s = self._backoff.down(now)
            if fault.retry_after_s is not None:
                wait_s = fault.retry_after_s
            self._not_before = now + wait_s
            self._fault = fault = _again(fault, wait_s)
            self._stats.count(f"reconnects.{fault.reason.code}")
            log.warning("channel lost", extra={"reason": fault.reason.code, "accounts": len(self.router.routes)})
        self.requests.fail_all(fault)
        for route in list(self.router.routes.values()):
            route.ended(fault)

    def _forget(self, socket: Socket) -> None:
        if self._socket is socket:
            self._socket = None
        self.up = self.unsure = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def application_blocked(self) -> None:
        """The broker cancelled the application: one attempt per `app_blocked_s` (faults.md N34)."""
        wait_s = self._settings.app_blocked_s
        sentence = "The broker disconnected this application; its operator is told."
        fault = BrokerFault(
            FaultKind.FATAL_APP, Reason(ReasonCode.APPLICATION_REFUSED, sentence), retry_after_s=wait_s, shared=True
        )
        log.error("the broker disconnected the application")
        self._owner.application_refused(fault, wait_s)
        self._end(fault)

    def unasked_error(self, refusal: faults.Refusal) -> None:
        """An error that answers no request: it concerns one account, or the whole channel."""
        fault = faults.fault_of(refusal, self._clock.now_ms())
        self._stats.count("unasked_errors")
        if refusal.account is not None:
            route = self.router.routes.get(refusal.account)
            if route is not None and fault.kind is FaultKind.ACCOUNT_AUTH_LOST:
                route.ended(fault)
        elif fault.kind is FaultKind.MAINTENANCE:
            fault.retry_after_s = self.maintenance_wait_s(fault)
            self._end(fault)
        elif fault.kind is FaultKind.CLIENT_AUTH_LOST:
            self._end(fault)
        elif fault.reason.code is ReasonCode.CONNECTION_LIMIT:
            fault.retry_after_s = self._owner.limit_reached(self)
            self._end(fault)
        elif fault.kind is FaultKind.FATAL_APP:
            fault.retry_after_s = self._settings.app_refused_s
            self._owner.application_refused(fault, self._settings.app_refused_s)
            self._end(fault)

    def authorisation_lost(self, fault: BrokerFault) -> None:
        """The broker says that the application is not authorised on this socket: start over with a new one."""
        if self.up:
            self._end(fault)

    def unreadable(self) -> None:
        """Too much in a row could not be read."""
        self._end(faults.transient(ReasonCode.BROKER_ERROR, "The broker sent data that cannot be read.", shared=True))

    # ------------------------------------------------------------ liveness

    def heard(self, socket: Socket, size: int) -> None:
        """Bytes arrived."""
        if socket is self._socket:
            self.bytes_in += size
            self._liveness.heard(self._clock.monotonic(), self.router.frames)

    def receive_text(self, data: bytes | bytearray | memoryview) -> None:
        """This protocol never uses text."""
        self.router.garbage("text message")

    def pong(self, socket: Socket) -> None:
        """No pings are sent on this protocol."""

    def _set_timer(self, now: float) -> None:
        delay = max(self._liveness.due_at() - now, 0.001)
        self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        now = self._clock.monotonic()
        for act in self._liveness.check(now, self.router.frames):
            if act is Act.HEARTBEAT:
                self._transmit(codec.HEARTBEAT_FRAME)
            elif act is Act.PROBE:
                self._tasks.start(self._probe(), name="probe")
            else:
                self._end(faults.transient(ReasonCode.BROKER_SILENT, "The broker went silent.", shared=True))
                return
        if self._idle_too_long(now):
            self._tasks.start(self.close(), name="close-idle-channel")
            return
        self._set_timer(now)

    async def _probe(self) -> None:
        """Ask something cheap. Any whole message is the answer; the timer judges silence."""
        self._stats.count("probes")
        request, reply = messages_pb2.ProtoOAVersionReq(), messages_pb2.ProtoOAVersionRes
        try:
            await self.call(request, reply, Priority.PROBE, self._settings.probe_timeout_s)
        except BrokerFault:
            self._stats.count("probes_failed")

    def _unanswered(self) -> None:
        """A request was sent and got no answer in time: one that is slow, or a channel that tells old news only?"""
        if self.up and self._socket is not None and not self._questioning:
            self._questioning = True
            self._tasks.start(self._question(self._socket), name="question")

    async def _question(self, socket: Socket) -> None:
        """Ask something cheap that only its own answer settles, whatever else comes in meanwhile."""
        request, reply = messages_pb2.ProtoOAVersionReq(), messages_pb2.ProtoOAVersionRes
        try:
            await self.call(request, reply, Priority.PROBE, self._settings.probe_timeout_s)
        except BrokerFault as fault:
            refused = fault.broker_code is not None or fault.kind is not FaultKind.TRANSIENT
            if not refused and socket is self._socket:
                self._end(faults.transient(ReasonCode.BROKER_SILENT, "The broker stopped answering.", shared=True))
        finally:
            self._questioning = False

    def _idle_too_long(self, now: float) -> bool:
        if self.accounts:
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = now
        return now - self._idle_since >= self._settings.idle_close_s

    # ------------------------------------------------------------ requests

    def send(self, request: Message, priority: Priority, timeout_s: float) -> Pending:
        """Queue a request now; its answer comes by `result`. Raises BrokerFault when too many wait."""
        return self.requests.submit(
            codec.PAYLOAD_TYPES[type(request)], request.SerializeToString(), priority, timeout_s
        )

    async def result(self, pending: Pending, reply: type[M], account: int | None = None) -> M:
        """The typed answer of a request. Raises BrokerFault.

        An answer of another type or for another account is a fault: it is counted and never used.
        """
        payload_type, payload = await self.requests.result(pending)
        try:
            if PAYLOAD_CLASSES.get(payload_type) is not reply:
                raise ProtocolViolation(f"an answer of type {payload_type} was not asked for")
            answer = codec.decode(reply, payload)
            if account is not None and getattr(answer, "ctidTraderAccountId", account) != account:
                self._stats.count("foreign_events")
                raise ProtocolViolation("an answer was for another account")
        except ProtocolViolation as error:
            self._stats.count("quarantined")
            raise faults.transient(ReasonCode.BROKER_ERROR, "The broker's answer could not be used.") from error
        return answer

    async def call(
        self, request: Message, reply: type[M], priority: Priority, timeout_s: float, account: int | None = None
    ) -> M:
        """Send a request and return its typed answer. Raises BrokerFault."""
        return await self.result(self.send(request, priority, timeout_s), reply, account)

    def _transmit(self, frame: bytes) -> bool:
        return self._socket is not None and self._socket.transmit(frame)


def _lost() -> BrokerFault:
    return faults.transient(ReasonCode.CONNECTION_LOST, "The connection to the broker was lost.", shared=True)


def _again(fault: BrokerFault, retry_after_s: float) -> BrokerFault:
    """The same fault, shared, with a new waiting time."""
    return BrokerFault(
        fault.kind, fault.reason, retry_after_s=retry_after_s, broker_code=fault.broker_code, shared=True
    )
