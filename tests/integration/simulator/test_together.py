"""Both simulated brokers behind one admin server and one command."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from bridge.simulator import alpaca, ctrader
from bridge.simulator.running import Brokers
from core.errors import InvalidInput
from tests.support.alpaca_rest import rest
from tests.support.waiting import eventually

WITHIN_S = 5.0
ROOT = Path(__file__).resolve().parents[3]
USD = 1_000_011
NOBODY = "11111111-1111-5111-8111-111111111111"


def brokers(prices: str = "frozen", **more: Any) -> Brokers:
    return Brokers(
        ctrader.SimulatorSettings(users=2, prices=prices, ctrader_tls_port=None),
        alpaca.SimulatorSettings(users=2, prices=prices, partial_fill_share=0),
        **more,
    )


@pytest.fixture
async def both() -> AsyncIterator[Brokers]:
    async with brokers() as running:
        yield running


class Http:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self._session.request(method, path, json=body) as response:
            return response.status, await response.json()

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = await self(method, path, body)
        assert status == 200, f"{method} {path} {body}: {status} {answer}"
        return answer


@pytest.fixture
async def http(both: Brokers) -> AsyncIterator[Http]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{both.ctrader.ports.admin}") as session:
        yield Http(session)


@pytest.fixture
def account(both: Brokers) -> str:
    """User 1's paper account."""
    found: str = both.alpaca.actions.accounts()[0]["accountId"]
    return found


async def test_accounts_of_both_are_listed_and_told_apart_when_asked(http: Http, account: str) -> None:
    listed = (await http.ok("GET", "/sim/accounts"))["accounts"]
    assert listed[0]["accountId"] == str(USD)
    assert {row["broker"] for row in listed} == {"ctrader", "alpaca"}
    theirs = [row for row in listed if row["broker"] == "alpaca"]
    assert [(row["userId"], row["environment"], row["login"]) for row in theirs] == [
        ("user-1", "demo", "PA10000001"),
        ("user-1", "live", "10000001"),
        ("user-2", "demo", "PA10000002"),
    ]
    assert (await http.ok("GET", "/sim/alpaca/accounts"))["accounts"] == theirs
    assert (await http.ok("GET", f"/sim/truth/{USD}"))["moneyDigits"] == 2
    assert (await http.ok("GET", f"/sim/truth/{account}"))["login"] == "PA10000001"
    for path in (f"/sim/truth/{NOBODY}", "/sim/truth/7"):
        status, answer = await http("GET", path)
        assert (status, answer["error"]["code"]) == (404, "NOT_FOUND")


async def test_an_account_trades_when_told_over_http(http: Http, account: str) -> None:
    path = f"/sim/accounts/{account}"
    assert await http.ok("POST", f"{path}/deposit", {"amount": 0.5}) == {"balance": 100_000.5}
    assert await http.ok("POST", f"{path}/pay", {"type": "FEE", "amount": "-0.5"}) == {"balance": 100_000}
    await http.ok("POST", "/sim/alpaca/prices", {"symbol": "AAPL", "bid": 199.99, "ask": 200, "price": 200})
    bought = await http.ok("POST", f"{path}/order", {"symbol": "AAPL", "side": "buy", "units": 10})
    assert (bought["filledUnits"], bought["averagePrice"], bought["status"]) == (10, 200, "filled")
    wish = {"symbol": "AAPL", "side": "sell", "units": "2", "type": "limit", "limitPrice": 250, "timeInForce": "gtc"}
    working = await http.ok("POST", f"{path}/order", wish)
    moved = await http.ok("POST", f"{path}/replace", {"orderId": working["orderId"], "limitPrice": 260})

    async def orders() -> Any:
        return (await http.ok("GET", f"/sim/truth/{account}"))["orders"]

    async def is_replaced() -> bool:
        return [(each["id"], each["limitPrice"]) for each in await orders()] == [(moved["orderId"], 260)]

    await eventually(is_replaced, within_s=WITHIN_S)
    await http.ok("POST", f"{path}/cancel", {"orderId": moved["orderId"]})

    async def is_gone() -> bool:
        return await orders() == []

    await eventually(is_gone, within_s=WITHIN_S)
    assert (await http.ok("POST", f"{path}/close", {"symbol": "AAPL", "units": 4}))["filledUnits"] == 4
    (position,) = (await http.ok("GET", f"/sim/truth/{account}"))["positions"]
    assert (position["symbol"], position["units"], position["entryPrice"]) == ("AAPL", 6, 200)
    assert (await http.ok("POST", f"{path}/close", {"positionId": position["id"], "percentage": 50}))[
        "filledUnits"
    ] == 3
    exits = {"orderClass": "bracket", "takeProfit": 300, "stopLoss": 40}
    entry = {"symbol": "MSFT", "side": "buy", "units": 1, "type": "limit", "limitPrice": 50}
    await http.ok("POST", f"{path}/order", entry | exits)
    assert [each["status"] for each in await orders()].count("held") == 2
    assert len((await http.ok("POST", f"{path}/cancel", {}))["canceled"]) >= 1
    await eventually(is_gone, within_s=WITHIN_S)
    assert await http.ok("POST", f"{path}/close", {}) == {"closed": [{"symbol": "AAPL", "status": 200}]}
    legs = [{"symbol": each, "side": side} for each, side in zip(await calls(http), ("buy", "sell"), strict=True)]
    spread = {"orderClass": "mleg", "units": 1, "legs": legs}
    assert (await http.ok("POST", f"{path}/order", spread))["orderId"]
    crypto = await http.ok("POST", f"{path}/order", {"symbol": "BTC/USD", "side": "buy", "notional": 100})
    assert crypto["status"] == "filled"


