"""`python -m tests.support.broken_bridge serve`: the bridge, broken where a test needs it broken.

GET /docs crashes with every secret of the environment and the caller's key in its message, its locals and its cause;
with RENEW_BY_HTTP tokens are renewed as if no channel were up. All the rest is the bridge as it is.
"""

import os
import sys

from bridge.__main__ import loop_factory
from bridge.api.handlers import Handlers
from bridge.api.routes import Call, Reply
from bridge.brokers.ctrader.pool import Pool
from bridge.cli import main
from tests.support.canaries import secrets_of


async def crash(self: Handlers, call: Call) -> Reply:
    secrets = [*secrets_of(os.environ), call.headers.get("Authorization", "")]
    try:
        raise LookupError(secrets[0], {"tokens": secrets})
    except LookupError as error:
        raise RuntimeError(f"broken beside {secrets} and {' '.join(secrets).encode()!r}") from error


if __name__ == "__main__":
    Handlers.docs = crash  # type: ignore[method-assign]
    if os.environ.get("RENEW_BY_HTTP"):
        Pool.open_channel = lambda self: None  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:], loop_factory=loop_factory()))
