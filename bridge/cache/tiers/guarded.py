"""A shared tier behind a guard: it may be down at any time, and nobody above ever notices more than a miss.

A tier that failed is left alone until it answers again. What could not be written or removed meanwhile is a debt: such
keys are not read from the tier, and it is used again only after they have been removed there, so that a tier which
comes back with old values never shows them. Debts are bounded; beyond the bound everything of ours is removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from bridge.cache.reader import TierStats
from bridge.cache.store import StoreUnavailable
from bridge.cache.tiers.tier import Held, Tier, is_exact, matcher

log = logging.getLogger(__name__)

DEADLINE_S = 1.0
PATTERN_DEADLINE_S = 10.0
DEBTS_KEPT = 1000
EVERYTHING = "*"
PROBE = "\x7fprobe"  # no key of a caller's


class GuardedTier:
    """Never raises because of its tier; counts. Call `restore` now and then."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.stats = TierStats()
        self.usable = True
        self._debts: dict[str, Callable[[str], object]] = {}

    @property
    def debts(self) -> int:
        """Keys and patterns that still have to be removed from the tier."""
        return len(self._debts)

    async def get(self, key: str) -> Held | None:
        """What the tier holds, None when nothing, or when it cannot be asked or trusted."""
        if not self.usable or any(matches(key) for matches in list(self._debts.values())):
            self.stats.misses += 1
            return None
        try:
            async with asyncio.timeout(DEADLINE_S):
                held = await self.tier.get(key)
        except (StoreUnavailable, TimeoutError) as error:
            self._failed(error)
            held = None
        if held is None:
            self.stats.misses += 1
        else:
            self.stats.hits += 1
        return held

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Write a value; what the tier holds under the key counts as nothing until that has worked."""
        self._owe(key)
        if not self.usable:
            return
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self.tier.set(key, value, ttl_s)
        except (StoreUnavailable, TimeoutError) as error:
            self._failed(error)
        else:
            self._debts.pop(key, None)

    async def remove(self, pattern: str) -> None:
        """Remove what a pattern matches, now or when the tier is back."""
        owed = self._owe(pattern)
        if self.usable:
            await self._pay(owed)

    async def restore(self) -> None:
        """Pay what is owed and use the tier again if it answers."""
        while self._debts:
            if not await self._pay(next(iter(self._debts))):
                return
        if not self.usable:
            if not await self._probe():
                return
            self.usable = True
            log.info("cache tier recovered", extra={"tier": self.tier.name, "failures": self.stats.failures})

    async def clean(self) -> None:
        """Remove what has expired."""
        if not self.usable:
            return
        try:
            async with asyncio.timeout(PATTERN_DEADLINE_S):
                self.stats.evictions += await self.tier.clean()
        except (StoreUnavailable, TimeoutError) as error:
            self._failed(error)

    async def _probe(self) -> bool:
        """A tiny write, which fails where any other would: on a replica, or out of memory."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self.tier.set(PROBE, b"null", DEADLINE_S)
        except (StoreUnavailable, TimeoutError) as error:
            self._failed(error)
            return False
        return True

    async def _pay(self, pattern: str) -> bool:
        debt = self._debts[pattern]
        try:
            async with asyncio.timeout(DEADLINE_S if is_exact(pattern) else PATTERN_DEADLINE_S):
                await self.tier.remove(pattern)
        except (StoreUnavailable, TimeoutError) as error:
            self._failed(error)
            return False
        if self._debts.get(pattern) is debt:  # else it was made anew meanwhile
            del self._debts[pattern]
        return True

    def _owe(self, pattern: str) -> str:
        """Take down a debt; returns the pattern that it went under."""
        if len(self._debts) >= DEBTS_KEPT and pattern not in self._debts:
            self._debts.clear()
            pattern = EVERYTHING
        self._debts[pattern] = pattern.__eq__ if is_exact(pattern) else matcher(pattern).fullmatch
        return pattern

    def _failed(self, error: Exception) -> None:
        self.stats.failures += 1
        if self.usable:
            self.usable = False
            log.warning("cache tier unavailable", extra={"tier": self.tier.name, "error": repr(error)})
