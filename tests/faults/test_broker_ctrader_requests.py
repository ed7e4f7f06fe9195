"""The whole system when cTrader refuses what is asked of it, or ends what it granted (reference/faults.md §2.1)."""

import itertools
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o
from tests.support.ctrader_scene import COUNT, USERS, VICTIM, CtraderScene, ctrader_scene
from tests.support.fault_scene import Case, Observed, parameters, run_case
from tests.support.fault_table import fault
from tests.support.quick_bridge import WAITS
from tests.support.simulator_probe import probe
from tests.support.waiting import eventually
from tests.support.world import APP_KEY

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

ACCOUNTS = [1_000_001 + 10 * number for number in range(1, USERS + 1)]  # the first of each user
SERVERS = 2  # of these accounts
SECOND = "1000022"  # the victim's other demo account
FOUND_OUT_S = 1.2 * WAITS["reconcile_floor_s"] + 4
IN_MAINTENANCE = frozenset({"connection_lost", "broker_maintenance"})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CtraderScene]:
    async with ctrader_scene(tmp_path_factory.mktemp("requests")) as made:
        yield made


async def maintenance_is_waited_out(scene: CtraderScene) -> None:
    await scene.cut()
    await scene.all_say("broker_maintenance", within_s=4)
    asked = await scene.counted("errors", "SERVER_IS_UNDER_MAINTENANCE")
    begun = time.monotonic()
    await scene.watch_for(1.5)
    asked_meanwhile = await scene.counted("errors", "SERVER_IS_UNDER_MAINTENANCE") - asked
    assert asked_meanwhile <= 2 + (time.monotonic() - begun), "one probe per channel, not one per session"
    scene.held("about one probe a second for all, at an end a second away or a cap of two")


async def servers_are_waited_for(scene: CtraderScene) -> None:
    """The channel is up and only accounts are refused: one login probes for all of a broker server."""
    await scene.cut()
    await scene.all_say("broker_maintenance", within_s=4)
    asked = await scene.counted("errors", "SERVER_IS_UNDER_MAINTENANCE")
    begun = time.monotonic()
    await scene.watch_for(3)
    asked_meanwhile = await scene.counted("errors", "SERVER_IS_UNDER_MAINTENANCE") - asked
    assert asked_meanwhile <= SERVERS * (1 + time.monotonic() - begun), "one probe per server, not one per session"
    scene.held("about one probe a second for all of a broker server, at an end a second away")


async def hangs(scene: CtraderScene) -> None:
    await scene.cut()
    await scene.seen_not_live()
    await scene.watch_for(3)


async def few_refusals(scene: CtraderScene, code: str, most: int) -> None:
    await scene.cut()
    await scene.seen_not_live()
    await scene.watch_for(2.5)
    refused = await scene.counted("errors", code)
    assert 1 <= refused <= most, f"{refused} refused requests in 2.5 s"
    scene.held(f"at most {most} refusals in 2.5 s")


async def frequency(scene: CtraderScene) -> None:
    await few_refusals(scene, "REQUEST_FREQUENCY_EXCEEDED", 40)


async def blocked(scene: CtraderScene) -> None:
    await few_refusals(scene, "BLOCKED_PAYLOAD_TYPE", 30)


async def only_that_kind_pauses(scene: CtraderScene) -> None:
    """While live: what is read now and then waits, what is told goes on, nobody's session ends."""
    for _ in range(2):
        await scene.watch_for(1.2 * WAITS["reconcile_floor_s"])
        await scene.trade()
        await scene.equal(within_s=3)
    refused = await scene.counted("errors", "BLOCKED_PAYLOAD_TYPE")
    assert 1 <= refused <= 3 * USERS, refused
    assert all(scene.watcher.statuses(user) <= {"live"} for user in scene.users)
    scene.held(f"no session ends; at most {3 * USERS} refusals in 5 s")


