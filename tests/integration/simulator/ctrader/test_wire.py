"""The simulated broker's sockets: both framings on one port, TLS, limits, and what a raw peer may do."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bridge.simulator.ctrader import Simulator, SimulatorSettings
from bridge.simulator.ctrader.wire import MAX_MESSAGE_BYTES
from protos.ctrader import common_messages_pb2 as common
from protos.ctrader import messages_pb2 as m
from tests.support.simulator_probe import payload_type, probe

APP_AUTH = m.ProtoOAApplicationAuthReq(clientId="sim-client", clientSecret="sim-secret")


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(users=1, prices="frozen")) as running:
        yield running


def framed(message: object) -> bytes:
    envelope = common.ProtoMessage(payloadType=payload_type(message), payload=message.SerializeToString())
    raw = envelope.SerializeToString()
    return struct.pack(">I", len(raw)) + raw


async def read_frame(reader: asyncio.StreamReader) -> common.ProtoMessage:
    async with asyncio.timeout(5):
        (length,) = struct.unpack(">I", await reader.readexactly(4))
        return common.ProtoMessage.FromString(await reader.readexactly(length))


def trusting(sim: Simulator) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(sim.ports.ca))


async def test_tcp_and_websocket_share_the_port_when_both_connect(sim: Simulator) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.ports.ctrader)
    frame = framed(APP_AUTH)
    writer.write(frame[:3])
    await writer.drain()
    writer.write(frame[3:] + framed(m.ProtoOAVersionReq()))
    async with probe(sim.ports.ctrader):
        answers = [await read_frame(reader), await read_frame(reader)]
    assert [each.payloadType for each in answers] == [2101, 2105]
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_the_certificate_names_the_loopback_when_verified(sim: Simulator, host: str) -> None:
    assert sim.ports.ctrader_tls is not None
    async with probe(sim.ports.ctrader_tls, tls=trusting(sim), host=host) as talk:
        await talk.pulse()


@pytest.mark.parametrize(
    ("kind", "word"),
    [("expired", "expired"), ("wrong_host", "match"), ("unknown_ca", "issuer"), ("refused", None)],
)
async def test_a_verifying_client_refuses_when_the_certificate_is_bad(
    sim: Simulator, kind: str, word: str | None
) -> None:
    assert sim.ports.ctrader_tls is not None
    sim.actions.fault("N08", kind=kind)
    with pytest.raises(OSError, match=word):  # SSLError, or a reset when the alert does not make it
        await asyncio.open_connection("127.0.0.1", sim.ports.ctrader_tls, ssl=trusting(sim))
    sim.actions.clear_faults()
    async with probe(sim.ports.ctrader_tls, tls=trusting(sim)) as talk:
        await talk.pulse()


async def test_compression_is_never_negotiated_and_pings_are_answered_when_a_client_offers(sim: Simulator) -> None:
    async with connect(f"ws://127.0.0.1:{sim.ports.ctrader}", proxy=None) as socket:
        assert socket.protocol.extensions == []
        assert socket.subprotocol is None
        async with asyncio.timeout(5):
            await (await socket.ping())


async def test_a_text_message_closes_the_connection_when_sent(sim: Simulator) -> None:
    async with connect(f"ws://127.0.0.1:{sim.ports.ctrader}", proxy=None) as socket:
        await socket.send("hello")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    assert socket.close_code == 1003


async def test_a_frame_too_long_is_refused_and_the_connection_closed_when_announced(sim: Simulator) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.ports.ctrader)
    writer.write(struct.pack(">I", MAX_MESSAGE_BYTES + 1))
    answer = await read_frame(reader)
    assert common.ProtoErrorRes.FromString(answer.payload).errorCode == "FRAME_TOO_LONG"
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_a_large_request_is_taken_whole_when_within_the_limit(sim: Simulator) -> None:
    async with probe(sim.ports.ctrader) as talk:
        await talk.login(1_000_011, 1)
        answer = await talk.expect(
            m.ProtoOASymbolByIdRes, m.ProtoOASymbolByIdReq(ctidTraderAccountId=1_000_011, symbolId=[1] * 20_000)
        )
    assert len(answer.symbol) == 20_000


async def test_an_upgrade_gets_plain_http_when_it_is_refused(sim: Simulator) -> None:
    sim.actions.fault("N10", status=429, retryAfter=7, count=1)
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://127.0.0.1:{sim.ports.ctrader}", proxy=None)
    assert refused.value.response.status_code == 429
    assert refused.value.response.headers["Retry-After"] == "7"
    async with probe(sim.ports.ctrader) as talk:
        await talk.pulse()


async def test_nothing_is_left_when_the_simulator_closes() -> None:
    simulator = Simulator(SimulatorSettings(users=1))
    await simulator.start()
    ca = simulator.ports.ca
    async with probe(simulator.ports.ctrader) as talk:
        await simulator.close()
        await talk.closed.wait()
    assert ca is not None
    assert not ca.exists()
    assert len(simulator.services.hub.connections) == 0
    with pytest.raises(OSError, match=r"refused|failed"):
        await asyncio.open_connection("127.0.0.1", simulator.ports.ctrader)
