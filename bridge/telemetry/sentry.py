"""Errors to Sentry, when SENTRY_DSN is set and the extra `sentry` is installed.

Only what was logged as an error goes out, and only text that has been through the redactor: no local variables, no
request bodies or headers, no users, no breadcrumbs, no host name. Bounded per minute, because redacting costs time and
a storm says nothing new. Must not be imported by any other part: they log, this listens.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from bridge.runtime.clock import Clock
from bridge.telemetry.leaving import leave
from bridge.telemetry.redaction import REDACTOR, Redactor
from core.errors import ConfigurationError
from core.secret import Secret

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

EVENTS_PER_MINUTE = 20
CLOSE_WITHIN_S = 0.3
_SENT = ("event_id", "timestamp", "platform", "level", "logger", "logentry", "message", "exception", "extra")
_ALSO_SENT = ("release", "environment", "sdk", "type", "fingerprint")


class SentryReports:
    """What leaves the process. `dropped` counts events over the limit; `close` sends what is queued, briefly."""

    def __init__(self, clock: Clock, redactor: Redactor) -> None:
        self._clock = clock
        self._redactor = redactor
        self._sent_at: deque[float] = deque(maxlen=EVENTS_PER_MINUTE)
        self.dropped = 0

    def before_send(self, event: Event, hint: Hint) -> Event | None:
        """The event without anything that is not listed here, redacted; None when there have been too many."""
        now = self._clock.monotonic()
        if len(self._sent_at) == EVENTS_PER_MINUTE and now - self._sent_at[0] < 60:
            self.dropped += 1
            return None
        self._sent_at.append(now)
        kept = {name: value for name, value in event.items() if name in _SENT + _ALSO_SENT}
        return cast("Event", self._clean(kept))

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._redactor.redact(value)
        if isinstance(value, Mapping):
            return {str(self._clean(str(name))): self._clean(each) for name, each in value.items() if name != "vars"}
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            return [self._clean(each) for each in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self._redactor.redact(str(value))

    async def close(self) -> None:
        """Send what is queued, for a moment at most."""
        import sentry_sdk

        client = sentry_sdk.get_client()
        await leave(lambda: client.close(timeout=CLOSE_WITHIN_S), within_s=2 * CLOSE_WITHIN_S)


def setup_sentry(
    dsn: Secret | None, *, release: str, environment: str, clock: Clock, redactor: Redactor = REDACTOR
) -> SentryReports | None:
    """Begin to report what is logged as an error; None when `dsn` is None. Call after the log has been set up.

    Raises ConfigurationError when the package is missing or the DSN is none.
    """
    if dsn is None:
        return None
    try:
        import sentry_sdk
        from sentry_sdk.integrations.logging import LoggingIntegration
    except ImportError as error:
        raise ConfigurationError("SENTRY_DSN: needs the extra sentry: pip install 'pulse-bridge[sentry]'") from error
    redactor.register_lasting(dsn)
    for name in ("sentry_sdk", "urllib3"):  # they print addresses, and their errors must not be reported to themselves
        logging.getLogger(name).setLevel(logging.CRITICAL)
    reports = SentryReports(clock, redactor)
    try:
        sentry_sdk.init(
            dsn=dsn.reveal(),
            release=release,
            environment=environment,
            server_name="",
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[LoggingIntegration(level=None, event_level=logging.ERROR)],
            before_send=reports.before_send,
            include_local_variables=False,
            include_source_context=False,
            max_request_body_size="never",
            max_breadcrumbs=0,
            attach_stacktrace=False,
            auto_session_tracking=False,
            send_client_reports=False,
            traces_sample_rate=None,
            shutdown_timeout=CLOSE_WITHIN_S,
            spotlight=False,
            enable_logs=False,
        )
    except ValueError as error:  # its text would quote the DSN
        raise ConfigurationError("SENTRY_DSN: is not a DSN") from type(error)("not a DSN")
    return reports
