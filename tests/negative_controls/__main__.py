"""`python -m tests.negative_controls [NAME ...]`: break, run what must notice, and say whether it did.

A control counts as noticed when at least one of its tests failed in itself: not while it was collected, and not in
the setting up of what it needs; or when a seed of the simulation broke the very invariant. Exit code 1 when one was
not noticed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.negative_controls.applying import VARIABLE
from tests.negative_controls.controls import CONTROLS, Control

ROOT = Path(__file__).parents[2]
LONGEST_S = 600.0
SHOWN = 3  # failed tests named in the table
WIDTH = 160


@dataclass(frozen=True)
class Verdict:
    """What the tests of a control did. `failed`: those that noticed."""

    failed: tuple[str, ...]
    output: str

    @property
    def noticed(self) -> bool:
        return bool(self.failed)


def judged(name: str, control: Control) -> Verdict:
    """Run one control."""
    return _judged_by_seeds(name, control) if control.seeds else _judged_by_tests(name, control)


def _judged_by_tests(name: str, control: Control) -> Verdict:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = _ran(name, "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--junit-xml={report}", *control.tests)
        output = done.stdout + done.stderr
        if not report.exists():
            return Verdict((), output)
        cases = ET.parse(report).getroot().iter("testcase")
        return Verdict(
            tuple(f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("failure") is not None),
            output,
        )


def _judged_by_seeds(name: str, control: Control) -> Verdict:
    done = _ran(name, "tests.negative_controls.seeds", str(control.seeds), str(control.invariant))
    lines = done.stdout.splitlines()
    return Verdict((lines[-1],) if done.returncode == 1 and lines else (), done.stdout + done.stderr)


def _ran(name: str, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, VARIABLE: name},
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )


def main() -> int:
    """Run the named controls, or all."""
    parser = argparse.ArgumentParser(prog="./scripts/test --negative-controls", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="one of: " + ", ".join(CONTROLS))
    parser.add_argument("--workers", type=int, default=int(os.environ.get("TEST_WORKERS", "2")))
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in CONTROLS]:
        parser.error(f"no such control: {', '.join(unknown)}")
    names = arguments.names or list(CONTROLS)
    missed = []
    with ThreadPoolExecutor(arguments.workers) as pool:
        for name, verdict in zip(names, pool.map(lambda name: judged(name, CONTROLS[name]), names), strict=True):
            control = CONTROLS[name]
            outcome = f"noticed by {', '.join(verdict.failed[:SHOWN])[:WIDTH]}" if verdict.noticed else "NOT NOTICED"
            print(f"{name:26} invariant {control.invariant:2}  {control.says}: {outcome}", flush=True)
            if not verdict.noticed:
                missed.append(name)
                print(verdict.output[-4000:])
    print(f"{len(names) - len(missed)} of {len(names)} controls fail the suite, as they must")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
