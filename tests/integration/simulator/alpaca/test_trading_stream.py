"""The simulated Alpaca's trading stream and its slots, by clients written by hand."""

import asyncio
import socket
import struct
from decimal import Decimal
from typing import Any

import msgpack
import pytest
from websockets.exceptions import InvalidStatus

from bridge.simulator.alpaca import Simulator, SimulatorSettings
from tests.support.alpaca_probe import keys, listening, live_keys, rest, stream
from tests.support.waiting import eventually


def account(sim: Simulator, user: int = 1, *, live: bool = False) -> str:
    return sim.services.world.of_user[user][1 if live else 0].id


def buy(sim: Simulator, account_id: str, units: int = 1) -> None:
    sim.actions.order(account_id, symbol="AAPL", side="buy", units=Decimal(units))


class TestTrading:
    """`/stream`."""

    @pytest.mark.parametrize("path", ["/stream", "/stream/"])
    async def test_updates_come_in_order_when_one_listens(self, sim: Simulator, path: str) -> None:
        async with listening(sim.ports.alpaca, path=path) as talk:
            for _ in range(20):
                buy(sim, account(sim))
            buy(sim, account(sim, 2))
            await talk.until(lambda: len(talk.events) >= 40)
            assert talk.events == ["new", "fill"] * 20
            quantities = [each["position_qty"] for each in talk.updates if each["event"] == "fill"]
            assert quantities == [str(number) for number in range(1, 21)]
        assert sim.counters.trade_updates == 40

    async def test_the_execution_of_a_fill_is_that_of_its_activity(self, sim: Simulator) -> None:
        async with listening(sim.ports.alpaca) as talk:
            buy(sim, account(sim))
            await talk.until(lambda: "fill" in talk.events)
            _, activities = await rest(sim.ports.alpaca, "GET", "/v2/account/activities/FILL")
            assert activities[0]["id"].endswith(talk.updates[-1]["execution_id"])

    async def test_paper_speaks_json_in_binary_frames_and_live_in_text(self, sim: Simulator) -> None:
        async with listening(sim.ports.alpaca) as talk:
            assert {type(frame) for frame in talk.frames} == {bytes}
        async with listening(sim.ports.alpaca_live, live=True) as talk:
            buy(sim, account(sim, live=True))
            await talk.until(lambda: talk.events == ["new", "fill"])
            assert {type(frame) for frame in talk.frames} == {str}

    async def test_messagepack_goes_both_ways_when_the_handshake_asks_for_it(self, sim: Simulator) -> None:
        async with listening(sim.ports.alpaca, speaks_msgpack=True) as talk:
            buy(sim, account(sim))
            await talk.until(lambda: talk.events == ["new", "fill"])
            assert msgpack.unpackb(talk.frames[-1])["data"]["event"] == "fill"

    @pytest.mark.parametrize(
        "message",
        [
            {"action": "authenticate", "data": {"key_id": "SIMKEY1", "secret_key": "sim-alpaca-secret-1"}},
            {"action": "auth", "key": "SIMKEY1", "secret": "sim-alpaca-secret-1"},
            {"action": "authenticate", "data": {"oauth_token": "sim-alpaca-oauth-1"}},
        ],
    )
    async def test_every_spelling_of_a_good_credential_is_accepted(
        self, sim: Simulator, message: dict[str, Any]
    ) -> None:
        async with stream(sim.ports.alpaca) as talk:
            answer = await talk.ask(message)
            assert answer == {"stream": "authorization", "data": {"status": "authorized", "action": "authenticate"}}
            await talk.listen()

    @pytest.mark.parametrize(
        "data",
        [
            {"key_id": "SIMKEY1", "secret_key": "wrong"},
            {"key_id": "nobody", "secret_key": "sim-alpaca-secret-1"},
            {"key_id": "SIMLIVE1", "secret_key": "sim-alpaca-live-secret-1"},  # good, of the other environment
            {"oauth_token": "wrong"},
            {"key_id": 1, "secret_key": None},
            {},
        ],
    )
    async def test_a_bad_credential_is_refused_and_may_be_followed_by_a_good_one(
        self, sim: Simulator, data: dict[str, Any]
    ) -> None:
        async with stream(sim.ports.alpaca) as talk:
            answer = await talk.ask({"action": "authenticate", "data": data})
            assert answer["data"] == {
                "status": "unauthorized",
                "action": "authenticate",
                "message": "access key verification failed",
            }
            assert (await talk.login())["status"] == "authorized"
        assert sim.counters.stream_auth_failures == 1

    async def test_listening_is_refused_before_authentication(self, sim: Simulator) -> None:
        async with stream(sim.ports.alpaca) as talk:
            answer = await talk.ask({"action": "listen", "data": {"streams": ["trade_updates"]}})
            assert answer == {"stream": "authorization", "data": {"status": "unauthorized", "action": "listen"}}

    async def test_a_listen_replaces_the_one_before_and_drops_unknown_streams(self, sim: Simulator) -> None:
        async with listening(sim.ports.alpaca) as talk:
            answer = await talk.ask({"action": "listen", "data": {"streams": ["trade_updates", "account_updates"]}})
            assert answer == {"stream": "listening", "data": {"streams": ["trade_updates"]}}
            answer = await talk.ask({"action": "listen", "data": {"streams": []}})
            assert answer == {"stream": "listening", "data": {"streams": []}}
            buy(sim, account(sim))
            await talk.listen()
            assert talk.events == []

    @pytest.mark.parametrize("said", ["hello", "[]", "{}", '{"action":"dance"}', b"\xff", '{"action":"listen"}'])
    async def test_nonsense_is_answered_with_an_error_frame(self, sim: Simulator, said: str | bytes) -> None:
        async with listening(sim.ports.alpaca) as talk:
            seen = len(talk.messages)
            await talk.socket.send(said)
            await talk.until(lambda: len(talk.messages) > seen)
            assert talk.messages[-1]["action"] == "error"
            assert isinstance(talk.messages[-1]["data"]["error_message"], str)

    async def test_pings_are_answered(self, sim: Simulator) -> None:
        async with stream(sim.ports.alpaca) as talk, asyncio.timeout(5):
            await (await talk.socket.ping())

    async def test_a_plain_request_is_told_that_a_websocket_is_expected(self, sim: Simulator) -> None:
        status, _ = await _plain(sim.ports.alpaca, "/stream")
        assert status == 426

    @pytest.mark.parametrize("settings", [{"trading_auth_seconds": 0.05}])
    async def test_a_stream_that_never_authenticates_is_closed(self, sim: Simulator) -> None:
        async with stream(sim.ports.alpaca) as talk:
            assert await talk.ended() == 1008

    async def test_streams_end_when_the_credential_is_revoked(self, sim: Simulator) -> None:
        async with listening(sim.ports.alpaca) as talk, listening(sim.ports.alpaca, 2) as other:
            sim.actions.revoke(1)
            assert await talk.ended() == 1008
            assert talk.messages[-1]["data"]["status"] == "unauthorized"
            await other.listen()


