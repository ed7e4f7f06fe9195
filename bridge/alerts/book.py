"""What has been told and what is to be told now: one notice per change, late enough and seldom enough.

No I/O; `now` is monotonic. A condition is told once it has lasted its grace time, and its end once it has stayed away
for a while. What comes back soon after its end must then stay away twice as long, up to a limit, so that something that
flaps is one long alert and not a flood; and no condition is told twice within REPEAT_S.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bridge.alerts.conditions import GRACE_S, Condition

REPEAT_S = 300.0
SETTLE_S, SETTLE_MOST_S = 30.0, 900.0
CALM_S = 3600.0  # well for so long, the past of a condition is forgotten


@dataclass(slots=True)
class _Open:
    """A condition that is there, or was a moment ago."""

    condition: Condition
    since: float
    seen: float
    settle_s: float
    told: bool = False
    told_level: int = 0


@dataclass(frozen=True, slots=True)
class _Past:
    """A condition whose end was told."""

    ended: float
    settle_s: float


class AlertBook:
    """Remembers every condition by key."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._past: dict[str, _Past] = {}
        self._told_at: dict[str, float] = {}

    @property
    def open(self) -> int:
        """Number of conditions that were told and are not over."""
        return sum(each.told for each in self._open.values())

    def observe(self, present: Mapping[str, Condition], now: float) -> list[str]:
        """What to tell now, given everything that is wrong now."""
        notices = []
        for key, condition in present.items():
            known = self._open.get(key)
            if known is None:
                known = self._open[key] = _Open(condition, now, now, self._settle(key, now))
            known.condition, known.seen = condition, now
            if self._worth_telling(key, known, now):
                known.told, known.told_level = True, condition.level
                self._told_at[key] = now
                notices.append(condition.text)
            known.told_level = min(known.told_level, condition.level)
        for key in [key for key in self._open if key not in present]:
            notices += self._absent(key, now)
        return notices

    def _worth_telling(self, key: str, known: _Open, now: float) -> bool:
        if now - self._told_at.get(key, float("-inf")) < REPEAT_S:
            return False
        if known.told:
            return known.condition.level > known.told_level
        return now - known.since >= known.condition.grace_s

    def _absent(self, key: str, now: float) -> list[str]:
        known = self._open[key]
        gone_s = now - known.seen
        if gone_s < (known.settle_s if known.told else GRACE_S):
            return []
        del self._open[key]
        if not known.told:
            return []
        self._past[key] = _Past(now, known.settle_s)
        return [f"{known.condition.over} (after {_duration(known.seen - known.since)})"]

    def _settle(self, key: str, now: float) -> float:
        """How long this condition must stay away to be over."""
        past = self._past.get(key)
        if past is None or now - past.ended > CALM_S:
            return SETTLE_S
        return min(2 * past.settle_s, SETTLE_MOST_S)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
