"""What both servers need of the machine: a free port, and a word against running them where a deployment runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from core.errors import ConfigurationError

PLATFORMS = ("RAILWAY_ENVIRONMENT", "DYNO", "RENDER", "FLY_APP_NAME")


def refuse_on_platform(environment: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigurationError on a hosting platform: what an embedded server holds ends with the container."""
    mark = next((name for name in PLATFORMS if environment.get(name)), None)
    if mark is not None:
        raise ConfigurationError(f"embedded servers are for tests and the demo only, and {mark} is set; use a real one")


def free_port() -> int:
    """A TCP port on loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
