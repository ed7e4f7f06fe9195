"""A shared tier behind a guard: it may be down at any time, and nobody above ever notices more than a miss.

A tier that failed is left alone until it answers again. What could not be written or removed meanwhile is a debt: such
keys are not read from the tier until they have been removed there, so that a tier which comes back with old values
never shows them. Debts are bounded; beyond the bound everything of ours is owed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from bridge.cache.reader import TierStats
from bridge.cache.store import StoreUnavailable
from bridge.cache.tiers.tier import Held, Tier, is_exact, matcher

log = logging.getLogger(__name__)

DEADLINE_S = 1.0
PATTERN_DEADLINE_S = 10.0
DEBTS_KEPT = 1000
EVERYTHING = "*"
PROBE = "\x7fprobe"  # no key of a caller's


@dataclass(eq=False, slots=True)
class _Debt:
    """What must not be read from the tier. `due`: nobody is at work on it. `matches` None: the key itself."""

    pattern: str
    matches: Callable[[str], object] | None
    due: bool = False


class GuardedTier:
    """Never raises because of its tier; counts. Call `restore` now and then."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.stats = TierStats()
        self.usable = True
        self._debts: dict[str, _Debt] = {}
        self._patterns: dict[str, _Debt] = {}  # those of the debts that are more than a key

    @property
    def debts(self) -> int:
        """Keys and patterns that still have to be removed from the tier."""
        return sum(debt.due for debt in self._debts.values())

    async def get(self, key: str) -> Held | None:
        """What the tier holds, None when nothing, or when it cannot be asked or trusted."""
        held = None
        if self.usable and not self._owes(key):
            try:
                async with asyncio.timeout(DEADLINE_S):
                    held = await self.tier.get(key)
            except (StoreUnavailable, TimeoutError) as error:
                self._failed(error)
        if held is None:
            self.stats.misses += 1
        else:
            self.stats.hits += 1
        return held

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Write a value; what the tier holds under the key counts as nothing until that has worked."""
        debt = self._owe(key)
        try:
            if self.usable and await self._store(key, value, ttl_s):
                self._settle(debt)
        finally:
            debt.due = True  # if it still stands: the write failed or was given up

    async def remove(self, pattern: str) -> None:
        """Remove what a pattern matches, now or when the tier is back."""
        debt = self._owe(pattern)
        try:
            if self.usable:
                await self._pay(debt)
        finally:
            debt.due = True

    async def restore(self) -> None:
        """Use the tier again if it answers, and pay what is due. Removing twice or too late costs a miss at most."""
        if not self.usable:
            if not await self._store(PROBE, b"null", DEADLINE_S):  # fails where any write would
                return
            self.usable = True
            log.info("cache tier recovered", extra={"tier": self.tier.name, "failures": self.stats.failures})
        for debt in [debt for debt in self._debts.values() if debt.due]:
            if not await self._pay(debt):
                return

    async def clean(self) -> None:
        """Remove what has expired."""
        if not self.usable:
            return
        try:
            async with asyncio.timeout(PATTERN_DEADLINE_S):
                self.stats.evictions += await self.tier.clean()
        except (StoreUnavailable, TimeoutError) as error:
            self._failed(error)

    async def _store(self, key: str, value: bytes, ttl_s: float) -> bool:
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self.tier.set(key, value, ttl_s)
        except (StoreUnavailable, TimeoutError) as error:
            self._failed(error)
            return False
        return True

    async def _pay(self, debt: _Debt) -> bool:
        try:
            async with asyncio.timeout(PATTERN_DEADLINE_S if debt.matches else DEADLINE_S):
                await self.tier.remove(debt.pattern)
        except (StoreUnavailable, TimeoutError) as error:
            self._failed(error)
            return False
        self._settle(debt)
        return True

    def _owe(self, pattern: str) -> _Debt:
        """Take down a debt; it replaces an earlier one of the same pattern."""
        if len(self._debts) >= DEBTS_KEPT and pattern not in self._debts:
            self._debts.clear()
            self._patterns.clear()
            pattern = EVERYTHING
        debt = self._debts[pattern] = _Debt(pattern, None if is_exact(pattern) else matcher(pattern).fullmatch)
        if debt.matches:
            self._patterns[pattern] = debt
        return debt

    def _owes(self, key: str) -> bool:
        return key in self._debts or any(debt.matches(key) for debt in self._patterns.values() if debt.matches)

    def _settle(self, debt: _Debt) -> None:
        if self._debts.get(debt.pattern) is debt:  # else it was made anew meanwhile
            del self._debts[debt.pattern]
            self._patterns.pop(debt.pattern, None)

    def _failed(self, error: Exception) -> None:
        self.stats.failures += 1
        if self.usable:
            self.usable = False
            log.warning("cache tier unavailable", extra={"tier": self.tier.name, "error": repr(error)})
