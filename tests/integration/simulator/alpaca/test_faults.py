"""Faults of the simulated Alpaca as such, and those of its connections and logins: each does what its title says."""

import asyncio
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from bridge.simulator.alpaca import Simulator
from bridge.simulator.alpaca.faults import CATALOGUE
from core.errors import InvalidInput, NotFound
from tests.support.alpaca_faults import account, ask, buy, move, refused_with, settled
from tests.support.alpaca_probe import Stream, keys, listening, reading, stream
from tests.support.waiting import eventually


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
        for parameters in ({"zz": 1}, {"probability": 2}, {"count": 0}, {"environment": "moon"}):
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

    async def test_paper_may_be_called_demo(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N21", environment="demo")
        buy(sim)
        assert await settled(talk) == []
        assert sim.actions.active_faults()[0]["parameters"] == {"environment": "paper"}


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
