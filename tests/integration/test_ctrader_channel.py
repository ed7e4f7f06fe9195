"""One channel over a real socket: dialling, liveness, correlation, and what a broken peer can do to it."""

import asyncio
import datetime as dt
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from bridge.brokers.base import BrokerFault, Environment, FaultKind, ReasonCode
from bridge.brokers.ctrader import codec
from bridge.brokers.ctrader.channel import Channel
from bridge.brokers.ctrader.pool import Pool
from bridge.brokers.ctrader.scheduling import Priority
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.stats import Stats
from bridge.brokers.tls import shared_tls
from bridge.runtime.clock import SystemClock
from bridge.runtime.tasks import Tasks
from bridge.simulator.certificates import BAD_KINDS, Certificates, make_certificates
from core.account import AccountMirror
from core.errors import InDoubt
from core.instruments import Catalogue
from core.secret import Secret
from protos.ctrader import common_messages_pb2, messages_pb2, model_pb2
from protos.ctrader.common_messages_pb2 import ProtoMessage
from tests.support.scripted_ctrader import ScriptedCtrader, frame
from tests.support.waiting import eventually

WITHIN_S = 5.0
ACCOUNT = 7


class Account:
    """A route that remembers what it is told."""

    def __init__(self) -> None:
        self.mirror = AccountMirror("demo", str(ACCOUNT), Catalogue())
        self.symbols = {1: "1"}
        self.events: list[int] = []
        self.faults: list[BrokerFault] = []

    def event(self, payload_type: int, payload: bytes) -> None:
        self.events.append(payload_type)

    def ended(self, fault: BrokerFault) -> None:
        self.faults.append(fault)

    def token_invalidated(self) -> None:
        raise AssertionError("not in these tests")


class Rig:
    """A pool of one channel with an account on it."""

    def __init__(self, tasks: Tasks, url: str, **changes: Any) -> None:
        values: dict[str, Any] = {
            "demo_url": url,
            "heartbeat_s": 0.2,
            "probe_after_s": 0.1,
            "probe_timeout_s": 0.1,
            "connect_timeout_s": 10.0,
            "close_timeout_s": 0.3,
            "backoff_first_s": 0.05,
            "backoff_cap_s": 0.1,
            "auth_timeout_s": 10.0,
            "app_refused_s": 0.3,
            "app_blocked_s": 0.3,
            "certificate_retry_s": 0.3,
            "idle_close_s": 60.0,
            "dials_per_second": 100,
        }
        self.settings = CtraderSettings("the-client", Secret("the-application-secret"), **{**values, **changes})
        self.stats = Stats()
        self.pool = Pool(Environment.DEMO, self.settings, SystemClock(), random.Random(3), tasks, self.stats)
        self.channel: Channel = self.pool.assign()
        self.account = Account()
        self.channel.router.routes[ACCOUNT] = self.account

    async def trader(self, timeout_s: float = 2.0) -> messages_pb2.ProtoOATraderRes:
        request = messages_pb2.ProtoOATraderReq(ctidTraderAccountId=ACCOUNT)
        return await self.channel.call(request, messages_pb2.ProtoOATraderRes, Priority.SNAPSHOT, timeout_s, ACCOUNT)

    async def refused(self) -> BrokerFault:
        with pytest.raises(BrokerFault) as refused:
            await self.channel.ready()
        return refused.value


MakeRig = Callable[..., Rig]


@pytest.fixture
async def rig() -> AsyncIterator[MakeRig]:
    tasks, made = Tasks("test"), list[Rig]()

    def make(url: str, **changes: Any) -> Rig:
        made.append(Rig(tasks, url, **changes))
        return made[-1]

    yield make
    for one in made:
        await one.pool.close()
    await tasks.close()
    assert tasks.crashes == 0


def spot(**sides: int) -> messages_pb2.ProtoOASpotEvent:
    return messages_pb2.ProtoOASpotEvent(ctidTraderAccountId=ACCOUNT, symbolId=1, **sides)


# ---------------------------------------------------------------- opening


