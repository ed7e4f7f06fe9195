"""What a process leaves behind at the broker when sessions go to another one: nothing that is logged in."""

import asyncio
from typing import Any

import pytest

from bridge.brokers.base import Environment
from bridge.brokers.ctrader import farewells
from bridge.brokers.ctrader.scheduling import Priority
from protos.ctrader import messages_pb2
from tests.contract.rigs.ctrader import CtraderRig, ctrader_rig
from tests.contract.rigs.watched import WITHIN_S, Watched
from tests.support.waiting import eventually


async def live(rig: CtraderRig, *users: int) -> list[Watched]:
    watched = [Watched(rig, rig.credential(user), rig.account(user)) for user in users]
    await asyncio.gather(*(one.login() for one in watched))
    return watched


async def test_socket_is_closed_when_everybody_left_and_a_logout_was_not_confirmed() -> None:
    """As when a process that lost sight of the database logs a thousand accounts out within two seconds."""
    async with ctrader_rig(logout_timeout_s=0.0, idle_close_s=60.0) as rig:
        watched = await live(rig, 1, 2, 3)
        for one in watched[:2]:
            await one.session.logout()
        await watched[2].true()  # who stays is not cut off
        assert rig.act.counters()["connections"] == 1
        await watched[2].session.logout()
        await eventually(
            lambda: rig.act.counters()["connections"] == 0, within_s=WITHIN_S, what="nobody is logged in any more"
        )
        (again,) = await live(rig, 1)
        await again.true()


@pytest.mark.parametrize(
    "fault",
    [
        ("N28", {"requests": ["ProtoOAAccountLogoutReq"], "retryAfter": 1, "count": 1}),
        ("N27", {"endsInSeconds": 1, "durationSeconds": 1}),
    ],
    ids=["throttled", "maintenance"],
)
async def test_refused_logout_is_repeated_when_others_keep_the_channel_open(fault: tuple[str, dict[str, Any]]) -> None:
    async with ctrader_rig() as rig:
        leaving, staying = await live(rig, 1, 2)
        listeners = rig.sim.services.hub.listeners
        name, parameters = fault
        rig.act.fault(name, **parameters)
        await leaving.session.logout()
        assert listeners(int(rig.account(1)))
        await eventually(lambda: not listeners(int(rig.account(1))), within_s=WITHIN_S, what="logged out after all")
        assert rig.act.counters()["connections"] == 1
        await staying.true()


async def test_refused_logout_is_not_repeated_when_the_account_is_served_again() -> None:
    async with ctrader_rig() as rig:
        leaving, _ = await live(rig, 1, 2)
        rig.act.fault("N28", requests=["ProtoOAAccountLogoutReq"], retryAfter=1, count=1)
        await leaving.session.logout()
        (again,) = await live(rig, 1)
        await asyncio.sleep(farewells.FIRST_WAIT_S * 1.5)  # no condition says that something did not happen
        await again.true()
        assert "logouts_repeated" not in rig.broker.metrics()


async def test_socket_stays_when_everybody_left_in_order() -> None:
    async with ctrader_rig(idle_close_s=60.0) as rig:
        watched = await live(rig, 1, 2)
        for one in watched:
            await one.session.logout()
        assert rig.act.counters()["connections"] == 1


async def test_logout_does_not_wait_behind_logins() -> None:
    """Four in five of a second's budget are spoken for when it is asked for, and six seconds of logins wait."""
    async with ctrader_rig(requests_per_second=10, logout_timeout_s=2.0) as rig:
        (one,) = await live(rig, 1)
        (channel,) = rig.broker._pools[Environment.DEMO].channels
        request, reply = messages_pb2.ProtoOAVersionReq(), messages_pb2.ProtoOAVersionRes
        logins = [
            asyncio.create_task(channel.call(request, reply, Priority.AUTH_AT_RISK, 30.0, number))
            for number in range(60)
        ]
        await asyncio.sleep(0)  # they are in the queue
        await one.session.logout()
        assert rig.broker.metrics().get("logouts_unconfirmed", 0) == 0
        assert sum(task.done() for task in logins) < 40
        for task in logins:
            task.cancel()
        await asyncio.gather(*logins, return_exceptions=True)


async def test_socket_is_gone_when_there_is_no_time_to_close_it() -> None:
    """At the end of its drain a process leaves the fleet in any case: whatever was open must not be any more."""
    async with ctrader_rig(close_timeout_s=30.0) as rig:
        await live(rig, 1, 2)
        (channel,) = rig.broker._pools[Environment.DEMO].channels
        transport = channel._socket.transport
        rig.act.fault("N03")  # the broker hears and says nothing
        closing = asyncio.create_task(rig.broker.close())
        done, _ = await asyncio.wait({closing}, timeout=0.2)
        assert (done, transport.is_closing()) == (set(), False)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        assert transport.is_closing()
