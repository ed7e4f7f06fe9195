"""One user's records in every store: found, told, removed. Knows stores by their protocol only.

Removal first raises the fence of each key, so that a process which still serves the user is refused by the store
itself and does not write the record again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import orjson

from bridge.cache.store import CHUNK, Store

PAGE = 1000

Accounts = Iterable[tuple[str, str]]
"""Brokers and account ids."""


def likely_keys(user_keys: Iterable[str], brokers: Iterable[str], accounts: Accounts) -> set[str]:
    """The record keys of these users' default accounts and of these accounts (DESIGN §7)."""
    bases = {(broker, f"{broker}_account_{key}") for key in user_keys for broker in brokers}
    named = {f"{broker}_account_{key}_{account}" for key in user_keys for broker, account in accounts}
    return {base for _, base in bases} | named


async def stored_keys(store: Store, prefix: str) -> AsyncIterator[list[str]]:
    """Pages of the keys of records that begin so."""
    after = ""
    while page := await store.keys(prefix, after=after, limit=PAGE):
        yield page
        after = page[-1]


async def find_keys(
    stores: Sequence[Store], user_keys: Sequence[str], brokers: Iterable[str], accounts: Accounts
) -> list[str]:
    """Every key of a user that some store holds, as a record or as a fence, sorted."""
    brokers = list(brokers)
    candidates = likely_keys(user_keys, brokers, accounts)
    for store in stores:
        for broker in brokers:
            for key in user_keys:
                async for page in stored_keys(store, f"{broker}_account_{key}"):
                    candidates.update(page)
    held: set[str] = set()
    names = sorted(candidates)
    for store in stores:
        for start in range(0, len(names), CHUNK):
            found = await store.read(names[start : start + CHUNK])
            held.update(each.key for each in found if each is not None)
    return sorted(held)


async def tell_records(store: Store, keys: Sequence[str]) -> Mapping[str, Any]:
    """The records that a store holds under these keys, as values for JSON."""
    told: dict[str, Any] = {}
    for start in range(0, len(keys), CHUNK):
        for stored in await store.read(keys[start : start + CHUNK]):
            if stored is not None and stored.document:
                told[stored.key] = _document(stored.document)
    return told


async def remove_records(stores: Sequence[Store], keys: Sequence[str], *, fences: bool = False) -> int:
    """Remove what is under these keys in every store; returns how many records there were.

    `fences`: remove the fences too, when nobody is alive who writes there.
    """
    there = 0
    for store in stores:
        for start in range(0, len(keys), CHUNK):
            chunk = list(keys[start : start + CHUNK])
            there += sum(each is not None and bool(each.document) for each in await store.read(chunk))
            if fences:
                await store.forget(chunk)
            else:
                await store.claim(chunk)
                await store.delete(chunk)
    return there


def _document(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text.decode(errors="replace")
