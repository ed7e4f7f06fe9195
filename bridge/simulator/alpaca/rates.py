"""The request budget of one account: so many requests in a minute that begins with the first of them.

Source: reference/alpaca.md §1.6 (200 a minute and account; `X-RateLimit-Limit`, `-Remaining`, `-Reset` in epoch s).
Sans I/O: the caller passes `now_ms`, Unix milliseconds, because the reset is told in wall time.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_MS = 60_000


@dataclass(frozen=True, slots=True)
class Standing:
    """What the headers say after a request. `reset_s`: Unix seconds, rounded up, when the whole limit is back."""

    admitted: bool
    limit: int
    remaining: int
    reset_s: int

    def headers(self) -> dict[str, str]:
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset_s),
        }


class Rates:
    """One window per account."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._windows: dict[str, tuple[int, int]] = {}  # account -> (began at ms, used)

    def charge(self, account_id: str, now_ms: int) -> Standing:
        """Admit one request or refuse it (a refused one does not count)."""
        began, used = self._windows.get(account_id, (now_ms, 0))
        if not 0 <= now_ms - began < WINDOW_MS:  # a clock that steps back begins anew
            began, used = now_ms, 0
        admitted = used < self.limit
        used += admitted
        self._windows[account_id] = (began, used)
        return Standing(admitted, self.limit, self.limit - used, -(-(began + WINDOW_MS) // 1000))
