"""First steps that many tests of the broker contract begin with."""

import pytest

from tests.contract.rigs.rig import BrokerRig, Trait
from tests.contract.rigs.watched import Watched


def needs(rig: BrokerRig, trait: Trait) -> None:
    """Leave the test out where the broker cannot have what it is about."""
    if trait in rig.lacks:
        pytest.skip(rig.lacks[trait])


def watch(rig: BrokerRig, user: int = 1, account: str | None = None) -> Watched:
    return Watched(rig, rig.credential(user), account or rig.account(user))


async def live(rig: BrokerRig, user: int = 1) -> Watched:
    watched = watch(rig, user)
    await watched.login()
    return watched
