"""The whole system against everything that may befall Alpaca's streams as connections (reference/faults.md §2.1)."""

import itertools
from collections.abc import AsyncIterator
from functools import partial

import pytest
import pytest_asyncio

from tests.support.alpaca_scene import COUNT, SLOT_S, VICTIM, AlpacaScene, alpaca_scene
from tests.support.fault_scene import Case, Observed, parameters, run_case
from tests.support.quick_bridge import ALPACA_WAITS as WAITS

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

MIB = 2**20
LOST = frozenset({"connection_lost"})
SILENT = frozenset({"connection_lost", "broker_silent", "broker_unreachable"})
ERROR = frozenset({"connection_lost", "broker_error", "broker_unreachable"})
BUSY = frozenset({"connection_lost", "connection_limit"})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AlpacaScene]:
    async with alpaca_scene(tmp_path_factory.mktemp("connections")) as made:
        yield made


# ------------------------------------------------------------ what must be seen while a fault acts


async def all_notice(scene: AlpacaScene) -> None:
    await scene.seen_not_live()
    await scene.trade()


async def victim_notices(scene: AlpacaScene) -> None:
    await scene.seen_not_live(VICTIM)
    await scene.trade()
    await scene.bystander_trades()


async def cut_and_trade(scene: AlpacaScene) -> None:
    await scene.cut()
    await all_notice(scene)
    await scene.watch_for(1)


async def silence_is_noticed(scene: AlpacaScene) -> None:
    """A ping, then death; no record may look fresh longer than its horizon, which the watcher checks."""
    await scene.trade()
    await scene.silence_is_noticed()


async def silence_is_named(scene: AlpacaScene) -> None:
    """Of each stream. Records may tell only what came next: the slot is asked for at once."""
    await silence_is_noticed(scene)
    assert await scene.metric(COUNT % "reconnects.broker_silent") >= len(scene.users)


async def victims_silence_is_noticed(scene: AlpacaScene) -> None:
    await scene.trade()
    await scene.silence_is_noticed(VICTIM)
    await scene.bystander_trades()


async def silent_login(scene: AlpacaScene) -> None:
    """One account's login that nobody answers holds nobody up."""
    await scene.fault("N01", stream="trading", accounts=[scene.victim_account], holdSlot=False)
    await scene.seen_not_live(VICTIM)
    await scene.trade()
    await scene.bystander_trades()
    await scene.watch_for(WAITS["auth_timeout_s"])


async def slot_is_waited_for(scene: AlpacaScene, wait_s: float = WAITS["slot_wait_s"]) -> None:
    """No dial of an account before the wait is over: the accounts dial in rounds."""
    await scene.cut()
    await scene.says("connection_limit", within_s=4)
    await scene.trade()
    await scene.watch_for(wait_s + 1)
    dials = (await scene.counters())["dialsAtMs"][len(scene.before["dialsAtMs"]) :]
    rounds = [dials[start : start + len(scene.users)] for start in range(0, len(dials), len(scene.users))]
    waits = [second[0] - first[0] for first, second in itertools.pairwise(rounds)]
    assert waits, dials
    assert all(wait >= 1000 * wait_s - 100 for wait in waits), dials
    scene.held(f"no two dials of an account within {wait_s:g} s")


async def slot_of_a_vanished_stream(scene: AlpacaScene) -> None:
    """The broker has not noticed that the last stream is gone: one refusal, one wait, then back."""
    await scene.trade()
    await scene.says("connection_limit", VICTIM, within_s=3)
    assert WAITS["slot_wait_s"] > SLOT_S


async def no_growth(scene: AlpacaScene) -> None:
    """The connections end, and memory stays."""
    before = (await scene.world.api("GET", "/health"))["process"]["rssBytes"]
    await scene.seen_not_live()
    await scene.watch_for(1)
    after = (await scene.world.api("GET", "/health"))["process"]["rssBytes"]
    assert after - before < 32 * MIB
    scene.held("memory grows by less than 32 MiB")


async def nothing_happens(scene: AlpacaScene) -> None:
    """No stream is opened anew, no number is wrong; trading goes on."""
    await scene.trade()
    await scene.equal(within_s=4)
    assert await scene.counted("tradingStreamsOpened") == 0
    assert scene.watcher.statuses(VICTIM) <= {"live"}
    scene.held("live all the time, no reconnect")


async def broken_off(scene: AlpacaScene) -> None:
    """The message that ends in the middle is lost, with the connection."""
    await scene.trade()
    await scene.seen_not_live(VICTIM)
    await scene.bystander_trades()


async def converges(scene: AlpacaScene) -> None:
    """Repaired while the fault is still on."""
    await scene.trade()
    await scene.equal(VICTIM, within_s=4)
    assert scene.watcher.statuses(VICTIM) <= {"live"}


async def flaps(scene: AlpacaScene) -> None:
    await scene.trade()
    await scene.watch_for(4)
    opened = await scene.counted("tradingStreamsOpened")
    assert opened <= 9 * len(scene.users), opened  # without any pause: ten a second
    scene.held("at most 9 dials an account in 4 s")


