"""The WebSocket implementations by the name that BRIDGE_TRANSPORT gives them.

`websockets` is the default; `picows` is the fastest other one in our own hot path (`./scripts/bench --rows transports`)
and comes with the extra `fast`. Invariant: both pass the same tests, the whole fault suite among them.
"""

from __future__ import annotations

from collections.abc import Callable

from bridge.brokers.sockets import Connect
from core.errors import ConfigurationError

WEBSOCKETS, PICOWS = "websockets", "picows"


def _websockets() -> Connect:
    from bridge.brokers.transports.websockets import connect

    return connect


def _picows() -> Connect:
    try:
        from bridge.brokers.transports.picows import connect
    except ImportError as error:
        raise ConfigurationError(
            "BRIDGE_TRANSPORT: picows is not installed here; install the extra `fast` (requirements-fast.txt), or leave"
            " the variable out"
        ) from error
    return connect


KNOWN: dict[str, Callable[[], Connect]] = {WEBSOCKETS: _websockets, PICOWS: _picows}


def named(name: str) -> Connect:
    """How the transport of this name opens a socket. Raises ConfigurationError when it is not installed."""
    return KNOWN[name]()
