"""Watches what is written and who owns what, as it happens: for what must hold at every single write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from bridge.cache.store import Refusal, Write
from bridge.cache.stores.memory import MemoryStore
from bridge.runtime.clock import Clock

if TYPE_CHECKING:
    from bridge.sessions.desired import Identity, StoredSession
    from tests.simulation.processes import BridgeProcess
    from tests.simulation.world import World


class WatchedStore(MemoryStore):
    """The reference store, each of whose writes is looked at. `lose`: a failover that forgot everything."""

    def __init__(self, world: World, clock: Clock, *, name: str) -> None:
        super().__init__(clock, name=name)
        self._world = world
        self._losses = 0
        self.generation = f"{name} 0"

    def lose(self) -> None:
        self._losses += 1
        self.generation = f"{self.name} {self._losses}"
        self._held.clear()

    async def write(self, writes: Sequence[Write]) -> list[Refusal]:
        refusals = await super().write(writes)
        refused = {refusal.key for refusal in refusals}
        for write in writes:
            self._world.watcher.written(self, write, accepted=write.key not in refused)
        return refusals


class Watcher:
    """`writer`: who has a call carried out now. Histories by key; fences that were accepted, and by whom."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.writer: BridgeProcess | None = None
        self.accepted: dict[str, tuple[int, int]] = {}
        self.writers: dict[tuple[str, int], str] = {}

    def written(self, store: WatchedStore, write: Write, *, accepted: bool) -> None:
        world = self.world
        who = self.writer.name if self.writer else "?"
        world.note("write", store.name, who, write.key[-6:], write.fence, write.version, accepted)

    def owners_changed(
        self, process: BridgeProcess, before: dict[Identity, Any], rows: list[StoredSession]
    ) -> None:
        pass
