"""The whole system against every fault that a broker can cause by itself (reference/faults.md §2.1, §3).

One world for all: real processes, six users on one channel. While a fault acts and after it, an independent watcher
holds every record against DESIGN §6 (`tests/support/watcher.py`); afterwards every session is live and every record
equals the broker's own truth, within a stated time. Freshness, probes and deadlines are those of production.
"""

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o
from tests.support.fault_scene import SEEN_WITHIN_S, Case, FaultScene, run_case
from tests.support.quick_bridge import WAITS
from tests.support.relay import now_ms, relay
from tests.support.simulator_probe import probe
from tests.support.waiting import eventually
from tests.support.watcher import Watcher
from tests.support.world import APP_KEY, record_key, running_world

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

USERS = 6
VICTIM = "user-2"  # EUR, hedged; the fault aims at this one where it can
EMPTY = "user-6"  # holds nothing
MIB = 2**20


class Scene(FaultScene):
    """Accounts that trade at cTrader."""

    UNCOUNTED = frozenset({"N16", "N24"})  # nothing here reads history pages; unknown types are not counted
    VICTIMS_ONLY = frozenset({"N23", "N42"})

    @property
    def victim(self) -> int:
        return int(self.victim_account)

    @property
    def victim_account(self) -> int:
        return int(self.world.accounts[VICTIM])

    async def cut(self) -> None:
        await self.fault("N40")

    async def trade(self, user: str = VICTIM, *, rounds: int = 1) -> None:
        """Deposit, open, close, protect and place a pending order: every kind of event."""
        path = f"/accounts/{self.world.accounts[user]}"
        for _ in range(rounds):
            await self.world.sim("POST", f"{path}/deposit", {"amount": 7})
            buy = {"symbol": "EURUSD", "side": "buy", "type": "market", "units": 1000}
            first = await self.world.sim("POST", f"{path}/order", buy)
            await self.world.sim("POST", f"{path}/order", {**buy, "side": "sell", "units": 2000})
            limit = {"symbol": "EURUSD", "side": "buy", "type": "limit", "units": 1000, "limitPrice": 1.0}
            pending = await self.world.sim("POST", f"{path}/order", limit)
            await self.world.sim("POST", f"{path}/protect", {"positionId": first["positionId"], "stopLoss": 1.01})
            await self.world.sim("POST", f"{path}/close", {"positionId": first["positionId"]})
            await self.world.sim("POST", f"{path}/cancel", {"orderId": pending["orderId"]})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with relay() as passing:
        folder = tmp_path_factory.mktemp("faults")
        env = {
            "CTRADER_DEMO_URL": f"ws://127.0.0.1:{passing.port}",
            "LOG_FORMAT": "json",
            "CACHE_FLUSH_INTERVAL": "0.25",
        }
        async with running_world(
            folder, users=USERS, bridge_env=env, bridge_module="tests.support.quick_bridge"
        ) as world:
            passing.upstream = world.ports["ctrader"]
            await world.sim("POST", "/prices", {"freeze": True})
            await world.start_all()
            await world.all_live(within_s=20)
            keys = {user: record_key(user) for user in world.users}
            with Watcher(world.valkey.url, keys, passing) as watcher:
                made = Scene(world, watcher)
                await _hold_something(made)
                await made.equal(within_s=5)
                yield made
                assert watcher.samples


async def _hold_something(scene: Scene) -> None:
    for user in scene.users:
        if user == EMPTY:
            continue
        path = f"/accounts/{scene.world.accounts[user]}"
        for side in ("buy", "sell"):
            await scene.world.sim(
                "POST", f"{path}/order", {"symbol": "EURUSD", "side": side, "type": "market", "units": 3000}
            )
        limit = {"symbol": "EURUSD", "side": "buy", "type": "limit", "units": 1000, "limitPrice": 1.0}
        await scene.world.sim("POST", f"{path}/order", limit)


# ------------------------------------------------------------ what must be seen while a fault acts


async def all_notice(scene: Scene) -> None:
    await scene.seen_not_live()
    await scene.trade()


