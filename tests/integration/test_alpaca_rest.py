"""REST of the Alpaca adapter against a small server on loopback that answers what a test tells it to."""

import asyncio
import datetime as dt
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bridge.brokers.alpaca import credential
from bridge.brokers.alpaca.budget import Priority
from bridge.brokers.alpaca.gate import Gate
from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.reading import Executions
from bridge.brokers.alpaca.requests import Requests
from bridge.brokers.alpaca.rest import RestClient
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.alpaca.times import from_ms, to_ns
from bridge.brokers.alpaca.updates import facts, read
from bridge.brokers.base import FaultKind, ReasonCode
from bridge.brokers.stats import Stats
from bridge.runtime.clock import SystemClock
from bridge.simulator.certificates import make_certificates
from core.errors import InDoubt
from tests.support.alpaca_host import Answer, Host, fault_of, running_host
from tests.unit.alpaca.documents import NOW, a_fill, a_mirror, a_position, an_account, an_activity, an_order

KEYS = {"keyId": "SIMKEY1", "secretKey": "sim-alpaca-secret-1", "environment": "paper"}


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with running_host() as running:
        yield running


@dataclass
class World:
    settings: AlpacaSettings
    stats: Stats
    client: RestClient
    gate: Gate
    requests: Requests


@pytest.fixture
async def make(host: Host) -> AsyncIterator[Callable[..., World]]:
    clients: list[RestClient] = []

    def build(entry: dict[str, Any] | None = None, **changed: Any) -> World:
        url = f"http://127.0.0.1:{host.port}"
        settings = replace(AlpacaSettings(paper_url=url, live_url=url), **changed)
        clock, stats = SystemClock(), Stats()
        client, gate = RestClient(settings, clock), Gate(settings, clock, stats)
        clients.append(client)
        stored = credential.read("g", entry or KEYS)
        return World(settings, stats, client, gate, Requests(settings, clock, stats, client, gate, stored))

    yield build
    for client in clients:
        await client.close()


# ---------------------------------------------------------------- what is asked


async def test_keys_are_shown_in_headers_and_the_account_read_when_asked(
    host: Host, make: Callable[..., World]
) -> None:
    host.answering = lambda request: an_account()
    world = make()
    assert world.requests.heard_at is None
    assert await world.requests.account(Priority.LOGIN) == an_account()
    (asked,) = host.asked
    assert (asked.method, asked.path_qs) == ("GET", "/v2/account")
    assert asked.headers["APCA-API-KEY-ID"] == "SIMKEY1"
    assert asked.headers["APCA-API-SECRET-KEY"] == "sim-alpaca-secret-1"
    assert world.requests.heard_at is not None
    assert world.stats.get("requests.ok") == world.stats.get("requests.sent") == 1


async def test_a_token_is_shown_as_bearer_when_asked(host: Host, make: Callable[..., World]) -> None:
    host.answering = lambda request: [a_position()]
    world = make({"accessToken": "sim-alpaca-oauth-1", "environment": "live"})
    assert await world.requests.positions(Priority.POLL) == [a_position()]
    assert host.asked[0].headers["Authorization"] == "Bearer sim-alpaca-oauth-1"


async def test_open_orders_are_read_to_the_end_when_there_are_many(host: Host, make: Callable[..., World]) -> None:
    """Newest first; three of one instant lie across the end of the first page, and `until` is exclusive."""
    at = [f"2026-11-20T14:30:{n // 20:02d}.{n % 20 // 3:03d}Z" for n in range(1101)]
    rows = [an_order(id=f"o{n}", submitted_at=at[n]) for n in reversed(range(1101))]

    def answer(request: web.Request) -> Answer:
        query = request.query
        assert (query["status"], query["nested"], query["direction"]) == ("open", "true", "desc")
        until = to_ns(query["until"]) if "until" in query else None
        found = [row for row in rows if until is None or to_ns(row["submitted_at"]) < until]
        return found[: int(query["limit"])]

    host.answering = answer
    found = await make().requests.open_orders(Priority.LOGIN)
    assert [each["id"] for each in found] == [row["id"] for row in rows]
    assert len(host.asked) == 3


