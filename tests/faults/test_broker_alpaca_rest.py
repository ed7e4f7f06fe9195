"""The whole system against everything that Alpaca's REST API may answer (reference/faults.md §2.1).

While the stream lives, trouble of REST alone never ends a session: what it shows is what the stream said. After a cut
nothing is live before an account could be read whole.
"""

import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from tests.support.alpaca_probe import rest
from tests.support.alpaca_scene import QUIET, TRADER, VICTIM, AlpacaScene, alpaca_scene
from tests.support.fault_scene import Case, Observed, parameters, run_case
from tests.support.fault_table import fault
from tests.support.quick_bridge import ALPACA_WAITS as WAITS
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

NONE: frozenset[str] = frozenset()
UNTOLD = 10  # dollars: the deposit and the fees of selling crypto, of which only REST tells
PARTS = ("account", "positions", "orders", "activities")
ABSURD = ("negative_qty", "nan_price", "inf_price", "huge_money", "not_a_number", "year_1970", "year_2100")
LOST = "connection_lost"
TROUBLE = frozenset({LOST, "broker_error", "broker_unreachable", "snapshot_refused"})
MAINTENANCE = TROUBLE | {"broker_maintenance"}
LIMITED = TROUBLE | {"rate_limited"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AlpacaScene]:
    async with alpaca_scene(tmp_path_factory.mktemp("rest")) as made:
        yield made


# ------------------------------------------------------------ what must be seen while a fault acts


async def stays_live(scene: AlpacaScene) -> None:
    """The stream tells of what happens: no session ends, and quantities are right at once."""
    await scene.trade()
    await scene.watch_for(2)
    assert scene.watcher.statuses(VICTIM) <= {"live"}, scene.watcher.seen[VICTIM]
    assert scene.shown() == await scene.holdings()
    truth = await scene.world.sim("GET", f"/truth/{scene.victim_account}")
    assert {row["id"] for row in scene.record()["orders"]} == {row["id"] for row in truth["orders"]}
    scene.held("live all the time, quantities and orders as the stream says")


async def victim_stays_live(scene: AlpacaScene) -> None:
    await stays_live(scene)
    await scene.bystander_trades()


async def cut_and_trade(scene: AlpacaScene) -> None:
    """Nothing becomes live on a broken answer; executions happen meanwhile."""
    await scene.cut()
    await scene.seen_not_live()
    await scene.trade()
    await scene.watch_for(2)


async def maintenance_is_waited_out(scene: AlpacaScene) -> None:
    await scene.cut()
    await eventually(
        lambda: all("maintenance" in scene.watcher.statuses(user) for user in scene.users),
        within_s=4,
        what="all say maintenance",
    )
    await scene.trade()
    await scene.watch_for(1)


async def doubted(scene: AlpacaScene) -> None:
    """The next reading after a cut is broken: what is held may not vanish on its word."""
    held = _held(scene)
    await scene.cut()
    await scene.seen_not_live(VICTIM)
    await _nothing_vanishes(scene, held, 2.5)


async def doubted_while_live(scene: AlpacaScene) -> None:
    """The same while live: polls and the periodic reconcile meet the broken answer."""
    await _nothing_vanishes(scene, _held(scene), 1.2 * WAITS["reconcile_s"] + 1)
    assert scene.watcher.statuses(VICTIM) <= {"live"}


def _held(scene: AlpacaScene) -> set[str]:
    record = scene.record()
    held = {row["id"] for row in (*record["positions"], *record["orders"])}
    assert record["positions"]
    assert record["orders"]
    return held


