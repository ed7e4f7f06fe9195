"""Writes the credentials file of DESIGN §10 for the simulator's users: `user-1` … `user-n`.

Private files are written whole or not at all (temporary file, fsync, rename) with mode 0600.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import orjson


def write_credentials(path: Path, users: Mapping[str, Mapping[str, Mapping[str, str]]]) -> None:
    """Write `{"users": users}`; `users` maps user id to broker name to that broker's credential entry."""
    write_private(path, orjson.dumps({"users": users}, option=orjson.OPT_INDENT_2) + b"\n")


def write_private(path: Path, content: bytes) -> None:
    """Write a file that its owner alone may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