class TestSlots:
    """One trading stream per account."""

    async def test_the_second_stream_is_told_so_after_authentication(self, sim: Simulator) -> None:
        async with listening(sim.ports.alpaca) as first, stream(sim.ports.alpaca) as second:
            assert (await second.login())["status"] == "exceeded"
            assert await second.ended() == 1008
            await first.listen()
            async with listening(sim.ports.alpaca, 2):
                pass
        assert (sim.counters.refused_slots, sim.counters.double_logins) == (1, 1)

    @pytest.mark.parametrize("settings", [{"slot_busy_status": "unauthorized"}])
    async def test_the_word_for_a_busy_slot_is_a_setting(self, sim: Simulator) -> None:
        async with listening(sim.ports.alpaca), stream(sim.ports.alpaca) as second:
            assert (await second.login())["status"] == "unauthorized"

    async def test_the_second_stream_is_refused_with_429_when_its_handshake_says_whose_it_is(
        self, sim: Simulator
    ) -> None:
        async with listening(sim.ports.alpaca):
            for headers in (keys(), {"Authorization": "Bearer sim-alpaca-oauth-1"}):
                with pytest.raises(InvalidStatus) as refused:
                    async with stream(sim.ports.alpaca, headers=headers):
                        pass
                assert refused.value.response.status_code == 429
            async with stream(sim.ports.alpaca, headers=live_keys()):  # not the account's key pair
                pass
        async with stream(sim.ports.alpaca, headers=keys()) as talk:
            assert (await talk.login())["status"] == "authorized"

    async def test_a_slot_is_free_when_the_client_said_goodbye(self, sim: Simulator) -> None:
        for _ in range(3):
            async with listening(sim.ports.alpaca):
                pass

    async def test_a_slot_is_free_when_the_clients_tcp_connection_was_closed(self, sim: Simulator) -> None:
        async with listening(sim.ports.alpaca) as talk:
            talk.socket.transport.close()  # FIN without a WebSocket goodbye
            await eventually(lambda: sim.counters.trading_streams == 0, within_s=5)
        async with listening(sim.ports.alpaca):
            pass

    async def test_a_slot_is_held_when_the_client_vanished(self, sim: Simulator) -> None:
        async with listening(sim.ports.alpaca) as talk:
            raw = talk.socket.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            talk.socket.transport.abort()
            await eventually(lambda: sim.counters.trading_streams == 0, within_s=5)
        async with stream(sim.ports.alpaca) as again:
            assert (await again.login())["status"] == "exceeded"
        assert (sim.counters.refused_slots, sim.counters.double_logins) == (1, 0)
        sim.services.streams.trading.slots.release_held()
        async with listening(sim.ports.alpaca):
            pass

    @pytest.mark.parametrize("settings", [{"slot_seconds": 0.1}])
    async def test_a_held_slot_is_free_after_its_time(self, sim: Simulator) -> None:
        async with listening(sim.ports.alpaca):
            sim.actions.fault("N40")

        async def status() -> bool:
            async with stream(sim.ports.alpaca) as talk:
                return (await talk.login())["status"] == "authorized"

        await eventually(status, within_s=5)


class TestSlowReaders:
    """Memory stays bounded."""

    @pytest.mark.parametrize("settings", [{"max_unread_bytes": 100_000}])
    async def test_a_client_that_does_not_read_is_cut(self, sim: Simulator) -> None:
        async with listening(sim.ports.alpaca, compression=None) as talk:
            talk.socket.transport.pause_reading()
            payload = {"event": "new", "order": {"id": "x" * 50_000}}
            for _ in range(400):
                sim.services.streams.publish(account(sim), payload)
                await asyncio.sleep(0)
                if sim.counters.slow_clients:
                    break
            assert sim.counters.slow_clients == 1
            assert sim.counters.trading_streams == 0
        async with listening(sim.ports.alpaca):  # and its slot is free
            pass


async def test_the_simulator_closes_with_streams_open() -> None:
    simulator = Simulator(SimulatorSettings(users=1, prices="frozen"))
    async with simulator, listening(simulator.ports.alpaca) as talk:
        async with asyncio.timeout(3):
            await simulator.close()
        assert await talk.ended() == 1006


async def _plain(port: int, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(5):
        raw = await reader.read()
    writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), body