async def one_line_per_channel(scene: Scene) -> None:
    await all_notice(scene)
    bridge = scene.world.bridge
    await eventually(lambda: bridge.lines("channel lost") > scene.lines, within_s=2, what="the loss is said")
    assert bridge.lines("channel lost") == scene.lines + 1


async def silence_is_noticed(scene: Scene) -> None:
    """A probe, then death; no record may look fresh longer than its horizon, which the watcher checks."""
    await scene.trade()
    await scene.seen_not_live(within_s=WAITS["probe_after_s"] + WAITS["probe_timeout_s"] + SEEN_WITHIN_S)


async def dials_wait(scene: Scene) -> None:
    """A refused upgrade with Retry-After is never repeated sooner."""
    await scene.cut()
    await scene.seen_not_live()
    await scene.watch_for(3.5)
    dials = (await scene.world.sim("GET", "/counters"))["dialsAtMs"][len(scene.before["dialsAtMs"]) :]
    assert dials
    wait_ms = 2000
    assert all(later - earlier >= wait_ms for earlier, later in itertools.pairwise(dials)), dials


async def cut_and_trade(scene: Scene) -> None:
    await scene.cut()
    await all_notice(scene)


async def no_growth(scene: Scene) -> None:
    before = (await scene.world.api("GET", "/health"))["process"]["rssBytes"]
    await scene.watch_for(1)
    after = (await scene.world.api("GET", "/health"))["process"]["rssBytes"]
    assert after - before < 32 * MIB


async def trades(scene: Scene) -> None:
    await scene.trade(rounds=3)


async def converges(scene: Scene) -> None:
    """Wrong or missing events are repaired while the fault is still on, well before the periodic reconcile."""
    await scene.trade()
    await scene.equal(VICTIM, within_s=3.5)


async def repaired_by_reconcile(scene: Scene) -> None:
    await scene.trade()
    await scene.equal(VICTIM, within_s=1.2 * WAITS["reconcile_floor_s"] + 2)
    assert await scene.metric("bridge_lost_events_total") > 0


async def nothing_happens(scene: Scene) -> None:
    """No reconnect, no wrong number; traffic goes on."""
    await scene.trade()
    await scene.equal(within_s=3)
    assert await scene.counted("connectionsOpened") == 0


async def no_echo(scene: Scene) -> None:
    await scene.watch_for(2.5)
    assert 2 <= await scene.counted("heartbeatsReceived") <= 4  # one a second, and none in answer
    await nothing_happens(scene)


async def foreign_is_counted(scene: Scene) -> None:
    """Dropped, counted as a security event, and in nobody's record."""
    with scene.watcher.untouched(*scene.users):
        await scene.fault("N18")
        await eventually(
            lambda: scene.metric('bridge_broker_counts_total{broker="ctrader",what="foreign_events"'),
            within_s=2,
            what="foreign events counted",
        )
        await scene.watch_for(0.5)
    await nothing_happens(scene)


async def snapshot_is_doubted(scene: Scene) -> None:
    """The next snapshot after a cut is broken: positions may not vanish on its word."""
    held = {row["id"] for row in scene.record()["positions"]}
    assert held
    await scene.cut()
    await scene.seen_not_live(VICTIM)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        shown = {row["id"] for row in scene.record()["positions"]}
        assert shown == held, f"positions vanished: {held} -> {shown}, {scene.record()['status']}"
        await asyncio.sleep(0.02)  # a sample; nothing may vanish in any of them


async def live_snapshot_is_doubted(scene: Scene) -> None:
    """The same while live: the periodic reconcile meets the broken snapshot."""
    held = {row["id"] for row in scene.record()["positions"]}
    until = time.monotonic() + 1.2 * WAITS["reconcile_floor_s"] + 1
    while time.monotonic() < until:
        shown = {row["id"] for row in scene.record()["positions"]}
        assert shown == held, f"positions vanished: {held} -> {shown}"
        assert scene.record()["status"] == "live"
        await asyncio.sleep(0.02)  # a sample; nothing may vanish in any of them
    assert await scene.counted("faults", "BrokenSnapshot") == 1


