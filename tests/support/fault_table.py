"""pytest plugin: which faults the suite caused, and what was seen: it writes `docs/faults.md`.

A test that causes a fault of the catalogue (`tests/faults/catalogue`) carries `fault(ID, injected)` and notes what
held through the fixture `observed`, or in the mark itself. Notes say bounds that were checked, never measured values,
so that the same code writes the same file. The ids of a test function's marks are part of its name: `test_x[C03]`. A
whole run whose file differs from the one in the repository rewrites it and fails: commit the new one. `--fault N15`
runs the tests of one fault.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.catalogue import ELSEWHERE, FAMILIES, ROWS
from tests.faults.catalogue.row import Row

TABLE = Path(__file__).parents[2] / "docs" / "faults.md"
INJECTED, OBSERVED = "fault injected", "fault observed"

HEADER = """# Faults

Written by `./scripts/test`; do not edit. What can go wrong, by id: how the suite (`tests/faults/`) causes it, what must
hold, and what held. A row with several ways to cause it has several tests; `./scripts/test --fault N15` runs those of
one fault. Every case also asks for what must hold under all of them: no record looks fresh beyond its horizon, versions
never go back, nobody else's record changes, no budget is exceeded, and at last every record equals the broker's truth.
"""
COLUMNS = "| id | fault | injected | required | observed |\n| --- | --- | --- | --- | --- |\n"


def fault(fault_id: str, injected: str, held: str = "") -> pytest.MarkDecorator:
    """Marks a test or a parameter: it causes `fault_id`, in the way that `injected` says in a few words.

    `held`: what the test asks for, where it always asks for the same; otherwise it notes that through `observed`.
    """
    if fault_id not in ROWS:
        raise ValueError(f"no fault {fault_id} in the catalogue")
    return pytest.mark.fault(fault_id, injected, held)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault", action="append", default=[], metavar="ID", help="run the tests of this fault only")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(id, injected): causes a fault of tests/faults/catalogue")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Collected(config), "fault table")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = sorted({mark.args[0] for mark in metafunc.definition.iter_markers("fault")})
    if marks:
        metafunc.fixturenames.append("fault_named")
        metafunc.parametrize("fault_named", ["+".join(marks)], indirect=True)


@pytest.fixture
def fault_named(request: pytest.FixtureRequest) -> str:
    """The ids of the faults that the test function causes: there for the sake of the test's name."""
    return str(request.param)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = set(config.getoption("--fault"))
    if not wanted:
        return
    kept = [item for item in items if wanted & {mark.args[0] for mark in item.iter_markers("fault")}]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture
def observed(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Notes what was seen to hold: bounds and facts, no measured values."""
    return lambda text: request.node.user_properties.append((OBSERVED, text))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("fault"):
        item.user_properties.append((INJECTED, mark.args))


class _Collected:
    """What all workers reported, in the process that started them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seen: dict[str, dict[str, tuple[str, list[str]]]] = {}  # fault to test to (injected, observed)
        self._all_held = True
        self._whole = config.args == config.getini("testpaths") and not any(
            config.getoption(name, None) for name in ("--fault", "keyword", "markexpr", "deselect", "lf", "maxfail")
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        causes = [value for name, value in report.user_properties if name == INJECTED]
        if report.when != "call" or not report.passed:
            self._all_held &= not (causes and report.failed)
            return
        notes = [str(value) for name, value in report.user_properties if name == OBSERVED]
        for fault_id, injected, held in causes:
            self._seen.setdefault(fault_id, {})[report.nodeid] = (injected, [*([held] if held else []), *notes])

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> object:
        ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if self._whole and ended and self._all_held:
            self._judge(session)
        return (yield)

    def _judge(self, session: pytest.Session) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        missing = [fault_id for fault_id in ROWS if fault_id not in self._seen and fault_id not in ELSEWHERE]
        text = rendered(self._seen)
        if missing:
            self._say(reporter, f"no test of the catalogue's faults {', '.join(missing)} passed")
        elif not TABLE.exists() or TABLE.read_text() != text:
            TABLE.write_text(text)
            self._say(reporter, "docs/faults.md was not what this run saw: it is written anew, commit it")
        else:
            return
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @staticmethod
    def _say(reporter: object, what: str) -> None:
        if isinstance(reporter, pytest.TerminalReporter):
            reporter.write_line(f"ERROR {what}", red=True)


def rendered(seen: dict[str, dict[str, tuple[str, list[str]]]]) -> str:
    """The file, for what the tests of each fault injected and noted."""
    parts = [HEADER]
    for title, family in FAMILIES.items():
        lines = [_line(fault_id, family.ROWS[fault_id], seen.get(fault_id, {})) for fault_id in sorted(family.ROWS)]
        parts.append(f"## {title}\n\n{COLUMNS}{''.join(lines)}")
    return "\n".join(parts)


def _line(fault_id: str, row: Row, tests: dict[str, tuple[str, list[str]]]) -> str:
    if fault_id in ELSEWHERE:
        return f"| {fault_id} | {row.fault} | | {row.required} | not met: {ELSEWHERE[fault_id]} |\n"
    results = [tests[name] for name in sorted(tests)]
    injected = dict.fromkeys(injected for injected, _ in results)
    notes = dict.fromkeys(note for _, notes in results for note in notes)
    count = f"{len(results)} tests: " if len(results) > 1 else ""
    return f"| {fault_id} | {row.fault} | {'; '.join(injected)} | {row.required} | {count}{'; '.join(notes)} |\n"
