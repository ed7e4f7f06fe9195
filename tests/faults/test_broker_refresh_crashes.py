"""A renewal cut off by SIGKILL at every point, against the real adapter, simulator and Postgres (faults.md N32).

What must come of it: the next process ends live or needs the user, never loops, and no refresh token is sent more than
twice.
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_table import fault
from tests.support.processes import bridge_process

PROGRAM = "tests.support.refresh_program"
THE_TOKEN = ("sim-access-",)  # which the program prints when it is asked to race
LIVE, NEEDS_USER = ["live", None], ["action_required", "token_revoked"]

pytestmark = pytest.mark.slow


@pytest.fixture
async def surroundings(database_url: str, tmp_path: Path) -> AsyncIterator[Mapping[str, str]]:
    """A simulator with one user, an empty vault; what the program must be told of them."""
    async with bridge_process(
        *("simulate", "--users", "1", "--seed", "7", "--cert-dir", str(tmp_path), "--ctrader-port", "0"),
        *("--ctrader-live-port", "0", "--ctrader-tls-port", "0", "--admin-port", "0"),
        *("--alpaca-port", "0", "--alpaca-live-port", "0"),
    ) as simulator:
        ports = json.loads(await simulator.line(lambda line: line.startswith("{"), within_s=60))
        yield {"DATABASE_URL": database_url, "SIM_DEMO": str(ports["ctrader"]), "SIM_ADMIN": str(ports["admin"])}


async def crashed(surroundings: Mapping[str, str], point: str, way: str) -> None:
    async with bridge_process("crash", point, way, env=surroundings, module=PROGRAM) as dying:
        assert await dying.ended(within_s=60) == -signal.SIGKILL, dying.output


async def resumed(surroundings: Mapping[str, str], way: str) -> dict[str, Any]:
    async with bridge_process("resume", way, env=surroundings, module=PROGRAM) as following:
        told: dict[str, Any] = json.loads(await following.line(lambda line: line.startswith("{"), within_s=90))
        assert await following.ended(within_s=30) == 0, following.output
        return told


@fault("N32", "cTrader: SIGKILL at six points of a renewal", "live, or the user is asked; no loop, one renewal")
@pytest.mark.parametrize("way", ["in_band", "http"])
@pytest.mark.parametrize(
    ("point", "end", "refreshes", "refused"),
    [
        ("leased", LIVE, 1, 0),  # nothing was sent: the second right to send is the first to be used
        ("sent", NEEDS_USER, 1, 1),  # spent, and the pair that came of it is lost
        ("answered", NEEDS_USER, 1, 1),
        ("commit-unsent", NEEDS_USER, 1, 1),
        ("commit-sent", LIVE, 1, 0),  # nobody had heard of it, and still it was committed
        ("committed", LIVE, 1, 0),
    ],
)
async def test_the_next_process_ends_well_when_a_renewal_was_killed(
    surroundings: Mapping[str, str], point: str, way: str, end: list[str | None], refreshes: int, refused: int
) -> None:
    await crashed(surroundings, point, way)
    told = await resumed(surroundings, "http" if (point, way) == ("sent", "in_band") else way)
    assert told["ends"] == [end] * 3
    assert (told["refreshes"], told["refreshFailures"]) == (refreshes, refused)
    assert told["authAttempts"] <= 3


@fault("N32", "cTrader: SIGKILL in the renewal and in the next try", "the user is asked; no third request")
@pytest.mark.parametrize("way", ["in_band", "http"])
async def test_a_second_crash_leads_to_the_user_and_not_to_a_third_request(
    surroundings: Mapping[str, str], way: str
) -> None:
    await crashed(surroundings, "answered", way)
    async with bridge_process("resume", way, env={**surroundings, "DIE_AT": "leased"}, module=PROGRAM) as dying:
        assert await dying.ended(within_s=60) == -signal.SIGKILL, dying.output
    told = await resumed(surroundings, way)
    assert told["ends"] == [NEEDS_USER] * 3
    assert (told["refreshes"], told["refreshFailures"]) == (1, 0)


@pytest.mark.parametrize("way", ["in_band", "http"])
async def test_two_processes_that_renew_at_once_make_one_request(surroundings: Mapping[str, str], way: str) -> None:
    async with bridge_process("store", env=surroundings, module=PROGRAM) as store:
        assert await store.ended(within_s=30) == 0, store.output
    moment = str(time.monotonic() + 8.0)  # whoever comes later asks for a token of its own
    async with (
        bridge_process("race", moment, way, env=surroundings, module=PROGRAM, prints=THE_TOKEN) as one,
        bridge_process("race", moment, way, env=surroundings, module=PROGRAM, prints=THE_TOKEN) as two,
    ):
        lines = await asyncio.gather(
            *(each.line(lambda line: line.startswith("{"), within_s=60) for each in (one, two))
        )
        assert await one.ended() == 0, one.output
        assert await two.ended() == 0, two.output
    assert lines[0] == lines[1]
    assert json.loads(lines[0])["token"] != "sim-access-1"
    told = await resumed(surroundings, way)
    assert told["ends"] == [LIVE] * 3
    assert (told["refreshes"], told["refreshFailures"]) == (1, 0)