async def test_who_waited_for_the_channel_goes_on_before_who_comes_when_it_opens(rig: MakeRig) -> None:
    """Accounts at risk wait for it first; a calm one that comes just then may not be logged in before them."""
    order: list[str] = []
    async with ScriptedCtrader() as server:
        channel = rig(server.url).channel

        async def waits(name: str) -> None:
            await channel.ready()
            order.append(name)

        async def comes_late() -> None:
            while not channel.up:
                await asyncio.sleep(0)  # so that it is there in the very turn
            await waits("late")

        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(comes_late(), waits("first"), waits("second"))
    assert order == ["first", "second", "late"]


async def test_one_dial_serves_all_when_many_need_the_channel(rig: MakeRig) -> None:
    async with ScriptedCtrader() as server:
        one = rig(server.url)
        await asyncio.gather(*(one.channel.ready() for _ in range(50)))
        assert one.channel.state == "up"
        assert server.opened == 1
        assert server.count(codec.APPLICATION_AUTH) == 1
        first = messages_pb2.ProtoOAApplicationAuthReq.FromString(server.received[0].payload)
        assert (first.clientId, first.clientSecret) == ("the-client", "the-application-secret")


async def test_dial_goes_on_when_its_first_caller_is_cancelled(rig: MakeRig) -> None:
    async with ScriptedCtrader() as server:
        one = rig(server.url)
        first = asyncio.ensure_future(one.channel.ready())
        second = asyncio.ensure_future(one.channel.ready())
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert server.opened == 1


async def test_nothing_stays_open_when_every_caller_is_cancelled(rig: MakeRig) -> None:
    async with ScriptedCtrader(lambda envelope, _: ()) as server:
        one = rig(server.url)
        waiting = asyncio.ensure_future(one.channel.ready())
        await eventually(lambda: server.received, within_s=WITHIN_S)
        waiting.cancel()
        await eventually(lambda: not server.connections, within_s=WITHIN_S)
        assert not one.channel.up
        server.answer = None
        await one.channel.ready()


async def test_dial_is_refused_at_once_when_backoff_runs(rig: MakeRig) -> None:
    one = rig("ws://127.0.0.1:1", backoff_first_s=30.0)
    first = await one.refused()
    assert (first.kind, first.reason.code, first.shared) == (FaultKind.TRANSIENT, ReasonCode.BROKER_UNREACHABLE, True)
    again = await one.refused()
    assert again.retry_after_s is not None
    assert first.retry_after_s is not None
    assert 0 < again.retry_after_s < first.retry_after_s <= 30
    assert one.stats.get("dials") == 1


