"""Choosing one fence for an entry above those of all reachable stores, and claiming it in each (DESIGN §8).

The primary is asked first, so that an earlier owner is refused there before a copy refuses it: only the primary's
refusal fences. A claim never lowers anything, so a claim cut short costs nothing but a higher fence next time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bridge.cache.contact import CHUNK_DEADLINE_S, Contact
from bridge.cache.entry import Entry
from bridge.cache.store import StoreUnavailable
from bridge.runtime.clock import Clock

HEADROOM_MS = 2_000  # keeps the common fence above every store's clock until all have claimed it


async def claim(entries: Sequence[Entry], primary: Contact, copies: Sequence[Contact], clock: Clock) -> None:
    """Give every entry a new fence, claimed in the primary and in each copy that answers.

    Raises StoreUnavailable when the primary does not answer; the entries then keep what they had.
    """
    keys = [key for entry in entries for key in entry.keys]
    fences = await _ask(primary, keys, max(entry.floor for entry in entries), clock)
    answers = [await _ask_copy(copy, keys, max(fences), clock) for copy in copies if copy.usable]
    claimed = [answer for answer in answers if answer is not None]
    if claimed:
        target = max(max(answer) for answer in (fences, *claimed)) + HEADROOM_MS
        fences = await _ask(primary, keys, target, clock)
        again = [await _ask_copy(copy, keys, target, clock) for copy in copies if copy.usable]
        claimed = [answer for answer in again if answer is not None]
    best = [max(column) for column in zip(fences, *claimed, strict=True)]
    at = 0
    for entry in entries:
        entry.fence = max(best[at : at + len(entry.keys)])
        entry.version = 0
        entry.contested = False
        at += len(entry.keys)


async def _ask(contact: Contact, keys: Sequence[str], at_least: int, clock: Clock) -> list[int]:
    try:
        async with asyncio.timeout(CHUNK_DEADLINE_S):
            fences = await contact.store.claim(keys, at_least=at_least)
    except TimeoutError as error:
        raise StoreUnavailable("the store did not answer a claim in time") from error
    contact.answered(clock.monotonic())
    return fences


async def _ask_copy(copy: Contact, keys: Sequence[str], at_least: int, clock: Clock) -> list[int] | None:
    """None when the copy is away: it will be written under the common fence when it returns."""
    try:
        return await _ask(copy, keys, at_least, clock)
    except StoreUnavailable as error:
        copy.failed(error)
        return None
