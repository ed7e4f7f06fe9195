"""The request budget of one connection: a strict rolling window per class, and blocks for those who insist.

Source: reference/ctrader.md §5 (50 ordinary and 5 historical requests per second and connection, shared by all
accounts on it). The window is strict: at no instant were more than `limit` requests accepted in the second before.
Sans I/O: the caller passes `now_s` (monotonic seconds).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

WINDOW_S = 1.0
# A payload type refused this soon after an earlier refusal is blocked for BLOCK_S.
INSIST_S = 1.0
BLOCK_S = 1.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """`retry_after_s` is set when the payload type is blocked, None for a plain frequency error."""

    retry_after_s: int | None


class Window:
    """Counts accepted requests in the last second."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._accepted: deque[float] = deque(maxlen=max(1, limit))

    def admit(self, now_s: float) -> bool:
        """Accept one request at `now_s`, or refuse it (a refused one does not count)."""
        while self._accepted and now_s - self._accepted[0] >= WINDOW_S:
            self._accepted.popleft()
        if len(self._accepted) >= self._limit:
            return False
        self._accepted.append(now_s)
        return True


class Budget:
    """Both windows of one connection and its blocked payload types."""

    def __init__(self, ordinary_limit: int, history_limit: int) -> None:
        self._ordinary = Window(ordinary_limit)
        self._history = Window(history_limit)
        self._refused_at: dict[int, float] = {}
        self._blocked_until: dict[int, float] = {}

    def check(self, payload_type: int, historical: bool, now_s: float) -> Refusal | None:
        """Admit one request (None) or say how it is refused."""
        until = self._blocked_until.get(payload_type, 0.0)
        if now_s < until:
            return Refusal(math.ceil(until - now_s))
        window = self._history if historical else self._ordinary
        if window.admit(now_s):
            return None
        before = self._refused_at.get(payload_type)
        self._refused_at[payload_type] = now_s
        if before is not None and now_s - before < INSIST_S:
            self._blocked_until[payload_type] = now_s + BLOCK_S
            return Refusal(math.ceil(BLOCK_S))
        return Refusal(None)
