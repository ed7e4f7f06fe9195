"""What is wrong right now, read off the figures that the parts keep anyway.

No I/O and no clock. A condition has a short key and a sentence of counts and names of parts: never a user, an account
or a key of one. What was wrong before and what has been told already is the book's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

GRACE_S = 15.0
CONNECTING_GRACE_S = 60.0
AWAY_GRACE_S = 180.0  # a storm of a thousand sessions is over by then (DESIGN §5)
LAG_HIGH_MS, LAG_WELL_MS = 1000.0, 500.0
OLD_RECORD_S = 120.0  # the longest horizon of a live record is 60 s
FAILING_S = 300.0  # how long records that could not be made are remembered
FEW = 5  # sessions; fewer that are away say nothing about the bridge
NOT_UP = ("down", "connecting", "maintenance")
UNDER_WAY = ("starting", "connecting", "syncing", "stale")


class StoreState(Protocol):
    """One store as its flusher sees it."""

    @property
    def role(self) -> str: ...
    @property
    def state(self) -> str: ...


class BrokerState(Protocol):
    """One broker's channels."""

    @property
    def state(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Signs:
    """One look at the process.

    `sessions`: number by record status. `record_age_s`: age of the oldest record of a live session. `record_failures`:
    counts up. `problems`: further sentences by short key, None where all is well.
    """

    stores: Mapping[str, StoreState] = field(default_factory=dict)
    brokers: Mapping[str, BrokerState] = field(default_factory=dict)
    sessions: Mapping[str, int] = field(default_factory=dict)
    loop_lag_ms: float = 0.0
    record_age_s: float = 0.0
    record_failures: float = 0.0
    problems: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong: what to say of it now, what to say when it is over.

    `level`: a count that is worth telling again when it rises. `grace_s`: how long it must last to be told.
    """

    text: str
    over: str
    level: int = 0
    grace_s: float = GRACE_S


class Conditions:
    """Turns signs into conditions by key. Keeps only what a threshold with two ends and a counter need."""

    def __init__(self) -> None:
        self._lagging = False
        self._failures = 0.0
        self._failed_at = float("-inf")

    def read(self, signs: Signs, now: float) -> dict[str, Condition]:
        """Everything that is wrong at monotonic `now`."""
        found = {**_stores(signs), **_brokers(signs), **self._loop(signs), **self._records(signs, now)}
        if not any(key.startswith("broker ") for key in found):
            found |= _away(signs)
        found |= _action(signs)
        for key, problem in signs.problems.items():
            if problem is not None:
                found[key] = Condition(f"{key}: {problem}", f"{key}: well again")
        return found

    def _loop(self, signs: Signs) -> dict[str, Condition]:
        self._lagging = signs.loop_lag_ms > (LAG_WELL_MS if self._lagging else LAG_HIGH_MS)
        if not self._lagging:
            return {}
        text = f"loop lag: the process is short of processor time, up to {signs.loop_lag_ms:.0f} ms late"
        return {"loop lag": Condition(text, "loop lag: back to normal")}

    def _records(self, signs: Signs, now: float) -> dict[str, Condition]:
        found = {}
        if signs.record_failures > self._failures:
            self._failures, self._failed_at = signs.record_failures, now
        if now - self._failed_at < FAILING_S:
            text = f"records: {signs.record_failures:.0f} could not be made since the start, see the log"
            over = "records: all could be made in the last minutes"
            found["records failing"] = Condition(text, over, grace_s=0.0)
        primary_up = all(store.state not in NOT_UP for store in signs.stores.values() if store.role == "primary")
        if primary_up and signs.record_age_s > OLD_RECORD_S:
            text = f"records: the oldest of a live session was written {signs.record_age_s:.0f} s ago"
            found["records old"] = Condition(text, "records: written in time again")
        return found


def _stores(signs: Signs) -> dict[str, Condition]:
    found = {}
    for name, store in signs.stores.items():
        if store.state in NOT_UP:
            over = f"store up: {name} ({store.role}) takes records again"
            found[f"store {name}"] = Condition(
                f"store down: {name} ({store.role}) takes no records", over, 0, _grace(store)
            )
    return found


def _brokers(signs: Signs) -> dict[str, Condition]:
    found = {}
    for name, broker in signs.brokers.items():
        if broker.state in NOT_UP:
            what = "is in maintenance" if broker.state == "maintenance" else "cannot be reached"
            over = f"broker up: {name} is reached again"
            found[f"broker {name}"] = Condition(f"broker down: {name} {what}", over, 0, _grace(broker))
    return found


def _grace(part: StoreState | BrokerState) -> float:
    return CONNECTING_GRACE_S if part.state == "connecting" else GRACE_S


def _action(signs: Signs) -> dict[str, Condition]:
    number = signs.sessions.get("action_required", 0)
    if not number:
        return {}
    text = f"sessions need action: {number}, see /api/sessions?status=action_required"
    return {"sessions need action": Condition(text, "sessions need action: none any more", level=number)}


def _away(signs: Signs) -> dict[str, Condition]:
    """Most sessions are not live although brokers answer."""
    live = signs.sessions.get("live", 0)
    away = sum(signs.sessions.get(status, 0) for status in UNDER_WAY)
    if away < FEW or away <= live:
        return {}
    text = f"sessions away: {away} of {away + live} are not live"
    return {"sessions away": Condition(text, "sessions away: most are live again", grace_s=AWAY_GRACE_S)}