async def second_client_orders(scene: CtraderScene) -> None:
    """A second client's order is executed and answered with a rate limit: the mirror shows what was executed."""
    before = len(scene.record()["positions"])
    async with probe(scene.world.ports["ctrader"]) as talk:
        await talk.login(scene.victim, 2)
        symbols = await talk.expect(m.ProtoOASymbolsListRes, m.ProtoOASymbolsListReq(ctidTraderAccountId=scene.victim))
        symbol = next(each for each in symbols.symbol if each.symbolName == "EURUSD")
        order = m.ProtoOANewOrderReq(
            ctidTraderAccountId=scene.victim,
            symbolId=symbol.symbolId,
            orderType=o.MARKET,
            tradeSide=o.BUY,
            volume=100_000,
        )
        code, _ = await talk.error(order)
        assert code == "BLOCKED_PAYLOAD_TYPE"
    await eventually(lambda: len(scene.record()["positions"]) == before + 1, within_s=2, what="the position is shown")


async def refreshed_once(scene: CtraderScene) -> None:
    await scene.seen_not_live(VICTIM)
    await scene.equal(VICTIM, within_s=4)
    assert await scene.counted("refreshes") == 1
    scene.held("one renewal per consent")


async def each_refreshed_once(scene: CtraderScene) -> None:
    await scene.seen_not_live()
    await scene.equal(within_s=4)
    assert await scene.counted("refreshes") == USERS  # six consents, one account each
    assert await scene.counted("connectionsOpened") == 0
    scene.held("one renewal per consent; the connection stays")


async def revoked(scene: CtraderScene) -> None:
    """Only the user can help: no further attempt at the broker."""
    await eventually(lambda: scene.record()["status"] == "action_required", within_s=4, what="action required")
    assert scene.record()["reason"]["code"] == "token_revoked", scene.record()["reason"]
    attempts = await scene.counted("authAttemptsByUser", VICTIM), await scene.counted("refreshFailures")
    await scene.watch_for(2)
    assert attempts == (await scene.counted("authAttemptsByUser", VICTIM), await scene.counted("refreshFailures"))
    assert attempts[1] == 1, "a refused refresh is not repeated"
    assert scene.record()["status"] == "action_required"
    assert scene.record()["positions"], "the last numbers stay"
    scene.held("the user is asked within 4 s, one renewal and no login after it; the last numbers stay")


async def start_again(scene: CtraderScene) -> None:
    await scene.world.start(VICTIM, environment="demo")


async def only_this_account(scene: CtraderScene) -> None:
    await scene.seen_not_live(VICTIM)
    await scene.equal(VICTIM, within_s=3)
    assert await scene.counted("connectionsOpened") == 0
    assert await scene.counted("authAttemptsByUser", VICTIM) == 1
    scene.held("one login, the connection stays")


async def blocked_application(scene: CtraderScene) -> None:
    """One attempt per `app_blocked_s`, whatever the number of sessions."""
    await scene.all_say("application_refused")
    await scene.watch_for(WAITS["app_blocked_s"] - 1.5)
    assert await scene.counted("connectionsOpened") == 0
    assert await scene.metric(COUNT % "application_refused") >= 1
    scene.held("no dial before the pause is over; counted for operators")


async def already_logged_in(scene: CtraderScene) -> None:
    await scene.cut()
    await scene.seen_not_live()
    await scene.equal(within_s=5)


async def silently_lost(scene: CtraderScene) -> None:
    """Nobody is told: the next request finds out, and the account is authorised again."""
    await scene.equal(VICTIM, within_s=FOUND_OUT_S)
    await eventually(lambda: scene.counted("authAttemptsByUser", VICTIM), within_s=FOUND_OUT_S, what="authorised again")
    assert await scene.counted("authAttemptsByUser", VICTIM) <= 3
    scene.held("at most 3 logins")


async def slot_is_waited_for(scene: CtraderScene) -> None:
    await scene.cut()
    await scene.all_say("connection_limit", within_s=4)
    await scene.watch_for(WAITS["connection_limit_s"] + 1)
    gaps = [later - earlier for earlier, later in itertools.pairwise(await scene.dials())]
    assert all(gap >= WAITS["connection_limit_s"] * 1000 - 50 for gap in gaps), gaps
    scene.held("no two dials within the wait")


async def slot_of_a_dead_one(scene: CtraderScene) -> None:
    """The broker keeps the slot of the connection that was cut for a while: one refusal, one wait, then back."""
    await scene.cut()
    await scene.all_say("connection_limit", within_s=4)
    await scene.equal(within_s=WAITS["connection_limit_s"] + 3)
    assert await scene.counted("errors", "CONNECTIONS_LIMIT_EXCEEDED") == 1
    scene.held("one refusal")


