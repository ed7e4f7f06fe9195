"""When to renew a grant's token before it ends. Pure: times and random numbers in, times out.

A token of thirty days is renewed some three days before its end; one that lives shorter, a quarter of its remaining
life before. One plan per grant, however many sessions use it; a plan says when, and which user's sessions to ask.
Invariant: nothing is planned closer than MIN_WAIT_S, so that tokens of no life make no loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from bridge.brokers.base import Credential
from bridge.sessions.timers import TimerHeap

LEAD_S = 3 * 86_400.0
LEAST_SHARE = 0.10  # of the remaining life
MOST_SHARE = 0.25
SPREAD = 0.2  # earlier by up to so much of the lead, so that grants made together are not renewed together
MIN_WAIT_S = 5.0
RETRY_SHARE = 0.1  # of the remaining life, after a renewal that failed for the moment
RETRY_FIRST_S, RETRY_CAP_S = 30.0, 3600.0


def wait_s(left_s: float, rng: Random) -> float:
    """Seconds until a token with `left_s` to live is renewed ahead."""
    lead_s = min(max(LEAD_S, LEAST_SHARE * left_s), MOST_SHARE * left_s)
    return max(MIN_WAIT_S, left_s - lead_s * rng.uniform(1.0, 1.0 + SPREAD))


def retry_s(left_s: float, rng: Random) -> float:
    """Seconds until a renewal ahead that failed for the moment is tried again."""
    return min(RETRY_CAP_S, max(RETRY_FIRST_S, RETRY_SHARE * left_s)) * rng.uniform(1.0 - SPREAD, 1.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """One grant's next renewal. `user_key`, `broker`: whose sessions use it."""

    grant_id: str
    user_key: str
    broker: str
    expires_at_ms: int


class Plans:
    """Plans by grant, and which are due. Times given are monotonic seconds and Unix ms, both of now."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._plans: dict[str, Plan] = {}
        self._timers: TimerHeap[Plan] = TimerHeap(lambda plan, _: self._plans.get(plan.grant_id) is plan)

    def __len__(self) -> int:
        return len(self._plans)

    def accepted(self, credential: Credential, user_key: str, broker: str, now: float, now_ms: int) -> None:
        """A login with this credential succeeded. A token that has ended by our clock, or never ends, has no plan."""
        ends = credential.expires_at_ms
        known = self._plans.get(credential.grant_id)
        if known is not None and known.expires_at_ms == ends:
            return
        if ends is None or ends <= now_ms:
            self._plans.pop(credential.grant_id, None)
            return
        self._set(Plan(credential.grant_id, user_key, broker, ends), now + wait_s((ends - now_ms) / 1000, self._rng))

    def failed(self, plan: Plan, now: float, now_ms: int) -> None:
        """A renewal failed for the moment; with the token's end the refusals of the broker take over."""
        if self._plans.get(plan.grant_id) in (None, plan):
            due_in_s = retry_s(max(0, plan.expires_at_ms - now_ms) / 1000, self._rng)
            if now_ms + due_in_s * 1000 < plan.expires_at_ms:
                self._set(Plan(plan.grant_id, plan.user_key, plan.broker, plan.expires_at_ms), now + due_in_s)
            else:
                self.drop(plan)

    def drop(self, plan: Plan) -> None:
        """Nobody needs it any more."""
        if self._plans.get(plan.grant_id) is plan:
            del self._plans[plan.grant_id]

    def due(self, now: float) -> list[Plan]:
        """The plans whose time has come; each stays until it is renewed, fails or is dropped."""
        return self._timers.due(now)

    def next_due(self) -> float | None:
        """When to look again, monotonic s."""
        return self._timers.next_due()

    def _set(self, plan: Plan, due: float) -> None:
        self._plans[plan.grant_id] = plan
        self._timers.set(due, plan, 0)