@pytest.mark.parametrize(("since", "pages", "complete"), [(0, 3, True), (150, 2, True), (249, 1, True)])
async def test_executions_are_read_back_as_far_as_asked_when_there_are_many(
    host: Host, make: Callable[..., World], since: int, pages: int, complete: bool
) -> None:
    rows = [an_activity(f"e{n}", from_ms(NOW + n)) for n in reversed(range(250))]

    def answer(request: web.Request) -> Answer:
        ids = [row["id"] for row in rows]
        start = ids.index(request.query["page_token"]) + 1 if "page_token" in request.query else 0
        return rows[start : start + int(request.query["page_size"])]

    host.answering = answer
    found, whole = await make().requests.fills(Priority.LOGIN, NOW + since)
    assert whole is complete
    assert found[-1].execution_id == "e249"
    assert [row.execution_id for row in found] == [f"e{n}" for n in range(250)][-100 * pages :]
    assert found[0].at_ms < NOW + since or found[0].execution_id == "e0"


async def test_a_search_is_told_as_cut_short_when_there_are_too_many_executions(
    host: Host, make: Callable[..., World]
) -> None:
    def answer(request: web.Request) -> Answer:
        page = int(request.query.get("page_token", "x::0").rpartition("::")[2])
        return [an_activity(f"{n}", from_ms(NOW - n)) for n in range(page + 1, page + 101)]

    host.answering = answer
    world = make(activity_pages=3)
    found, whole = await world.requests.fills(Priority.LOGIN, 0)
    assert (len(found), whole, world.stats.get("activities_cut_short")) == (300, False, 1)


async def test_a_reading_asks_for_executions_last_when_made(host: Host, make: Callable[..., World]) -> None:
    answers: dict[str, Answer] = {
        "/v2/account": an_account(),
        "/v2/positions": [a_position()],
        "/v2/orders": [an_order()],
        "/v2/account/activities/FILL": [an_activity("e1", from_ms(NOW))],
    }
    host.answering = lambda request: answers[request.path]
    world = make()
    reading = await world.requests.reading(Priority.LOGIN, Executions(world.settings))
    assert host.paths == [f"GET {path}" for path in answers]
    assert (reading.account["id"], len(reading.positions), len(reading.orders)) == ("acc", 1, 1)
    assert [(row.execution_id, row.units) for row in reading.fills] == [("e1", Decimal(4))]
    assert reading.before == frozenset()


async def test_a_reading_asks_for_executions_first_and_last_when_the_stream_told_of_some(
    host: Host, make: Callable[..., World]
) -> None:
    def answer(request: web.Request) -> Answer:
        if request.path.endswith("FILL"):
            return [an_activity("e1", from_ms(NOW))]
        return an_account() if request.path == "/v2/account" else []

    host.answering = answer
    world, memory, assets = make(), Executions(AlpacaSettings()), Assets()
    told = facts(read(a_fill("e1")), a_mirror(assets), assets, memory.included)
    memory.heard(told, SystemClock().monotonic())
    reading = await world.requests.reading(Priority.LOGIN, memory)
    assert [path.rpartition("/")[2] for path in host.paths] == ["FILL", "account", "positions", "orders", "FILL"]
    assert reading.before == {"e1"}


async def test_an_asset_is_none_when_there_is_none(host: Host, make: Callable[..., World]) -> None:
    host.answering = lambda request: web.json_response({"code": 40410000, "message": "asset not found"}, status=404)
    assert await make().requests.asset("BTC/USD", Priority.POLL) is None
    assert host.asked[0].raw_path == "/v2/assets/BTC%2FUSD"


# ---------------------------------------------------------------- what goes wrong


async def test_each_refusal_is_a_fault_when_the_broker_refuses(host: Host, make: Callable[..., World]) -> None:
    host.answering = lambda request: web.json_response({"message": "unauthorized."}, status=401)
    world = make()
    fault = await fault_of(world.requests.account(Priority.LOGIN))
    assert (fault.kind, fault.reason.code) == (FaultKind.FATAL_USER, ReasonCode.CREDENTIALS_INVALID)
    assert world.stats.get("refusals.HTTP_401") == 1
    fault = await fault_of(
        make({"accessToken": "sim-alpaca-oauth-1", "environment": "live"}).requests.account(Priority.LOGIN)
    )
    assert fault.reason.code is ReasonCode.TOKEN_REVOKED