async def slow_login(scene: CtraderScene) -> None:
    """One account's slow login holds nobody up."""
    await scene.fault("N33", accounts=[scene.victim])
    await scene.seen_not_live(VICTIM)
    await scene.bystander_trades()
    await scene.watch_for(WAITS["auth_timeout_s"])
    await scene.bystander_trades()
    assert await scene.counted("connectionsOpened") == 0
    scene.held("the connection stays")


CASES = [
    *(
        Case("N27", {"variant": variant, "endsInSeconds": 1}, maintenance_is_waited_out, codes=IN_MAINTENANCE,
             name=variant, injected=f"maintenance with an end: {said}")
        for variant, said in (
            ("seconds", "in s"), ("milliseconds", "in ms"), ("past", "past"), ("absent", "absent"), ("far", "+10 years")
        )
    ),
    Case("N27", {"endsInSeconds": 1, "accounts": ACCOUNTS}, servers_are_waited_for, codes=IN_MAINTENANCE,
         name="servers", injected="maintenance of broker servers behind a channel that is up"),
    Case("N27", {"variant": "hang"}, during=hangs, name="hang", back_s=14, injected="maintenance without any answer"),
    Case("N28", during=frequency, name="frequency"),
    Case("N28", {"retryAfter": 1, "requests": ["ProtoOATraderReq"]}, during=blocked, name="blocked", back_s=12),
    Case("N28", {"retryAfter": 1, "requests": ["ProtoOAReconcileReq"]}, only_that_kind_pauses, name="live"),
    Case("N29", during=second_client_orders, aimed=True),
    Case("N30", during=refreshed_once, aimed=True),
    Case("N30", during=each_refreshed_once, name="all"),
    Case("N31", {"users": [2]}, during=revoked, after=start_again, aimed=True),
    Case("N33", during=only_this_account, aimed=True),
    Case("N34", during=blocked_application, back_s=WAITS["app_blocked_s"] + 4),
    Case("N35", during=already_logged_in, codes=frozenset({"connection_lost"})),
    Case("N36", during=silently_lost, aimed=True),
    Case("N37", {"limit": 0}, during=slot_is_waited_for, back_s=WAITS["connection_limit_s"] + 4),
    Case("N37", {"limit": 1, "holdSeconds": 1.5}, during=slot_of_a_dead_one, name="held"),
    Case("N42", {"delaySeconds": 30}, during=slow_login, back_s=14, name="slow"),
    Case("N42", {"delaySeconds": None}, during=slow_login, back_s=14, name="never"),
]  # fmt: skip


@pytest.mark.parametrize("case", parameters(CtraderScene, CASES))
async def test_records_stay_true_and_sessions_return_when_the_broker_refuses(
    scene: CtraderScene, case: Case, observed: Observed
) -> None:
    await run_case(scene, case, observed)


@fault("N30", "cTrader: the token of a consent with two accounts ends", "one renewal serves both, within 4 s")
async def test_one_refresh_serves_all_accounts_of_a_consent_when_its_token_ends(scene: CtraderScene) -> None:
    world = scene.world
    await scene.equal(within_s=15)
    await world.start(VICTIM, environment="demo", accountId=SECOND)

    async def both_live() -> bool:
        return await world.live() == USERS + 1

    try:
        await eventually(both_live, within_s=5, every_s=0.05, what="the second account is live")
        await scene.begin()
        with scene.watcher.untouched(*scene.bystanders):
            await scene.fault("N30", accounts=[scene.victim, int(SECOND)])
            await scene.seen_not_live(VICTIM)
            await scene.equal(VICTIM, within_s=4)
            await eventually(both_live, within_s=4, every_s=0.05, what="both are live again")
        assert await scene.counted("refreshes") == 1
        assert await scene.counted("connectionsOpened") == 0
        await scene.kept_promises()
    finally:
        body = {"userId": VICTIM, "broker": "ctrader", "accountId": SECOND}
        assert (await world.api("POST", "/api/stop-session", key=APP_KEY, body=body))["_status"] == 202