async def _nothing_vanishes(scene: AlpacaScene, held: set[str], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        record = scene.record()
        shown = {row["id"] for row in (*record["positions"], *record["orders"])}
        assert shown >= held, f"vanished: {held - shown}, {record['status']}"
        await scene.watch_for(0.02)  # a sample; nothing may vanish in any of them
    scene.held("nothing held vanishes")


async def lagging(scene: AlpacaScene) -> None:
    """REST shows what was seconds ago: what the stream said is never taken back."""
    await scene.trade()
    await scene.bystander_trades()
    held = await scene.holdings()
    await eventually(lambda: scene.shown() == held, within_s=1.5, what="what the stream said is shown")
    until, cash = time.monotonic() + 3, scene.record()["balance"]
    while time.monotonic() < until:
        assert scene.shown() == held
        moved = abs(scene.record()["balance"] - cash)
        assert moved < UNTOLD, f"cash moved by {moved}, which no message told"
        await scene.watch_for(0.02)
    assert scene.watcher.statuses(VICTIM) <= {"live"}
    scene.held("live; nothing that the stream said is taken back")


async def limited(scene: AlpacaScene) -> None:
    """Whoever is told to wait does: few requests are refused, however long it lasts."""
    await scene.trade()
    await scene.cut()
    await scene.seen_not_live()
    await scene.watch_for(3)
    refused = await scene.counted("faults", "RateLimited")
    assert 1 <= refused <= 8 * len(scene.users), refused
    scene.held("at most 8 refusals an account in 3 s")


async def limited_while_live(scene: AlpacaScene) -> None:
    await stays_live(scene)
    await scene.watch_for(2)
    refused = await scene.counted("faults", "RateLimited")
    assert 1 <= refused <= 3 * len(scene.users), refused
    scene.held("live; at most 3 refusals an account in 4 s")
    assert scene.watcher.statuses(VICTIM) <= {"live"}


async def second_client_orders(scene: AlpacaScene) -> None:
    """A second client's order is executed and answered with something else: the record shows what was executed."""
    order = {"symbol": "MSFT", "side": "buy", "qty": "1", "type": "market", "time_in_force": "day"}
    before = len(scene.record()["positions"])
    try:
        status, _ = await rest(scene.world.ports["alpaca"], "POST", "/v2/orders", body=order, user=2)
        assert status in (429, 504)
    except aiohttp.ClientConnectionError:
        assert await scene.counted("faults", "DropAfterRequest") == 1
    await eventually(lambda: len(scene.record()["positions"]) == before + 1, within_s=2, what="the position is shown")
    path = f"/accounts/{scene.victim_account}/close"
    await scene.end_faults()
    await scene.world.sim("POST", path, {"symbol": "MSFT"})


async def keys_revoked(scene: AlpacaScene) -> None:
    await _needs_its_user(scene, VICTIM, "credentials_invalid")


async def consent_revoked(scene: AlpacaScene) -> None:
    await _needs_its_user(scene, TRADER, "token_revoked")


async def _needs_its_user(scene: AlpacaScene, user: str, code: str) -> None:
    """Only the user can help: no further attempt at the broker, the last numbers stay."""
    await eventually(lambda: scene.record(user)["status"] == "action_required", within_s=6, what="action required")
    assert scene.record(user)["reason"]["code"] == code
    unauthorized = await scene.counted("unauthorized")
    await scene.watch_for(2)
    assert await scene.counted("unauthorized") == unauthorized, "it was asked again"
    assert scene.record(user)["status"] == "action_required"
    assert scene.record(user)["positions"], "the last numbers stay"
    scene.held("the user is asked within 6 s, the broker no more; the last numbers stay")


async def keys_are_good_again(scene: AlpacaScene) -> None:
    await scene.world.broker_sim("POST", "/users/2/restore-keys", {})
    await scene.world.start(VICTIM, environment="demo")


async def start_again(scene: AlpacaScene) -> None:
    await scene.world.start(VICTIM, environment="demo")


async def refused_on_one_route(scene: AlpacaScene) -> None:
    """What is refused is refused: the user is asked, and nobody else is."""
    await keys_revoked(scene)
    assert scene.watcher.statuses(QUIET) <= {"live"}


def _id(variant: str) -> str:
    """What an odd answer is in the catalogue."""
    return {"unknown_enum": "N15", "unknown_fields": "N16"}.get(variant, "N17")


CASES = [
    *(
        Case("N10", {"target": "rest", "status": status}, stays_live, codes=NONE, name=f"{status}-live", back_s=9)
        for status in (200, 404, 500, 503, 504)
    ),
    *(
        Case("N10", {"target": "rest", "status": status}, cut_and_trade, codes=TROUBLE, name=f"{status}-cut", back_s=9)
        for status in (200, 404, 500, 503, 504)
    ),
    Case("N10", {"target": "both", "status": 503, "retryAfter": 2}, maintenance_is_waited_out, codes=MAINTENANCE,
         says="broker_maintenance", name="maintenance", back_s=9, of="N27", injected="503 with Retry-After everywhere"),
    Case("N10", {"target": "rest", "status": 503, "retryAfter": 2}, stays_live, codes=NONE, name="maintenance-live",
         of="N27", injected="503 with Retry-After from REST"),
    Case("N22", {"lagSeconds": 2}, lagging, aimed=True, codes=NONE),
    *(Case("N22", {"lagSeconds": 2, "parts": [part]}, lagging, aimed=True, codes=NONE, name=part) for part in PARTS),
    Case("N22", {"lagSeconds": 1, "delaySeconds": 0.5}, cut_and_trade, codes=TROUBLE, name="cut", back_s=9),
    *(
        Case("N23", {"variant": variant, "parts": [part]}, doubted, codes=TROUBLE, name=f"{variant}-{part}")
        for variant in ("error", "empty", "short", "missing_fields")
        for part in ("account", "positions", "orders")
    ),
    *(
        Case("N23", {"variant": variant, "parts": [part]}, doubted_while_live, aimed=True, codes=NONE,
             name=f"{variant}-{part}-live")
        for variant in ("empty", "short", "missing_fields")
        for part in ("account", "positions", "orders")
    ),
    Case("N24", {}, cut_and_trade, codes=TROUBLE),
    Case("N28", {"retryAfter": 1}, limited, codes=LIMITED, says="rate_limited", back_s=9),
    Case("N28", {"retryAfter": 1, "header": True}, limited, codes=LIMITED, name="header", back_s=9),
    Case("N28", {"retryAfter": 1}, limited_while_live, codes=NONE, name="live", back_s=9),
    Case("N29", {}, second_client_orders, aimed=True, codes=NONE),
    Case("DROP_AFTER_REQUEST", {}, second_client_orders, aimed=True, codes=NONE, name="order", of="N29"),
    Case("DROP_AFTER_REQUEST", {"routes": ["GET /v2/positions"], "count": 3}, cut_and_trade, codes=TROUBLE, of="N01"),
    Case("N30", {"users": [2], "what": "keys"}, keys_revoked, after=keys_are_good_again, aimed=True, of="N31",
         codes=frozenset({"credentials_invalid", "broker_error", LOST}), name="keys"),
    Case("N36", {}, keys_revoked, after=start_again, aimed=True, of="N31", name="all-routes",
         codes=frozenset({"credentials_invalid"})),
    Case("N36", {"routes": ["GET /v2/positions"]}, refused_on_one_route, after=start_again, aimed=True, of="N31",
         codes=frozenset({"credentials_invalid"}), name="one-route"),
    Case("SLOW_REST", {"delaySeconds": 30}, stays_live, codes=NONE, name="hangs-live", back_s=12, of="N03"),
    Case("SLOW_REST", {"delaySeconds": 30}, cut_and_trade, codes=TROUBLE, name="hangs-cut", back_s=12, of="N03"),
    Case("SLOW_REST", {"bytesPerSecond": 20}, cut_and_trade, codes=TROUBLE, name="drip", back_s=12, of="N11"),
    *(
        Case("BROKEN_BODY", {"variant": variant, "count": 8}, cut_and_trade, codes=TROUBLE, name=variant,
             of="N12" if variant in ("cut", "half") else "N14")
        for variant in ("cut", "half", "html", "random")
    ),
    Case("BROKEN_BODY", {"count": 8}, victim_stays_live, aimed=True, codes=NONE, name="live", of="N12"),
    *(
        Case("ODD_ANSWER", {"variant": variant, "count": 6}, victim_stays_live, aimed=True, codes=NONE, name=variant,
             of=_id(variant))
        for variant in ("unknown_enum", "unknown_fields", *ABSURD)
    ),
    *(
        Case("ODD_ANSWER", {"variant": variant, "count": 6}, cut_and_trade, codes=TROUBLE, name=f"{variant}-cut",
             of=_id(variant))
        for variant in ("unknown_enum", *ABSURD)
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", parameters(AlpacaScene, CASES))
async def test_records_stay_true_and_sessions_return_when_rest_misbehaves(
    scene: AlpacaScene, case: Case, observed: Observed
) -> None:
    await run_case(scene, case, observed)


@fault("N31", "Alpaca: a consent is revoked", "its user is asked, nothing more is tried; others go on")
async def test_user_is_asked_to_connect_again_when_a_consent_was_revoked(scene: AlpacaScene) -> None:
    """The last one here: nothing gives the consent back."""
    await scene.equal(within_s=15)
    await scene.begin()
    with scene.watcher.untouched(QUIET):
        await scene.fault("N30", users=[3], what="tokens")
        await consent_revoked(scene)
        await scene.trade()
        await scene.equal(VICTIM, within_s=4)
    assert not scene.watcher.violations, "\n".join(scene.watcher.violations)
