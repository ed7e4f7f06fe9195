"""Running commands, in this process and in one of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from core.cli.command import main

ROOT = Path(__file__).parents[4]


class Told(NamedTuple):
    code: int
    out: str
    err: str


class Commands:
    """Calls `python -m core` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *argv: object) -> Told:
        code = main([str(each) for each in argv])
        return Told(code, *self._capsys.readouterr())

    def json(self, *argv: object) -> Any:
        """The document that a command printed; it went well and said nothing else."""
        told = self(*argv, "--json")
        assert (told.code, told.err) == (0, "")
        return json.loads(told.out, parse_constant=lambda text: pytest.fail(f"JSON knows no {text}"))

    def refused(self, *argv: object) -> str:
        """The one line that a command refused its input with."""
        told = self(*argv)
        assert (told.code, told.out) == (2, "")
        assert told.err.startswith("error: ")
        assert told.err.count("\n") == 1
        return told.err.removeprefix("error: ").rstrip("\n")


def start(*argv: object, folder: Path, **more: str) -> subprocess.Popen[str]:
    """`python ARGV` with the library at hand, in a folder; `more` goes into its environment."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder))), **more}
    return subprocess.Popen(
        [sys.executable, *map(str, argv)], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def run(*argv: object, folder: Path) -> Told:
    """The same until its end."""
    process = start(*argv, folder=folder)
    out, err = process.communicate(timeout=100)
    return Told(process.returncode, out, err)
