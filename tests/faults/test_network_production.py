"""Freshness with the timers of production, nothing shortened: a silent peer, then a bridge that is killed."""

import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.support.alpaca_scene import alpaca_scene
from tests.support.ctrader_scene import ctrader_scene
from tests.support.fault_proxy import now_ms
from tests.support.fault_scene import SEEN_WITHIN_S, FaultScene
from tests.support.fault_table import fault
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

HORIZON_S = 10.0

SCENES: dict[str, tuple[Callable[..., AbstractAsyncContextManager[FaultScene]], dict[str, Any]]] = {
    "ctrader": (ctrader_scene, {}),
    "alpaca": (alpaca_scene, {"slot_s": 0.05, "ALPACA_POLL_SECONDS": "10"}),
}


@fault("N03", "half-open, with the timers of production", "said so within 12 s; nothing looks fresh for more than 10 s")
@fault("P03", "SIGKILL, with the timers of production", "no record looks fresh more than 10 s later")
@pytest.mark.parametrize("broker", SCENES)
async def test_silence_and_a_killed_process_stop_looking_fresh_in_time(broker: str, tmp_path: Path) -> None:
    make, changes = SCENES[broker]
    async with make(tmp_path, users=2, bridge_module="bridge", CACHE_FLUSH_INTERVAL="1", **changes) as scene:
        await scene.begin()
        for line in scene.lines:
            line.hold()
        await scene.seen_not_live(within_s=HORIZON_S + SEEN_WITHIN_S)
        for line in scene.lines:
            line.let_go()
        await scene.equal(within_s=8)

        scene.world.bridge.send(signal.SIGKILL)
        killed_ms = now_ms()
        await scene.world.bridge.ended()
        await eventually(
            lambda: now_ms() >= max(scene.record(user)["staleAfter"] for user in scene.users),
            within_s=HORIZON_S + 1,
            what="no record looks fresh any more",
        )
        assert now_ms() - killed_ms <= 1000 * HORIZON_S
        assert not scene.watcher.violations, "\n".join(scene.watcher.violations)
