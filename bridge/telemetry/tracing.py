"""Spans to an OpenTelemetry collector, when one is configured and the extra `otel` is installed.

Rooms write `with TRACER.span("flush", store=name, records=n):` and import nothing else. While tracing is off a span is
one shared object that does nothing. Attributes are a closed list of things that name no user, account, key or address;
of an error only its class is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol, TypedDict, Unpack

from bridge.telemetry.leaving import leave
from core.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer as OtelTracer

SERVICE = "pulse-bridge"
CLOSE_WITHIN_S = 0.3
SEND_WITHIN_S = 5


class Attributes(TypedDict, total=False):
    """What a span may say. `route`: as in the route table, without its values. `outcome`: a stable code."""

    method: str
    route: str
    status: int
    store: str
    records: int
    broker: str
    environment: str
    outcome: str


class SpanSource(Protocol):
    """Makes spans."""

    def span(self, name: str, attributes: Attributes) -> AbstractContextManager[None]: ...


_NOTHING: AbstractContextManager[None] = nullcontext()


class Tracer:
    """The one that rooms use. Does nothing until a source of spans is plugged in."""

    def __init__(self) -> None:
        self._source: SpanSource | None = None

    @property
    def on(self) -> bool:
        """Whether spans go anywhere."""
        return self._source is not None

    def span(self, name: str, **attributes: Unpack[Attributes]) -> AbstractContextManager[None]:
        """Around a piece of work; spans begun inside of it, also in tasks started there, are its children."""
        source = self._source
        return _NOTHING if source is None else source.span(name, attributes)

    def plug(self, source: SpanSource | None) -> None:
        """Send spans there from now on; None: nowhere."""
        self._source = source


TRACER = Tracer()
"""The one tracer of the process."""


class OtelSpans:
    """Spans of the OpenTelemetry SDK, exported by a thread of its own in batches."""

    def __init__(self, provider: TracerProvider, tracer: OtelTracer) -> None:
        self._provider = provider
        self._tracer = tracer

    @contextmanager
    def span(self, name: str, attributes: Attributes) -> Iterator[None]:
        """A span; an error that passes through leaves its class in it, never its text."""
        from opentelemetry.trace import Status, StatusCode

        told = {key: value for key, value in attributes.items() if isinstance(value, str | int)}
        with self._tracer.start_as_current_span(
            name, attributes=told, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_attribute("error", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise

    async def close(self) -> None:
        """Send what is queued, for a moment at most; what a collector does not take in time is left."""
        TRACER.plug(None)
        await leave(self._provider.shutdown, within_s=2 * CLOSE_WITHIN_S)


def setup_tracing(endpoint: str | None, *, release: str) -> OtelSpans | None:
    """Begin to export spans; None when no `endpoint` (OTEL_EXPORTER_OTLP_ENDPOINT) is set.

    The exporter itself reads the other standard variables (headers, timeout, sampling). Raises ConfigurationError when
    the packages are missing.
    """
    if not endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        message = "OTEL_EXPORTER_OTLP_ENDPOINT: needs the extra otel: pip install 'pulse-bridge[otel]'"
        raise ConfigurationError(message) from error
    for name in ("opentelemetry", "urllib3", "requests"):  # a collector that is away would fill the log
        logging.getLogger(name).setLevel(logging.CRITICAL)
    provider = TracerProvider(
        resource=Resource({"service.name": SERVICE, "service.version": release}), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=SEND_WITHIN_S)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=2048))
    spans = OtelSpans(provider, provider.get_tracer(SERVICE))
    TRACER.plug(spans)
    return spans
