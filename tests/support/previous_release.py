"""`python -m tests.support.previous_release serve`: the bridge as it was before sessions had owners.

It knows neither leases nor owners, brings every wanted session up at its start, and takes over whatever another process
writes; refused itself, it gives up for good. What such a release leaves alone in the database, this one does, too.
"""

import sys

import bridge.daemon
from bridge.__main__ import loop_factory
from bridge.cli import main
from bridge.sessions import durable
from bridge.sessions.standing import Standing
from tests.support import quick_bridge


def without_owners() -> None:
    lines = durable._NOTE.splitlines()
    (owner,) = (number for number, line in enumerate(lines) if line.strip().startswith("owner ="))
    lines[owner - 1] = lines[owner - 1].rstrip(",")
    durable._NOTE = "\n".join(line for number, line in enumerate(lines) if number != owner)
    bridge.daemon.build_membership = lambda *parts: None  # type: ignore[attr-defined]
    bridge.daemon.build_standing = lambda settings, foundation, clock, rng: Standing("0" * 12, clock)  # type: ignore[attr-defined]


if __name__ == "__main__":
    quick_bridge.shorten()
    without_owners()
    sys.exit(main(sys.argv[1:], loop_factory=loop_factory()))
