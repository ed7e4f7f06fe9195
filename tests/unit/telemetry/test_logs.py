"""One event is one line; nobody waits for the reader of our output."""

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from bridge.telemetry.logs import OURS, ConsoleFormatter, JsonFormatter, LineHandler, setup_logs
from bridge.telemetry.redaction import Redactor
from core.secret import Secret
from tests.support.fault_table import fault

NASTY = 'two\nlines\r\x1b[31mred\x00 "quoted" \u2028 \ud800 {"level": "critical"}'


@pytest.fixture
def lines() -> Iterator[tuple[list[bytes], Callable[[str], LineHandler]]]:
    """Whatever is logged; logging is as before afterwards."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in OURS}
    written: list[bytes] = []
    opened: list[LineHandler] = []

    def begin(form: str) -> LineHandler:
        redactor = Redactor()
        redactor.register(Secret("canary-secret"))
        opened.append(setup_logs("DEBUG", form, write=written.append, redactor=redactor))
        return opened[-1]

    yield written, begin
    for handler in opened:
        handler.close()
    root.handlers[:] = before
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    logging.captureWarnings(False)


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_event_is_one_line_whatever_is_in_it(lines, form: str):
    written, begin = lines
    handler = begin(form)
    logging.getLogger("bridge.x").warning(
        "message %s", NASTY, extra={"field": NASTY, "big": 2**80, "secret": Secret("s3cret")}
    )
    try:
        raise ValueError(NASTY)
    except ValueError:
        logging.getLogger("bridge.x").exception("failed")
    handler.close()
    assert len(written) == 2
    for line in written:
        text = line.decode()
        assert text.endswith("\n")
        assert len(text.splitlines()) == 1
        assert not any(ord(char) < 32 for char in text[:-1])
        assert "s3cret" not in text
    if form == "json":
        event = json.loads(written[0])
        assert (event["level"], event["logger"]) == ("warning", "bridge.x")
        assert "ValueError" in json.loads(written[1])["trace"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_secret_does_not_come_through_in_message_field_or_trace(lines, form: str):
    written, begin = lines
    handler = begin(form)
    log = logging.getLogger("bridge.x")
    log.info("token %s", "canary-secret", extra={"field": "canary-secret", "nested": {"a": ["canary-secret"]}})
    try:
        raise RuntimeError("canary-secret")
    except RuntimeError:
        log.exception("failed")
    handler.close()
    assert len(written) == 2
    assert b"canary" not in b"".join(written)


@pytest.mark.parametrize("library", ["aiohttp.access", "websockets.client", "hpack.hpack", "one.nobody.knows"])
def test_of_libraries_only_warnings_are_logged_whatever_the_level(lines, library: str):
    written, begin = lines
    handler = begin("json")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        logging.getLogger(library).log(level, "at %s", level)
        logging.getLogger("bridge.x").log(level, "ours")
    handler.close()
    told = [json.loads(line) for line in written]
    assert [each["level"] for each in told if each["logger"] == library] == ["warning"]
    assert len(told) == 4


def test_extra_fields_cannot_forge_the_fixed_ones(lines):
    written, begin = lines
    handler = begin("json")
    logging.getLogger("bridge.x").info("m", extra={"level": "critical", "at": "never", "trace": "t"})
    handler.close()
    assert json.loads(written[0])["level"] == "info"


@fault("P15", "an output that takes nothing", "nobody waits; dropped lines are counted")
def test_nobody_waits_when_the_output_is_blocked():
    gate = threading.Event()
    handler = LineHandler(lambda line: gate.wait() and None, Redactor(), lines_kept=10)
    handler.setFormatter(JsonFormatter())
    record = logging.LogRecord("x", logging.INFO, "", 0, "m", (), None)
    for _ in range(1000):
        handler.handle(record)
    assert handler.dropped >= 980
    handler.close()
    gate.set()


def test_a_record_that_cannot_be_formatted_is_counted_and_harms_nobody():
    written: list[bytes] = []
    handler = LineHandler(written.append, Redactor())
    handler.setFormatter(ConsoleFormatter())
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "%d", ("text",), None))
    handler.close()
    assert (handler.dropped, written) == (1, [])


@fault("P15", "a closed pipe", "counted")
def test_a_closed_pipe_is_counted():
    def broken(line: bytes) -> None:
        raise BrokenPipeError

    handler = LineHandler(broken, Redactor())
    handler.setFormatter(ConsoleFormatter())
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "m", (), sys.exc_info() and None))
    handler.close()
    assert handler.dropped == 1
