"""Whatever a client asks, the simulated broker answers and lives on; whatever trades happen, what it sends is sound."""

import random
from decimal import Decimal

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from bridge.simulator.ctrader import Simulator, SimulatorSettings
from bridge.simulator.ctrader.actions import Refusal
from bridge.simulator.ctrader.requests import HANDLERS
from core.errors import InvalidInput
from core.orders import OrderType, Side, TimeInForce
from protos.ctrader import PAYLOAD_CLASSES
from protos.ctrader import messages_pb2 as m
from tests.support.simulator_probe import probe
from tests.support.waiting import eventually

ACCOUNTS = (1_000_011, 1_000_021, 1_000_022)
INTEGERS = (0, 1, 2, 3, 61, 62, 63, 100_000, 1_000_000, 201, 2**31 - 1, 2**53, 20_000_001, 30_000_001)
DOUBLES = (0.0, 1.0, 1.08, 1.1, -1.0, 1e300, float("nan"), float("inf"), 1.123456789)
TEXTS = ("", "x", "y" * 600, "sim-access-1")
RARE = (m.ProtoOAApplicationAuthReq, m.ProtoOAAccountLogoutReq, m.ProtoOARefreshTokenReq)


def fill(message: Message, dice: random.Random) -> None:
    """Random values in random fields; required ones always."""
    for field in message.DESCRIPTOR.fields:
        if field.name == "payloadType" or (not field.is_required and dice.random() < 0.5):
            continue
        if field.name == "ctidTraderAccountId":
            message.ctidTraderAccountId = dice.choice((*ACCOUNTS, *ACCOUNTS, 7))
        elif field.is_repeated:
            getattr(message, field.name).extend(value(field, dice) for _ in range(dice.randrange(3)))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            fill(getattr(message, field.name), dice)
        else:
            setattr(message, field.name, value(field, dice))


def value(field: FieldDescriptor, dice: random.Random) -> object:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return dice.choice(field.enum_type.values).number
    if field.type == FieldDescriptor.TYPE_BOOL:
        return dice.random() < 0.5
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return dice.choice(DOUBLES)
    if field.type == FieldDescriptor.TYPE_STRING:
        return dice.choice(TEXTS)
    number = dice.choice(INTEGERS)
    return min(number, 2**31 - 1) if field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32) else number


async def test_every_request_is_answered_when_its_fields_are_random() -> None:
    dice = random.Random(20)
    settings = SimulatorSettings(users=2, prices="frozen", requests_per_second=10**6, ctrader_tls_port=None)
    kinds = [PAYLOAD_CLASSES[number] for number in HANDLERS if PAYLOAD_CLASSES[number] not in RARE]
    async with Simulator(settings) as sim, probe(sim.ports.ctrader) as talk:
        await talk.login(ACCOUNTS[0], 1)
        await talk.login(ACCOUNTS[1], 2)
        await talk.login(ACCOUNTS[2], 2)
        asked = set()
        for number in range(3_000):
            request = dice.choice(kinds)()
            fill(request, dice)
            asked.add(f"fuzz-{number}")
            await talk.send(request, f"fuzz-{number}")
        await talk.pulse()
        answered = {asked_as for asked_as, _ in talk.everything}
        assert asked <= answered
        assert talk.garbage == []


async def test_events_are_sound_and_truth_adds_up_when_trades_are_random() -> None:
    dice = random.Random(21)
    settings = SimulatorSettings(users=2, prices="walk", requests_per_second=10**6, ctrader_tls_port=None)
    async with Simulator(settings) as sim, probe(sim.ports.ctrader) as talk:
        await talk.login(ACCOUNTS[0], 1)
        await talk.login(ACCOUNTS[1], 2)
        await talk.login(ACCOUNTS[2], 2)
        refused = 0
        for _ in range(1_500):
            account_id = dice.choice(ACCOUNTS)
            try:
                act(sim, account_id, dice)
            except Refusal:
                refused += 1
            sim.services.prices.step()
        await eventually(lambda: not sim.services.hub.connections[1].paused, within_s=5)
        await talk.pulse()

        assert talk.garbage == []
        assert refused < 700
        assert sum(isinstance(each, m.ProtoOAExecutionEvent) for each in talk.events) > 1_000
        for account_id in ACCOUNTS:
            truth = sim.actions.truth(account_id)
            total = sum(Decimal(str(each["unrealizedPnl"])) for each in truth["positions"])
            assert Decimal(str(truth["equity"])) == Decimal(str(truth["balance"])) + total
            snapshot = await talk.expect(m.ProtoOAReconcileRes, m.ProtoOAReconcileReq(ctidTraderAccountId=account_id))
            assert [str(each.positionId) for each in snapshot.position] == [each["id"] for each in truth["positions"]]
            assert [str(each.orderId) for each in snapshot.order] == [each["id"] for each in truth["orders"]]


def act(sim: Simulator, account_id: int, dice: random.Random) -> None:
    """One random thing on one account."""
    account = sim.services.world.accounts[account_id]
    held = sim.services.world.engine.positions(account.key)
    what = dice.random()
    if held and what < 0.35:
        sim.actions.close_position(account_id, dice.choice(held).id)
    elif held and what < 0.45:
        position = dice.choice(held)
        digits = account.server.symbols[int(position.instrument_id)].terms.digits
        distance = (position.entry_price or Decimal(1)) * Decimal("0.01")
        sign = 1 if position.side is Side.BUY else -1
        level = round((position.entry_price or Decimal(1)) - sign * distance, digits)
        sim.actions.protect(account_id, position.id, stop_loss=level, trailing=dice.random() < 0.5)
    elif what < 0.5:
        sim.actions.deposit(account_id, Decimal(dice.randrange(1, 500)))
    else:
        listed = dice.choice([each for each in account.server.symbols.values() if each.enabled])
        bid = sim.services.world.engine.quote_of(account.server.key, listed.instrument_id).bid
        assert bid is not None
        limit = round(bid * Decimal("0.9995"), listed.terms.digits)
        kind = dice.choice([OrderType.MARKET, OrderType.MARKET, OrderType.LIMIT])
        sim.actions.order(
            account_id,
            symbol=listed.terms.name,
            side=dice.choice([Side.BUY, Side.SELL]) if kind is OrderType.MARKET else Side.BUY,
            units=Decimal(listed.terms.minimum),
            type=kind,
            limit_price=limit if kind is OrderType.LIMIT else None,
        )


async def test_what_the_wire_cannot_say_is_refused_when_asked_by_hand() -> None:
    sim = Simulator(SimulatorSettings(users=1, prices="frozen"))
    for fields in ({"type": OrderType.TRAILING_STOP}, {"time_in_force": TimeInForce.DAY}):
        with pytest.raises(InvalidInput):
            sim.actions.order(ACCOUNTS[0], symbol="EURUSD", side=Side.BUY, units=Decimal(1000), **fields)
