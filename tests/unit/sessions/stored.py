"""What tests of stored sessions share: rows as an earlier process left them, and what runs of them."""

from typing import Any

from bridge.sessions.desired import Note, Start
from core.user_key import UserKeyScheme
from tests.support.fake_broker import credential
from tests.unit.sessions.world import DEMO, FailingStore, World


def key(user: str = "u") -> str:
    return UserKeyScheme().keys(user).canonical


def states(world: World) -> dict[str, str]:
    """State by user id."""
    return {session.user_id: session.state.value for session in world.supervisor.table}


async def store_wanted(desired: FailingStore, *users: str, **more: Any) -> None:
    """As an earlier process left it."""
    for user in users:
        values = {"account_id": f"acc-{user}", "environment": DEMO, "broker": "fake", **more}
        await desired.start(Start(user, key(user), values["broker"], values["account_id"], values["environment"]))


async def store_at_risk(desired: FailingStore, *users: str) -> None:
    await desired.note([Note((key(user), "fake", f"acc-{user}"), at_risk=True) for user in users])


def with_credentials(world: World, *users: str) -> World:
    for user in users:
        world.credentials.put(user, credential(user))
    return world
