"""`./scripts/bench --plots FROM.json`: draws what `--growth` measured into docs/plots.

matplotlib has an environment of its own. Invariant: the same readings give the same file, byte by byte.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from tests.support.official_client import plots_python
from tests.support.processes import ROOT

FOLDER = ROOT / "docs" / "plots"
WITHIN_S = 120


def draw(readings: Path, folder: Path = FOLDER) -> Path:
    """Returns the drawing. RuntimeError when matplotlib cannot be installed, CalledProcessError when it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    drawing = folder / "growth.svg"
    script = Path(__file__).with_name("plots_script.py")
    with tempfile.TemporaryDirectory() as configuration:
        subprocess.run(
            [str(plots_python()), str(script), str(readings), str(drawing)],
            check=True,
            timeout=WITHIN_S,
            env={"PATH": os.environ["PATH"], "MPLCONFIGDIR": configuration},
        )
    print(f"drawn: {drawing.relative_to(ROOT) if drawing.is_relative_to(ROOT) else drawing}")
    return drawing
