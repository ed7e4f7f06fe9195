"""Which request leaves next, and when: priorities, rolling windows, deadlines. Decides only; time is passed in.

Invariants: in any second at most `rate` requests leave, orders and probes may use a small reserve above it; as many at
most are unanswered or were answered within the last second, so that a stalled network or broker cannot press two
seconds of requests into one, whether anybody still waits for the answers or not. Historical requests have a budget of
their own. No request outlives its deadline.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from enum import IntEnum
from typing import Generic, TypeVar

from bridge.brokers.ctrader import codec
from core.errors import Unavailable

WINDOW_S = 1.002  # a hair over one second: clocks of both ends tick differently
SLOW_S = 2.0  # an answer that takes longer no longer holds up others, once one to a later request came
SILENT_S = (
    10.0  # nor does it when nothing was: by then the channel is given up, else what waits would come in one burst
)

F = TypeVar("F")


class Priority(IntEnum):
    """Lower leaves first (DESIGN §5)."""

    PROBE = 0
    ORDER = 1
    LOGOUT = 2  # before logins: another process may be waiting to log the account in
    AUTH_AT_RISK = 3
    AUTH = 4
    SNAPSHOT = 5
    MARKET = 6
    RECONCILE = 7
    HISTORY = 8

    @property
    def reserved(self) -> bool:
        """Orders and probes may use the reserve, and no pause or cap holds them back."""
        return self <= Priority.ORDER


def market_class(live: bool) -> Priority:
    """Market data that a login waits for goes with its snapshot: behind the logins of thousands who hold nothing it
    would wait until that login is given up."""
    return Priority.MARKET if live else Priority.SNAPSHOT


class Request(Generic[F]):
    """One request on its way. `context` belongs to the caller (its future). `sent_at` None: still queued."""

    __slots__ = (
        "context",
        "deadline",
        "flying",
        "message_id",
        "payload",
        "payload_type",
        "priority",
        "sent_at",
        "settled",
    )

    def __init__(
        self, payload_type: int, payload: bytes, priority: Priority, deadline: float, message_id: str, context: F
    ) -> None:
        self.payload_type = payload_type
        self.payload = payload
        self.priority = priority
        self.deadline = deadline
        self.message_id = message_id
        self.context = context
        self.sent_at: float | None = None
        self.flying = False
        self.settled = False


class Lane(Generic[F]):
    """One budget and the requests that wait for it."""

    __slots__ = (
        "_answered",
        "_flying",
        "_hard",
        "_queues",
        "_rate",
        "_sent",
        "_sequence",
        "answered_to",
        "forgotten",
        "in_flight",
    )

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._hard = rate + math.ceil(rate / 9)  # 45 of 50, 4 of 5: the broker's own limit
        self._sent: deque[float] = deque()
        self._answered: deque[float] = deque()
        self._flying: deque[Request[F]] = deque()
        self._queues: dict[tuple[Priority, int], deque[tuple[int, Request[F]]]] = {}
        self._sequence = 0
        self.in_flight = 0
        self.answered_to = -math.inf  # when the latest request that has an answer left, on this channel
        self.forgotten: list[Request[F]] = []  # that nobody waited for and that were never answered

    def add(self, request: Request[F]) -> None:
        self._sequence += 1
        key = (request.priority, request.payload_type)
        self._queues.setdefault(key, deque()).append((self._sequence, request))

    def head(self, now: float, paused: dict[int, float]) -> tuple[Priority, int] | None:
        """The queue whose head is next: highest class first, oldest first within it; paused payload types wait."""
        best: tuple[Priority, int] | None = None
        key_of_best: tuple[Priority, int] | None = None
        for key in list(self._queues):
            queue = self._queues[key]
            while queue and queue[0][1].settled:
                queue.popleft()
            if not queue:
                del self._queues[key]
            elif paused.get(key[1], now) <= now and (best is None or (key[0], queue[0][0]) < best):
                best, key_of_best = (key[0], queue[0][0]), key
        return key_of_best

    def pop(self, key: tuple[Priority, int], now: float) -> Request[F]:
        request = self._queues[key].popleft()[1]
        request.sent_at = now
        request.flying = True
        self._sent.append(now)
        self._flying.append(request)
        self.in_flight += 1
        return request

    def land(self, request: Request[F], now: float) -> None:
        """The broker has counted the request by now, or it never will."""
        if request.flying:
            request.flying = False
            self.in_flight -= 1
            self._answered.append(now)

    def land_all(self, now: float) -> None:
        """Nothing more is answered."""
        for request in self._flying:
            self.land(request, now)
        self._flying.clear()

    def free_at(self, priority: Priority, now: float) -> float:
        """When the budget admits one more request of this class; infinity: only after an answer."""
        self.forget_old(now)
        limit = self._hard if priority.reserved else self._rate
        if len(self._sent) >= limit:
            return self._sent[len(self._sent) - limit] + WINDOW_S
        if self.in_flight + len(self._answered) >= self._hard:
            return self._answered[0] + WINDOW_S if self._answered else math.inf
        return now

    def slow_at(self) -> float | None:
        """When the oldest unanswered request stops holding up others."""
        for request in self._flying:
            if request.flying and request.sent_at is not None:
                return self._slow_from(request.sent_at)
        return None

    def _slow_from(self, sent_at: float) -> float:
        return sent_at + (SLOW_S if self.answered_to > sent_at else SILENT_S)

    def forget_old(self, now: float) -> None:
        """Bring the windows up to date."""
        while self._sent and self._sent[0] + WINDOW_S <= now:
            self._sent.popleft()
        while self._answered and self._answered[0] + WINDOW_S <= now:
            self._answered.popleft()
        while self._flying:
            oldest = self._flying[0]
            if oldest.flying and oldest.sent_at is not None and self._slow_from(oldest.sent_at) > now:
                break
            self._flying.popleft()
            if oldest.flying and oldest.settled:
                self.forgotten.append(oldest)
            self.land(oldest, now)


class Scheduler(Generic[F]):
    """The budget of one channel. Submit, take what may leave now, settle what was answered, collect what is overdue."""

    def __init__(self, rate: int, history_rate: int, max_in_flight: int, max_queue: int) -> None:
        self._ordinary: Lane[F] = Lane(rate)
        self._history: Lane[F] = Lane(history_rate)
        self._max_in_flight = max_in_flight
        self._max_queue = max_queue
        self._deadlines: list[tuple[float, str, Request[F]]] = []
        self._paused: dict[int, float] = {}
        self._paused_all_until = -math.inf
        self.queued = 0

    @property
    def in_flight(self) -> int:
        return self._ordinary.in_flight + self._history.in_flight

    def submit(self, request: Request[F], now: float) -> None:
        """Queue a request. Raises Unavailable when the queue is full."""
        if self.queued >= self._max_queue:
            raise Unavailable("too many requests wait for the broker")
        self.queued += 1
        heapq.heappush(self._deadlines, (request.deadline, request.message_id, request))
        self._lane(request).add(request)

    def take(self, now: float) -> Request[F] | None:
        """The next request that may leave now, marked as sent; None when none may."""
        for lane in (self._ordinary, self._history):
            key = lane.head(now, self._paused)
            if key is not None and self._free_at(lane, key[0], now) <= now:
                self.queued -= 1
                return lane.pop(key, now)
        return None

    def wake_at(self, now: float) -> float | None:
        """When to look again, deadlines included; None: only after a submit or an answer."""
        times = [until for until in self._paused.values() if until > now]
        for lane in (self._ordinary, self._history):
            key = lane.head(now, self._paused)
            if key is not None:
                times.append(self._free_at(lane, key[0], now))
                slow_at = lane.slow_at()
                if slow_at is not None:
                    times.append(slow_at)
        deadline = self._next_deadline()
        if deadline is not None:
            times.append(deadline)
        when = min(times, default=math.inf)
        return None if when == math.inf else when

    def answered(self, request: Request[F], now: float) -> None:
        """The broker has answered: it has counted this request, and whatever left before it."""
        if request.sent_at is not None:
            latest = max(request.sent_at, self._ordinary.answered_to)
            self._ordinary.answered_to = self._history.answered_to = latest
        self.settle(request, now)

    def settle(self, request: Request[F], now: float) -> None:
        """The request was answered, was never sent, or never will be. Harmless when repeated."""
        self._let_go(request)
        self._lane(request).land(request, now)

    def overdue(self, now: float) -> list[Request[F]]:
        """Requests whose deadline has passed: nobody waits for them any more. Those that were sent keep their place in
        the budget until they are answered or forgotten: the broker may count them later."""
        late: list[Request[F]] = []
        while self._deadlines and (self._deadlines[0][2].settled or self._deadlines[0][0] <= now):
            request = heapq.heappop(self._deadlines)[2]
            if not request.settled:
                self._let_go(request)
                late.append(request)
        return late

    def forgotten(self, now: float) -> list[Request[F]]:
        """Overdue requests whose answer is not waited for any longer, each told once."""
        gone: list[Request[F]] = []
        for lane in (self._ordinary, self._history):
            lane.forget_old(now)
            gone += lane.forgotten
            lane.forgotten.clear()
        return gone

    def pause(self, payload_type: int | None, until: float, now: float) -> None:
        """Hold back one payload type (None: everything that is not reserved) until then."""
        self._paused = {kind: end for kind, end in self._paused.items() if end > now}
        if payload_type is None:
            self._paused_all_until = max(self._paused_all_until, until)
        else:
            self._paused[payload_type] = max(self._paused.get(payload_type, until), until)

    def held_until(self, payload_type: int, priority: Priority) -> float:
        """Until when a pause holds such requests back; in the past or minus infinity: none does."""
        if priority.reserved:
            return -math.inf
        return max(self._paused.get(payload_type, -math.inf), self._paused_all_until)

    def drain(self, now: float) -> list[Request[F]]:
        """Settle and return everything that is queued or unanswered: the channel is gone."""
        left = [request for _, _, request in self._deadlines if not request.settled]
        for request in left:
            self._let_go(request)
        for lane in (self._ordinary, self._history):
            lane.land_all(now)
        self._deadlines.clear()
        return left

    def _let_go(self, request: Request[F]) -> None:
        if request.settled:
            return
        request.settled = True
        request.payload = b""
        if request.sent_at is None:
            self.queued -= 1

    def _lane(self, request: Request[F]) -> Lane[F]:
        return self._history if request.payload_type in codec.HISTORY_REQUESTS else self._ordinary

    def _free_at(self, lane: Lane[F], priority: Priority, now: float) -> float:
        free_at = lane.free_at(priority, now)
        if priority.reserved:
            return free_at
        if self.in_flight >= self._max_in_flight:
            return math.inf
        return max(free_at, self._paused_all_until)

    def _next_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][2].settled:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None
