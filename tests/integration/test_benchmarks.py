"""The measurements still run: every kind of row on the smallest scale, with all that stands on its other side.

What a figure says is not judged here (a test machine is no place for that), only that there is one.
"""

import math
from pathlib import Path
from typing import Any

import orjson
import pytest

from scripts.benchmarks import (
    account_read,
    channels,
    event_store,
    fan_in,
    flush,
    growth,
    hot_path,
    official_prices,
    plots,
    recovery,
)
from scripts.benchmarks.crowd import crowd, start
from scripts.benchmarks.frames import BATCH
from scripts.benchmarks.growth import Plan
from scripts.benchmarks.report import Row
from tests.support.official_client import official_client_python, peers_node, plots_python

TINY = Plan(users=(4, 8), positions=(3,), events=(10,), intervals_s=(0.5,), window_s=0.5, base_users=4, warm_s=0.3)


@pytest.fixture(scope="module")
def peers() -> None:
    for make in (official_client_python, peers_node):
        try:
            make()
        except RuntimeError as error:
            pytest.skip(str(error).partition("\n")[0])


def assert_told(rows: list[Row], judged: int) -> None:
    """Each row has its words, and as many as have a target a figure for it."""
    assert all(row.figure and row.ours and row.compared_with for row in rows)
    values = [row.value for row in rows if row.value is not None]
    assert len(values) == judged
    assert all(math.isfinite(value) and value > 0 for value in values), rows


@pytest.mark.slow
async def test_fan_in_is_measured_when_all_peers_are_there(peers: None) -> None:
    rows = await fan_in.compared(8, rounds=1, window_s=1.0, warm_s=0.3)
    assert_told(rows, judged=1)


async def test_one_connection_is_measured_when_the_official_client_is_there(peers: None) -> None:
    assert_told(await official_prices.compared(20 * BATCH, rounds=1), judged=0)


async def test_hot_path_is_measured_when_frames_are_few() -> None:
    assert_told(await hot_path.compared(4 * BATCH, rounds=1), judged=1)


async def test_channels_are_measured_when_sessions_are_few() -> None:
    (row,) = await channels.cut(16)
    assert row.data["budgetViolations"] == 0
    assert row.data["backS"] > 0


async def test_crowd_is_measured_when_it_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_store, "INTERVAL_S", 0.25)
    env = {"CACHE_FLUSH_INTERVAL": "0.25"}
    async with crowd(6, requests_per_second=recovery.MASS_RATE, env=env) as world:
        await start(world, world.users, live=6, within_s=30)
        assert_told(await event_store.watched(world, urgent_events=4, price_moves=1), judged=3)
        assert_told(await account_read.read(world, turns=5), judged=1)
        assert_told(await recovery.mass_cut(world, True), judged=1)


async def test_flush_is_measured_when_records_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flush, "RECORDS", 200)
    monkeypatch.setattr(flush, "QUICK_ROUNDS", 1)
    assert_told(await flush.measure(True), judged=4)


@pytest.mark.slow
async def test_growth_is_measured_and_drawn_when_the_plan_is_tiny(peers: None, tmp_path: Path) -> None:
    found = await growth.along(TINY)
    points: list[Any] = [line for lines in found["series"].values() for line in lines.values()]
    assert [len(line) for line in points] == [2, 2, 1, 1, 1]
    assert all(each["rssMib"] > 0 for line in points for each in line)
    try:
        plots_python()
    except RuntimeError as error:
        pytest.skip(str(error).partition("\n")[0])
    readings = tmp_path / "growth.json"
    readings.write_bytes(orjson.dumps({"growth": found}))
    drawn = plots.draw(readings, tmp_path / "one").read_bytes()
    assert drawn == plots.draw(readings, tmp_path / "two").read_bytes()
    assert b"users, 1 price a second each" in drawn