async def test_dial_gives_up_in_time_when_the_peer_accepts_and_says_nothing(rig: MakeRig) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        one = rig(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", connect_timeout_s=0.5)
        async with asyncio.timeout(WITHIN_S):
            fault = await one.refused()
    assert fault.reason.code is ReasonCode.BROKER_UNREACHABLE
    assert "too long" in fault.reason.message


@pytest.mark.parametrize(
    ("status", "retry_after", "least"),
    [(429, "7", 7.0), (503, "3", 3.0), (503, "soon", 0.0), (401, None, 0.0), (200, None, 0.0)],
)
async def test_dial_honours_retry_after_when_the_upgrade_is_refused(
    rig: MakeRig, status: int, retry_after: str | None, least: float
) -> None:
    def gate(connection: ServerConnection, request: Request) -> Response:
        response = connection.respond(status, "<html>no</html>")
        if retry_after is not None:
            response.headers["Retry-After"] = retry_after
        return response

    async with ScriptedCtrader(gate=gate) as server:
        one = rig(server.url)
        fault = await one.refused()
        assert fault.reason.code is ReasonCode.BROKER_UNREACHABLE
        assert fault.retry_after_s is not None
        assert fault.retry_after_s >= least
        assert server.received == []


async def test_redirect_is_not_followed_so_that_no_secret_goes_elsewhere(rig: MakeRig) -> None:
    async with ScriptedCtrader() as elsewhere:

        def gate(connection: ServerConnection, request: Request) -> Response:
            response = connection.respond(302, "")
            response.headers["Location"] = elsewhere.url
            return response

        async with ScriptedCtrader(gate=gate) as server:
            await rig(server.url).refused()
        assert elsewhere.opened == 0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"), dt.datetime.now(dt.UTC))


async def test_tls_is_used_when_the_certificate_is_trusted(rig: MakeRig, certificates: Certificates) -> None:
    async with ScriptedCtrader(tls=certificates.contexts["good"]) as server:
        one = rig(server.url, tls_ca_file=str(certificates.ca_path))
        await one.channel.ready()
        assert one.channel.up


@pytest.mark.parametrize("kind", BAD_KINDS)
async def test_no_secret_is_sent_when_the_certificate_is_bad(
    rig: MakeRig, certificates: Certificates, kind: str
) -> None:
    async with ScriptedCtrader(tls=certificates.contexts[kind]) as server:
        fault = await rig(server.url, tls_ca_file=str(certificates.ca_path)).refused()
        assert "certificate" in fault.reason.message
        assert fault.retry_after_s is not None
        assert fault.retry_after_s >= 0.3
        assert server.received == []


def test_one_tls_context_serves_every_connection(certificates: Certificates) -> None:
    authority = str(certificates.ca_path)
    assert shared_tls(authority) is shared_tls(authority)
    assert shared_tls(None) is shared_tls(None)
    assert shared_tls(None).check_hostname


async def test_application_is_tried_once_per_pause_when_it_is_refused(rig: MakeRig) -> None:
    def refuse(envelope: ProtoMessage, _: Message) -> list[Message] | None:
        if envelope.payloadType == codec.APPLICATION_AUTH:
            return [messages_pb2.ProtoOAErrorRes(errorCode="CH_CLIENT_AUTH_FAILURE", description="no")]
        return None

    async with ScriptedCtrader(refuse) as server:
        one = rig(server.url)
        faults = [await one.refused() for _ in range(5)]
        assert all(fault.kind is FaultKind.FATAL_APP and fault.shared for fault in faults)
        assert server.opened == 1
        server.answer = None
        await asyncio.sleep(faults[-1].retry_after_s or 0)
        await asyncio.gather(*(one.channel.ready() for _ in range(5)))
        assert server.opened == 2


async def test_whole_pool_waits_when_the_application_is_blocked(rig: MakeRig) -> None:
    async with ScriptedCtrader() as server:
        one = rig(server.url, channels=2)
        other = one.pool.assign()
        await one.channel.ready()
        await server.send(messages_pb2.ProtoOAClientDisconnectEvent(reason="blocked"))
        await eventually(lambda: one.account.faults, within_s=WITHIN_S)
        assert one.account.faults[0].kind is FaultKind.FATAL_APP
        with pytest.raises(BrokerFault) as refused:
            await other.ready()
        assert refused.value.kind is FaultKind.FATAL_APP
        assert server.opened == 1
        await asyncio.sleep(refused.value.retry_after_s or 0)
        await other.ready()
        await one.channel.ready()


async def test_one_attempt_decides_for_all_channels_when_the_pause_is_over(rig: MakeRig) -> None:
    def refuse(envelope: ProtoMessage, _: Message) -> list[Message]:
        return [messages_pb2.ProtoOAErrorRes(errorCode="CH_CLIENT_AUTH_FAILURE")]

    async with ScriptedCtrader(refuse) as server:
        one = rig(server.url, channels=3)
        channels = [one.channel, one.pool.assign(), one.pool.assign()]
        wait_s = (await one.refused()).retry_after_s
        assert wait_s is not None
        await asyncio.sleep(wait_s)
        results = await asyncio.gather(*(channel.ready() for channel in channels), return_exceptions=True)
        assert all(isinstance(result, BrokerFault) for result in results)
        assert server.opened == 2


async def test_pool_shrinks_when_the_broker_allows_no_more_connections(rig: MakeRig) -> None:
    def one_only(envelope: ProtoMessage, _: Message) -> list[Message] | None:
        if envelope.payloadType == codec.APPLICATION_AUTH and server.opened > 1:
            return [messages_pb2.ProtoOAErrorRes(errorCode="CONNECTIONS_LIMIT_EXCEEDED")]
        return None

    async with ScriptedCtrader(one_only) as server:
        one = rig(server.url, channels=2, connection_limit_s=95.0)
        other = one.pool.assign()
        await one.channel.ready()
        with pytest.raises(BrokerFault) as refused:
            await other.ready()
        assert refused.value.reason.code is ReasonCode.CONNECTION_LIMIT
        assert (refused.value.retry_after_s or 0) < 1
        assert other.retired
        assert one.pool.channels == [one.channel]
        assert one.pool.assign() is one.channel


async def test_only_channel_waits_long_when_the_slot_is_still_taken(rig: MakeRig) -> None:
    def none(envelope: ProtoMessage, _: Message) -> list[Message]:
        return [messages_pb2.ProtoOAErrorRes(errorCode="CONNECTIONS_LIMIT_EXCEEDED")]

    async with ScriptedCtrader(none) as server:
        fault = await rig(server.url, connection_limit_s=95.0).refused()
        assert fault.retry_after_s is not None
        assert fault.retry_after_s >= 95


# ---------------------------------------------------------------- liveness


async def test_heartbeats_leave_on_time_and_are_never_echoed(rig: MakeRig) -> None:
    async with ScriptedCtrader() as server:
        one = rig(server.url, heartbeat_s=0.2, probe_after_s=30.0)
        await one.channel.ready()
        for _ in range(40):
            await server.send(common_messages_pb2.ProtoHeartbeatEvent())
        await eventually(lambda: server.count(codec.HEARTBEAT) >= 2, within_s=WITHIN_S)
        assert server.count(codec.HEARTBEAT) <= 4
        assert one.channel.router.frames >= 41


async def test_probe_keeps_the_channel_when_the_peer_only_answers(rig: MakeRig) -> None:
    async with ScriptedCtrader() as server:
        one = rig(server.url, heartbeat_s=30.0)
        await one.channel.ready()
        await eventually(lambda: server.count(codec.VERSION) >= 4, within_s=WITHIN_S)
        assert one.channel.up
        assert one.account.faults == []


async def test_channel_is_dead_when_a_probe_stays_unanswered(rig: MakeRig) -> None:
    async with ScriptedCtrader() as server:
        one = rig(server.url)
        await one.channel.ready()
        server.answer = lambda envelope, _: ()
        await eventually(lambda: one.account.faults, within_s=WITHIN_S)
        assert one.account.faults[0].reason.code is ReasonCode.BROKER_SILENT
        assert not one.channel.up
        assert one.channel.last_inbound is None
        await eventually(lambda: not server.connections, within_s=WITHIN_S)


async def test_idle_channel_closes_when_no_account_is_left(rig: MakeRig) -> None:
    async with ScriptedCtrader() as server:
        one = rig(server.url, idle_close_s=0.2)
        await one.channel.ready()
        one.channel.router.depart(ACCOUNT)
        one.pool.release(one.channel)
        await eventually(lambda: not server.connections, within_s=WITHIN_S)
        assert one.channel.state == "idle"
        await one.pool.assign().ready()


# ---------------------------------------------------------------- requests


TRADER = model_pb2.ProtoOATrader(ctidTraderAccountId=ACCOUNT, balance=1, depositAssetId=1)


async def test_answers_find_their_requests_when_they_come_in_another_order(rig: MakeRig) -> None:
    waiting: list[tuple[str, int]] = []

    def hold(envelope: ProtoMessage, request: Message) -> list[Message | bytes] | None:
        if envelope.payloadType != 2121:
            return None
        waiting.append((envelope.clientMsgId, len(waiting)))
        if len(waiting) < 5:
            return []
        answers: list[Message | bytes] = []
        for message_id, number in reversed(waiting):
            answer = messages_pb2.ProtoOATraderRes(ctidTraderAccountId=ACCOUNT, trader=TRADER)
            answer.trader.balance = number
            answers.append(frame(answer, message_id))
        return answers

    async with ScriptedCtrader(hold) as server:
        one = rig(server.url)
        await one.channel.ready()
        answers = await asyncio.gather(*(one.trader() for _ in range(5)))
        assert [answer.trader.balance for answer in answers] == [0, 1, 2, 3, 4]
        assert len({message_id for message_id, _ in waiting}) == 5


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(messages_pb2.ProtoOATraderRes(ctidTraderAccountId=8, trader=TRADER), id="other-account"),
        pytest.param(messages_pb2.ProtoOAVersionRes(version="1"), id="other-type"),
    ],
)
async def test_answer_is_not_used_when_it_is_not_the_one_asked_for(rig: MakeRig, answer: Message) -> None:
    def lie(envelope: ProtoMessage, _: Message) -> list[Message] | None:
        return [answer] if envelope.payloadType == 2121 else None

    async with ScriptedCtrader(lie) as server:
        one = rig(server.url)
        await one.channel.ready()
        with pytest.raises(BrokerFault) as refused:
            await one.trader()
        assert refused.value.kind is FaultKind.TRANSIENT
        assert one.stats.get("quarantined") == 1
        assert one.channel.up


