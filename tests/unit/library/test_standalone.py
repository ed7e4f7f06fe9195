"""The library stands alone: without the bridge's dependencies, and its rooms without rich or any optional extra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODULES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    for room in ("backtester", "greeks", "optimizer", "paper_account", "cli")
    for path in (ROOT / "core" / room).rglob("*.py")
)
IMPORTING = """
import sys

class OnlyThese:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        own = top in sys.stdlib_module_names or top.startswith("_sysconfigdata")  # the interpreter's
        if not own and top not in {allowed!r}:
            raise ModuleNotFoundError(f"No module named {{top!r}}", name=top)

sys.meta_path.insert(0, OnlyThese())
for name in {names!r}:
    __import__(name)
print("done")
"""
LIBRARY = {"core", "numpy", "scipy"}
RICH = {"rich", "markdown_it", "mdurl", "pygments"}


def importing(names: list[str], allowed: set[str]) -> str:
    """What an interpreter says that finds none but the allowed packages beside the standard library."""
    program = IMPORTING.format(names=names, allowed=allowed)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines()[-1]


@pytest.mark.parametrize("room", ["backtester", "greeks", "optimizer"])
def test_a_room_needs_numpy_and_scipy_and_nothing_else(room: str) -> None:
    names = [name for name in MODULES if name.startswith(f"core.{room}")]
    assert len(names) > 5
    assert importing(names, LIBRARY) == "done"


def test_the_command_line_needs_rich_besides() -> None:
    names = ["core.__main__", *(name for name in MODULES if name.startswith("core.cli"))]
    assert importing(names, LIBRARY | RICH) == "done"
    assert importing(names, LIBRARY) == "ModuleNotFoundError: No module named 'rich'"
