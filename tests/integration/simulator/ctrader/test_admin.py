"""The admin HTTP of the simulated broker, its token endpoint, and its command line."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from bridge.simulator.ctrader import Simulator, SimulatorSettings
from bridge.simulator.ctrader.faults import CATALOGUE
from tests.support.simulator_probe import probe

USD = 1_000_011
ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(users=2, prices="frozen", ctrader_tls_port=None)) as running:
        yield running


class Http:
    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._base = f"http://127.0.0.1:{port}"

    async def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        async with self._session.request(method, self._base + path, json=body, **more) as response:
            return response.status, await response.json()


@pytest.fixture
async def http(sim: Simulator) -> AsyncIterator[Http]:
    async with aiohttp.ClientSession() as session:
        yield Http(session, sim.ports.admin)


async def test_accounts_can_be_listed_traded_and_read_when_asked_by_http(sim: Simulator, http: Http) -> None:
    _, listed = await http("GET", "/sim/accounts")
    status, opened = await http(
        "POST",
        f"/sim/accounts/{USD}/order",
        {"symbol": "EURUSD", "side": "buy", "type": "market", "units": 10000, "stopLoss": 1.07, "trailing": True},
    )
    _, working = await http(
        "POST",
        f"/sim/accounts/{USD}/order",
        {"symbol": "EURUSD", "side": "sell", "type": "limit", "units": "2000", "limitPrice": "1.1"},
    )
    _, amended = await http("POST", f"/sim/accounts/{USD}/amend", {"orderId": working["orderId"], "limitPrice": 1.2})
    _, deposited = await http("POST", f"/sim/accounts/{USD}/deposit", {"amount": 0.1})
    _, truth = await http("GET", f"/sim/truth/{USD}")

    assert listed["accounts"][0]["accountId"] == str(USD)
    assert {each["currency"] for each in listed["accounts"]} == {"USD", "EUR", "JPY"}
    assert status == 200
    assert opened["filledUnits"] == 10_000
    assert deposited == {"balance": 100_000.1, "balanceVersion": 2}
    assert truth["balance"] == 100_000.1
    (position,) = truth["positions"]
    assert (position["id"], position["stopLoss"], position["lots"]) == (opened["positionId"], 1.07, 0.1)
    (order,) = truth["orders"]
    assert (order["id"], order["limitPrice"], order["type"]) == (working["orderId"], 1.2, "limit")
    assert amended["orderId"] is None

    assert (await http("POST", f"/sim/accounts/{USD}/protect", {"positionId": position["id"], "takeProfit": 1.2}))[
        0
    ] == 200
    assert (await http("POST", f"/sim/accounts/{USD}/cancel", {"orderId": order["id"]}))[0] == 200
    _, closed = await http("POST", f"/sim/accounts/{USD}/close", {"positionId": position["id"], "units": 4000})
    assert closed["filledUnits"] == 4000
    _, everything = await http("POST", f"/sim/accounts/{USD}/close", {})
    assert len(everything["closed"]) == 1
    _, terms = await http("POST", f"/sim/accounts/{USD}/terms", {"leverage": 30})
    assert (terms["leverage"], terms["positions"], terms["orders"]) == (30, [], [])


async def test_account_has_prices_of_its_own_when_it_is_marked_up(sim: Simulator, http: Http) -> None:
    await http("POST", "/sim/prices", {"symbol": "EURUSD", "bid": 1.2, "ask": 1.2001})
    status, _ = await http("POST", f"/sim/accounts/{USD}/markup", {"points": 6})
    assert status == 200
    await http("POST", f"/sim/accounts/{USD}/order", {"symbol": "EURUSD", "side": "buy", "units": 10_000})
    _, truth = await http("GET", f"/sim/truth/{USD}")
    (position,) = truth["positions"]
    assert (position["entryPrice"], position["currentPrice"]) == (1.20016, 1.19994)
    await http("POST", "/sim/prices", {"symbol": "EURUSD", "bid": 1.3, "ask": 1.3001, "server": "Sim-demo"})
    _, truth = await http("GET", f"/sim/truth/{USD}")
    assert truth["positions"][0]["currentPrice"] == 1.29994
    _, truth = await http("POST", f"/sim/accounts/{USD}/markup", {"points": 0})
    assert truth["positions"][0]["currentPrice"] == 1.3
    status, problem = await http("POST", f"/sim/accounts/{USD}/markup", {"points": 1, "group": "other"})
    assert (status, "cannot move" in str(problem)) == (422, True)
    _, counters = await http("GET", "/sim/counters")
    assert counters["spotSubscriptions"] == 0


async def test_prices_can_be_set_and_frozen_when_asked_by_http(sim: Simulator, http: Http) -> None:
    _, one = await http("POST", "/sim/prices", {"symbol": "EURUSD", "bid": 1.2, "ask": 1.20002})
    _, many = await http(
        "POST", "/sim/prices", {"quotes": {"USDJPY": {"bid": 151}}, "server": "Sim-demo", "freeze": False}
    )
    assert one["servers"]["Simex-demo"]["EURUSD"] == {"bid": 1.2, "ask": 1.20002}
    assert many["servers"]["Sim-demo"]["USDJPY"]["bid"] == 151
    assert many["servers"]["Simex-demo"]["USDJPY"]["bid"] != 151
    assert not sim.services.prices.frozen


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("GET", "/sim/truth/1", None, 404, None),
        ("POST", "/sim/accounts/1/deposit", {"amount": 5}, 404, None),
        ("POST", f"/sim/accounts/{USD}/deposit", {"amount": "many"}, 422, "amount"),
        ("POST", f"/sim/accounts/{USD}/deposit", {"amount": 5, "colour": 1}, 422, "colour"),
        ("POST", f"/sim/accounts/{USD}/deposit", {}, 422, "amount"),
        ("POST", f"/sim/accounts/{USD}/order", {"symbol": "NOPE", "side": "buy", "units": 1000}, 422, "symbol"),
        ("POST", f"/sim/accounts/{USD}/order", {"symbol": "EURUSD", "side": "up", "units": 1000}, 422, "side"),
        ("POST", f"/sim/accounts/{USD}/order", {"symbol": "EURUSD", "side": "buy", "units": 7}, 409, None),
        ("POST", f"/sim/accounts/{USD}/close", {"positionId": 7}, 409, None),
        ("POST", "/sim/prices", {"quotes": {"NOPE": {"bid": 1}}}, 404, None),
        ("POST", "/sim/prices", {"quotes": {"EURUSD": {"bid": 1.0000001}}}, 422, "EURUSD.bid"),
        ("POST", "/sim/prices", {"quotes": {"EURUSD": {"bid": 2, "ask": 1}}}, 422, "EURUSD.bid"),
        ("POST", "/sim/symbols", {"symbol": "NOPE"}, 404, None),
        ("POST", "/sim/symbols", {"symbol": "EURUSD", "tradingMode": "odd"}, 422, "tradingMode"),
        ("POST", "/sim/faults", {"id": "N99"}, 404, None),
        ("POST", "/sim/faults", {"id": "N27", "variant": "never"}, 422, "variant"),
        ("POST", "/sim/faults", {"id": "N01", "colour": 1}, 422, "colour"),
        ("POST", "/sim/faults", [1], 422, "id"),
        ("DELETE", "/sim/faults/77", None, 404, None),
        ("POST", "/sim/oauth/codes", {"user": 99}, 404, None),
        ("POST", "/sim/users/99/revoke", None, 404, None),
    ],
)
async def test_a_clear_error_comes_back_when_a_body_is_wrong(
    http: Http, method: str, path: str, body: Any, status: int, field: str | None
) -> None:
    got, answer = await http(method, path, body)
    assert got == status, answer
    assert answer["error"]["message"]
    assert answer["error"]["field"] == field


async def test_a_body_that_is_no_json_is_refused_when_posted(sim: Simulator) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{sim.ports.admin}/sim/prices", data=b"{") as response,
    ):
        assert response.status == 422


async def test_faults_are_documented_begun_and_ended_when_asked_by_http(sim: Simulator, http: Http) -> None:
    _, described = await http("GET", "/sim/faults")
    _, begun = await http("POST", "/sim/faults", {"id": "N21", "every": 3, "accounts": [USD]})
    _, listed = await http("GET", "/sim/faults")
    _, ended = await http("DELETE", f"/sim/faults/{begun['number']}")
    await http("POST", "/sim/faults", {"id": "N42"})
    _, all_ended = await http("DELETE", "/sim/faults")

    assert {row["id"] for row in described["catalogue"]} == set(CATALOGUE)
    assert all(row["title"] for row in described["catalogue"])
    (active,) = listed["active"]
    assert (active["id"], active["parameters"]["every"], active["effects"]) == ("N21", 3, 0)
    assert (ended, all_ended) == ({"ended": 1}, {"ended": 1})


async def test_counters_tell_who_logged_in_when_asked_by_http(sim: Simulator, http: Http) -> None:
    async with probe(sim.ports.ctrader) as talk:
        await talk.login(USD, 1)
        _, counters = await http("GET", "/sim/counters")
    assert counters["budgetViolations"] == counters["doubleLogins"] == 0
    assert counters["authAttempts"] == 1
    assert [each["accountId"] for each in counters["authOrder"]] == [str(USD)]
    assert counters["connections"] == 1
    assert counters["requests"]["ProtoOAAccountAuthReq"] == 1
    await http("DELETE", "/sim/counters")
    assert (await http("GET", "/sim/counters"))[1]["authAttempts"] == 0


async def test_tokens_come_once_when_code_and_refresh_are_spent(sim: Simulator, http: Http) -> None:
    client = {"client_id": "sim-client", "client_secret": "sim-secret"}
    _, minted = await http("POST", "/sim/oauth/codes", {"user": 1, "scope": "accounts"})
    exchange = {"grant_type": "authorization_code", "code": minted["code"], "redirect_uri": "x", **client}
    _, first = await http("GET", "/apps/token", params=exchange)
    _, spent_code = await http("GET", "/apps/token", params=exchange)
    refresh = {"grant_type": "refresh_token", "refresh_token": first["refreshToken"], **client}
    _, second = await http("POST", "/apps/token", data=refresh)
    status, spent = await http("POST", "/apps/token", data=refresh)
    _, stranger = await http("GET", "/apps/token", params={**refresh, "client_secret": "x"})
    _, odd = await http("GET", "/apps/token", params={**client, "grant_type": "password"})

    assert first["accessToken"] == "sim-access-1-1"
    assert first["tokenType"] == "bearer"
    assert spent_code["errorCode"] == "ACCESS_DENIED"
    assert second["accessToken"] == "sim-access-1-2"
    assert (status, spent["errorCode"], spent["description"]) == (200, "ACCESS_DENIED", "Access denied")
    assert stranger["errorCode"] == "INVALID_CLIENT"
    assert odd["errorCode"] == "INVALID_REQUEST"
    sim.actions.fault("N31", users=[1])
    last = {**refresh, "refresh_token": second["refreshToken"]}
    assert (await http("GET", "/apps/token", params=last))[1]["errorCode"] == "ACCESS_DENIED"


async def test_a_revoked_user_is_refused_until_a_new_consent_when_revoked(sim: Simulator, http: Http) -> None:
    async with probe(sim.ports.ctrader) as talk:
        await talk.login(USD, 1)
        assert (await http("POST", "/sim/users/1/revoke"))[0] == 200
        code = sim.actions.mint_code(1)
        granted = sim.services.tokens.exchange(code, sim.services.clock.now_ms())
    assert granted is not None
    assert sim.services.tokens.grant_of_access("sim-access-1", 0) is None


async def test_the_command_prints_one_ready_line_and_ends_cleanly_when_signalled(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials.json"
    code = "import sys; from bridge.simulator.cli import main; sys.exit(main(sys.argv[1:]))"
    ports = [
        *("--ctrader-port", "0", "--ctrader-live-port", "0", "--ctrader-tls-port", "0", "--admin-port", "0"),
        *("--alpaca-port", "0", "--alpaca-live-port", "0"),
        *("--users", "2", "--cert-dir", str(tmp_path / "certs"), "--credentials", str(credentials)),
    ]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, *ports),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            ready = orjson.loads(await process.stdout.readline())
            async with probe(ready["ctrader"]) as talk:
                await talk.login(USD, 1)
            process.send_signal(signal.SIGTERM)
            rest = await process.stdout.read()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert list(ready) == ["ctrader", "ctraderLive", "ctraderTls", "alpaca", "alpacaLive", "admin", "ca"]
    assert rest == b""
    assert Path(ready["ca"]) == tmp_path / "certs" / "ca.pem"
    assert credentials.stat().st_mode & 0o777 == 0o600
    users = orjson.loads(credentials.read_bytes())["users"]
    assert set(users) == {"user-1", "user-2"}
    assert users["user-1"]["ctrader"] == {
        "accessToken": "sim-access-1",
        "refreshToken": "sim-refresh-1",
        "environment": "demo",
        "accountId": "1000011",
    }
