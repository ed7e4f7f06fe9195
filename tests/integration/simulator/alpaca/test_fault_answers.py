"""Faults of what the simulated Alpaca answers over REST."""

import asyncio
from decimal import Decimal

import aiohttp
import pytest

from bridge.simulator.alpaca import Simulator
from tests.support.alpaca_faults import ORDER, account, ask, buy, place
from tests.support.alpaca_probe import Stream, keys
from tests.support.waiting import eventually


class TestRest:
    """Answers."""

    async def test_rest_lags_behind_the_stream(self, sim: Simulator, talk: Stream) -> None:
        buy(sim)
        sim.actions.fault("N22", lagSeconds=60)
        buy(sim)
        await talk.until(lambda: len(talk.events) == 4)
        assert [each["qty"] for each in (await ask(sim, "/v2/positions"))[1]] == ["1"]
        assert len((await ask(sim, "/v2/orders?status=all"))[1]) == 1
        assert len((await ask(sim, "/v2/account/activities/FILL"))[1]) == 1
        rows = (await ask(sim, "/v2/account/activities"))[1]
        assert [each["activity_type"] for each in rows].count("FILL") == 1
        assert (await ask(sim, "/v2/positions/AAPL"))[1]["qty"] == "1"
        first, second = (each["order"] for each in talk.updates if each["event"] == "fill")
        assert (await ask(sim, f"/v2/orders/{first['id']}"))[0] == 200
        assert (await ask(sim, f"/v2/orders/{second['id']}"))[0] == 404
        assert (await ask(sim, f"/v2/orders:by_client_order_id?client_order_id={second['client_order_id']}"))[0] == 404
        cash = Decimal((await ask(sim, "/v2/account"))[1]["cash"])
        sim.actions.clear_faults()
        assert [each["qty"] for each in (await ask(sim, "/v2/positions"))[1]] == ["2"]
        assert Decimal((await ask(sim, "/v2/account"))[1]["cash"]) < cash

    async def test_rest_catches_up_when_the_lag_is_over(self, sim: Simulator) -> None:
        sim.actions.fault("N22", lagSeconds=0.3)
        buy(sim)
        assert (await ask(sim, "/v2/positions"))[1] == []

        async def caught_up() -> bool:
            return [each["qty"] for each in (await ask(sim, "/v2/positions"))[1]] == ["1"]

        await eventually(caught_up, within_s=5, every_s=0.1)

    async def test_each_part_lags_by_itself(self, sim: Simulator) -> None:
        sim.actions.fault("N22", lagSeconds=60, parts=["activities"])
        buy(sim)
        assert len((await ask(sim, "/v2/positions"))[1]) == 1
        assert (await ask(sim, "/v2/account/activities/FILL"))[1] == []

    async def test_an_answer_is_made_at_once_and_comes_late(self, sim: Simulator) -> None:
        sim.actions.fault("N22", lagSeconds=0, delaySeconds=0.2, parts=["positions"])
        loop = asyncio.get_running_loop()
        began = loop.time()
        asked = asyncio.create_task(ask(sim, "/v2/positions"))
        await eventually(lambda: sim.counters.requests["GET /v2/positions"] == 1, within_s=5)
        buy(sim)
        assert (await asked)[1] == []
        assert loop.time() - began >= 0.2  # a floor, which no busy machine can break

    @pytest.mark.parametrize(
        ("variant", "expected", "rows"), [("empty", 200, 0), ("error", 500, None), ("short", 200, 1)]
    )
    async def test_a_snapshot_is_broken_once(
        self, sim: Simulator, variant: str, expected: int, rows: int | None
    ) -> None:
        buy(sim)
        sim.actions.order(account(sim), symbol="MSFT", side="buy", units=Decimal(1))
        sim.actions.fault("N23", variant=variant)
        status, document = await ask(sim, "/v2/positions")
        assert status == expected
        if rows is not None:
            assert len(document) == rows
        assert len((await ask(sim, "/v2/positions"))[1]) == 2

    async def test_fields_are_missing(self, sim: Simulator) -> None:
        sim.actions.fault("N23", variant="missing_fields", parts=["account"])
        assert set((await ask(sim, "/v2/account"))[1]) == {"id", "status"}
        sim.actions.fault("N23", variant="missing_fields", parts=["account"], fields=["cash"])
        document = (await ask(sim, "/v2/account"))[1]
        assert "cash" not in document
        assert "equity" in document

    async def test_pages_are_short_and_can_be_read_to_the_end(self, sim: Simulator) -> None:
        for _ in range(3):
            buy(sim)
        sim.actions.fault("N24", rows=1)
        assert len((await ask(sim, "/v2/orders?status=all"))[1]) == 1
        found, token = [], ""
        for _ in range(5):
            (*page,) = (await ask(sim, f"/v2/account/activities/FILL?page_size=50{token}"))[1]
            if not page:
                break
            found += page
            token = f"&page_token={page[-1]['id']}"
        assert len({each["id"] for each in found}) == 3

    async def test_requests_are_too_many_whatever_their_rate(self, sim: Simulator) -> None:
        sim.actions.fault("N28", retryAfter=3, header=True, routes=["GET /v2/account"])
        url = f"http://127.0.0.1:{sim.ports.alpaca}/v2/account"
        async with aiohttp.ClientSession(headers=keys()) as session, session.get(url) as answer:
            assert answer.status == 429
            assert (await answer.json())["code"] == 42910000
            assert answer.headers["X-RateLimit-Remaining"] == "0"
            assert answer.headers["Retry-After"] == "3"
            assert int(answer.headers["X-RateLimit-Reset"]) * 1000 > sim.services.clock.now_ms()
        assert (await ask(sim, "/v2/positions"))[0] == 200
        assert sim.counters.budget_violations == 0

    async def test_an_order_is_carried_out_and_answered_with_429(self, sim: Simulator) -> None:
        sim.actions.fault("N29")
        assert (await place(sim))[0] == 429
        assert len((await ask(sim, "/v2/positions"))[1]) == 1

    @pytest.mark.parametrize(("executed", "positions"), [(False, 0), (True, 1)])
    async def test_an_order_gets_a_504_with_or_without_effect(
        self, sim: Simulator, executed: bool, positions: int
    ) -> None:
        sim.actions.fault("N10", target="rest", status=504, executed=executed, routes=["POST /v2/orders"])
        url = f"http://127.0.0.1:{sim.ports.alpaca}/v2/orders"
        async with aiohttp.ClientSession(headers=keys()) as session, session.post(url, json=ORDER) as answer:
            assert answer.status == 504
        assert len((await ask(sim, "/v2/positions"))[1]) == positions

    @pytest.mark.parametrize(("executed", "positions"), [(False, 0), (True, 1)])
    async def test_the_connection_drops_after_an_order(self, sim: Simulator, executed: bool, positions: int) -> None:
        sim.actions.fault("DROP_AFTER_REQUEST", executed=executed)
        with pytest.raises(aiohttp.ClientError):
            await place(sim)
        assert len((await ask(sim, "/v2/positions"))[1]) == positions

    async def test_an_order_is_refused_as_chosen(self, sim: Simulator) -> None:
        sim.actions.fault("ORDER_REJECTED", status=422, code=42210000, text="no", count=1)
        assert await place(sim) == (422, {"code": 42210000, "message": "no"})
        assert (await place(sim))[0] == 200

    async def test_rest_says_401_to_a_good_credential(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N36", count=1)
        assert (await ask(sim, "/v2/account"))[0] == 401
        assert (await ask(sim, "/v2/account"))[0] == 200
        await talk.listen()

    async def test_bodies_are_broken(self, sim: Simulator) -> None:
        for variant in ("half", "html", "random"):
            sim.actions.fault("BROKEN_BODY", variant=variant)
            with pytest.raises(ValueError):  # noqa: PT011 (whatever the JSON reader says)
                await ask(sim, "/v2/account")
        sim.actions.fault("BROKEN_BODY", variant="cut")
        with pytest.raises(aiohttp.ClientError):
            await ask(sim, "/v2/account")
        assert (await ask(sim, "/v2/account"))[0] == 200

    async def test_answers_trickle(self, sim: Simulator) -> None:
        sim.actions.fault("SLOW_REST", bytesPerSecond=5_000, routes=["GET /v2/account"])
        loop = asyncio.get_running_loop()
        began = loop.time()
        status, document = await ask(sim, "/v2/account")
        assert (status, document["status"]) == (200, "ACTIVE")
        assert loop.time() - began >= 0.1  # a floor, which no busy machine can break

    async def test_documents_are_odd(self, sim: Simulator) -> None:
        buy(sim)
        sim.actions.fault("ODD_ANSWER", variant="unknown_enum", parts=["orders"])
        (order,) = (await ask(sim, "/v2/orders?status=all"))[1]
        assert order["status"] == order["type"] == "zz_unknown"
        sim.actions.fault("ODD_ANSWER", variant="unknown_fields", parts=["account"])
        assert "zz_new" in (await ask(sim, "/v2/account"))[1]
        sim.actions.fault("ODD_ANSWER", variant="nan_price", parts=["positions"])
        assert (await ask(sim, "/v2/positions"))[1][0]["current_price"] == "NaN"