async def test_read_fails_in_time_when_no_answer_comes(rig: MakeRig) -> None:
    async with ScriptedCtrader() as server:
        one = rig(server.url)
        await one.channel.ready()
        with pytest.raises(BrokerFault) as late:
            await one.trader(timeout_s=0.3)
        assert "in time" in late.value.reason.message
        assert one.stats.get("requests.timeout") == 1


async def test_waiting_requests_are_settled_at_once_when_the_channel_is_lost(rig: MakeRig) -> None:
    async with ScriptedCtrader() as server:
        one = rig(server.url)
        await one.channel.ready()
        order = messages_pb2.ProtoOANewOrderReq(
            ctidTraderAccountId=ACCOUNT, symbolId=1, orderType=model_pb2.MARKET, tradeSide=model_pb2.BUY, volume=100
        )
        reply = messages_pb2.ProtoOAExecutionEvent
        reads = [asyncio.ensure_future(one.trader(60)) for _ in range(30)]
        sent = asyncio.ensure_future(one.channel.call(order, reply, Priority.ORDER, 60))
        await eventually(lambda: server.count(2106) == 1, within_s=WITHIN_S)
        server.abort()
        async with asyncio.timeout(WITHIN_S):
            results = await asyncio.gather(*reads, return_exceptions=True)
            with pytest.raises(InDoubt):
                await sent
        assert all(isinstance(one, BrokerFault) and one.kind is FaultKind.TRANSIENT for one in results)
        assert one.account.faults[0].reason.code is ReasonCode.CONNECTION_LOST


