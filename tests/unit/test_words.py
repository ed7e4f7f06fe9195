"""Which room may say a broker's name (DESIGN §3): outside of them, a broker is one of many behind its protocol."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BROKER_WORDS = re.compile(r"ctrader|alpaca|\bprotos\b", re.IGNORECASE)
ROOMS = ("bridge/brokers/ctrader/", "bridge/brokers/alpaca/", "bridge/simulator/")
MODULES = ("bridge/app.py", "bridge/cli.py", "bridge/config.py")
PATHS = sorted(
    str(path.relative_to(ROOT))
    for room in ("core", "bridge")
    for path in (ROOT / room).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
)


def broker_words(text: str) -> list[str]:
    """Every line that names a broker, comments and docstrings included."""
    return [f"line {number}: {line}" for number, line in enumerate(text.splitlines(), 1) if BROKER_WORDS.search(line)]


@pytest.mark.parametrize("path", [path for path in PATHS if not path.startswith(ROOMS) and path not in MODULES])
def test_no_broker_is_named_when_a_file_is_outside_of_its_rooms(path: str) -> None:
    assert not BROKER_WORDS.search(path)
    assert broker_words((ROOT / path).read_text(errors="replace")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import protos.ctrader",
        "from bridge.brokers import alpaca",
        "cTraderUrl = 1",
        "settings.ctrader_url",
        "broker = 'ctrader'",
        "x = 1  # as Alpaca does",
        '"""See reference/ctrader.md."""',
        "create table ctrader_accounts ();",
    ],
)
def test_a_broker_is_noticed_when_a_line_names_it(source: str) -> None:
    assert broker_words(f"first = 1\n{source}\n") == [f"line 2: {source}"]
