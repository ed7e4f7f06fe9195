"""Writes the environment variables (DESIGN §12) that make a bridge use this very simulator.

`NAME=value` lines for `.env` or a shell (`set -a; . FILE`): values hold no blanks or quotes, and one that does is
refused. Written whole or not at all, mode 0600.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge.simulator.credentials_file import write_private
from core.errors import InvalidInput

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")


def bridge_env(
    host: str, ports: Mapping[str, Any], client_id: str, client_secret: str, credentials: Path | None = None
) -> dict[str, str]:
    """The variables. `ports`: the ready line's. The host is one that a client on this machine can dial."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    at = {name: f"{host}:{port}" for name, port in ports.items() if isinstance(port, int)}
    variables = {
        "CTRADER_CLIENT_ID": client_id,
        "CTRADER_CLIENT_SECRET": client_secret,
        "CTRADER_DEMO_URL": f"ws://{at['ctrader']}",
        "CTRADER_LIVE_URL": f"ws://{at['ctraderLive']}",
        "CTRADER_AUTH_URL": f"http://{at['admin']}/apps/auth",
        "CTRADER_TOKEN_URL": f"http://{at['admin']}/apps/token",
        "ALPACA_CLIENT_ID": client_id,
        "ALPACA_CLIENT_SECRET": client_secret,
        "ALPACA_PAPER_URL": f"http://{at['alpaca']}",
        "ALPACA_LIVE_URL": f"http://{at['alpacaLive']}",
        "ALPACA_DATA_URL": f"ws://{at['alpaca']}",
        "ALPACA_DATA_FEED": "iex",
        "ALPACA_AUTH_URL": f"http://{at['alpacaLive']}/oauth/authorize",
        "ALPACA_TOKEN_URL": f"http://{at['alpacaLive']}/oauth/token",
    }
    if credentials is not None:
        variables["BRIDGE_CREDENTIALS_FILE"] = str(credentials.resolve())
    return variables


def write_bridge_env(path: Path, variables: Mapping[str, str]) -> None:
    """Write the file. Raises InvalidInput for a value that a shell would read differently, OSError."""
    for name, value in variables.items():
        if not _PLAIN.fullmatch(value):
            raise InvalidInput(f"{name} cannot be written to an environment file: {value!r}")
    write_private(path, "".join(f"{name}={value}\n" for name, value in variables.items()).encode())
