"""The API on a real port, with stand-ins behind it."""

from collections.abc import AsyncIterator

import pytest

from tests.support.fake_services import Api, running_api


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as running:
        yield running