@pytest.mark.parametrize("name", ["X-RateLimit-Reset", "Retry-After", None])
async def test_nothing_leaves_until_the_reset_when_there_were_too_many(
    host: Host, make: Callable[..., World], name: str | None
) -> None:
    values = {"X-RateLimit-Reset": str(SystemClock().now_ms() // 1000 + 100), "Retry-After": "100", None: ""}
    said = {name: values[name]} if name is not None else {}
    host.answering = lambda request: web.json_response({"code": 42910000}, status=429, headers=said)
    world = make(throttle_s=100.0, queue_timeout_s=5.0)
    for ask in (world.requests.account, world.requests.positions):
        fault = await fault_of(ask(Priority.LOGIN))
        assert fault.kind is FaultKind.THROTTLE
        assert fault.retry_after_s is not None
        assert 90 < fault.retry_after_s < 105
    assert len(host.asked) == 1


async def test_requests_wait_for_the_next_period_when_headers_leave_none(
    host: Host, make: Callable[..., World]
) -> None:
    """Others on the same account have used it up: the next request comes after the reset, not refused."""
    loop, at = asyncio.get_running_loop(), []

    def answer(request: web.Request) -> Answer:
        at.append(loop.time())
        now_s = SystemClock().now_ms() // 1000
        said = {"X-RateLimit-Limit": "200", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(now_s)}
        return web.json_response(an_account(), headers=said)

    host.answering = answer
    world = make()
    await world.requests.account(Priority.LOGIN)
    await world.requests.account(Priority.LOGIN)
    assert at[1] - at[0] > 0.9
    assert world.stats.get("requests.refused") == 0


async def test_a_request_has_no_turn_in_time_when_the_budget_is_spent(host: Host, make: Callable[..., World]) -> None:
    host.answering = lambda request: an_account()
    world = make(requests_per_minute=2, queue_timeout_s=0.1)
    for _ in range(2):
        await world.requests.account(Priority.LOGIN)
    fault = await fault_of(world.requests.account(Priority.LOGIN))
    assert (fault.kind, world.stats.get("requests.no_turn"), len(host.asked)) == (FaultKind.THROTTLE, 1, 2)


async def test_whoever_waits_is_told_when_the_account_is_left(host: Host, make: Callable[..., World]) -> None:
    host.answering = lambda request: an_account()
    world = make(requests_per_minute=1)
    await world.requests.account(Priority.LOGIN)
    waiting = asyncio.ensure_future(world.requests.account(Priority.LOGIN))
    await asyncio.sleep(0)
    world.gate.close()
    assert (await fault_of(waiting)).reason.code is ReasonCode.CONNECTION_LOST


async def test_a_turn_is_free_again_when_its_request_was_cancelled(host: Host, make: Callable[..., World]) -> None:
    host.answering = lambda request: an_account()
    world = make(requests_per_minute=1)
    await world.requests.account(Priority.LOGIN)
    waiting = asyncio.ensure_future(world.requests.account(Priority.LOGIN))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert world.gate._budget.queued == world.gate._budget.in_flight == 0


async def test_it_is_a_fault_when_no_answer_comes_in_time(host: Host, make: Callable[..., World]) -> None:
    held = asyncio.Event()

    async def answer(request: web.Request) -> Answer:
        await held.wait()
        return an_account()

    host.answering = answer
    world = make(request_timeout_s=0.1)
    fault = await fault_of(world.requests.account(Priority.LOGIN))
    held.set()
    assert (fault.kind, fault.reason.code, fault.in_doubt) == (FaultKind.TRANSIENT, ReasonCode.BROKER_ERROR, True)


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"7", b'{"id": '])
async def test_it_is_a_fault_when_an_answer_cannot_be_read(
    host: Host, make: Callable[..., World], content: bytes
) -> None:
    host.answering = lambda request: web.Response(body=content)
    fault = await fault_of(make().requests.account(Priority.LOGIN))
    assert (fault.kind, fault.reason.code) == (FaultKind.TRANSIENT, ReasonCode.BROKER_ERROR)


