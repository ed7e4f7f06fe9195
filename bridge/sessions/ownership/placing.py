"""Which process an operator means, and where a session had better be served. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bridge.sessions.ownership.shares import Member
from core.errors import Conflict, NotFound


def named_process(members: Sequence[Member], name: str) -> Member:
    """The process whose name begins so. Raises NotFound, Conflict when several do."""
    found = [member for member in members if name and member.owner.startswith(name)]
    if not found:
        raise NotFound("no such process has a lease")
    if len(found) > 1:
        raise Conflict("several processes match; give more of the name")
    return found[0]


def someone_else_serves(members: Sequence[Member], leaving: Member) -> None:
    """Raises Conflict when nobody would be left to serve."""
    if all(member.draining or member.owner == leaving.owner for member in members):
        raise Conflict("no other process would take the sessions over; start one first")


def chosen_process(members: Sequence[Member], name: str | None, *, serving: Collection[str | None]) -> Member:
    """The process named, or the one with the most room that does not serve the session yet.

    Raises NotFound, and Conflict when there is none that takes sessions.
    """
    if name is not None:
        found = named_process(members, name)
        if found.draining:
            raise Conflict("that process is draining and takes no sessions")
        return found
    others = [member for member in members if not member.draining and member.owner not in serving]
    if not others:
        raise Conflict("no other process takes sessions")
    return min(others, key=lambda member: (member.load / member.capacity, member.owner))
