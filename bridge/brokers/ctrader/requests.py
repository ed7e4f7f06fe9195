"""The request shell of one channel: futures, one timer, correlation by client message id, and what pauses it.

It carries out what `scheduling.Scheduler` decides. No task per request and no retry: a refused or failed read is told
to its caller, an order whose outcome is unknown raises InDoubt. Heartbeats do not pass here.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable

from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode
from bridge.brokers.ctrader import codec, faults
from bridge.brokers.ctrader.scheduling import Priority, Request, Scheduler
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.stats import Stats
from bridge.runtime.clock import Clock
from core.errors import BridgeError, InDoubt, ProtocolViolation, Unavailable

_REPEAT_WITHIN_S = 60.0  # a block that returns this soon after its pause shows that the hint was too small
_SHORTEST_TIMER_S = 0.001


Reply = tuple[int, bytes]  # payload type and payload
Pending = Request[asyncio.Future[Reply]]


class Requests:
    """Requests of one channel. `transmit` writes one frame and says whether the socket took it; `unanswered` is called
    when a request that was sent got no answer in time."""

    def __init__(
        self,
        settings: CtraderSettings,
        clock: Clock,
        rng: random.Random,
        stats: Stats,
        transmit: Callable[[bytes], bool],
        unanswered: Callable[[], None],
    ) -> None:
        self._scheduler: Scheduler[asyncio.Future[Reply]] = Scheduler(
            settings.requests_per_second,
            settings.history_requests_per_second,
            settings.max_in_flight,
            settings.max_queue,
        )
        self._clock = clock
        self._stats = stats
        self._transmit = transmit
        self._tell_unanswered = unanswered
        self._prefix = f"{rng.getrandbits(32):08x}-"
        self._number = 0
        self._pending: dict[str, Pending] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._blocks: dict[int, tuple[float, float]] = {}  # payload type -> (pause in s, its end)

    @property
    def unanswered(self) -> int:
        """How many wait for their turn or for an answer."""
        return len(self._pending)

    def submit(self, payload_type: int, payload: bytes, priority: Priority, timeout_s: float) -> Pending:
        """Queue a request and send it as soon as the budget allows. Always follow with `result` or `abandon`.

        Raises a THROTTLE BrokerFault when too many wait already, or when its like is held back beyond its deadline.
        """
        now = self._clock.monotonic()
        held_s = self._scheduler.held_until(payload_type, priority) - now
        if held_s >= timeout_s:
            held = Reason(ReasonCode.RATE_LIMITED, "The broker asked to slow down.")
            raise BrokerFault(FaultKind.THROTTLE, held, retry_after_s=held_s)
        self._number += 1
        message_id = f"{self._prefix}{self._number:x}"
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        request = Request(payload_type, payload, priority, now + timeout_s, message_id, future)
        try:
            self._scheduler.submit(request, now)
        except Unavailable as error:
            self._stats.count("requests.refused_locally")
            full = Reason(ReasonCode.RATE_LIMITED, "Too many requests wait for the broker.")
            raise BrokerFault(FaultKind.THROTTLE, full, retry_after_s=1.0) from error
        self._pending[message_id] = request
        if (
            self._soon is None
        ):  # after everything that is asked for in this turn of the loop: the first may not be first
            self._soon = asyncio.get_running_loop().call_soon(self._pump_soon)
        return request

    async def result(self, request: Pending) -> Reply:
        """Wait for the answer. Raises BrokerFault for a refusal, a timeout (queue wait included) or a lost channel; for
        an order whose outcome is unknown, InDoubt."""
        try:
            return await request.context
        finally:
            self.abandon(request)

    def abandon(self, request: Pending) -> None:
        """Nobody waits for this request any more. Harmless when it is settled.

        One that was sent keeps its place in the budget until it is answered or forgotten: the broker may not have
        counted it yet.
        """
        if not request.settled:
            self._stats.count("requests.cancelled")
            if request.sent_at is None:
                self._scheduler.settle(request, self._clock.monotonic())
                self.pump()
        if not request.flying:
            self._pending.pop(request.message_id, None)

    def answer(self, message_id: str, payload_type: int, payload: bytes) -> bool:
        """Settle the request an answer belongs to. False when nobody waits for it (any more)."""
        now = self._clock.monotonic()
        request = self._pending.pop(message_id, None)
        if request is None:
            return False
        late = request.settled
        self._scheduler.answered(request, now)
        if late:
            self.pump()
            return False
        if request.sent_at is not None:
            self._stats.roundtrip(now - request.sent_at)
        try:
            if payload_type in (codec.ERROR, codec.OA_ERROR):
                raise self._refused(request.payload_type, faults.read_refusal(payload_type, payload), now)
        except BrokerFault as fault:
            self._stats.count("requests.refused")
            _fail(request, fault)
        except ProtocolViolation:
            self._stats.count("requests.garbled")
            _fail(request, faults.transient(ReasonCode.BROKER_ERROR, "The broker's answer could not be read."))
        else:
            self._stats.count("requests.ok")
            if not request.context.done():
                request.context.set_result((payload_type, payload))
        self.pump()
        return True

    def fail_all(self, fault: BrokerFault) -> None:
        """The channel is gone: settle everything explicitly, so that nobody waits for a timeout."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for request in self._scheduler.drain(self._clock.monotonic()):
            self._stats.count("requests.disconnected")
            _fail(request, _unknown(request, fault))
        self._pending.clear()

    def pump(self) -> None:
        """Send what may leave now and set the timer for what may not."""
        now = self._clock.monotonic()
        for request in self._scheduler.overdue(now):
            self._stats.count("requests.timeout")
            if not request.flying:
                self._pending.pop(request.message_id, None)
            if request.sent_at is not None and request.priority is not Priority.PROBE:
                self._tell_unanswered()
            late = faults.transient(ReasonCode.BROKER_ERROR, "The broker did not answer in time.")
            _fail(request, _unknown(request, late))
        for request in self._scheduler.forgotten(now):
            self._pending.pop(request.message_id, None)
        while (ready := self._scheduler.take(now)) is not None:
            self._stats.count("requests.sent")
            if not self._transmit(codec.encode(ready.payload_type, ready.payload, ready.message_id)):
                self._scheduler.settle(ready, now)
                _fail(ready, faults.transient(ReasonCode.CONNECTION_LOST, "The connection to the broker was lost."))
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self._scheduler.wake_at(now)
        if when is not None:
            delay = max(when - now, _SHORTEST_TIMER_S)
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _pump_soon(self) -> None:
        self._soon = None
        self.pump()

    def _on_timer(self) -> None:
        self._timer = None
        self.pump()

    def _refused(self, payload_type: int, refusal: faults.Refusal, now: float) -> BrokerFault:
        fault = faults.fault_of(refusal, self._clock.now_ms())
        self._stats.count(f"refusals.{refusal.code}" if refusal.known else "refusals.unknown")
        if faults.access_denied(refusal):
            fault.broker_code = "ACCESS_DENIED"
        if fault.reason.code is ReasonCode.RATE_LIMITED:
            pause_s = fault.retry_after_s or 1.0
            if refusal.code == faults.BLOCKED_PAYLOAD_TYPE:
                pause_s = self._longer_pause(payload_type, pause_s, now)
                self._scheduler.pause(payload_type, now + pause_s, now)
            else:
                self._scheduler.pause(None, now + pause_s, now)
            fault.retry_after_s = pause_s
        return fault

    def _longer_pause(self, payload_type: int, hint_s: float, now: float) -> float:
        """The hint, doubled each time the block comes back soon: the history quota outlasts it (faults.md N28).

        Refusals of what was under way when the pause began show nothing new: a burst counts once.
        """
        last_s, ended = self._blocks.get(payload_type, (0.0, -math.inf))
        if now < ended:
            return ended - now
        pause_s = max(hint_s, min(last_s * 2, 300.0)) if now - ended < _REPEAT_WITHIN_S else hint_s
        self._blocks[payload_type] = (pause_s, now + pause_s)
        return pause_s


def _unknown(request: Pending, fault: BrokerFault) -> BridgeError:
    if request.priority is Priority.ORDER and request.sent_at is not None:
        return InDoubt("the order was sent and its outcome is not known")
    return fault


def _fail(request: Pending, error: BridgeError) -> None:
    if not request.context.done():
        request.context.set_exception(error)
        request.context.exception()  # taken note of: the caller may have given up
