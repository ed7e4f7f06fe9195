"""Virtual time for these tests: a loop that never waits, but moves its clock to the next timer."""

import asyncio
import selectors
from collections.abc import Callable, Mapping
from typing import Any

import pytest


class VirtualSelector(selectors.DefaultSelector):
    """Never sleeps: the time it was told to wait has passed at once."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("nothing will ever happen: every task waits for another")
            self.now += max(timeout, 0)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time, from fixture set-up to tear-down."""

    def __init__(self) -> None:
        self._virtual = VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual": VirtualLoop}
