"""Keys of the vault over time: checked at start, and grants of older keys sealed again with the first one.

Sealing again changes nothing but the blob and happens row by row on what is still there, so it may run beside
everything else, in several processes, and be cut off at any moment: every row opens before, meanwhile and after.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from bridge.credentials.sealed import open_blob, resealed
from bridge.credentials.vault import SealBroken, UnknownKey, Vault
from bridge.db.database import Database, Row
from bridge.runtime.tasks import Tasks
from core.errors import BridgeError, ConfigurationError

log = logging.getLogger(__name__)

BATCH = 200
SAMPLES = 5
NOBODY = "00000000-0000-0000-0000-000000000000"

_SAMPLES = f"""with recursive used as (
  (select key_id from public.bridge_grants where key_id is not null order by key_id limit 1)
  union all
  select (select g.key_id from public.bridge_grants g where g.key_id > used.key_id order by g.key_id limit 1)
  from used where used.key_id is not null
)
select used.key_id, sample.user_key, sample.broker, sample.sealed
from used, lateral (
  select g.user_key, g.broker, g.sealed from public.bridge_grants g where g.key_id = used.key_id order by g.id
  limit {SAMPLES}
) as sample"""  # noqa: S608  constants only
_OLD = """select id::text as id, user_key, broker, sealed from public.bridge_grants
where key_id is distinct from $1 and sealed is not null and id > $2::uuid order by id limit $3"""
_RESEAL = """update public.bridge_grants g set sealed = t.new, key_id = $4
from unnest($1::uuid[], $2::bytea[], $3::bytea[]) as t (id, old, new)
where g.id = t.id and g.sealed = t.old returning g.id"""


async def check_keys(database: Database, vault: Vault | None) -> None:
    """Refuse to start when stored grants need a key that is not configured, or was replaced under its id.

    `vault` None: no key is configured at all. Raises ConfigurationError naming the id, and what the database raises.
    """
    opened: dict[str, bool] = {}
    for row in await database.fetch(_SAMPLES):
        key_id = row["key_id"]
        if vault is None or key_id not in vault.key_ids:
            raise ConfigurationError(
                f"TOKEN_ENCRYPTION_KEYS: stored credentials are sealed by key {key_id!r}, which is not listed"
            )
        opened[key_id] = opened.get(key_id, False) or _opens(vault, row)
    for key_id, well in opened.items():
        if not well:
            raise ConfigurationError(
                f"TOKEN_ENCRYPTION_KEYS: key {key_id!r} is not the one that sealed the stored credentials"
            )


def _opens(vault: Vault, row: Row) -> bool:
    try:
        open_blob(vault, row["user_key"], row["broker"], row["sealed"])
    except (SealBroken, UnknownKey):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Resealed:
    """What one round did: `changed` rows meanwhile got other tokens, `broken` ones do not open and stay as they are."""

    resealed: int = 0
    changed: int = 0
    broken: int = 0


class Resealer:
    """Brings all grants under the first key."""

    def __init__(self, database: Database, vault: Vault, *, batch: int = BATCH) -> None:
        self._database = database
        self._vault = vault
        self._batch = batch
        self._tasks = Tasks("vault")

    async def run(self, *, pause_s: float = 0.0) -> Resealed:
        """Go through all grants of other keys once; `pause_s` between batches. Raises what the database raises."""
        after, total = NOBODY, Resealed()
        while True:
            rows = await self._database.fetch(_OLD, self._vault.sealing_key_id, after, self._batch)
            if not rows:
                return total
            after = rows[-1]["id"]
            done = await self._reseal(rows)
            total = Resealed(total.resealed + done.resealed, total.changed + done.changed, total.broken + done.broken)
            await asyncio.sleep(pause_s)

    def start(self, *, every_s: float = 3600.0, pause_s: float = 0.1) -> None:
        """Go on in the background: a round at once and one each `every_s`, since during a deploy a process of before
        may still seal with the key of before."""
        self._tasks.start(self._keep_on(every_s, pause_s), name="reseal")

    async def close(self) -> None:
        """End the background work, wherever it is. Never raises."""
        await self._tasks.close()

    async def _keep_on(self, every_s: float, pause_s: float) -> None:
        while True:
            try:
                done = await self.run(pause_s=pause_s)
                if done.resealed or done.broken:
                    counts = {"resealed": done.resealed, "broken": done.broken}
                    log.info("grants of older keys were sealed again", extra=counts)
            except BridgeError as error:
                log.warning("grants could not be sealed again: %s", error)
            await asyncio.sleep(every_s)

    async def _reseal(self, rows: list[Row]) -> Resealed:
        ids: list[str] = []
        old: list[bytes] = []
        new: list[bytes] = []
        for row in rows:
            try:
                blob = resealed(self._vault, row["sealed"], row["broker"], row["user_key"], row["user_key"])
            except (SealBroken, UnknownKey) as error:
                log.error("a grant does not open and stays as it is: %s", error, extra={"grant": row["id"]})
                continue
            ids.append(row["id"])
            old.append(row["sealed"])
            new.append(blob)
        stored = await self._database.fetch(_RESEAL, ids, old, new, self._vault.sealing_key_id) if ids else []
        return Resealed(len(stored), len(ids) - len(stored), len(rows) - len(ids))
