"""Credentials in the vault, as in production: entered through the API, and in no file of the bridge."""

import asyncio
import base64
import json
from collections.abc import Sequence
from pathlib import Path

from tests.support.world import APP_KEY, World

VAULT_ENV = {
    "TOKEN_ENCRYPTION_KEYS": f"k1:{base64.b64encode(bytes(range(32))).decode()}",
    "BRIDGE_CREDENTIALS_FILE": "",
}
AT_ONCE = 8


async def enter_credentials(world: World, folder: Path, users: Sequence[str]) -> None:
    """Enter those that the simulator wrote into `folder`, for the broker of `world`."""
    entries = json.loads((folder / "credentials.json").read_text())["users"]
    gate = asyncio.Semaphore(AT_ONCE)

    async def enter(user: str) -> None:
        body = {"userId": user, "broker": world.broker, "credentials": entries[user][world.broker]}
        async with gate:
            while (await _put(world, body)) == 429:
                await asyncio.sleep(0.2)  # as a caller waits out the rate limit

    async with asyncio.TaskGroup() as group:
        for user in users:
            group.create_task(enter(user))


async def _put(world: World, body: object) -> int:
    answer = await world.api("PUT", "/api/credentials", key=APP_KEY, body=body)
    assert answer["_status"] in (200, 429), answer
    return int(answer["_status"])
