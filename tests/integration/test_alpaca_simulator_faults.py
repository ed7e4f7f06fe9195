"""Every fault of the simulated Alpaca does what its title says."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import InvalidStatus

from bridge.simulator.alpaca import Simulator, SimulatorSettings
from bridge.simulator.alpaca.faults import CATALOGUE
from core.errors import InvalidInput, NotFound
from tests.support.alpaca_probe import Stream, keys, listening, reading, rest, stream
from tests.support.waiting import eventually

ORDER = {"symbol": "AAPL", "side": "buy", "qty": "1", "type": "market", "time_in_force": "day"}


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    settings = SimulatorSettings(users=2, prices="frozen", partial_fill_share=0, slot_seconds=30)
    async with Simulator(settings) as running:
        yield running


@pytest.fixture
async def talk(sim: Simulator) -> AsyncIterator[Stream]:
    async with listening(sim.ports.alpaca) as talking:
        yield talking


def account(sim: Simulator, user: int = 1) -> str:
    return sim.services.world.of_user[user][0].id


def buy(sim: Simulator, user: int = 1, units: int = 1) -> None:
    sim.actions.order(account(sim, user), symbol="AAPL", side="buy", units=Decimal(units))


def move(sim: Simulator) -> None:
    sim.actions.quote("AAPL", price=Decimal("200.5"))


async def ask(sim: Simulator, path: str, **more: Any) -> tuple[int, Any]:
    return await rest(sim.ports.alpaca, "GET", path, **more)


async def place(sim: Simulator) -> tuple[int, Any]:
    return await rest(sim.ports.alpaca, "POST", "/v2/orders", body=ORDER)


async def settled(talk: Stream) -> list[str]:
    """The events once everything that was sent before has arrived."""
    await talk.listen()
    return talk.events


async def refused_with(sim: Simulator, path: str = "/stream", headers: dict[str, str] | None = None) -> int:
    with pytest.raises(InvalidStatus) as refused:
        async with stream(sim.ports.alpaca, path, headers=headers):
            pass
    return refused.value.response.status_code


class TestTable:
    """Beginning, limiting and ending faults."""

    def test_every_fault_has_a_title_and_described_parameters(self, sim: Simulator) -> None:
        rows = sim.actions.fault_catalogue()
        assert [row["id"] for row in rows] == list(CATALOGUE)
        for row in rows:
            assert row["title"]
            assert all(each["meaning"] for each in row["parameters"].values()), row["id"]

    def test_unknown_ids_and_wrong_parameters_are_refused(self, sim: Simulator) -> None:
        with pytest.raises(NotFound):
            sim.actions.fault("N99")
        for parameters in ({"zz": 1}, {"probability": 2}, {"count": 0}, {"environment": "demo"}):
            with pytest.raises(InvalidInput):
                sim.actions.fault("N21", **parameters)
        with pytest.raises(NotFound):
            sim.actions.clear_faults(7)

    async def test_a_fault_ends_after_its_count(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N21", count=1)
        buy(sim)
        assert await settled(talk) == ["fill"]
        assert sim.actions.active_faults() == []

    async def test_a_fault_ends_when_it_is_cleared(self, sim: Simulator, talk: Stream) -> None:
        number = sim.actions.fault("N21")
        buy(sim)
        (active,) = sim.actions.active_faults()
        assert (active["number"], active["id"], active["effects"]) == (number, "N21", 2)
        assert sim.actions.clear_faults(number) == 1
        buy(sim)
        assert await settled(talk) == ["new", "fill"]

    async def test_a_fault_ends_after_its_time(self, sim: Simulator) -> None:
        sim.actions.fault("N36", durationSeconds=0.05)
        await eventually(lambda: sim.actions.active_faults() == [], within_s=5)
        assert (await ask(sim, "/v2/account"))[0] == 200

    async def test_a_fault_leaves_other_accounts_alone(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N21", accounts=[account(sim, 2)])
        sim.actions.fault("N36", accounts=[account(sim, 2)])
        async with listening(sim.ports.alpaca, 2) as other:
            buy(sim)
            buy(sim, 2)
            assert await settled(talk) == ["new", "fill"]
            assert await settled(other) == []
        assert (await ask(sim, "/v2/account"))[0] == 200
        assert (await ask(sim, "/v2/account", user=2))[0] == 401

    async def test_a_fault_leaves_the_other_environment_alone(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N21", environment="live")
        buy(sim)
        assert await settled(talk) == ["new", "fill"]


class TestConnections:
    """Cuts and silence."""

    @pytest.mark.parametrize(("fault", "code"), [("N01", 1006), ("N02", 1001), ("N40", 1006)])
    async def test_streams_end_when_they_are_cut(self, sim: Simulator, talk: Stream, fault: str, code: int) -> None:
        async with reading(sim.ports.alpaca, "/v2/iex") as data:
            sim.actions.fault(fault)
            assert await talk.ended() == code
            assert await data.ended() == code
        assert sim.counters.trading_streams == sim.counters.data_streams == 0

    @pytest.mark.parametrize(
        ("fault", "parameters", "status"),
        [
            ("N01", {}, "exceeded"),
            ("N40", {}, "exceeded"),
            ("N01", {"holdSlot": False}, "authorized"),
            ("N40", {"holdSlot": False}, "authorized"),
            ("N02", {}, "authorized"),
        ],
    )
    async def test_a_cut_stream_keeps_its_slot_unless_it_was_closed_cleanly(
        self, sim: Simulator, talk: Stream, fault: str, parameters: dict[str, Any], status: str
    ) -> None:
        sim.actions.fault(fault, **parameters)
        await talk.ended()
        async with stream(sim.ports.alpaca) as again:
            assert (await again.login())["status"] == status

    async def test_only_the_chosen_streams_are_cut(self, sim: Simulator, talk: Stream) -> None:
        async with reading(sim.ports.alpaca, "/v2/iex") as data, listening(sim.ports.alpaca, 2) as other:
            sim.actions.fault("N02", stream="data")
            assert await data.ended() == 1001
            sim.actions.fault("N02", accounts=[account(sim, 2)])
            assert await other.ended() == 1001
            buy(sim)
            assert await settled(talk) == ["new", "fill"]

    async def test_a_half_open_stream_answers_no_ping_and_keeps_its_slot(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N03")
        buy(sim)
        waiting = await talk.socket.ping()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await waiting
        assert talk.events == []
        talk.socket.transport.abort()
        await eventually(lambda: sim.counters.trading_streams == 0, within_s=5)
        async with stream(sim.ports.alpaca) as again:
            assert (await again.login())["status"] == "exceeded"

    async def test_new_connections_are_half_open_when_it_is_asked(self, sim: Simulator) -> None:
        sim.actions.fault("N03", newConnections=True)
        async with stream(sim.ports.alpaca, open_timeout=5) as talk:
            waiting = await talk.socket.ping()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await waiting
            talk.socket.transport.abort()

    async def test_what_is_said_is_heard_but_nothing_returns_on_a_one_way_stream(self, sim: Simulator) -> None:
        async with stream(sim.ports.alpaca) as talk:
            sim.actions.fault("N04")
            key, secret = keys().values()
            await talk.say({"action": "auth", "key": key, "secret": secret})
            await eventually(lambda: sim.counters.auth_attempts_by_account[account(sim)] == 1, within_s=5)
            assert talk.messages == []
            sim.actions.clear_faults()
            await talk.listen()

    async def test_handshakes_are_refused_with_the_chosen_status(self, sim: Simulator, talk: Stream) -> None:
        number = sim.actions.fault("N10", status=429, retryAfter=7)
        with pytest.raises(InvalidStatus) as refused:
            async with stream(sim.ports.alpaca):
                pass
        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["Retry-After"] == "7"
        assert await refused_with(sim, "/v2/iex") == 429
        assert (await ask(sim, "/v2/account"))[0] == 200
        sim.actions.clear_faults(number)
        async with stream(sim.ports.alpaca):
            pass

    async def test_bytes_trickle_when_the_server_is_slow(self, sim: Simulator, talk: Stream) -> None:
        number = sim.actions.fault("N11", bytesPerSecond=200)
        buy(sim)
        with pytest.raises(AssertionError):
            await eventually(lambda: talk.events, within_s=0.3)
        sim.actions.clear_faults(number)
        await talk.until(lambda: talk.events == ["new", "fill"])

    async def test_streams_are_dropped_again_and_again_when_flapping(self, sim: Simulator) -> None:
        sim.actions.fault("N41", upSeconds=0.1)
        for _ in range(2):
            async with listening(sim.ports.alpaca) as talk:
                assert await talk.ended() == 1006
        assert sim.counters.faults["Flapping"] == 2


class TestLogins:
    """Slots, refusals and revocation."""

    async def test_a_slot_is_busy_at_the_handshake(self, sim: Simulator) -> None:
        sim.actions.fault("N37", retryAfter=95)
        assert await refused_with(sim) == 429
        async with reading(sim.ports.alpaca, "/v2/iex"):
            pass
        assert sim.counters.refused_slots == 1

    async def test_a_slot_is_busy_after_authentication(self, sim: Simulator) -> None:
        sim.actions.fault("N37", at="login", stream="both", count=2)
        async with stream(sim.ports.alpaca) as talk:
            assert (await talk.login())["status"] == "exceeded"
        async with stream(sim.ports.alpaca, "/v2/iex") as data:
            key, secret = keys().values()
            await data.until(lambda: data.messages)
            assert (await data.ask({"action": "auth", "key": key, "secret": secret}))[0]["code"] == 406
        async with listening(sim.ports.alpaca):
            pass

    async def test_a_busy_slot_of_one_account_is_no_other_ones(self, sim: Simulator) -> None:
        sim.actions.fault("N37", accounts=[account(sim)])
        assert await refused_with(sim, headers=keys()) == 429
        async with stream(sim.ports.alpaca) as talk:
            assert (await talk.login())["status"] == "exceeded"
        async with listening(sim.ports.alpaca, 2):
            pass

    async def test_a_good_credential_is_refused_on_the_stream_only(self, sim: Simulator) -> None:
        sim.actions.fault("LOGIN_REFUSED", stream="both")
        async with stream(sim.ports.alpaca) as talk:
            assert (await talk.login())["status"] == "unauthorized"
        async with stream(sim.ports.alpaca, "/v2/iex") as data:
            key, secret = keys().values()
            await data.until(lambda: data.messages)
            assert (await data.ask({"action": "auth", "key": key, "secret": secret}))[0]["code"] == 402
        assert (await ask(sim, "/v2/account"))[0] == 200

    @pytest.mark.parametrize("delay", [0.05, None])
    async def test_authentication_is_late_or_never_answered(self, sim: Simulator, delay: float | None) -> None:
        sim.actions.fault("N42", delaySeconds=delay)
        async with stream(sim.ports.alpaca) as talk:
            if delay is None:
                await talk.say({"action": "auth", "key": "SIMKEY1", "secret": "sim-alpaca-secret-1"})
                await eventually(lambda: sim.counters.faults["SlowLogin"] == 1, within_s=5)
                assert (await talk.ask({"action": "listen", "data": {"streams": []}}))["data"]["action"] == "listen"
            else:
                assert (await talk.login())["status"] == "authorized"

    @pytest.mark.parametrize("parameters", [{"users": [1]}, {"accounts": "mine"}])
    async def test_revoked_credentials_end_streams_and_rest(
        self, sim: Simulator, talk: Stream, parameters: dict[str, Any]
    ) -> None:
        if "accounts" in parameters:
            parameters = {"accounts": [account(sim)]}
        sim.actions.fault("N30", **parameters)
        assert await talk.ended() == 1008
        assert (await ask(sim, "/v2/account"))[0] == 401
        assert (await ask(sim, "/v2/account", headers={"Authorization": "Bearer sim-alpaca-oauth-1"}))[0] == 401
        assert (await ask(sim, "/v2/account", user=2))[0] == 200

    async def test_tokens_may_be_revoked_while_keys_stay_good(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N30", users=[1], what="tokens")
        assert (await ask(sim, "/v2/account", headers={"Authorization": "Bearer sim-alpaca-oauth-1"}))[0] == 401
        await talk.listen()


class TestMessages:
    """Frames that are cut, damaged or strange."""

    async def test_a_frame_is_cut_and_the_socket_closes(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N12", kind="update")
        buy(sim)
        assert await talk.ended() == 1006
        assert talk.events == []

    async def test_a_message_is_cut_within_its_json(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N12", variant="content", kind="update")
        buy(sim)
        await talk.until(lambda: talk.events == ["fill"])
        assert len(talk.rubbish) == 1

    @pytest.mark.parametrize("variant", ["announced", "real", "compressed"])
    async def test_an_oversized_frame_ends_a_careful_client(self, sim: Simulator, variant: str) -> None:
        async with listening(sim.ports.alpaca, max_size=1 << 20, compression=None) as talk:
            sim.actions.fault("N13", variant=variant, megabytes=2)
            await talk.ended()
            said = talk.socket.protocol.close_sent
            assert said is not None
            assert said.code in (1002, 1009)

    @pytest.mark.parametrize("mode", ["random", "html", "mutated"])
    async def test_garbage_comes_between_good_messages(self, sim: Simulator, talk: Stream, mode: str) -> None:
        sim.actions.fault("N14", mode=mode, count=2)
        buy(sim)
        buy(sim)
        await talk.until(lambda: len(talk.frames) >= 6)
        assert sim.counters.faults["Garbage"] == 2
        if mode != "mutated":
            assert (len(talk.rubbish), talk.events) == (2, ["new", "fill"] * 2)
        else:
            assert len(talk.frames) == 6

    async def test_garbage_reaches_data_streams_too(self, sim: Simulator) -> None:
        async with reading(sim.ports.alpaca, "/v2/iex") as data:
            sim.actions.fault("N14", stream="data")
            await data.until(lambda: data.rubbish)

    async def test_messages_of_an_unknown_kind_come_in(self, sim: Simulator, talk: Stream) -> None:
        async with reading(sim.ports.alpaca, "/v2/iex") as data:
            sim.actions.fault("N16")
            await talk.until(lambda: talk.messages[-1]["stream"] == "account_updates_v9")
            await data.until(lambda: data.messages[-1][0]["T"] == "zz")

    async def test_known_messages_have_unknown_fields(self, sim: Simulator, talk: Stream) -> None:
        async with reading(sim.ports.alpaca, "/v2/iex", trades=["AAPL"]) as data:
            sim.actions.fault("N16", variant="fields", count=None)
            buy(sim)
            move(sim)
            await talk.until(lambda: len(talk.events) >= 2)
            await data.until(lambda: data.data)
            assert "zz_new" in talk.updates[0]
            assert talk.updates[0]["order"]["zz_new"] == "hello"
            assert "zz_new" in data.data[0]

    async def test_null_data_a_byte_and_errors_come_out_of_the_blue(self, sim: Simulator, talk: Stream) -> None:
        async with reading(sim.ports.alpaca, "/v2/iex") as data:
            sim.actions.fault("NULL_DATA")
            sim.actions.fault("HEARTBEAT_BYTE")
            sim.actions.fault("STREAM_ERROR", code=406, text="oh")
            await talk.until(lambda: len(talk.frames) >= 5)
            assert {"stream": "trade_updates", "data": None} in talk.messages
            assert talk.rubbish == [b"\x01"]
            assert talk.messages[-1] == {"action": "error", "data": {"error_message": "oh"}}
            await data.until(lambda: data.messages[-1][0].get("code") == 406)

    async def test_data_streams_are_mute_and_alive(self, sim: Simulator) -> None:
        async with reading(sim.ports.alpaca, "/v2/iex", trades=["AAPL"]) as data:
            sim.actions.fault("MUTE_DATA")
            move(sim)
            (answer,) = await data.ask({"action": "subscribe", "quotes": ["AAPL"]})
            assert answer["quotes"] == ["AAPL"]
            assert data.data == []
            sim.actions.clear_faults()
            move(sim)
            await data.until(lambda: data.data)


class TestUpdates:
    """What trade updates say."""

    @pytest.mark.parametrize("field", ["event", "status", "type", "side"])
    @pytest.mark.parametrize("variant", ["unknown", "missing"])
    async def test_an_enum_is_unknown_or_missing(self, sim: Simulator, talk: Stream, field: str, variant: str) -> None:
        sim.actions.fault("N15", field=field, variant=variant, count=1)
        buy(sim)
        await talk.until(lambda: len(talk.updates) == 2)
        odd, good = (each if field == "event" else each["order"] for each in talk.updates)
        assert odd.get(field) == ("zz_unknown" if variant == "unknown" else None)
        assert good[field] in ("fill", "filled", "market", "buy")

    @pytest.mark.parametrize(
        ("variant", "path", "value"),
        [
            ("negative_qty", ("qty",), "-999999999"),
            ("nan_price", ("price",), "NaN"),
            ("inf_price", ("order", "filled_avg_price"), "Infinity"),
            ("huge_money", ("price",), "1" + "0" * 24),
            ("not_a_number", ("position_qty",), "1,0"),
            ("year_1970", ("timestamp",), "1970-01-01T00:00:00.000000001Z"),
            ("year_2100", ("order", "filled_at"), "2100-01-01T00:00:00Z"),
        ],
    )
    async def test_values_are_absurd(
        self, sim: Simulator, talk: Stream, variant: str, path: tuple[str, ...], value: str
    ) -> None:
        sim.actions.fault("N17", variant=variant, count=2)
        buy(sim)
        await talk.until(lambda: len(talk.updates) == 2)
        found: Any = talk.updates[1]
        for name in path:
            found = found[name]
        assert found == value

    async def test_a_strangers_fill_arrives(self, sim: Simulator, talk: Stream) -> None:
        buy(sim)
        await talk.until(lambda: len(talk.updates) == 2)
        sim.actions.fault("N18")
        await talk.until(lambda: len(talk.updates) == 3)
        own, stranger = talk.updates[1:]
        assert stranger["event"] == "fill"
        assert stranger["order"]["id"] != own["order"]["id"]
        assert set(own["order"]) - set(stranger["order"]) <= {"ratio_qty", "subtag", "source", "cancel_requested_at"}
        assert (await ask(sim, f"/v2/orders/{stranger['order']['id']}"))[0] == 404

    async def test_updates_come_twice_and_again_after_listening(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N19", afterListen=True)
        buy(sim)
        await talk.until(lambda: len(talk.events) == 4)
        assert talk.events == ["new", "new", "fill", "fill"]
        assert talk.updates[2] == talk.updates[3]
        await talk.listen()
        await talk.until(lambda: len(talk.events) == 6)

    async def test_updates_come_in_another_order_and_none_is_lost(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N20", window=50, waitSeconds=0.05)
        for _ in range(10):
            buy(sim)
        await talk.until(lambda: len(talk.events) == 20)
        assert talk.events != ["new", "fill"] * 10
        assert sorted(talk.events) == sorted(["new", "fill"] * 10)

    async def test_held_updates_come_out_when_the_fault_ends(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N20", window=50, waitSeconds=60)
        buy(sim)
        assert await settled(talk) == []
        sim.actions.clear_faults()
        await talk.until(lambda: sorted(talk.events) == ["fill", "new"])

    async def test_one_update_in_so_many_is_lost(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N21", every=2, events=["fill"])
        for _ in range(4):
            buy(sim)
        events = await settled(talk)
        assert (events.count("new"), events.count("fill")) == (4, 2)

    async def test_updates_are_late(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N21", events=["new"], delaySeconds=0.05)
        buy(sim)
        await talk.until(lambda: talk.events == ["fill", "new"])


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
        asked = asyncio.create_task(ask(sim, "/v2/positions"))
        await eventually(lambda: sim.counters.requests["GET /v2/positions"] == 1, within_s=5)
        buy(sim)
        assert (await asked)[1] == []

    @pytest.mark.parametrize(
        ("parameters", "expected"),
        [({"variant": "empty"}, (200, [])), ({"variant": "error"}, (500, None)), ({"variant": "short"}, (200, 1))],
    )
    async def test_a_snapshot_is_broken_once(
        self, sim: Simulator, parameters: dict[str, Any], expected: tuple[int, Any]
    ) -> None:
        buy(sim)
        sim.actions.order(account(sim), symbol="MSFT", side="buy", units=Decimal(1))
        sim.actions.fault("N23", **parameters)
        status, document = await ask(sim, "/v2/positions")
        assert status == expected[0]
        if status == 200:
            assert (document or 0) == (expected[1] or 0) or len(document) == expected[1]
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


async def test_every_fault_begins_and_ends_without_a_crash(sim: Simulator) -> None:
    for fault_id in CATALOGUE:
        async with stream(sim.ports.alpaca), stream(sim.ports.alpaca, "/v2/iex", headers=keys()):
            sim.actions.fault(fault_id)
            buy(sim)
            move(sim)
            sim.actions.clear_faults()
        sim.services.streams.trading.slots.release_held()
        sim.services.streams.data.slots.release_held()
        sim.actions.restore_keys(1)
        sim.actions.restore_keys(2)
    assert sim.actions.active_faults() == []
    assert (await ask(sim, "/v2/account"))[0] == 200