async def maintenance_is_waited_out(scene: Scene) -> None:
    await scene.cut()
    await eventually(
        lambda: all("maintenance" in scene.watcher.statuses(user) for user in scene.users),
        within_s=4,
        what="all say maintenance",
    )
    asked = await scene.counted("errors", "SERVER_IS_UNDER_MAINTENANCE")
    begun = time.monotonic()
    await scene.watch_for(1.5)
    asked_meanwhile = await scene.counted("errors", "SERVER_IS_UNDER_MAINTENANCE") - asked
    assert asked_meanwhile <= 2 + (time.monotonic() - begun), "one probe per channel, not one per session"


async def hangs(scene: Scene) -> None:
    await scene.cut()
    await scene.seen_not_live()
    await scene.watch_for(3)


async def few_refusals(code: str, most: int, scene: Scene) -> None:
    await scene.cut()
    await scene.seen_not_live()
    await scene.watch_for(2.5)
    refused = await scene.counted("errors", code)
    assert 1 <= refused <= most, f"{refused} refused requests in 2.5 s"


async def frequency(scene: Scene) -> None:
    await few_refusals("REQUEST_FREQUENCY_EXCEEDED", 40, scene)


async def blocked(scene: Scene) -> None:
    await few_refusals("BLOCKED_PAYLOAD_TYPE", 30, scene)


async def second_client_orders(scene: Scene) -> None:
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


async def refreshed_once(scene: Scene) -> None:
    await scene.seen_not_live(VICTIM)
    await scene.equal(VICTIM, within_s=4)
    assert await scene.counted("refreshes") == 1


async def each_refreshed_once(scene: Scene) -> None:
    await scene.seen_not_live()
    await scene.equal(within_s=4)
    assert await scene.counted("refreshes") == USERS  # six consents, one account each
    assert await scene.counted("connectionsOpened") == 0


async def revoked(scene: Scene) -> None:
    """Only the user can help: no further attempt at the broker."""
    await eventually(lambda: scene.record()["status"] == "action_required", within_s=4, what="action required")
    assert scene.record()["reason"]["code"] == "token_revoked", scene.record()["reason"]
    attempts = await scene.counted("authAttemptsByUser", VICTIM), await scene.counted("refreshFailures")
    await scene.watch_for(2)
    assert attempts == (await scene.counted("authAttemptsByUser", VICTIM), await scene.counted("refreshFailures"))
    assert attempts[1] == 1, "a refused refresh is not repeated"
    assert scene.record()["status"] == "action_required"
    assert scene.record()["positions"], "the last numbers stay"


async def start_again(scene: Scene) -> None:
    await scene.world.start(VICTIM, environment="demo")


async def only_this_account(scene: Scene) -> None:
    await scene.seen_not_live(VICTIM)
    await scene.equal(VICTIM, within_s=3)
    assert await scene.counted("connectionsOpened") == 0
    assert await scene.counted("authAttemptsByUser", VICTIM) == 1


async def blocked_application(scene: Scene) -> None:
    """One attempt per `app_blocked_s`, whatever the number of sessions."""
    await eventually(
        lambda: all("application_refused" in scene.watcher.codes(user) for user in scene.users),
        within_s=SEEN_WITHIN_S,
        what="all say that the application is refused",
    )
    await scene.watch_for(WAITS["app_blocked_s"] - 1.5)
    assert await scene.counted("connectionsOpened") == 0


async def already_logged_in(scene: Scene) -> None:
    await scene.cut()
    await scene.seen_not_live()
    await scene.equal(within_s=5)


async def silently_lost(scene: Scene) -> None:
    """Nobody is told: the next request finds out, and the account is authorised again."""
    await scene.equal(VICTIM, within_s=1.2 * WAITS["reconcile_floor_s"] + 4)
    await eventually(
        lambda: scene.counted("authAttemptsByUser", VICTIM),
        within_s=1.2 * WAITS["reconcile_floor_s"] + 4,
        what="authorised again",
    )
    assert await scene.counted("authAttemptsByUser", VICTIM) <= 3


