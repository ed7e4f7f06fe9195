"""Maintenance of one broker server: while it lasts nobody logs in there, and after it one login probes for all.

Accounts of other broker servers on the same channel are not held up.
"""

from __future__ import annotations

import asyncio

from bridge.brokers.base import BrokerFault
from bridge.brokers.ctrader.faults import maintenance_wait_s


class Gate:
    """One broker server. Open until a maintenance answer; closed until a time; then one probe."""

    def __init__(self, default_s: float, cap_s: float) -> None:
        self._default_s = default_s
        self._cap_s = cap_s
        self._failures = 0
        self._until = 0.0
        self._fault: BrokerFault | None = None
        self._probe: asyncio.Future[None] | None = None

    async def enter(self, now: float) -> bool:
        """Wait behind the probe, or become it (True). Raises a shared maintenance fault while the gate is closed.

        Afterwards say `passed` or `refused`; a probe says `left` in any case.
        """
        while self._fault is not None and now >= self._until and self._probe is not None:
            await asyncio.shield(self._probe)
        if self._fault is None:
            return False
        if now < self._until:
            raise self._closed(self._fault, now)
        self._probe = asyncio.get_running_loop().create_future()
        return True

    def passed(self) -> None:
        """A login succeeded: the server is back."""
        self._fault = None
        self._failures = 0

    def refused(self, fault: BrokerFault, now: float) -> BrokerFault:
        """The server is under maintenance; returns the fault to raise. Several answers at once count as one."""
        if self._fault is None or now >= self._until:
            wait_s = maintenance_wait_s(fault, self._failures, self._default_s, self._cap_s)
            self._failures += 1
            self._until = now + wait_s
            self._fault = fault
        return self._closed(self._fault, now)

    def left(self) -> None:
        """The probe is over, however it ended."""
        if self._probe is not None:
            self._probe.set_result(None)
            self._probe = None

    def _closed(self, fault: BrokerFault, now: float) -> BrokerFault:
        wait_s = self._until - now
        return BrokerFault(fault.kind, fault.reason, retry_after_s=wait_s, broker_code=fault.broker_code, shared=True)
