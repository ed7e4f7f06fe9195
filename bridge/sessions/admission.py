"""The admission queue: who logs in next. Queue before jitter (reference/faults.md §0.2).

One lane per (broker, environment), each with as many slots as its adapter can log in at once. In a lane the order is:
accounts at risk first, then who waits longest, then who has the lower place, then who came first. Pure and synchronous;
a thousand waiting sessions are an ordinary case. Invariant: a member waits, or holds a slot, or neither; never both,
never twice.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

M = TypeVar("M", bound=Hashable)

Lane = tuple[str, str]
_Ticket = tuple[bool, float, int, int]


class _LaneQueue(Generic[M]):
    __slots__ = ("heap", "running", "tickets")

    def __init__(self) -> None:
        self.heap: list[tuple[_Ticket, M]] = []
        self.tickets: dict[M, _Ticket] = {}  # who waits; a heap item that differs was withdrawn
        self.running: set[M] = set()


class Admission(Generic[M]):
    """Queues of members per lane. `since`: monotonic seconds; a smaller one goes first."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, _LaneQueue[M]] = {}
        self._sequence = 0

    def enqueue(self, lane: Lane, member: M, *, at_risk: bool, since: float, place: int = 0) -> None:
        """Let a member wait; one that waits already keeps its turn, unless its risk has changed.

        `place`: of those who wait equally long the lower one goes first.
        """
        queue = self._lanes.setdefault(lane, _LaneQueue())
        ticket = queue.tickets.get(member)
        if ticket is not None and ticket[0] == (not at_risk):
            return
        self._sequence += 1
        ticket = (not at_risk, since, place, self._sequence)
        queue.tickets[member] = ticket
        heapq.heappush(queue.heap, (ticket, member))

    def withdraw(self, lane: Lane, member: M) -> None:
        """The member waits no more (stopped, fenced, drained). Unknown members are fine."""
        queue = self._lanes.get(lane)
        if queue is None:
            return
        queue.tickets.pop(member, None)
        if len(queue.heap) > 2 * len(queue.tickets) + 64:
            queue.heap = [(ticket, one) for one, ticket in queue.tickets.items()]
            heapq.heapify(queue.heap)

    def admit(self, lane: Lane, slots: int, *, at_risk_only: bool = False) -> list[M]:
        """Give free slots to those who go first, and return them. Each holds its slot until `finished`."""
        queue = self._lanes.get(lane)
        if queue is None:
            return []
        admitted: list[M] = []
        while queue.heap and len(queue.running) < slots:
            ticket, member = queue.heap[0]
            if at_risk_only and ticket[0]:
                break
            heapq.heappop(queue.heap)
            if queue.tickets.get(member) == ticket:
                del queue.tickets[member]
                queue.running.add(member)
                admitted.append(member)
        return admitted

    def finished(self, lane: Lane, member: M) -> None:
        """The member's login has ended, well or badly."""
        queue = self._lanes.get(lane)
        if queue is not None:
            queue.running.discard(member)

    def lanes(self) -> list[Lane]:
        """All lanes ever used."""
        return list(self._lanes)

    def waits(self, lane: Lane, member: M) -> bool:
        """True while the member is in the queue."""
        queue = self._lanes.get(lane)
        return queue is not None and member in queue.tickets

    def waiting(self, lane: Lane) -> int:
        """How many wait in this lane."""
        queue = self._lanes.get(lane)
        return 0 if queue is None else len(queue.tickets)

    def running(self, lane: Lane) -> int:
        """How many hold a slot of this lane."""
        queue = self._lanes.get(lane)
        return 0 if queue is None else len(queue.running)

    def position(self, lane: Lane, member: M) -> int | None:
        """The member's place in the queue, from 1; None when it does not wait. Costs a pass over the queue."""
        queue = self._lanes.get(lane)
        ticket = None if queue is None else queue.tickets.get(member)
        if queue is None or ticket is None:
            return None
        return 1 + sum(other < ticket for other in queue.tickets.values())
