"""Is the peer still there? Decides when to send a heartbeat, when to probe and when to give up. Pure.

Server heartbeats are too rare to judge by (ctrader.md §1), so silence is answered with a cheap request: any whole
message counts as life, and only silence after the question means death. Bytes that make up no message in all that time
are silence too: a peer that trickles tells nothing (faults.md N11).
"""

from __future__ import annotations

from enum import Enum, auto


class Act(Enum):
    """What is due now."""

    HEARTBEAT = auto()
    PROBE = auto()
    DEAD = auto()


class Liveness:
    """Heartbeats out every `heartbeat_s`; a probe after `probe_after_s` of silence; dead `probe_timeout_s` later.

    `messages`, wherever asked for, is the number of whole messages received so far: nothing is called for each of them.
    """

    __slots__ = (
        "_heartbeat_s",
        "_last_heartbeat",
        "_last_message",
        "_messages",
        "_probe_after_s",
        "_probe_timeout_s",
        "_probing_since",
        "last_inbound",
    )

    def __init__(self, heartbeat_s: float, probe_after_s: float, probe_timeout_s: float) -> None:
        self._heartbeat_s = heartbeat_s
        self._probe_after_s = probe_after_s
        self._probe_timeout_s = probe_timeout_s
        self._last_heartbeat = 0.0
        self._last_message = 0.0
        self._messages = 0
        self._probing_since: float | None = None
        self.last_inbound = 0.0

    def start(self, now: float, messages: int) -> None:
        """A new connection: it counts as heard now."""
        self._last_heartbeat = self._last_message = self.last_inbound = now
        self._messages = messages
        self._probing_since = None

    def heard(self, now: float, messages: int) -> None:
        """Bytes arrived; `messages` as it stood before they are looked at."""
        if messages != self._messages:
            self._completed(messages)
        self.last_inbound = now

    def due_at(self) -> float:
        """When `check` has something to say."""
        if self._probing_since is not None:
            watch = self._probing_since + self._probe_timeout_s
        else:
            watch = self._last_message + self._probe_after_s
        return min(self._last_heartbeat + self._heartbeat_s, watch)

    def check(self, now: float, messages: int) -> list[Act]:
        """What must be done now; nothing twice."""
        if messages != self._messages:
            self._completed(messages)
        acts: list[Act] = []
        if now >= self._last_heartbeat + self._heartbeat_s:
            self._last_heartbeat = now
            acts.append(Act.HEARTBEAT)
        if self._probing_since is not None:
            if now >= self._probing_since + self._probe_timeout_s:
                acts.append(Act.DEAD)
        elif now >= self._last_message + self._probe_after_s:
            self._probing_since = now
            acts.append(Act.PROBE)
        return acts

    def _completed(self, messages: int) -> None:
        """The bytes heard last have completed a message."""
        self._messages = messages
        self._last_message = self.last_inbound
        self._probing_since = None