async def test_blocked_requests_wait_longer_each_time_when_the_hint_does_not_help(rig: MakeRig) -> None:
    def block(envelope: ProtoMessage, _: Message) -> list[Message] | None:
        if envelope.payloadType == 2121:
            return [messages_pb2.ProtoOAErrorRes(errorCode="BLOCKED_PAYLOAD_TYPE", retryAfter=1)]
        return None

    async with ScriptedCtrader(block) as server:
        one = rig(server.url)
        await one.channel.ready()
        waits = []
        for _ in range(2):
            with pytest.raises(BrokerFault) as refused:
                await one.trader(10)
            waits.append(refused.value.retry_after_s)
        assert waits == [1.0, 2.0]


async def test_a_burst_of_blocked_requests_counts_once_when_all_were_under_way(rig: MakeRig) -> None:
    async with ScriptedCtrader(lambda envelope, _: _block_traders(envelope)) as server:
        one = rig(server.url)
        await one.channel.ready()
        answers = await asyncio.gather(*(one.trader(10) for _ in range(6)), return_exceptions=True)
        waits = [answer.retry_after_s for answer in answers if isinstance(answer, BrokerFault)]
        assert len(waits) == 6
        assert max(wait for wait in waits if wait is not None) == 1.0


async def test_a_request_is_refused_at_once_when_its_like_is_held_back_beyond_its_deadline(rig: MakeRig) -> None:
    async with ScriptedCtrader(lambda envelope, _: _block_traders(envelope, 30)) as server:
        one = rig(server.url)
        await one.channel.ready()
        with pytest.raises(BrokerFault):
            await one.trader(5)
        with pytest.raises(BrokerFault) as refused:
            await one.trader(5)
        assert refused.value.kind is FaultKind.THROTTLE
        assert refused.value.retry_after_s is not None
        assert 25 < refused.value.retry_after_s <= 30