async def slot_is_waited_for(scene: Scene) -> None:
    await scene.cut()
    await eventually(
        lambda: all("connection_limit" in scene.watcher.codes(user) for user in scene.users),
        within_s=4,
        what="all say that the slot is busy",
    )
    await scene.watch_for(WAITS["connection_limit_s"] + 1)
    dials = (await scene.world.sim("GET", "/counters"))["dialsAtMs"][len(scene.before["dialsAtMs"]) :]
    gaps = [later - earlier for earlier, later in itertools.pairwise(dials)]
    assert all(gap >= WAITS["connection_limit_s"] * 1000 - 50 for gap in gaps), gaps


async def flaps(scene: Scene) -> None:
    await scene.watch_for(4)
    assert await scene.counted("connectionsOpened") <= 6  # eight without backoff


async def slow_login(scene: Scene) -> None:
    """One account's slow login holds nobody up."""
    await scene.fault("N33", accounts=[scene.victim])
    await scene.seen_not_live(VICTIM)
    await scene.trade("user-3")
    await scene.equal("user-3", within_s=3)
    await scene.watch_for(WAITS["auth_timeout_s"])
    assert await scene.counted("connectionsOpened") == 0


CASES = [
    Case("N01", during=all_notice),
    *(Case("N02", {"code": code}, during=all_notice, name=str(code)) for code in (1000, 1001, 1012)),
    Case("N40", during=one_line_per_channel, name="said-once"),
    Case("N03", during=silence_is_noticed),
    Case("N04", {"newConnections": True}, during=silence_is_noticed, back_s=14),
    Case("N10", {"status": 429, "retryAfter": 2}, during=dials_wait, name="429"),
    Case("N10", {"status": 200}, during=cut_and_trade, name="html"),
    Case("N10", {"status": 503}, during=cut_and_trade, name="503"),
    Case("N11", {"bytesPerSecond": 1}, during=silence_is_noticed, back_s=14),
    Case("N12", {"message": "ProtoOAReconcileRes"}, during=cut_and_trade),
    *(
        Case("N13", {"variant": variant}, during=no_growth, name=variant)
        for variant in ("announced", "real", "compressed")
    ),
    Case("N14", {"mode": "random", "count": 3}, during=nothing_happens, name="three"),
    Case("N14", {"mode": "random", "count": 40}, during=all_notice, name="forty"),
    *(
        Case("N15", {"variant": variant}, during=converges, aimed=True, name=variant)
        for variant in ("unknown", "missing")
    ),
    Case("N16", {"variant": "type", "count": 20}, during=nothing_happens, name="type"),
    Case("N16", {"variant": "fields", "count": 20}, during=nothing_happens, name="fields"),
    *(
        Case("N17", {"variant": variant, "count": 3}, during=trades, aimed=True, name=variant)
        for variant in ("negative_volume", "nan_price", "inf_price", "huge_money", "year_1970", "year_2100")
    ),
    Case("N18", during=foreign_is_counted),
    Case("N19", {"afterAuth": True}, during=converges, aimed=True),
    Case("N20", during=converges, aimed=True),
    Case("N21", {"every": 1}, during=repaired_by_reconcile, aimed=True),
    Case("N22", during=cut_and_trade),
    *(Case("N23", {"variant": variant}, during=snapshot_is_doubted, name=variant) for variant in ("empty", "short")),
    Case("N23", {"variant": "error"}, during=snapshot_is_doubted, name="error"),
    Case("N23", {"variant": "empty"}, during=live_snapshot_is_doubted, name="empty-live", aimed=True),
    Case("N23", {"variant": "short"}, during=live_snapshot_is_doubted, name="short-live", aimed=True),
    Case("N24", during=nothing_happens),
    Case("N26", {"variant": "echo"}, during=no_echo, name="echo"),
    *(
        Case("N27", {"variant": variant, "endsInSeconds": 1}, during=maintenance_is_waited_out, name=variant)
        for variant in ("seconds", "milliseconds", "past", "absent", "far")
    ),
    Case("N27", {"variant": "hang"}, during=hangs, name="hang", back_s=14),
    Case("N28", during=frequency, name="frequency"),
    Case("N28", {"retryAfter": 1, "requests": ["ProtoOATraderReq"]}, during=blocked, name="blocked", back_s=12),
    Case("N29", during=second_client_orders, aimed=True),
    Case("N30", during=refreshed_once, aimed=True),
    Case("N30", during=each_refreshed_once, name="all"),
    Case("N31", {"users": [2]}, during=revoked, after=start_again, aimed=True),
    Case("N33", during=only_this_account, aimed=True),
    Case("N34", during=blocked_application, back_s=WAITS["app_blocked_s"] + 4),
    Case("N35", during=already_logged_in),
    Case("N36", during=silently_lost, aimed=True),
    Case("N37", {"limit": 0}, during=slot_is_waited_for, back_s=WAITS["connection_limit_s"] + 4),
    Case("N40", during=all_notice),
    Case("N41", {"upSeconds": 0.4}, during=flaps),
    Case("N42", {"delaySeconds": 30}, during=slow_login, back_s=14),
    Case("DROP_AFTER_REQUEST", {"requests": ["ProtoOAReconcileReq"]}, during=cut_and_trade),
]


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_records_stay_true_and_sessions_return_when_the_broker_misbehaves(scene: Scene, case: Case) -> None:
    await run_case(scene, case)


