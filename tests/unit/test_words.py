"""Which room may say a broker's name (DESIGN §3): outside of them, a broker is one of many behind its protocol.

Looks at names, imports and texts of the code; comments and docstrings may cite the facts of a broker's reference.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BROKER_WORDS = re.compile(r"ctrader|alpaca|\bprotos\b", re.IGNORECASE)
ROOMS = ("bridge/brokers/ctrader/", "bridge/brokers/alpaca/", "bridge/simulator/")
# demo runs simulator and bridge
MODULES = (
    "bridge/app.py",
    "bridge/cli.py",
    "bridge/config.py",
    "bridge/demo.py",
)  # demo runs simulator and bridge
PATHS = sorted(str(path.relative_to(ROOT)) for room in ("core", "bridge") for path in (ROOT / room).rglob("*.py"))


def words_of(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every identifier, import and string of some code, docstrings left out."""
    tree = ast.parse(source)
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and id(node) in docstrings:
            continue
        for _, value in ast.iter_fields(node):
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    yield line, text


def broker_words(source: str) -> list[str]:
    return [f"line {line}: {text}" for line, text in words_of(source) if BROKER_WORDS.search(text)]


@pytest.mark.parametrize("path", [path for path in PATHS if not path.startswith(ROOMS) and path not in MODULES])
def test_no_broker_is_named_when_a_module_is_outside_of_its_rooms(path: str) -> None:
    assert broker_words((ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import protos.ctrader",
        "from bridge.brokers import alpaca",
        "cTraderUrl = 1",
        "settings.ctrader_url",
        "def find(*, alpaca): ...",
        "broker = 'ctrader'",
        "f'{x} ctrader'",
        "call(ctrader=1)",
        "global ctrader",
    ],
)
def test_a_broker_is_noticed_when_code_names_it(source: str) -> None:
    assert broker_words(source)


def test_a_reference_is_no_name_when_it_stands_in_a_docstring() -> None:
    assert broker_words('"""See reference/ctrader.md."""\nx = 1  # as ctrader says') == []
