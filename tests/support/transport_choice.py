"""Runs tests on another transport than the default one: `BRIDGE_TRANSPORT=picows ./scripts/test tests/faults`.

Bridges that tests start as processes find the variable in their environment; adapters that they make themselves dial
with the default, which is the other one from here on.
"""

import os

from bridge.brokers import transports

VARIABLE = "BRIDGE_TRANSPORT"


def use_transport() -> None:
    """Let the default of this process be what the environment names, if it names one."""
    name = os.environ.get(VARIABLE)
    if name:
        transports.KNOWN[transports.WEBSOCKETS] = transports.KNOWN[name]