async def test_one_refresh_serves_all_accounts_of_a_consent_when_its_token_ends(scene: Scene) -> None:
    world, second = scene.world, "1000022"  # the victim's other demo account
    await scene.equal(within_s=15)
    await world.start(VICTIM, environment="demo", accountId=second)

    async def both_live() -> bool:
        return await world.live() == USERS + 1

    try:
        await eventually(both_live, within_s=5, every_s=0.05, what="the second account is live")
        scene.before = await world.sim("GET", "/counters")
        scene.watcher.forget_seen()
        with scene.watcher.untouched(*scene.bystanders):
            await scene.fault("N30", accounts=[scene.victim, int(second)])
            await scene.seen_not_live(VICTIM)
            await scene.equal(VICTIM, within_s=4)
            await eventually(both_live, within_s=4, every_s=0.05, what="both are live again")
        assert await scene.counted("refreshes") == 1
        assert await scene.counted("connectionsOpened") == 0
        assert not scene.watcher.violations, "\n".join(scene.watcher.violations)
    finally:
        body = {"userId": VICTIM, "broker": "ctrader", "accountId": second}
        assert (await world.api("POST", "/api/stop-session", key=APP_KEY, body=body))["_status"] == 202


async def test_silence_and_a_killed_process_stop_looking_fresh_in_time_with_the_timers_of_production(
    tmp_path: Path,
) -> None:
    """Nothing shortened: a peer that falls silent, then a bridge that is killed, which nobody can tell the reader."""
    async with relay() as passing:
        env = {"CTRADER_DEMO_URL": f"ws://127.0.0.1:{passing.port}"}
        async with running_world(tmp_path, users=2, bridge_env=env) as world:
            passing.upstream = world.ports["ctrader"]
            await world.sim("POST", "/prices", {"freeze": True})
            await world.start_all()
            await world.all_live(within_s=20)
            with Watcher(world.valkey.url, {user: record_key(user) for user in world.users}, passing) as watcher:
                scene = Scene(world, watcher)
                await _hold_something(scene)
                await scene.equal(within_s=5)
                watcher.forget_seen()
                await scene.fault("N03")
                await scene.seen_not_live(within_s=10 + SEEN_WITHIN_S)
                await world.sim("DELETE", "/faults")
                await scene.equal(within_s=5)

                world.bridge.send(signal.SIGKILL)
                killed_ms = now_ms()
                await world.bridge.ended()
                await eventually(
                    lambda: now_ms() >= max(scene.record(user)["staleAfter"] for user in world.users),
                    within_s=10,
                    what="no record looks fresh any more",
                )
                assert now_ms() - killed_ms <= 10_000
                assert not watcher.violations, "\n".join(watcher.violations)