async def test_it_is_a_fault_when_an_answer_never_ends(
    host: Host, make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.brokers.alpaca.rest.LARGEST_ANSWER", 10_000)
    host.answering = lambda request: [a_position()] * 1000
    fault = await fault_of(make().requests.positions(Priority.LOGIN))
    assert (fault.kind, fault.reason.code) == (FaultKind.TRANSIENT, ReasonCode.BROKER_ERROR)


async def test_nobody_is_followed_elsewhere_when_an_answer_redirects(host: Host, make: Callable[..., World]) -> None:
    host.answering = lambda request: web.Response(status=302, headers={"Location": f"http://127.0.0.1:{host.port}/x"})
    fault = await fault_of(make().requests.account(Priority.LOGIN))
    assert (fault.broker_code, host.paths) == ("HTTP_302", ["GET /v2/account"])


async def test_the_broker_is_unreachable_when_nobody_listens(host: Host, make: Callable[..., World]) -> None:
    fault = await fault_of(make(paper_url="http://127.0.0.1:9").requests.account(Priority.LOGIN))
    assert fault.reason.code is ReasonCode.BROKER_UNREACHABLE
    assert not fault.in_doubt


async def test_the_certificate_is_named_when_it_is_not_acceptable(make: Callable[..., World], tmp_path: Path) -> None:
    context = make_certificates(tmp_path, dt.datetime.now(dt.UTC)).contexts["good"]
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    fault = await fault_of(make(paper_url=url).requests.account(Priority.LOGIN))
    assert fault.reason.code is ReasonCode.BROKER_UNREACHABLE
    assert fault.retry_after_s == 30.0
    server.close()
    await server.wait_closed()


# ---------------------------------------------------------------- what changes something


async def test_a_change_leaves_once_and_is_in_doubt_when_the_connection_ends(
    host: Host, make: Callable[..., World]
) -> None:
    async def cut(request: web.Request) -> Answer:
        assert request.transport is not None
        request.transport.close()
        await asyncio.sleep(0)
        return {}

    world = make()
    for method in ("DELETE", "POST", "PATCH"):
        host.answering = lambda request: an_account()
        await world.requests.account(Priority.LOGIN)  # a kept connection, which the library would try anew
        host.answering = cut
        host.asked.clear()
        with pytest.raises(InDoubt):
            await world.requests.act(method, "/v2/orders", {"qty": "1"})
        assert host.paths == [f"{method} /v2/orders"]


@pytest.mark.parametrize("status", [500, 503, 504])
async def test_a_change_is_in_doubt_when_the_broker_is_out_of_order(
    host: Host, make: Callable[..., World], status: int
) -> None:
    host.answering = lambda request: web.Response(status=status)
    with pytest.raises(InDoubt):
        await make().requests.act("POST", "/v2/orders", {})
    assert len(host.asked) == 1


async def test_a_change_is_answered_or_refused_when_the_broker_says_so(host: Host, make: Callable[..., World]) -> None:
    world = make()
    host.answering = lambda request: web.Response(status=204)
    assert await world.requests.act("DELETE", "/v2/orders/o1") is None
    host.answering = lambda request: an_order()
    assert await world.requests.act("POST", "/v2/orders", {"symbol": "AAPL"}) == an_order()
    assert host.asked[-1].headers["Content-Type"] == "application/json"
    host.answering = lambda request: web.json_response({"code": 42210000, "message": "order is not open"}, status=422)
    assert (await fault_of(world.requests.act("DELETE", "/v2/orders/o1"))).broker_code == "42210000"


async def test_a_change_is_no_doubt_when_nothing_could_be_sent(make: Callable[..., World]) -> None:
    fault = await fault_of(make(paper_url="http://127.0.0.1:9").requests.act("POST", "/v2/orders", {}))
    assert fault.reason.code is ReasonCode.BROKER_UNREACHABLE


async def test_no_secret_is_logged_when_anything_goes_wrong(
    host: Host, make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    host.answering = lambda request: web.Response(status=500, text="sim-alpaca-secret-1")
    await fault_of(make().requests.account(Priority.LOGIN))
    await fault_of(make(paper_url="http://127.0.0.1:9").requests.account(Priority.LOGIN))
    assert "sim-alpaca-secret-1" not in caplog.text
