"""Both protocols of ownership on one place, whatever it is: wanted sessions, and the processes that serve them."""

from collections.abc import Callable
from typing import Any

from bridge.sessions.desired import DesiredSessions, Start, StoredSession
from bridge.sessions.ownership.fleet import Fleet, FleetLook
from core.user_key import UserKeyScheme
from tests.unit.sessions.world import DEMO

A, B, C = "a" * 12, "b" * 12, "c" * 12
TTL_S = 30.0
BROKERS = ["sim"]


def key(user: str) -> str:
    return UserKeyScheme().keys(user).canonical


class Place:
    """Both protocols on one place. `expire`: let the lease of a process end."""

    def __init__(self, desired: Any, fleet: Fleet, expire: Callable[[str], Any]) -> None:
        self.desired: DesiredSessions = desired
        self.fleet = fleet
        self.expire = expire

    async def join(self, *owners: str, capacity: int = 1000) -> None:
        for owner in owners:
            await self.fleet.join(owner, version="1", capacity=capacity, ttl_s=TTL_S)

    async def start(self, *users: str, owner: str | None = None) -> list[StoredSession]:
        return [
            (await self.desired.start(Start(user, key(user), "sim", f"acc-{user}", DEMO), owner=owner)).row
            for user in users
        ]

    async def renew(self, owner: str) -> bool:
        return await self.fleet.renew(owner, ttl_s=TTL_S)

    async def look(self, owner: str) -> FleetLook:
        return await self.fleet.look(owner, brokers=BROKERS, sessions={"sim live": 1})

    async def claim(self, owner: str, limit: int = 500) -> list[StoredSession]:
        return await self.fleet.claim(owner, brokers=BROKERS, limit=limit)

    async def owners(self, *users: str) -> list[str | None]:
        return [(await self.row(user)).owner for user in users]

    async def row(self, user: str) -> StoredSession:
        (row,) = (await self.desired.known(key(user), "sim")).sessions
        return row
