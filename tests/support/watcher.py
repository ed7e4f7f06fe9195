"""An independent reader of the store, which holds records against DESIGN §6 and against what the broker has sent.

A proxy (`tests/support/fault_proxy.py`) between bridge and simulator notes when a byte went towards the bridge.
The watcher reads every record many times a second: it believes nothing that a record says about its own freshness. It
shares no code with the bridge.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis

from tests.support.fault_proxy import Heard, now_ms

HORIZON_MS = {True: 10_000, False: 60_000}  # by: holds positions or orders (DESIGN §6)
TOLERANCE_MS = 750  # the bridge notes the time of a byte after the proxy did, on a busy machine
SAMPLE_EVERY_S = 0.04
OPENING_UNTOLD = {"alpaca"}  # brokers that do not say when a position was opened
STATUSES = {"starting", "connecting", "syncing", "live", "stale", "maintenance", "action_required", "stopped"}
# what a renewal may change
_RENEWED = ("asOf", "confirmedAt", "staleAfter", "version", "_cacheTimestamp")


class Watcher:
    """Reads the records of `keys` (user to key) in a thread of its own. `violations` says what broke a promise.

    `ahead_ms`: how far the bridge's wall clock is set wrong; whoever reads its records has the same one.
    """

    def __init__(self, url: str, keys: Mapping[str, str], heard: Heard) -> None:
        self.violations: list[str] = []
        self.samples = 0
        self.ahead_ms = 0
        self.records: dict[str, Any] = {}
        self.seen: dict[str, set[tuple[str, str | None]]] = {user: set() for user in keys}
        self._url = url
        self._keys = dict(keys)
        self._broker = heard
        self._raw: dict[str, bytes] = {}
        self._untouched: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def forget_seen(self) -> None:
        """Begin to collect (status, reason code) anew."""
        with self._lock:
            for seen in self.seen.values():
                seen.clear()

    def statuses(self, user: str) -> set[str]:
        with self._lock:
            return {status for status, _ in self.seen[user]}

    def codes(self, user: str) -> set[str | None]:
        with self._lock:
            return {code for _, code in self.seen[user]}

    @contextmanager
    def untouched(self, *users: str) -> Iterator[None]:
        """Within the block nothing of these users' records may change but what a renewal changes."""
        with self._lock:
            self._untouched = {user: _content(self.records[user]) for user in users}
        try:
            yield
        finally:
            with self._lock:
                self._untouched = {}

    def _run(self) -> None:
        users, keys = list(self._keys), list(self._keys.values())
        with redis.Redis.from_url(self._url) as client:
            while not self._stop.is_set():
                before_ms = now_ms()
                try:
                    found = client.mget(keys)
                except redis.RedisError:  # the store itself is the one in trouble: nobody can read anything
                    self._stop.wait(SAMPLE_EVERY_S)
                    continue
                last_sent_ms = self._broker.last_sent_ms  # read after the records, so that it is never too early
                with self._lock:
                    for user, raw in zip(users, found, strict=True):
                        if raw is not None:
                            self._judge(user, raw, before_ms, last_sent_ms)
                    self.samples += 1
                self._stop.wait(SAMPLE_EVERY_S)

    def _judge(self, user: str, raw: bytes, at_ms: int, last_sent_ms: int) -> None:
        previous, known = self.records.get(user), self._raw.get(user)
        if raw != known:
            try:
                record = json.loads(raw, parse_constant=_refuse_constant)
            except ValueError as error:
                self._say(user, f"not strict JSON: {error}", None)
                return
            self._raw[user], self.records[user] = raw, record
            if previous is not None:
                older, newer = ((each["fence"], each["version"]) for each in (previous, record))
                if newer <= older:
                    self._say(user, f"(fence, version) {older} was followed by {newer}", record)
            for what in _content_faults(record):
                self._say(user, what, record)
            self.seen[user].add((record["status"], record["reason"] and record["reason"]["code"]))
            if record["asOf"] is not None and record["asOf"] > last_sent_ms + self.ahead_ms + TOLERANCE_MS:
                self._say(user, f"asOf {record['asOf']} although nothing was sent after {last_sent_ms}", record)
        record = self.records[user]
        if record["status"] == "live" and at_ms + self.ahead_ms < record["staleAfter"]:
            silent_ms = at_ms - last_sent_ms
            if silent_ms > HORIZON_MS[_holds(record)] + TOLERANCE_MS:
                self._say(user, f"looks fresh {silent_ms} ms after the broker's last byte", record)
        baseline = self._untouched.get(user)
        if baseline is not None and _content(record) != baseline:
            changed = {key: (value, record[key]) for key, value in baseline.items() if record[key] != value}
            self._say(user, f"changed by a fault of somebody else: {changed}", record)

    def _say(self, user: str, what: str, record: Any) -> None:
        if len(self.violations) < 50:
            self.violations.append(f"{user}: {what}; record {json.dumps(record)[:600]}")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _holds(record: Any) -> bool:
    return bool(record["positions"] or record["orders"])


def _content(record: Any) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in _RENEWED}


def _content_faults(record: Any) -> Iterator[str]:
    """What no record may say, whatever the broker sent."""
    if record["status"] not in STATUSES:
        yield f"unknown status {record['status']}"
    if (record["status"] == "live") is not (record["reason"] is None):
        yield f"status {record['status']} with reason {record['reason']}"
    if record["asOf"] is not None and record["staleAfter"] - record["asOf"] > HORIZON_MS[_holds(record)]:
        yield f"staleAfter is {record['staleAfter'] - record['asOf']} ms after asOf"
    if record["status"] == "live" and (record["asOf"] is None or record["confirmedAt"] is None):
        yield "live without having been read"
    for name in ("balance", "equity", "unrealizedPnl", "usedMargin", "freeMargin"):
        if record[name] is not None and abs(record[name]) > 1e9:
            yield f"absurd {name} {record[name]}"
    untold = record["broker"] in OPENING_UNTOLD
    for row in record["positions"] or ():
        day_ms = 86_400_000
        sane = (
            _between(row["units"], 1e-9, 1e9)
            and _between(row["entryPrice"], 1e-6, 1e6)
            and (row["currentPrice"] is None or _between(row["currentPrice"], 1e-6, 1e6))
            and _between(row["swap"], -1e6, 1e6)
            and _between(row["commission"], -1e6, 1e6)
            and (untold or _between(row["openedAt"], now_ms() - day_ms, now_ms() + day_ms))
        )
        if not sane:
            yield f"absurd position {row}"


def _between(value: Any, least: float, most: float) -> bool:
    """NaN and infinity would have become null on their way into JSON: null is as wrong as they are."""
    return value is not None and least <= value <= most
