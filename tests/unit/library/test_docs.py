"""docs/library.md: every example runs as it stands, in an interpreter of its own, and prints what stands below it.

`python -m tests.unit.library.test_docs` writes what the examples print into the page, for a person to read the change.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "library.md"
EXAMPLE = re.compile(r"```python\n(?P<program>.*?)```\n\n```text\n(?P<output>.*?)```\n", re.DOTALL)
SESSION = re.compile(r"```console\n(?P<session>.*?)```\n", re.DOTALL)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "COLUMNS": "200"}


def examples(text: str) -> list[re.Match[str]]:
    return list(EXAMPLE.finditer(text))


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Every command of the sessions and the lines below it."""
    for found in SESSION.finditer(text):
        for part in re.split(r"^\$ ", found["session"], flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def printed_by_program(program: str, folder: Path) -> str:
    path = folder / "example.py"
    path.write_text(program)
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed_by_command(command: str, folder: Path) -> str:
    """Both streams, as a terminal shows them; `python` is this one."""
    own = re.sub(r"^python ", f"{sys.executable} ", command)
    done = subprocess.run(
        ["bash", "-c", own], cwd=folder, env=ENVIRONMENT, text=True, timeout=100, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("number", range(3))
def test_an_example_prints_what_stands_below_it(number: int, tmp_path: Path) -> None:
    found = examples(PAGE.read_text())[number]
    assert found["output"].strip()
    assert printed_by_program(found["program"], tmp_path) == found["output"]


def test_every_block_of_code_is_one_of_the_examples() -> None:
    text = PAGE.read_text()
    assert len(examples(text)) == text.count("```python") == 4


@pytest.mark.parametrize(("command", "output"), list(commands(PAGE.read_text())))
def test_a_command_prints_what_stands_below_it(command: str, output: str, tmp_path: Path) -> None:
    assert output.strip()
    assert printed_by_command(command, tmp_path) == output


def rewritten(text: str, folder: Path) -> str:
    """The page with what its examples print now."""
    for found in reversed(examples(text)):
        printed = printed_by_program(found["program"], folder)
        text = f"{text[: found.start('output')]}{printed}{text[found.end('output') :]}"
    for found in reversed(list(SESSION.finditer(text))):
        lines = [line for line in found["session"].splitlines() if line.startswith("$ ")]
        session = "".join(f"{line}\n{printed_by_command(line[2:], folder)}" for line in lines)
        text = f"{text[: found.start('session')]}{session}{text[found.end('session') :]}"
    return text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as here:
        PAGE.write_text(rewritten(PAGE.read_text(), Path(here)))
