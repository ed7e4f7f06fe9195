"""One world per test, in virtual time."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.sessions.world import World, stranded


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as made:
        yield made
        assert stranded(made.supervisor) == []