async def refused_login(scene: AlpacaScene) -> None:
    """A stream's "unauthorized" is believed only when REST says so too: the session goes on trying, slowly."""
    await scene.fault("N01", stream="trading", accounts=[scene.victim_account], holdSlot=False)
    await scene.says("broker_error", VICTIM)
    await scene.trade()
    await scene.bystander_trades()
    await scene.watch_for(2)
    attempts = await scene.counted("authAttemptsByAccount", scene.victim_account)
    assert 1 <= attempts <= 30, attempts
    scene.held("at most 30 logins in 3 s; the user is not asked")
    assert "action_required" not in scene.watcher.statuses(VICTIM)


CASES = [
    Case("N01", {"stream": "trading", "holdSlot": False}, all_notice, codes=LOST),
    Case("N01", {"stream": "trading", "holdSlot": False}, victim_notices, aimed=True, codes=LOST, name="one"),
    Case("N01", {"stream": "trading"}, slot_of_a_vanished_stream, codes=BUSY, name="slot-held"),
    *(
        Case("N02", {"stream": "trading", "code": code}, all_notice, codes=LOST, name=str(code))
        for code in (1000, 1001, 1011, 1012)
    ),
    Case("N03", {"stream": "trading"}, silence_is_named, codes=SILENT | BUSY),
    Case("N03", {"stream": "trading"}, victims_silence_is_noticed, aimed=True, codes=SILENT | BUSY, name="one"),
    Case("N03", {"newConnections": True}, silence_is_noticed, codes=SILENT | BUSY, name="new-too", back_s=10),
    Case("N04", {"newConnections": True}, silence_is_noticed, codes=SILENT | BUSY, back_s=10),
    *(
        Case("N10", {"status": status}, cut_and_trade, codes=ERROR, name=str(status))
        for status in (200, 401, 403, 500, 503)
    ),
    Case("N10", {"status": 503, "retryAfter": 2}, cut_and_trade, codes=ERROR, name="503-later"),
    Case("N10", {"status": 429}, slot_is_waited_for, codes=BUSY, name="429"),
    Case("N11", {"stream": "trading", "bytesPerSecond": 1}, silence_is_noticed, codes=SILENT | BUSY, back_s=10),
    Case("N12", {"stream": "trading", "kind": "update"}, broken_off, aimed=True, codes=LOST, name="frame"),
    Case("N12", {"variant": "content", "kind": "update", "count": 3}, converges, aimed=True, name="content"),
    Case("N12", {"kind": "control"}, cut_and_trade, codes=LOST | SILENT, name="login"),
    *(
        Case("N13", {"stream": "trading", "variant": variant}, no_growth, codes=LOST, name=variant)
        for variant in ("announced", "real", "compressed")
    ),
    *(
        Case("N14", {"stream": "trading", "mode": mode, "count": 3}, nothing_happens, codes=frozenset(), name=mode)
        for mode in ("random", "html")
    ),
    Case("N14", {"stream": "trading", "count": 40}, all_notice, codes=ERROR, name="forty"),
    Case("N14", {"stream": "trading", "mode": "mutated", "count": 8}, converges, aimed=True, name="mutated"),
    Case("N16", {"count": 20}, nothing_happens, codes=frozenset(), name="type"),
    Case("N16", {"variant": "fields", "count": 20}, nothing_happens, codes=frozenset(), name="fields"),
    Case("N37", {}, slot_is_waited_for, codes=BUSY, name="handshake"),
    Case("N37", {"at": "login"}, slot_is_waited_for, codes=BUSY, name="login"),
    Case("N37", {"retryAfter": 3}, partial(slot_is_waited_for, wait_s=3.0), codes=BUSY, name="later"),
    Case("N40", {"holdSlot": False}, all_notice, codes=LOST),
    Case("N40", {}, slot_of_a_vanished_stream, codes=BUSY, name="slot-held"),
    Case("N41", {"upSeconds": 0.4, "stream": "trading"}, flaps, codes=LOST),
    Case("N42", {"delaySeconds": 30}, silent_login, codes=SILENT | BUSY, back_s=10, name="slow"),
    Case("N42", {"delaySeconds": None}, silent_login, codes=SILENT | BUSY, back_s=10, name="never"),
    Case("LOGIN_REFUSED", {}, refused_login, aimed=True, codes=ERROR, name="open", of="N36"),
    Case("LOGIN_REFUSED", {"close": True}, refused_login, aimed=True, codes=ERROR, name="closed", of="N36"),
    Case("STREAM_ERROR", {"stream": "trading"}, nothing_happens, codes=frozenset(), of="N16"),
    Case("STREAM_ERROR", {"stream": "trading", "close": True}, all_notice, codes=LOST, name="closed", of="N02"),
    Case("NULL_DATA", {}, nothing_happens, codes=frozenset(), of="N16"),
    Case("HEARTBEAT_BYTE", {}, nothing_happens, codes=frozenset(), of="N26"),
]


@pytest.mark.parametrize("case", parameters(AlpacaScene, CASES))
async def test_records_stay_true_and_sessions_return_when_streams_misbehave(
    scene: AlpacaScene, case: Case, observed: Observed
) -> None:
    await run_case(scene, case, observed)
