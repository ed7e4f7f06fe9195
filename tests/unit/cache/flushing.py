"""What tests of the flusher share: sessions that are registered, and changes as events make them."""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from bridge.cache.entry import Entry
from bridge.cache.flusher import Flusher
from tests.unit.cache.builders import NOW_MS, Source, account
from tests.unit.cache.stores import FakeStore, LoopClock

INTERVAL_S = 2.0
MakeFlusher = Callable[..., Flusher]


def register(flusher: Flusher, count: int, **options: Any) -> tuple[list[Entry], list[Source]]:
    sources = [Source(account(), **options) for _ in range(count)]
    return [flusher.register((f"ctrader_account_{n}",), source) for n, source in enumerate(sources)], sources


def change(flusher: Flusher, entry: Entry, *, balance: str = "1.00", urgent: bool = False) -> None:
    """The source's account changes, as an event would."""
    source = entry.source
    assert isinstance(source, Source)
    assert source.mirror is not None
    source.mirror.balance = Decimal(balance)
    flusher.mark(entry, urgent=urgent)


async def least_freshness_left(
    flusher: Flusher, store: FakeStore, clock: LoopClock, source: Source, *, for_s: float, heard_every_s: float
) -> float:
    """Run a quiet session and return the least time to `staleAfter` that a reader ever saw, in seconds."""
    least = float("inf")
    key = "ctrader_account_0"
    while clock.passed < for_s:
        heard = int(clock.passed / heard_every_s) * heard_every_s
        source.as_of_ms = NOW_MS + round(heard * 1000)
        await asyncio.sleep(0.05)
        document = store.document(key)
        if document is not None:
            least = min(least, (document["staleAfter"] - clock.now_ms()) / 1000)
    return least