async def calls(http: Http) -> list[str]:
    """Two call options on the same stock."""
    symbols = (await http.ok("GET", "/sim/alpaca/prices"))["symbols"]
    return [name for name in symbols if name.startswith("AAPL") and "C00" in name][:2]


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("deposit", {"amount": "many"}, 422, "amount"),
        ("deposit", {"amount": 1, "colour": 2}, 422, "colour"),
        ("pay", {"type": "dividend", "amount": 1}, 422, "type"),
        ("order", {"symbol": "AAPL", "side": "up", "units": 1}, 422, "side"),
        ("order", {"symbol": "AAPL", "side": "buy", "units": -1}, 422, "units"),
        ("order", {"symbol": "AAPL", "side": "buy", "units": 1, "type": "odd"}, 422, "type"),
        ("order", {"symbol": "NOPE", "side": "buy", "units": 1}, 409, None),
        ("order", {"symbol": "AAPL", "side": "buy", "units": 10**9}, 409, None),
        ("cancel", {"orderId": "nobody"}, 409, None),
        ("close", {"symbol": "AAPL"}, 409, None),
        ("replace", {"orderId": "nobody", "units": 1}, 409, None),
    ],
)
async def test_a_clear_error_comes_back_when_a_wish_is_wrong(
    http: Http, account: str, path: str, body: Any, status: int, field: str | None
) -> None:
    got, answer = await http("POST", f"/sim/accounts/{account}/{path}", body)
    assert (got, answer["error"]["field"]) == (status, field), answer
    assert answer["error"]["message"]
    if status == 409:
        assert answer["error"]["code"].isdecimal()


async def test_each_broker_has_its_own_prices_faults_and_counters_when_asked(both: Brokers, http: Http) -> None:
    frozen = await http.ok("POST", "/sim/alpaca/prices", {"freeze": False, "quotes": {"MSFT": {"price": 400}}})
    assert (frozen["frozen"], frozen["symbols"]["MSFT"]["price"]) == (False, 400)
    assert both.ctrader.services.prices.frozen
    await http.ok("POST", "/sim/alpaca/prices", {"freeze": True})
    assert (await http("POST", "/sim/alpaca/prices", {"quotes": {"NOPE": {"price": 1}}}))[0] == 404
    assert (await http("POST", "/sim/alpaca/prices", {"quotes": {"MSFT": {"bid": 2, "ask": 1}}}))[0] == 422
    assert await http.ok("POST", "/sim/alpaca/market", {"state": "closed"}) == {"market": "closed"}
    assert (await http("POST", "/sim/alpaca/market", {"state": "ajar"}))[0] == 422

    begun = await http.ok("POST", "/sim/alpaca/faults", {"id": "N01"})
    assert begun["number"] == 1
    assert (await http("POST", "/sim/alpaca/faults", {"id": "N99"}))[0] == 404
    assert (await http("POST", "/sim/alpaca/faults", [1]))[0] == 422
    limited = (await http.ok("POST", "/sim/alpaca/faults", {"id": "N28"}))["number"]
    described = await http.ok("GET", "/sim/alpaca/faults")
    assert [each["number"] for each in described["active"]] == [limited]
    assert all(each["title"] for each in described["catalogue"])
    assert (await http.ok("GET", "/sim/faults"))["active"] == []
    assert await http.ok("DELETE", f"/sim/alpaca/faults/{limited}") == {"ended": 1}
    assert (await http("DELETE", "/sim/alpaca/faults/99"))[0] == 404

    async with rest(both.alpaca.ports.alpaca) as client:
        await client.ok("GET", "/v2/account")
    assert (await http.ok("GET", "/sim/alpaca/counters"))["requests"] == {"GET /v2/account": 1}
    assert "GET /v2/account" not in (await http.ok("GET", "/sim/counters"))["requests"]
    assert await http.ok("GET", "/sim/ctrader/counters") == await http.ok("GET", "/sim/counters")
    await http.ok("DELETE", "/sim/alpaca/counters")
    assert (await http.ok("GET", "/sim/alpaca/counters"))["requests"] == {}


