"""Faults of what the simulated Alpaca streams: frames, messages and trade updates."""

from typing import Any

import pytest

from bridge.simulator.alpaca import Simulator
from tests.support.alpaca_faults import account, ask, buy, move, settled
from tests.support.alpaca_probe import Stream, listening, reading


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

    @pytest.mark.parametrize("mode", ["random", "html"])
    async def test_garbage_comes_between_good_messages(self, sim: Simulator, talk: Stream, mode: str) -> None:
        sim.actions.fault("N14", mode=mode, count=2)
        buy(sim)
        await talk.until(lambda: len(talk.frames) >= 6)
        assert (len(talk.rubbish), talk.events) == (2, ["new", "fill"])
        assert sim.counters.faults["Garbage"] == 2

    async def test_bytes_of_good_messages_are_changed(self, sim: Simulator, talk: Stream) -> None:
        sim.actions.fault("N14", mode="mutated", count=1)
        for _ in range(2):
            sim.services.streams.publish(account(sim), {"event": "new", "order": {"id": "x" * 500}})
        await talk.until(lambda: len(talk.frames) >= 4)
        damaged, good = talk.frames[2:]
        assert len(damaged) == len(good)
        assert damaged != good

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
