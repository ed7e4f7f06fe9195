"""`python -m tests.support.unlimited_bridge serve`: the bridge without rate limits, for runs that only send requests.

The limits themselves are tested in tests/unit/api/test_limits.py.
"""

import sys
from functools import partial

import bridge.app
from bridge.__main__ import loop_factory
from bridge.api.dispatch import Policy
from bridge.cli import main

PLENTY = 10**6  # per second

if __name__ == "__main__":
    bridge.app.Policy = partial(Policy, key_rate=PLENTY, address_rate=PLENTY)  # type: ignore[misc, assignment]
    sys.exit(main(sys.argv[1:], loop_factory=loop_factory()))
