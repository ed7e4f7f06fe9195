"""/metrics by the names of DESIGN §11, read at scrape from plain counters that the parts keep anyway.

Nothing here runs between scrapes, except one bisect per flushed chunk. Sources are protocols: this package knows none
of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bridge.telemetry.histogram import Histogram
from bridge.telemetry.parts import Readings, part_families, pool_families

ROUNDTRIP = "roundtrip."
REQUESTS = "requests."


class SessionCounters(Protocol):
    """What the session service counts; keys are label values."""

    @property
    def sessions(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def waiting(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def logging_in(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def events(self) -> Mapping[str, int]: ...
    @property
    def reconnects(self) -> Mapping[str, int]: ...
    @property
    def logins(self) -> Mapping[str, int]: ...
    @property
    def refreshes(self) -> Mapping[str, int]: ...
    @property
    def reconciles(self) -> Mapping[str, int]: ...
    @property
    def lost_events(self) -> Mapping[str, int]: ...
    @property
    def internal_errors(self) -> int: ...


class TierCounters(Protocol):
    """What one cache tier counts."""

    hits: int
    misses: int
    evictions: int
    failures: int


class StoreCounters(Protocol):
    """What the flusher counts of one store."""

    @property
    def failures(self) -> int: ...
    @property
    def refused(self) -> int: ...


class FlushTimes:
    """Watches the flusher: how long each store took for a chunk."""

    def __init__(self) -> None:
        self.seconds: dict[str, Histogram] = {}
        self.records: dict[str, int] = {}

    def flushed(self, store: str, records: int, seconds: float) -> None:
        """One chunk was answered by a store."""
        self.seconds.setdefault(store, Histogram()).observe(seconds)
        self.records[store] = self.records.get(store, 0) + records


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the numbers are. `http`: answers by status; `gauges`: name without prefix -> value now.

    `parts`, `pools`: what each part, and each pool of connections to the database, counts by itself.
    """

    sessions: Callable[[], SessionCounters]
    brokers: Mapping[str, Callable[[], Mapping[str, float]]]
    flusher: Callable[[], Mapping[str, float]]
    flush_times: FlushTimes
    stores: Callable[[], Mapping[str, StoreCounters]]
    tiers: Callable[[], Mapping[str, TierCounters]]
    http: Callable[[], Mapping[int, int]]
    dropped_lines: Callable[[], int]
    loop_stalls: Callable[[], int]
    loop_lags: Histogram
    gauges: Mapping[str, Callable[[], float]]
    parts: Readings
    pools: Readings