def _block_traders(envelope: ProtoMessage, retry_after_s: int = 1) -> list[Message] | None:
    if envelope.payloadType != 2121:
        return None
    return [messages_pb2.ProtoOAErrorRes(errorCode="BLOCKED_PAYLOAD_TYPE", retryAfter=retry_after_s)]


async def test_channel_ends_when_old_news_flow_and_no_question_is_answered(rig: MakeRig) -> None:
    async with ScriptedCtrader(lambda envelope, _: [] if envelope.payloadType in (2104, 2121) else None) as server:
        one = rig(server.url, probe_after_s=5.0, probe_timeout_s=0.3)
        await one.channel.ready()
        with pytest.raises(BrokerFault):
            await one.trader(0.2)
        await eventually(lambda: one.account.faults, within_s=WITHIN_S)
        assert one.account.faults[0].reason.code is ReasonCode.BROKER_SILENT


async def test_channel_stays_when_only_one_request_is_slow(rig: MakeRig) -> None:
    async with ScriptedCtrader(lambda envelope, _: [] if envelope.payloadType == 2121 else None) as server:
        one = rig(server.url, probe_after_s=5.0, probe_timeout_s=0.3)
        await one.channel.ready()
        with pytest.raises(BrokerFault):
            await one.trader(0.2)
        await asyncio.sleep(0.5)  # longer than the question may take
        assert one.channel.up
        assert not one.account.faults


# ---------------------------------------------------------------- frames


async def test_message_is_put_together_when_it_comes_in_fragments(rig: MakeRig) -> None:
    async with ScriptedCtrader() as server:
        one = rig(server.url)
        await one.channel.ready()
        raw = frame(spot(bid=5, ask=6))
        await server.connections[0].send([raw[:3], raw[3:9], raw[9:]])
        await eventually(lambda: "1" in one.account.mirror.quotes, within_s=WITHIN_S)
        assert one.account.mirror.quotes["1"].bid == 5


async def test_text_messages_are_garbage_and_close_the_channel_when_they_go_on(rig: MakeRig) -> None:
    async with ScriptedCtrader() as server:
        one = rig(server.url)
        await one.channel.ready()
        for _ in range(9):
            await server.connections[0].send("hello")
        await server.send(spot(bid=5))
        await eventually(lambda: "1" in one.account.mirror.quotes, within_s=WITHIN_S)
        assert one.channel.up
        for _ in range(10):
            await server.connections[0].send("hello")
        await eventually(lambda: one.account.faults, within_s=WITHIN_S)
        assert one.account.faults[0].reason.code is ReasonCode.BROKER_ERROR


@pytest.mark.parametrize("code", [1000, 1001, 1012])
async def test_accounts_are_told_once_when_the_peer_closes_cleanly(rig: MakeRig, code: int) -> None:
    async with ScriptedCtrader() as server:
        one = rig(server.url)
        await one.channel.ready()
        await server.connections[0].close(code)
        await eventually(lambda: one.account.faults, within_s=WITHIN_S)
        assert [fault.reason.code for fault in one.account.faults] == [ReasonCode.CONNECTION_LOST]
        assert one.account.faults[0].retry_after_s is not None
        await asyncio.sleep(one.account.faults[0].retry_after_s)
        await one.channel.ready()
        assert len(one.account.faults) == 1


async def test_oversized_announcement_ends_the_channel_without_being_read(rig: MakeRig) -> None:
    async with ScriptedCtrader() as server:
        one = rig(server.url)
        await one.channel.ready()
        server.connections[0].transport.write(b"\x82\x7f" + (2**31).to_bytes(8, "big") + b"x" * 1000)
        await eventually(lambda: one.account.faults, within_s=WITHIN_S)
        assert one.channel.bytes_in < 10_000


async def test_nothing_secret_is_logged_when_everything_is_logged(
    rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with ScriptedCtrader() as server:
        one = rig(server.url)
        await one.channel.ready()
        server.abort()
        await eventually(lambda: one.account.faults, within_s=WITHIN_S)
    secret = b"the-application-secret"
    mine = "\n".join(
        record.getMessage() for record in caplog.records if not record.name.startswith("websockets.server")
    )
    for form in (secret.decode(), secret.hex(), secret.hex(" ")):
        assert form not in mine
