"""Locks by key: one holder at a time for each key, all keys beside one another, nothing kept of unused ones."""

import asyncio

import pytest

from bridge.runtime.keyed_locks import KeyedLocks


async def test_holders_of_one_key_take_turns_and_other_keys_go_on():
    locks: KeyedLocks[str] = KeyedLocks()
    inside = {"a": 0, "b": 0}
    most = {"a": 0, "b": 0}
    together = 0

    async def work(key: str) -> None:
        nonlocal together
        async with locks.hold(key):
            inside[key] += 1
            most[key] = max(most[key], inside[key])
            together = max(together, sum(inside.values()))
            for _ in range(3):
                await asyncio.sleep(0)
            inside[key] -= 1

    await asyncio.gather(*(work(key) for key in "abababab"))
    assert most == {"a": 1, "b": 1}
    assert together == 2
    assert len(locks) == 0


async def test_nothing_is_kept_of_a_key_when_a_holder_fails_or_is_cancelled():
    locks: KeyedLocks[str] = KeyedLocks()
    with pytest.raises(ValueError, match="x"), locks.of("a"):
        raise ValueError("x")

    async def wait() -> None:
        async with locks.hold("a"):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert len(locks) == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(locks) == 0
