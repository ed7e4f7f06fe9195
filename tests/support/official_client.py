"""The broker's own Python client (`ctrader-open-api`, unmodified) in a virtual environment of its own.

It pins protobuf 3.20.1 and other old versions, so it must never share an environment with the bridge. That environment
is made once per lock file and Python version under `.venv-official/` in the checkout, hash-checked, and kept.

Invariant: what `official_client_python` returns is complete; a half-made environment is made again.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements-official-client.txt"
INSTALL_WITHIN_S = 300


def official_client_python() -> Path:
    """The interpreter of an environment that has the official client; made on first use (some seconds, network).

    Safe to call from several processes at once. Raises RuntimeError with pip's own words when it cannot be installed.
    """
    key = f"py{sys.version_info.major}{sys.version_info.minor}-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    home = ROOT / ".venv-official"
    home.mkdir(exist_ok=True)
    folder, python = home / key, home / key / "bin" / "python"
    with (home / f"{key}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True)
            _install(python)
            (folder / "complete").touch()
    return python


def official_client_package() -> Path:
    """The folder of the installed `ctrader_open_api` package, to read its generated messages from."""
    (package,) = official_client_python().parents[1].glob("lib/python3.*/site-packages/ctrader_open_api")
    return package


def _install(python: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PIP_TARGET", "PIP_USER"}
    }
    done = subprocess.run(
        [
            *(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--root-user-action=ignore", "--require-hashes", "-r", str(LOCK)),
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_WITHIN_S,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(
            "the official cTrader client could not be installed; this test needs it and so the package index "
            f"(or a filled .venv-official/):\n{done.stderr[-2000:]}"
        )
