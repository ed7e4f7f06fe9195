"""Who should serve how many sessions, and what one process does about it now. Pure.

Shares follow capacity. What nobody owns is claimed at once by whoever is below its share; what somebody owns is moved
only when the difference is worth it, only to processes that have proved themselves, and no faster than these log in.
Invariants: a session that is given up finds a process with room for it, and a short queue there; nothing moves among
processes that stay, once shares are met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TOLERANCE = 0.1  # of its share that a process keeps beyond it
LEAST_EXCESS = 2  # so that few sessions do not move for a difference of one
HAND_OVER_AT_ONCE = 32  # what one channel logs in within three seconds: the others stay live until their turn
PROVEN_LEASES = 2.0  # a newcomer gets nobody else's sessions before it has lived so many leases
PATIENCE_LEASES = 1.0  # what stays without an owner for so long is claimed beyond the share
_NO_LONGER_QUEUED = frozenset({"live", "stale", "maintenance", "action_required"})  # record statuses


@dataclass(frozen=True, slots=True)
class Member:
    """A process with a lease. `load`: sessions it owns; `age_s`: since it joined; `left_s`: of its lease; `backlog`: of
    its sessions, those that it has not logged in yet."""

    owner: str
    capacity: int
    load: int
    draining: bool
    age_s: float
    left_s: float
    backlog: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """The fleet at one moment. `total`: sessions that need an owner; `free`: those that have none and that this process
    may claim; `reserved`: those of them that an operator wants here."""

    members: tuple[Member, ...]
    total: int
    free: int
    reserved: int = 0

    def member(self, owner: str) -> Member | None:
        """The process of this name."""
        return next((member for member in self.members if member.owner == owner), None)


@dataclass(frozen=True, slots=True)
class Decision:
    """How many sessions to claim and to give up now. `more`: others are to follow when their takers have caught up."""

    claim: int = 0
    give_up: int = 0
    more: bool = False


def backlog(load: int, said: Mapping[str, int]) -> int:
    """Sessions of a process that wait for their login, by what it last said of them ("broker status"). What it has not
    heard of yet counts too."""
    return max(0, load - sum(number for name, number in said.items() if name.split()[-1] in _NO_LONGER_QUEUED))


def shares(members: Sequence[Member], total: int) -> dict[str, int]:
    """How many of `total` sessions each process should own, rounded up: together they have room for all.

    Draining processes have none, unless all are: better served by somebody who should go than by nobody.
    """
    active = [member for member in members if not member.draining] or list(members)
    weight = sum(member.capacity for member in active)
    counted = {member.owner: member.capacity for member in active}
    return {member.owner: -(-total * counted.get(member.owner, 0) // weight) for member in members}


def decide(reading: Reading, me: str, *, ttl_s: float, waiting_s: float) -> Decision:
    """What process `me` does now. `waiting_s`: for how long there have been sessions without an owner."""
    mine = reading.member(me)
    if mine is None:
        return Decision()
    share = shares(reading.members, reading.total)
    room = share[me] - mine.load
    claim = min(reading.free, max(0, room, reading.reserved))
    if reading.free > claim and share[me] and waiting_s >= PATIENCE_LEASES * ttl_s:
        claim = reading.free  # whoever should have claimed it does not
    return Decision(claim) if claim else _give_up(reading, mine, share, ttl_s)


def _give_up(reading: Reading, mine: Member, share: dict[str, int], ttl_s: float) -> Decision:
    excess = mine.load - share[mine.owner]
    if excess <= (0 if mine.draining else max(LEAST_EXCESS, TOLERANCE * share[mine.owner])):
        return Decision()
    takers = [
        member
        for member in reading.members
        if member.owner != mine.owner and (mine.draining or member.age_s >= PROVEN_LEASES * ttl_s)
    ]
    rooms = [(max(0, share[member.owner] - member.load), HAND_OVER_AT_ONCE - member.backlog) for member in takers]
    now = sum(min(room, max(0, pace)) for room, pace in rooms) - reading.free
    give_up = max(0, min(excess, now, HAND_OVER_AT_ONCE))
    return Decision(give_up=give_up, more=min(excess, sum(room for room, _ in rooms) - reading.free) > give_up)
