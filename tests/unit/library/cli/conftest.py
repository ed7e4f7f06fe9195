"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.cli.sample import sample_files
from tests.unit.library.cli.support import Commands


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the sample data set."""
    for name, text in sample_files().items():
        (tmp_path / name).write_text(text)
    return tmp_path
