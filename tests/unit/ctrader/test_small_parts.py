"""Codec, maintenance gates, single flight, the choice of an account, credentials, and conversion chains."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridge.brokers.base import BrokerFault, ChooseAccount, Environment, FaultKind, Reason, ReasonCode
from bridge.brokers.ctrader import codec, credential
from bridge.brokers.ctrader.gates import Gate
from bridge.brokers.ctrader.listing import Listed, Listing, choose
from bridge.brokers.ctrader.market import walk
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.flight import Flight
from bridge.runtime.tasks import Tasks
from core.errors import InvalidInput, ProtocolViolation
from core.instruments import Hop
from core.secret import Secret
from protos.ctrader import messages_pb2, model_pb2

# ---------------------------------------------------------------- codec


def test_payload_is_refused_when_a_required_enum_is_unknown() -> None:
    event = messages_pb2.ProtoOAExecutionEvent(ctidTraderAccountId=7, executionType=2)
    raw = event.SerializeToString().replace(b"\x18\x02", b"\x18\x63")
    with pytest.raises(ProtocolViolation):
        codec.decode(messages_pb2.ProtoOAExecutionEvent, raw)
    assert codec.account_of(messages_pb2.ProtoOAExecutionEvent, raw) == 7


@pytest.mark.parametrize("raw", [b"", b"\xff\xff", b"\x10"])
def test_payload_is_refused_when_it_is_cut_or_garbage(raw: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        codec.decode(messages_pb2.ProtoOATraderRes, raw)


# ---------------------------------------------------------------- gates


def maintenance(wait_s: float | None = None) -> BrokerFault:
    return BrokerFault(FaultKind.MAINTENANCE, Reason(ReasonCode.BROKER_MAINTENANCE, "Down."), retry_after_s=wait_s)


async def test_gate_lets_one_probe_through_when_maintenance_should_be_over() -> None:
    gate = Gate(default_s=30.0, cap_s=900.0)
    assert await gate.enter(0.0) is False
    assert gate.refused(maintenance(60.0), 0.0).retry_after_s == 60.0
    with pytest.raises(BrokerFault) as closed:
        await gate.enter(10.0)
    assert closed.value.retry_after_s == 50.0
    assert closed.value.shared
    assert await gate.enter(60.0) is True
    waiting = [asyncio.ensure_future(gate.enter(61.0)) for _ in range(5)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    gate.passed()
    gate.left()
    assert await asyncio.gather(*waiting) == [False] * 5


async def test_waiting_logins_are_refused_when_the_probe_fails() -> None:
    gate = Gate(default_s=30.0, cap_s=900.0)
    gate.refused(maintenance(), 0.0)
    assert await gate.enter(30.0) is True
    waiting = asyncio.ensure_future(gate.enter(31.0))
    await asyncio.sleep(0)
    assert gate.refused(maintenance(), 32.0).retry_after_s == 60.0  # grows while the broker names no end
    gate.left()
    with pytest.raises(BrokerFault):
        await waiting


async def test_next_login_probes_when_the_probe_was_given_up() -> None:
    gate = Gate(default_s=30.0, cap_s=900.0)
    gate.refused(maintenance(), 0.0)
    assert await gate.enter(30.0) is True
    waiting = [asyncio.ensure_future(gate.enter(31.0)) for _ in range(2)]
    await asyncio.sleep(0)
    gate.left()
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [task.done() for task in waiting] == [True, False]
    gate.passed()
    gate.left()
    assert await waiting[1] is False


async def test_answers_of_one_moment_count_once_when_many_logins_were_under_way() -> None:
    gate = Gate(default_s=30.0, cap_s=900.0)
    waits = [gate.refused(maintenance(), 0.0).retry_after_s for _ in range(20)]
    assert waits == [30.0] * 20


# ---------------------------------------------------------------- single flight


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks("test")
    yield tasks
    await tasks.close()
    assert tasks.crashes == 0


async def test_flight_runs_once_when_many_join(tasks: Tasks) -> None:
    flight: Flight[int] = Flight()
    gate = asyncio.Event()
    runs = 0

    async def work() -> int:
        nonlocal runs
        runs += 1
        await gate.wait()
        return runs

    joined = [asyncio.ensure_future(flight.join(tasks, work, "w")) for _ in range(10)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*joined) == [1] * 10
    assert not flight.active


async def test_flight_goes_on_when_its_first_caller_gives_up(tasks: Tasks) -> None:
    flight: Flight[str] = Flight()
    gate = asyncio.Event()

    async def work() -> str:
        await gate.wait()
        return "done"

    first = asyncio.ensure_future(flight.join(tasks, work, "w"))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(flight.join(tasks, work, "w"))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert await second == "done"
    assert first.cancelled()


async def test_flight_is_cancelled_when_everybody_gives_up(tasks: Tasks) -> None:
    flight: Flight[None] = Flight()
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    joined = [asyncio.ensure_future(flight.join(tasks, work, "w")) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in joined:
        task.cancel()
    await asyncio.wait(joined)
    async with asyncio.timeout(2):
        await ended.wait()
    assert not flight.active


async def test_every_caller_hears_the_fault_when_the_flight_fails(tasks: Tasks) -> None:
    flight: Flight[None] = Flight()

    async def work() -> None:
        raise maintenance(5.0)

    results = await asyncio.gather(*(flight.join(tasks, work, "w") for _ in range(4)), return_exceptions=True)
    assert all(isinstance(result, BrokerFault) and result.retry_after_s == 5.0 for result in results)


# ---------------------------------------------------------------- whose account


def listing(*accounts: tuple[int, Environment]) -> Listing:
    return Listing(tuple(Listed(number, environment, None, "Sim") for number, environment in accounts), 0.0)


BOTH = listing((11, Environment.DEMO), (12, Environment.DEMO), (13, Environment.LIVE))


def test_named_account_is_chosen_when_the_token_lists_it() -> None:
    assert choose(BOTH, Environment.DEMO, "12").number == 12


@pytest.mark.parametrize(
    ("covered", "environment", "account_id", "code"),
    [
        pytest.param(BOTH, Environment.DEMO, "13", ReasonCode.WRONG_ENVIRONMENT, id="live-as-demo"),
        pytest.param(BOTH, Environment.LIVE, "11", ReasonCode.WRONG_ENVIRONMENT, id="demo-as-live"),
        pytest.param(BOTH, Environment.DEMO, "99", ReasonCode.ACCOUNT_NOT_COVERED, id="foreign"),
        pytest.param(BOTH, Environment.DEMO, "x", ReasonCode.ACCOUNT_NOT_COVERED, id="no-number"),
        pytest.param(BOTH, Environment.DEMO, None, ReasonCode.CHOOSE_ACCOUNT, id="several"),
        pytest.param(listing((1, Environment.LIVE)), Environment.DEMO, None, ReasonCode.NO_ACCOUNTS, id="none-here"),
        pytest.param(listing(), Environment.LIVE, None, ReasonCode.NO_ACCOUNTS, id="none"),
    ],
)
def test_account_is_refused_with_its_reason(
    covered: Listing, environment: Environment, account_id: str | None, code: ReasonCode
) -> None:
    with pytest.raises(BrokerFault) as refused:
        choose(covered, environment, account_id)
    assert refused.value.kind is FaultKind.FATAL_USER
    assert refused.value.reason.code is code


def test_only_account_is_taken_when_none_is_named() -> None:
    assert choose(BOTH, Environment.LIVE, None).number == 13


def test_choices_are_listed_when_there_are_several() -> None:
    with pytest.raises(ChooseAccount) as several:
        choose(BOTH, Environment.DEMO, None)
    assert [account.account_id for account in several.value.accounts] == ["11", "12"]


# ---------------------------------------------------------------- credentials

ENTRY = {"accessToken": "a", "refreshToken": "r", "environment": "demo", "accountId": "12345"}


def test_credential_is_read_when_it_is_complete() -> None:
    read = credential.read("g", ENTRY)
    assert (read.grant_id, read.environment, read.account_id) == ("g", Environment.DEMO, "12345")
    assert read.secrets == {"accessToken": Secret("a"), "refreshToken": Secret("r")}
    assert repr(read.secrets["accessToken"]) == "***"


def test_credential_is_read_when_optional_fields_are_absent_or_null() -> None:
    read = credential.read("g", {"accessToken": "a", "environment": "live", "accountId": None})
    assert read.account_id is None
    assert set(read.secrets) == {"accessToken"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"accessToken": None}, "accessToken"),
        ({"accessToken": 5}, "accessToken"),
        ({"accessToken": "  "}, "accessToken"),
        ({"accessToken": "\ud800token"}, "accessToken"),
        ({"accessToken": "tok\0en"}, "accessToken"),
        ({"accessToken": "to\r\nken"}, "accessToken"),
        ({"accessToken": '","level":"'}, "accessToken"),
        ({"accessToken": "t" * 4097}, "accessToken"),
        ({"refreshToken": "tök"}, "refreshToken"),
        ({"refreshToken": ["r"]}, "refreshToken"),
        ({"environment": None}, "environment"),
        ({"environment": "paper"}, "environment"),
        ({"environment": True}, "environment"),
        ({"accountId": 12345}, "accountId"),
        ({"accountId": "12a"}, "accountId"),
        ({"accountId": "9" * 20}, "accountId"),
        ({"accountId": "١٢"}, "accountId"),
        ({"acountId": "1"}, "acountId"),
    ],
)
def test_credential_is_refused_with_the_field_when_it_is_wrong(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        credential.read("g", {**ENTRY, **change})
    assert refused.value.field == field


# ---------------------------------------------------------------- conversion chains, channels


def light(symbol: int, base: int, quote: int) -> model_pb2.ProtoOALightSymbol:
    return model_pb2.ProtoOALightSymbol(symbolId=symbol, baseAssetId=base, quoteAssetId=quote)


def test_chain_multiplies_or_divides_when_it_is_walked() -> None:
    eur, usd, jpy = 1, 2, 3
    chain = walk(jpy, eur, [light(10, usd, jpy), light(11, eur, usd)])
    assert chain == (Hop("10", inverse=True), Hop("11", inverse=True))
    assert walk(eur, jpy, [light(11, eur, usd), light(10, usd, jpy)]) == (Hop("11", False), Hop("10", False))


@pytest.mark.parametrize("symbols", [[], [light(10, 5, 6)], [light(10, 2, 3)]])
def test_chain_is_unknown_when_it_does_not_lead_there(symbols: list[model_pb2.ProtoOALightSymbol]) -> None:
    assert walk(3, 1, symbols) is None


@pytest.mark.parametrize(
    ("channels", "per_channel", "accounts", "wanted"),
    [(1, None, 5000, 1), (4, None, 1, 4), (1, 1, 37, 37), (2, 100, 150, 2), (2, 100, 201, 3)],
)
def test_channels_grow_with_accounts(channels: int, per_channel: int | None, accounts: int, wanted: int) -> None:
    settings = CtraderSettings("id", Secret("s"), channels=channels, accounts_per_channel=per_channel)
    assert settings.channels_for(accounts) == wanted
