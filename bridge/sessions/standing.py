"""What this process may do: its name, its lease, and which stored sessions are its own.

One small object that the parts of the room share, so that all of them stop in the same moment. Alone (without a
database) a process may do everything and owns every row.
"""

from __future__ import annotations

from collections.abc import Callable

from bridge.runtime.clock import Clock
from bridge.sessions.desired import StoredSession
from bridge.sessions.lease import Lease

LOOK_EVERY_S = 1.0  # where notices of others are not heard
LOOK_IN_ANY_CASE_S = 5.0


class Standing:
    """`owner`: the name of this process; another one after its lease was lost. `lease` None: it is alone.

    `draining`: an operator wants it empty. `ending`: it ends. `hears()`: whether notices of other processes come in.
    """

    def __init__(
        self, owner: str, clock: Clock, lease: Lease | None = None, *, hears: Callable[[], bool] = lambda: False
    ) -> None:
        self.owner = owner
        self.lease = lease
        self.hears = hears
        self.draining = False
        self.ending = False
        self._clock = clock

    @property
    def shared(self) -> bool:
        """True when other processes may serve sessions, too."""
        return self.lease is not None

    @property
    def look_every_s(self) -> float:
        """How often to look for what others have stored."""
        return LOOK_EVERY_S if self.shared and not self.hears() else LOOK_IN_ANY_CASE_S

    @property
    def claims_for(self) -> str | None:
        """The name under which a command may claim a session that nobody serves; None: leave it to others."""
        return self.owner if self.shared and self.may_act() and not (self.draining or self.ending) else None

    @property
    def filter(self) -> str | None:
        """The owner whose rows are this process's business; None: all rows are."""
        return self.owner if self.shared else None

    def is_ours(self, row: StoredSession) -> bool:
        """True when this process serves the row."""
        return not self.shared or row.owner == self.owner

    def may_act(self) -> bool:
        """Log in, stay logged in."""
        return self.lease is None or self.lease.may_act(self._clock.monotonic())

    def may_write(self) -> bool:
        """Write records."""
        return self.lease is None or self.lease.may_write(self._clock.monotonic())
