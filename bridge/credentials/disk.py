"""Reading and replacing one small file safely. Blocking: called in a thread.

A reader of the file sees the old content or the new one, never a part, whatever moment the process dies: the new
content is complete and synced under another name before it takes the file's name, and the rename itself is synced.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

SIZE_CAP = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileRead:
    """The file as it was read; equal when the file is the same, whatever its content."""

    inode: int
    mtime_ns: int
    size: int
    mode: int
    data: bytes = field(compare=False, repr=False)


def read_if_changed(path: Path, known: FileRead | None) -> FileRead:
    """Read the file, unless it is still the one that is known; at most one byte beyond SIZE_CAP. Raises OSError."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe would keep the reading thread for ever
        raise OSError(errno.EINVAL, "it is not an ordinary file")
    if known is not None and _same(known, found):
        return known
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        data = file.read(SIZE_CAP + 1)
    mode = stat.S_IMODE(found.st_mode)
    if mode & stat.S_IROTH and (known is None or known.mode != mode):
        log.warning("the credentials file can be read by every user of this machine; chmod 600 it")
    return FileRead(found.st_ino, found.st_mtime_ns, found.st_size, mode, data)


def _same(known: FileRead, found: os.stat_result) -> bool:
    return (known.inode, known.mtime_ns, known.size, known.mode) == (
        found.st_ino,
        found.st_mtime_ns,
        found.st_size,
        stat.S_IMODE(found.st_mode),
    )


def check_writable(path: Path) -> None:
    """Raise OSError when the file could not be replaced: it is read-only, or its folder is."""
    if not path.stat().st_mode & 0o222:  # root could write it all the same, but whoever set this mode meant it
        raise PermissionError(13, "the file is read-only")
    temporary = _temporary(path.resolve())
    os.close(_create(temporary))
    temporary.unlink()


def replace_file(path: Path, data: bytes) -> None:
    """Replace the content, keeping mode and owner. Raises OSError; the file is then as it was."""
    path = path.resolve()  # a link stays a link
    old = path.stat()
    temporary = _temporary(path)
    try:
        with os.fdopen(_create(temporary), "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
            if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()) and os.geteuid() == 0:
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _temporary(path: Path) -> Path:
    """Always the same name: what a crash left behind is overwritten by the next attempt, and never piles up."""
    return path.with_name(f".{path.name}.tmp")


def _create(temporary: Path) -> int:
    temporary.unlink(missing_ok=True)
    return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
