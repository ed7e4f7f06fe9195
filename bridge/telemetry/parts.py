"""What the parts count by themselves, as /metrics shows it: `bridge_<part>_<figure>`, counters with `_total`.

Parts hand over plain numbers by name; the tables here say what each of them means. A figure that no table names is not
shown, and one that a part does not have (nothing is configured for it) is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

Figures = Mapping[str, float]
Readings = Mapping[str, Callable[[], Figures]]

GAUGES: Mapping[str, Mapping[str, str]] = {
    "http": {
        "connections": "Open connections of callers.",
        "in_work": "Requests in work.",
        "callers": "Callers whose rate is counted at the moment.",
        "rates_shared": "1 while processes count rates together in Redis, 0 while each counts alone.",
    },
    "audit": {"waiting": "Entries that wait to be written."},
    "alerts": {"open": "Alerts that were told and are not over.", "waiting": "Notices that wait to be delivered."},
    "ownership": {
        "owned": "Sessions that this process owns.",
        "unowned": "Sessions that it could claim, because nobody owns them.",
        "members": "Processes that have a lease.",
        "lease_age_seconds": "Since the last renewal that was confirmed.",
        "suspended": "1 while sessions are stopped because the lease cannot be renewed.",
    },
    "general_cache": {
        "entries": "Values in this process's memory.",
        "bytes": "Their size.",
        "debts": "Removals that a shared tier is owed since it was away.",
    },
}
COUNTERS: Mapping[str, Mapping[str, str]] = {
    "audit": {
        "written": "Entries written.",
        "dropped": "Entries that could not be taken or written.",
        "failures": "Attempts to write that failed.",
    },
    "alerts": {
        "posts": "Messages taken by the webhook.",
        "post_failures": "Attempts at the webhook that failed.",
        "dropped": "Notices that were too many or too old to be delivered.",
        "beats": "Heartbeats that were taken.",
        "beat_failures": "Heartbeats that were not.",
        "failed_looks": "Times that the process could not be looked at.",
    },
    "ownership": {
        "claims": "Sessions taken up from nobody, or from a process whose lease had ended.",
        "hand_overs": "Sessions given up to other processes.",
        "burials": "Leases of other processes found to have ended.",
        "lapses": "Times that this process lost its lease and began anew.",
        "renew_failures": "Attempts to renew the lease that failed.",
    },
    "general_cache": {
        "loads": "Values made anew.",
        "load_failures": "Values that could not be made.",
        "shared_loads": "Callers who waited for a load of somebody else.",
        "oversize": "Values too large to keep.",
    },
    "jwks": {
        "fetches": "Times that the keys of user tokens were asked for.",
        "failures": "Times that they could not be read.",
    },
}
POOL_GAUGES: Mapping[str, str] = {
    "connections": "Open connections to the database.",
    "busy": "Those in use.",
    "connections_most": "How many there may be.",
}
POOL_COUNTERS: Mapping[str, str] = {
    "transactions": "Transactions begun.",
    "unavailable": "Transactions that could not be begun.",
}


def part_families(parts: Readings) -> Iterator[Metric]:
    """The figures of each part."""
    for part, read in parts.items():
        figures = read()
        for name, text in GAUGES.get(part, {}).items():
            if name in figures:
                yield GaugeMetricFamily(f"bridge_{part}_{name}", text, value=figures[name])
        for name, text in COUNTERS.get(part, {}).items():
            if name in figures:
                yield CounterMetricFamily(f"bridge_{part}_{name}", text, value=figures[name])


def pool_families(pools: Readings) -> Iterator[Metric]:
    """The figures of each pool of connections to the database."""
    figures = {pool: read() for pool, read in pools.items()}
    for name, text in POOL_GAUGES.items():
        gauge = GaugeMetricFamily(f"bridge_database_{name}", text, labels=("pool",))
        for pool, values in figures.items():
            gauge.add_metric((pool,), values[name])
        yield gauge
    for name, text in POOL_COUNTERS.items():
        counter = CounterMetricFamily(f"bridge_database_{name}", text, labels=("pool",))
        for pool, values in figures.items():
            counter.add_metric((pool,), values[name])
        yield counter
