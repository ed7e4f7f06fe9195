"""The broker's own Python client, unmodified and in its own environment, judges the simulator over TCP and TLS."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from bridge.simulator.ctrader import Simulator, SimulatorSettings

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "official_client_script.py"
ACCOUNT = 1_000_011
EURUSD = 1

pytestmark = pytest.mark.slow  # the official client sends once a second


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(users=2, prices="frozen")) as running:
        yield running


async def official(python: Path, mode: str, simulator: Simulator, **parameters: object) -> dict[str, object]:
    """Run the script in one mode and return what it printed."""
    given = {
        "host": "localhost",
        "port": simulator.ports.ctrader_tls,
        "clientId": "sim-client",
        "clientSecret": "sim-secret",
        **parameters,
    }
    process = await asyncio.create_subprocess_exec(
        *(str(python), str(SCRIPT), mode, orjson.dumps(given).decode()),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(90):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert out, err.decode()
    seen: dict[str, object] = orjson.loads(out)
    assert "failure" not in seen, seen
    return seen


async def test_official_client_logs_in_reads_and_trades_when_it_talks_to_the_simulator(
    official_client_python: Path, simulator: Simulator
) -> None:
    seen = await official(
        official_client_python,
        "session",
        simulator,
        accessToken="sim-access-1",
        symbolId=EURUSD,
        nowMs=simulator.services.clock.now_ms(),
    )

    truth = simulator.actions.truth(ACCOUNT)
    (position,) = truth["positions"]
    assert seen["accounts"] == [[ACCOUNT, False], [1_000_013, True]]
    assert seen["beforeAuth"] == ["INVALID_REQUEST", "Trading account is not authorized"]
    assert seen["wrongToken"] == ["CH_ACCESS_TOKEN_INVALID", "Access token expired"]
    assert seen["balance"] == [10_000_000, 2]
    assert seen["symbols"][0] == "EURUSD"
    assert seen["positionsBefore"] == 0
    assert seen["bars"] > 50
    assert seen["spot"] == [EURUSD, 108_448, 108_452]
    assert seen["firstExecution"] == ["ORDER_ACCEPTED", "official-1"]
    assert seen["filled"] == [1_000_000, 1.08452, 1_000_000]
    assert seen["positionsAfter"] == [int(position["id"])]
    assert seen["badVolume"] == ["ProtoOAOrderErrorEvent", "TRADING_BAD_VOLUME"]
    assert simulator.counters.budget_violations == 0


async def test_official_client_is_told_and_cut_off_when_its_secret_is_wrong(
    official_client_python: Path, simulator: Simulator
) -> None:
    seen = await official(official_client_python, "refused", simulator, clientSecret="wrong")

    assert seen == {
        "errorCode": "CH_CLIENT_AUTH_FAILURE",
        "description": "clientId or clientSecret is incorrect",
        "closed": True,
    }


async def test_official_client_gets_tokens_once_when_it_uses_the_token_endpoint(
    official_client_python: Path, simulator: Simulator
) -> None:
    code = simulator.actions.mint_code(2)

    seen = await official(
        official_client_python,
        "token",
        simulator,
        code=code,
        tokenUrl=f"http://127.0.0.1:{simulator.ports.admin}/apps/token",
    )

    assert seen["exchanged"]["errorCode"] is None
    assert seen["exchanged"]["accessToken"] == "sim-access-2-1"
    assert seen["refreshed"]["accessToken"] == "sim-access-2-2"
    assert seen["refreshed"]["expiresIn"] == 2_628_000
    assert seen["spent"]["errorCode"] == "ACCESS_DENIED"
