"""The brokers that the contract of `bridge/brokers/base.py` is tried on."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

from bridge.brokers.ctrader.settings import Quotes
from tests.contract.rigs.alpaca import alpaca_rig
from tests.contract.rigs.ctrader import ctrader_rig
from tests.contract.rigs.rig import BrokerRig

RIGS: dict[str, Callable[[], AbstractAsyncContextManager[BrokerRig]]] = {
    "ctrader": ctrader_rig,
    "ctrader-shared": partial(ctrader_rig, quotes=Quotes.SHARED),
    "alpaca": alpaca_rig,
}


@pytest.fixture(params=list(RIGS))
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[BrokerRig]:
    async with RIGS[request.param]() as rig:
        yield rig
        assert rig.violations() == 0
