"""How long to wait before the next attempt, and when not to ask a broker at all. Pure: numbers in, numbers out.

Full jitter for what is this session's own trouble; the adapter's word, unchanged, for what it paces itself (a shared
fault), because the admission queue then orders the sessions. Refused logins of one grant have their own small budget,
so that no loop, whatever its cause, can hammer a broker's login (reference/faults.md §4.2).
"""

from __future__ import annotations

from collections import deque
from random import Random

FIRST_S = 1.0  # upper bound of the first retry
CAP_S = 60.0
STEADY_S = 60.0  # live this long: earlier failures count no more
SHARED_FLOOR_S = 0.2  # from the second failure on, should an adapter say "at once" for ever
APPLICATION_FIRST_S = 60.0
APPLICATION_CAP_S = 300.0
MAINTENANCE_DEFAULT_S = 60.0
MAINTENANCE_CAP_S = 900.0
AUTH_REFUSALS = 3  # refused logins of one grant ...
AUTH_WINDOW_S = 3600.0  # ... in this time
QUICK_REAUTHORISATIONS = 3  # at once; further ones back off


def full_jitter(attempt: int, rng: Random, *, first_s: float = FIRST_S, cap_s: float = CAP_S) -> float:
    """U(0, min(cap, first x 2^attempt)) seconds; `attempt` counts failures so far, 0 for the first retry."""
    return rng.uniform(0.0, _ceiling(attempt, first_s, cap_s))


def retry_delay(attempt: int, rng: Random, *, retry_after_s: float | None, shared: bool) -> float:
    """Seconds until the next attempt after a temporary failure; never sooner than the broker or adapter asks."""
    if shared and retry_after_s is not None:
        return max(retry_after_s, SHARED_FLOOR_S if attempt else 0.0)
    return max(full_jitter(attempt, rng), retry_after_s or 0.0)


def throttle_delay(attempt: int, rng: Random, *, retry_after_s: float | None, shared: bool) -> float:
    """Seconds until the next attempt after a rate limit: what was asked, plus up to a second unless paced for us."""
    if retry_after_s is None:
        return FIRST_S + full_jitter(attempt, rng)
    if shared:
        return retry_delay(attempt, rng, retry_after_s=retry_after_s, shared=True)
    return retry_after_s + rng.uniform(0.0, 1.0)


def maintenance_delay(retry_after_s: float | None) -> float:
    """Seconds until the broker is asked again: its announced end, capped, because announcements can be absurd."""
    if retry_after_s is None:
        return MAINTENANCE_DEFAULT_S
    return min(max(retry_after_s, FIRST_S), MAINTENANCE_CAP_S)


def application_delay(attempt: int, rng: Random, *, retry_after_s: float | None) -> float:
    """Seconds until an application that was refused is tried again: 60 s, then up to 5 min."""
    ceiling = _ceiling(attempt, APPLICATION_FIRST_S, APPLICATION_CAP_S)
    return max(rng.uniform(APPLICATION_FIRST_S, ceiling), retry_after_s or 0.0)


def _ceiling(attempt: int, first_s: float, cap_s: float) -> float:
    return min(cap_s, first_s * 2.0 ** min(attempt, 32))  # 2^32 s is beyond any cap; no overflow


class AuthBudget:
    """Counts the refused logins of one grant: at most AUTH_REFUSALS in any AUTH_WINDOW_S. Times: monotonic s."""

    __slots__ = ("_refusals",)

    def __init__(self) -> None:
        self._refusals: deque[float] = deque(maxlen=AUTH_REFUSALS)

    def refused(self, now: float) -> None:
        """A broker refused a login of this grant."""
        self._refusals.append(now)

    def wait_s(self, now: float) -> float:
        """Seconds until another attempt is allowed; 0 when it is."""
        if len(self._refusals) < AUTH_REFUSALS:
            return 0.0
        return max(0.0, self._refusals[0] + AUTH_WINDOW_S - now)