class BridgeCollector(Collector):
    """All families of the bridge."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        yield from self._sessions()
        yield from self._brokers()
        yield from self._cache()
        yield from self._process()
        yield from part_families(self._sources.parts)
        yield from pool_families(self._sources.pools)

    def _sessions(self) -> Iterator[Metric]:
        counters = self._sources.sessions()
        place = ("broker", "environment")
        yield _gauge("sessions", "Sessions by record status.", ("broker", "status"), counters.sessions)
        yield _gauge("sessions_waiting", "Sessions in the admission queue.", place, counters.waiting)
        yield _gauge("sessions_logging_in", "Logins in work.", place, counters.logging_in)
        yield _counter("events", "Events applied to mirrors.", "broker", counters.events)
        yield _counter("reconnects", "Sessions that had to come back, by cause.", "cause", counters.reconnects)
        yield _counter("logins", "Logins by outcome.", "outcome", counters.logins)
        yield _counter("token_refreshes", "Token refreshes by outcome.", "outcome", counters.refreshes)
        yield _counter("reconciles", "Periodic reconciles by outcome.", "outcome", counters.reconciles)
        yield _counter("lost_events", "Differences that a reconcile had to repair.", "broker", counters.lost_events)
        yield _plain_counter("internal_errors", "Faults of our own in sessions.", counters.internal_errors)

    def _brokers(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("bridge_broker_requests", "Requests by outcome.", labels=("broker", "outcome"))
        others = CounterMetricFamily("bridge_broker_counts", "Further counts of an adapter.", labels=("broker", "what"))
        seconds = HistogramMetricFamily("bridge_broker_roundtrip_seconds", "Request to answer.", labels=("broker",))
        for broker, read in self._sources.brokers.items():
            values = read()
            for name, value in values.items():
                if name.startswith(REQUESTS):
                    requests.add_metric((broker, name.removeprefix(REQUESTS)), value)
                elif not name.startswith(ROUNDTRIP):
                    others.add_metric((broker, name), value)
            bounds = [(name.removeprefix("roundtrip.le_"), value) for name, value in values.items() if ".le_" in name]
            buckets = [*bounds, ("+Inf", values.get("roundtrip.count", 0.0))]
            seconds.add_metric((broker,), buckets, values.get("roundtrip.sum", 0.0))
        yield from (requests, others, seconds)

    def _cache(self) -> Iterator[Metric]:
        times = self._sources.flush_times
        seconds = HistogramMetricFamily("bridge_flush_seconds", "One chunk written to a store.", labels=("store",))
        for store, histogram in times.seconds.items():
            seconds.add_metric((store,), histogram.cumulative(), histogram.total)
        yield seconds
        yield _counter("flushed_records", "Records written.", "store", times.records)
        flusher = self._sources.flusher()
        age = flusher.get("record_age_s", 0.0)
        yield GaugeMetricFamily("bridge_record_age_seconds", "Age of the oldest record of a live session.", value=age)
        entries = flusher.get("entries", 0)
        yield GaugeMetricFamily("bridge_records", "Sessions whose records this process writes.", value=entries)
        yield _plain_counter("records_made", "Records made for a flush.", flusher.get("records_made", 0))
        yield _plain_counter("record_failures", "Records that could not be made.", flusher.get("record_failures", 0))
        yield _plain_counter("fenced", "Sessions refused under a higher fence.", flusher.get("fenced", 0))
        yield _plain_counter(
            "unstorable_records", "Records that the primary could not store.", flusher.get("unstorable", 0)
        )
        stores = self._sources.stores()
        failures = {name: store.failures for name, store in stores.items()}
        yield _counter("store_failures", "Attempts at a store that failed.", "store", failures)
        refused = {name: store.refused for name, store in stores.items()}
        yield _counter("store_refusals", "Records a copy held under a higher fence.", "store", refused)
        yield from self._tiers()

    def _tiers(self) -> Iterator[Metric]:
        tiers = self._sources.tiers()
        yield _counter("cache_hits", "Reads served.", "tier", {name: tier.hits for name, tier in tiers.items()})
        yield _counter("cache_misses", "Reads not served.", "tier", {name: tier.misses for name, tier in tiers.items()})
        evictions = {name: tier.evictions for name, tier in tiers.items()}
        yield _counter("cache_evictions", "Records dropped from a tier.", "tier", evictions)
        failures = {name: tier.failures for name, tier in tiers.items()}
        yield _counter("cache_failures", "Reads that a store did not answer.", "tier", failures)

    def _process(self) -> Iterator[Metric]:
        for name, read in self._sources.gauges.items():
            yield GaugeMetricFamily(f"bridge_{name}", name.replace("_", " ").capitalize() + ".", value=read())
        lags = self._sources.loop_lags
        text = "How late the event loop ran a timer, four times a second."
        yield HistogramMetricFamily("bridge_loop_beat_lag_seconds", text, lags.cumulative(), lags.total)
        answers = {str(status): number for status, number in self._sources.http().items()}
        yield _counter("http_answers", "Answers of the HTTP API.", "status", answers)
        stalls = self._sources.loop_stalls()
        yield _plain_counter("loop_stalls", "Times the event loop stood still for more than a second.", stalls)
        dropped = self._sources.dropped_lines()
        yield _plain_counter("log_lines_dropped", "Log lines nobody took in time.", dropped)


def metrics_page(sources: Sources) -> Callable[[], bytes]:
    """A function that renders /metrics."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(BridgeCollector(sources))
    return lambda: generate_latest(registry)


def _gauge(name: str, text: str, labels: Sequence[str], values: Mapping[tuple[str, str], int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"bridge_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, text: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"bridge_{name}", text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _plain_counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"bridge_{name}", text, value=value)