async def test_credentials_die_and_live_again_when_told_over_http(both: Brokers, http: Http) -> None:
    async with rest(both.alpaca.ports.alpaca) as client:
        await http.ok("POST", "/sim/alpaca/users/1/revoke")
        assert (await client("GET", "/v2/account")).status == 401
        assert await http.ok("POST", "/sim/alpaca/users/1/restore-keys") == {"restored": 2}
        assert (await client("GET", "/v2/account")).status == 200
    assert (await http("POST", "/sim/alpaca/users/99/revoke"))[0] == 404
    assert (await http("POST", "/sim/alpaca/users/1/revoke", {"what": "hope"}))[0] == 422
    assert (await http.ok("POST", "/sim/alpaca/oauth/codes", {"user": 2, "env": "paper"}))["code"]
    assert (await http("POST", "/sim/alpaca/oauth/codes", {"user": 2, "env": "live"}))[0] == 422
    assert (await http("POST", "/sim/alpaca/oauth/codes", {"user": 2, "scope": "all"}))[0] == 422
    assert (await http("POST", "/sim/alpaca/oauth/codes", {"user": 9}))[0] == 404


async def test_one_file_moves_both_brokers_prices_when_replayed(tmp_path: Path) -> None:
    file = tmp_path / "ticks.csv"
    file.write_text("time_ms,symbol,bid,ask\n1000,EURUSD,1.5,1.50002\n1000,AAPL,300,300.02\n")
    async with brokers(str(file)) as both:

        def moved() -> bool:
            servers = both.ctrader.actions.quotes()["servers"]
            return (servers["Sim-demo"]["EURUSD"]["bid"], both.alpaca.actions.quotes()["symbols"]["AAPL"]["bid"]) == (
                1.5,
                300,
            )

        await eventually(moved, within_s=WITHIN_S)
    file.write_text("1000,EURUSDX,1.5,1.50002\n")
    with pytest.raises(InvalidInput):
        brokers(str(file))


async def test_what_was_opened_is_closed_when_the_start_fails(tmp_path: Path) -> None:
    async with brokers() as running:
        taken = running.ctrader.ports.admin
        second = Brokers(
            ctrader.SimulatorSettings(users=1, prices="frozen", ctrader_tls_port=None, admin_port=taken),
            alpaca.SimulatorSettings(users=1, prices="frozen"),
            credentials=tmp_path / "credentials.json",
        )
        with pytest.raises(OSError, match="address"):
            await second.start()
        paper = second.alpaca.ports.alpaca
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection("127.0.0.1", paper)
    assert not (tmp_path / "credentials.json").exists()


async def test_the_command_writes_credentials_and_variables_of_both_when_ready(tmp_path: Path) -> None:
    credentials, env = tmp_path / "credentials.json", tmp_path / "sim.env"
    kinds = ("ctrader", "ctrader-live", "ctrader-tls", "alpaca", "alpaca-live", "admin")
    flags = [f"--{kind}-port=0" for kind in kinds]
    limits = ["--alpaca-requests-per-minute=2", "--alpaca-slot-seconds=1.5", "--prices=frozen", "--users=2"]
    files = [f"--credentials={credentials}", f"--env={env}", f"--cert-dir={tmp_path / 'certs'}"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge", "simulate", *flags, *limits, *files),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            ready = orjson.loads(await process.stdout.readline())
            async with rest(ready["alpaca"]) as client:
                statuses = [(await client("GET", "/v2/account")).status for _ in range(3)]
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert statuses == [200, 200, 429]
    users = orjson.loads(credentials.read_bytes())["users"]
    assert users["user-2"]["ctrader"]["accessToken"] == "sim-access-2"
    assert users["user-2"]["alpaca"] == {
        "keyId": "SIMKEY2",
        "secretKey": "sim-alpaca-secret-2",
        "environment": "paper",
    }
    shell = subprocess.run(
        ["sh", "-c", 'set -a; . "$0"; echo "$ALPACA_PAPER_URL $CTRADER_DEMO_URL $BRIDGE_CREDENTIALS_FILE"', str(env)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shell.stdout.split() == [
        f"http://127.0.0.1:{ready['alpaca']}",
        f"ws://127.0.0.1:{ready['ctrader']}",
        str(credentials),
    ]
    assert env.stat().st_mode & 0o777 == 0o600
