"""Watches what is written, claimed and owned, as it happens: what must hold at every single step is checked there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from bridge.cache.store import Refusal, Write
from bridge.cache.stores.memory import MemoryStore
from bridge.runtime.clock import Clock
from tests.simulation import invariants

if TYPE_CHECKING:
    from bridge.sessions.desired import Identity, StoredSession
    from tests.simulation.processes import BridgeProcess
    from tests.simulation.world import World


class WatchedStore(MemoryStore):
    """The reference store, each of whose claims and writes is looked at. `lose`: a failover that forgot everything."""

    def __init__(self, world: World, clock: Clock, *, name: str) -> None:
        super().__init__(clock, name=name)
        self._world = world
        self.losses = 0
        self.generation = f"{name} 0"

    def lose(self) -> None:
        """What was acknowledged is gone, fences too."""
        self.losses += 1
        self.generation = f"{self.name} {self.losses}"
        self._held.clear()
        self._world.watcher.lost(self.name)
        for process in self._world.alive:  # until each has noticed and written everything again
            process.unwell_at = self._world.loop.time()

    async def claim(self, keys: Sequence[str], *, at_least: int = 0) -> list[int]:
        fences = await super().claim(keys, at_least=at_least)
        for key, fence in zip(keys, fences, strict=True):
            self._world.watcher.claimed(self, key, fence)
        return fences

    async def write(self, writes: Sequence[Write]) -> list[Refusal]:
        refusals = await super().write(writes)
        held = {refusal.key: refusal for refusal in refusals}
        for write in writes:
            self._world.watcher.written(self, write, held.get(write.key))
        return refusals

    def documents(self) -> dict[str, bytes]:
        """Every record that a reader would find."""
        return {key: held.document for key, held in self._held.items() if held.document}


class Watcher:
    """`writer`: whose call is carried out now. Of each store and key: the last accepted stamp, the highest fence ever
    claimed. Of each key and fence: who wrote under it. `torn_since`: since when a key shows what never was."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.writer: BridgeProcess | None = None
        self.accepted: dict[tuple[str, str], tuple[int, int]] = {}
        self.granted: dict[tuple[str, str], int] = {}
        self.writers: dict[tuple[str, int], BridgeProcess] = {}
        self.torn_since: dict[tuple[str, str], float] = {}
        self.owned_since: dict[Identity, tuple[str, float]] = {}
        self.lost_once: set[str] = set()
        self._parsed: dict[bytes, Any] = {}

    def lost(self, store: str) -> None:
        """A store has forgotten: what it accepts from now on begins anew."""
        self.lost_once.add(store)
        self.accepted = {where: stamp for where, stamp in self.accepted.items() if where[0] != store}
        self.granted = {where: fence for where, fence in self.granted.items() if where[0] != store}

    def claimed(self, store: WatchedStore, key: str, fence: int) -> None:
        self.world.note("claim", store.name, key[-6:], fence)
        where = (store.name, key)
        self.granted[where] = max(self.granted.get(where, 0), fence)

    def written(self, store: WatchedStore, write: Write, refusal: Refusal | None) -> None:
        world = self.world
        who = self.writer.name if self.writer else "?"
        world.note("write", store.name, who, write.key[-6:], write.fence, write.version, refusal is None)
        if refusal is not None:
            if refusal.fence > write.fence:
                world.sometimes("fence refusal")
            return
        if self.writer is not None and self.writer.dead:
            world.sometimes("late write of a dead process accepted")
        invariants.at_write(world, store.name, write, self.writer)
        self.accepted[store.name, write.key] = (write.fence, write.version)
        if self.writer is not None:
            self.writers.setdefault((write.key, write.fence), self.writer)

    def owners_changed(
        self, process: BridgeProcess, before: Mapping[Identity, Any], rows: Sequence[StoredSession]
    ) -> None:
        """After a call to the database: who owns what now."""
        now = self.world.loop.time()
        for row in rows:
            owner, fence = before.get(row.identity, (None, 0))
            if row.owner == owner:
                continue
            self.world.note("owner", row.broker, row.user_key[:6], row.account_id, row.owner, row.fence)
            if row.owner is not None:
                invariants.at_claim(self.world, row, fence)
                self.owned_since[row.identity] = (process.name, now)
                if owner is not None and owner != row.owner:
                    self.world.sometimes("take-over")

    def parsed(self, document: bytes) -> Any:
        """A document as read; each is read once."""
        found = self._parsed.get(document)
        if found is None:
            if len(self._parsed) > 2000:
                self._parsed.clear()
            found = self._parsed[document] = orjson.loads(document)
        return found


class Readings:
    """What readers were told, by process and key: under one fence a version never goes back (faults.md §3.19)."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._told: dict[tuple[str, str], tuple[int, int]] = {}

    async def read(self, process: BridgeProcess, key: str) -> None:
        """Read as the API does."""
        losses = sum(store.losses for store in self._world.stores.values())
        last = self._told.get((process.name, key))
        found = await process.service_reader(key)
        if found is None or not found.document:
            return
        stamp = (found.fence, found.version)
        if last is not None and losses == sum(store.losses for store in self._world.stores.values()):
            invariants.at_reading(self._world, process, key, last, stamp)
        self._told[process.name, key] = stamp
