"""Keeps what this process holds in memory from being written down: no core dumps, no reading by its neighbours.

A core dump holds every secret (faults.md S06). The size limit alone does not help where the kernel pipes dumps to a
program, so the process is also made non-dumpable (Linux), which keeps other processes of the same user from its memory
and environment under /proc. Must not fail: a system that does not know it serves all the same.
"""

from __future__ import annotations

import ctypes
import logging
import resource
import sys

log = logging.getLogger(__name__)

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def keep_memory_private() -> None:
    """Forbid core dumps of this process; its children decide for themselves."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sys.platform.startswith("linux"):
        return
    try:
        failed = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    except (OSError, AttributeError) as error:
        log.warning("this system cannot make a process non-dumpable", extra={"error": type(error).__name__})
        return
    if failed:
        log.warning("this process stays dumpable", extra={"errno": ctypes.get_errno()})
