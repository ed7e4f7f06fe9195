"""/metrics: the names of DESIGN §11, read from plain counters."""

from dataclasses import dataclass, field
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from bridge.alerts.alerts import Alerts
from bridge.alerts.alerts import Sources as AlertSources
from bridge.api.jwks import KeySet
from bridge.audit.log import AuditLog
from bridge.cache.general import GeneralCache
from bridge.db.database import Database
from bridge.runtime.clock import ManualClock
from bridge.telemetry.histogram import Histogram
from bridge.telemetry.metrics import FlushTimes, Sources, metrics_page
from bridge.telemetry.parts import COUNTERS, GAUGES, POOL_COUNTERS, POOL_GAUGES
from core.secret import Secret
from tests.support.fake_services import running_api


@dataclass
class Counters:
    sessions: dict = field(default_factory=lambda: {("sim", "live"): 3})
    waiting: dict = field(default_factory=lambda: {("sim", "demo"): 1})
    logging_in: dict = field(default_factory=dict)
    events: dict = field(default_factory=lambda: {"sim": 7})
    reconnects: dict = field(default_factory=lambda: {"connection_lost": 2})
    logins: dict = field(default_factory=dict)
    refreshes: dict = field(default_factory=dict)
    reconciles: dict = field(default_factory=dict)
    lost_events: dict = field(default_factory=lambda: {"sim": 1})
    internal_errors: int = 0


@dataclass
class Tier:
    hits: int = 5
    misses: int = 6
    evictions: int = 7
    failures: int = 8


@dataclass
class Store:
    failures: int = 2
    refused: int = 3


def page(flush_times: FlushTimes) -> dict:
    broker = {"requests.ok": 9, "requests.timeout": 1, "dials": 2, "roundtrip.le_0.1": 8, "roundtrip.le_1": 9}
    broker |= {"roundtrip.sum": 1.5, "roundtrip.count": 10}
    lags = Histogram((0.01, 0.05))
    lags.observe(0.02)
    sources = Sources(
        sessions=Counters,
        brokers={"sim": lambda: broker},
        flusher=lambda: {"record_age_s": 1.25, "records_made": 4, "fenced": 0, "entries": 2},
        flush_times=flush_times,
        stores=lambda: {"redis": Store()},
        tiers=lambda: {"memory": Tier()},
        http=lambda: {200: 12},
        dropped_lines=lambda: 3,
        loop_stalls=lambda: 4,
        loop_lags=lags,
        gauges={"loop_lag_seconds": lambda: 0.5},
        parts={"audit": lambda: {"written": 10, "waiting": 2}, "jwks": lambda: {"fetches": 3, "other": 4}},
        pools={"main": lambda: {**dict.fromkeys((*POOL_GAUGES, *POOL_COUNTERS), 1), "busy": 5}},
    )
    text = metrics_page(sources)().decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_agreed_name_is_there():
    times = FlushTimes()
    times.flushed("redis", 500, 0.03)
    samples = page(times)
    assert samples["bridge_sessions", ("broker", "sim"), ("status", "live")] == 3
    assert samples["bridge_events_total", ("broker", "sim")] == 7
    assert samples["bridge_broker_requests_total", ("broker", "sim"), ("outcome", "ok")] == 9
    assert samples["bridge_broker_requests_total", ("broker", "sim"), ("outcome", "timeout")] == 1
    assert samples["bridge_broker_roundtrip_seconds_bucket", ("broker", "sim"), ("le", "0.1")] == 8
    assert samples["bridge_broker_roundtrip_seconds_bucket", ("broker", "sim"), ("le", "+Inf")] == 10
    assert samples["bridge_broker_roundtrip_seconds_sum", ("broker", "sim")] == 1.5
    assert samples["bridge_reconnects_total", ("cause", "connection_lost")] == 2
    assert samples["bridge_lost_events_total", ("broker", "sim")] == 1
    assert samples["bridge_flush_seconds_bucket", ("le", "0.05"), ("store", "redis")] == 1
    assert samples["bridge_flush_seconds_bucket", ("le", "0.025"), ("store", "redis")] == 0
    assert samples["bridge_flushed_records_total", ("store", "redis")] == 500
    assert samples["bridge_record_age_seconds",] == 1.25
    assert samples["bridge_cache_hits_total", ("tier", "memory")] == 5
    assert samples["bridge_cache_misses_total", ("tier", "memory")] == 6
    assert samples["bridge_cache_failures_total", ("tier", "memory")] == 8
    assert samples["bridge_store_failures_total", ("store", "redis")] == 2
    assert samples["bridge_store_refusals_total", ("store", "redis")] == 3
    assert samples["bridge_loop_lag_seconds",] == 0.5
    assert samples["bridge_loop_stalls_total",] == 4
    assert samples["bridge_loop_beat_lag_seconds_bucket", ("le", "0.01")] == 0
    assert samples["bridge_loop_beat_lag_seconds_bucket", ("le", "0.05")] == 1
    assert samples["bridge_records",] == 2
    assert samples["bridge_http_answers_total", ("status", "200")] == 12
    assert samples["bridge_log_lines_dropped_total",] == 3
    assert ("process_resident_memory_bytes",) in samples


def test_what_the_parts_count_is_there_by_part_and_pool():
    samples = page(FlushTimes())
    assert samples["bridge_audit_written_total",] == 10
    assert samples["bridge_audit_waiting",] == 2
    assert samples["bridge_jwks_fetches_total",] == 3
    assert samples["bridge_database_busy", ("pool", "main")] == 5
    assert samples["bridge_database_unavailable_total", ("pool", "main")] == 1
    assert not [name for name, *_ in samples if "other" in name or "audit_dropped" in name]


def alert_sources() -> AlertSources:
    return AlertSources(
        stores=dict,
        brokers=dict,
        sessions=dict,
        flusher=dict,
        loop_lag_ms=lambda: 0.0,
        not_live=lambda: None,
        not_ready=lambda: None,
    )


async def test_every_figure_that_a_part_hands_over_is_shown():
    clock, rng = ManualClock(), Random(1)
    database = Database(Secret("postgresql://nobody@127.0.0.1:1/none"))
    cache = GeneralCache([], clock=clock, rng=rng)
    figures = {
        "audit": AuditLog(database, clock=clock, rng=rng).metrics(),
        "alerts": Alerts(None, None, alert_sources(), clock=clock, rng=rng).stats(),
        "general_cache": cache.counts(),
        "jwks": KeySet("http://127.0.0.1:1/", clock).figures(),
    }
    for part, handed in figures.items():
        assert handed.keys() == {**GAUGES.get(part, {}), **COUNTERS.get(part, {})}.keys(), part
    assert database.figures().keys() == {**POOL_GAUGES, **POOL_COUNTERS}.keys()
    async with running_api() as api:
        assert {*api.server.figures(), "rates_shared"} == GAUGES["http"].keys()


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_counts_each_value_once(values: list[float]):
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    buckets = dict(histogram.cumulative())
    assert buckets["+Inf"] == len(values)
    for bound in (0.1, 1.0, 10.0):
        assert buckets[str(bound)] == sum(value <= bound for value in values)
