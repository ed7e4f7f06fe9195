"""Bounded waiting for something to become true. Tests wait on conditions, never on time.

Invariant: every wait ends, with the condition met or with an AssertionError that says what was waited for.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(
    predicate: Callable[[], T | Awaitable[T]],
    *,
    within_s: float,
    every_s: float = 0.01,
    what: str | Callable[[], str] = "",
) -> T:
    """Call `predicate` until it answers something true, and return that answer.

    `predicate` may be plain or a coroutine function; what it raises goes to the test at once.
    Raises AssertionError, naming `what` (asked for only then, if callable) and the last answer, when `within_s` seconds
    passed first.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        answer = predicate()
        if inspect.isawaitable(answer):
            answer = await asyncio.wait_for(answer, max(deadline - loop.time(), every_s))
        if answer:
            return answer
        if loop.time() >= deadline:
            wanted = what() if callable(what) else what
            raise AssertionError(
                f"not within {within_s} s: {wanted or inspect.getsource(predicate).strip()}; last: {answer!r}"
            )
        await asyncio.sleep(every_s)
