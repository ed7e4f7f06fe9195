"""Where a breakage takes hold: in the process of the tests, and in every bridge that they start.

The name travels in the environment variable BREAK. `python -m tests.negative_controls.applying MODULE ARGUMENT...` runs
a module broken.
"""

import os
import runpy
import sys
from collections.abc import Mapping

VARIABLE = "BREAK"


def apply_breakage(environ: Mapping[str, str] = os.environ) -> None:
    """Break what the environment names, if it names anything. KeyError for a name that is no control's."""
    name = environ.get(VARIABLE)
    if name:
        from tests.negative_controls.controls import CONTROLS  # imports half of the bridge

        CONTROLS[name].breaks()


def broken_module(module: str) -> list[str]:
    """Arguments for an interpreter that runs `module` as broken as this process is."""
    return ["-m", "tests.negative_controls.applying", module] if VARIABLE in os.environ else ["-m", module]


if __name__ == "__main__":
    module, *sys.argv[1:] = sys.argv[1:]
    apply_breakage()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
