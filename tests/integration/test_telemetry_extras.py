"""Sentry and OpenTelemetry on receivers of our own: what arrives, and what must never arrive."""

import base64
import gzip
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote

import pytest
import sentry_sdk
from aiohttp import web

from bridge.runtime.clock import ManualClock
from bridge.telemetry.redaction import Redactor
from bridge.telemetry.sentry import EVENTS_PER_MINUTE, SentryReports, setup_sentry
from bridge.telemetry.tracing import TRACER, OtelSpans, Tracer, setup_tracing
from core.errors import ConfigurationError
from core.secret import Secret
from tests.support.waiting import eventually

CANARY = "canary-7f3a9c/51d2+e8b0"
FORMS = (CANARY, CANARY.encode().hex(), base64.b64encode(CANARY.encode()).decode(), quote(CANARY, safe=""))
WITHIN_S = 20.0


class Receiver:
    """Takes whatever is posted, unpacked."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[str] = []
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        self.bodies.append(_unpacked(await request.read()))
        self.headers.append(str(request.headers))
        return web.json_response({})

    @property
    def all(self) -> bytes:
        return b"\n".join(self.bodies)


def _unpacked(body: bytes) -> bytes:
    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", made.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest.fixture
def redactor() -> Redactor:
    made = Redactor()
    made.register(Secret(CANARY))
    return made


@pytest.fixture
async def reports(receiver: Receiver, redactor: Redactor) -> AsyncIterator[SentryReports]:
    dsn = Secret(f"http://publickey0@127.0.0.1:{receiver.port}/1")
    made = setup_sentry(dsn, release="1", environment="test", clock=ManualClock(), redactor=redactor)
    assert made is not None
    yield made
    await made.close()
    sentry_sdk.get_global_scope().set_client(None)
    sentry_sdk.get_isolation_scope().set_client(None)


@pytest.fixture
async def spans(receiver: Receiver) -> AsyncIterator[OtelSpans]:
    made = setup_tracing(f"http://127.0.0.1:{receiver.port}/", release="1")
    assert made is not None
    yield made
    await made.close()


@pytest.fixture(autouse=True)
def _tracer() -> Iterator[None]:
    yield
    TRACER.plug(None)


def _fail(token: str) -> None:
    local = f"local {token}"
    raise ValueError(f"{token} was refused, {local!r}")


async def test_an_error_arrives_and_no_secret_in_any_form(receiver: Receiver, reports: SentryReports) -> None:
    log = logging.getLogger("test")
    log.info("breadcrumb %s", CANARY)
    for form in FORMS:
        log.error("told %s", form, extra={form: form, "nested": {"k": [form, {form: 1}]}})
    try:
        _fail(CANARY)
    except ValueError as error:
        log.critical("it failed", exc_info=error)
    await eventually(lambda: b"it failed" in receiver.all, within_s=WITHIN_S)
    assert b"ValueError" in receiver.all
    assert b"_fail" in receiver.all
    for form in FORMS:
        assert form.encode() not in receiver.all
    for word in (b"breadcrumb", b"local canary", b'"vars"', b"server_name", b"argv", b"modules"):
        assert word not in receiver.all


async def test_a_storm_is_cut(receiver: Receiver, reports: SentryReports) -> None:
    log = logging.getLogger("test")
    for number in range(3 * EVENTS_PER_MINUTE):
        log.error("storm %s", number)
    assert reports.dropped == 2 * EVENTS_PER_MINUTE
    clock = reports._clock
    assert isinstance(clock, ManualClock)
    clock.advance(61)
    log.error("after the storm")
    assert reports.dropped == 2 * EVENTS_PER_MINUTE


def test_nothing_is_set_up_when_nothing_is_configured() -> None:
    assert setup_sentry(None, release="1", environment="test", clock=ManualClock()) is None
    assert setup_tracing(None, release="1") is None
    assert setup_tracing("", release="1") is None
    assert not TRACER.on


def test_a_wrong_dsn_is_told_without_quoting_it() -> None:
    with pytest.raises(ConfigurationError, match="SENTRY_DSN") as caught:
        setup_sentry(Secret(CANARY), release="1", environment="test", clock=ManualClock(), redactor=Redactor())
    assert CANARY not in repr(caught.value)
    assert CANARY not in repr(caught.value.__cause__)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("bridge.telemetry.sentry:setup_sentry(Secret('x'), release='', environment='', clock=None)", "SENTRY_DSN"),
        ("bridge.telemetry.tracing:setup_tracing('http://127.0.0.1:1', release='')", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ],
)
def test_a_missing_package_is_one_clear_line(call: str, words: str) -> None:
    module, expression = call.split(":", 1)
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('sentry_sdk', 'opentelemetry'), None))\n"
        f"from core.secret import Secret; from core.errors import ConfigurationError; from {module} import *\n"
        f"try: {expression}\nexcept ConfigurationError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(words)
    assert "pip install" in done.stdout


def test_the_optional_packages_are_not_imported_unless_they_are_asked_for() -> None:
    code = (
        "import sys, bridge.telemetry.sentry, bridge.telemetry.tracing as tracing\n"
        "with tracing.TRACER.span('x', status=1): pass\n"
        "print([name for name in sys.modules if name.startswith(('sentry_sdk', 'opentelemetry'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_span_is_one_shared_object_when_tracing_is_off() -> None:
    tracer = Tracer()
    assert tracer.span("one", status=1) is tracer.span("other")
    with tracer.span("one"), tracer.span("two"):
        pass


async def test_spans_arrive_with_their_attributes_and_errors_by_class_only(
    receiver: Receiver, spans: OtelSpans
) -> None:
    with TRACER.span("request", method="GET", route="/account", status=200), TRACER.span("inside"):
        pass
    with pytest.raises(ValueError, match="refused"), TRACER.span("flush", store="redis", records=500):
        _fail(CANARY)
    await spans.close()
    await eventually(lambda: b"flush" in receiver.all, within_s=WITHIN_S)
    for word in (b"request", b"inside", b"/account", b"redis", b"ValueError", b"pulse-bridge"):
        assert word in receiver.all
    for form in FORMS:
        assert form.encode() not in receiver.all
    assert b"Traceback" not in receiver.all
    assert not TRACER.on


async def test_a_collector_that_is_away_costs_nothing_but_the_spans(
    unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    made = setup_tracing(f"http://127.0.0.1:{unused_tcp_port}", release="1")
    assert made is not None
    for _ in range(5000):
        with TRACER.span("x"):
            pass
    await made.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
