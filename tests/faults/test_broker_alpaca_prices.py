"""The whole system when Alpaca's price streams misbehave, and with the other ways to get prices (alpaca.md §3).

Trouble of a price stream is never trouble of a session: every session stays live, no trading stream is touched, and
prices come from REST, a little later.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.alpaca_scene import COUNT, QUIET, TRADER, VICTIM, AlpacaScene, alpaca_scene
from tests.support.fault_scene import SEEN_WITHIN_S, Case, Observed, Step, parameters, run_case
from tests.support.quick_bridge import ALPACA_WAITS as WAITS
from tests.support.quick_bridge import FEED_MUTE_S
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

NONE: frozenset[str] = frozenset()
POLLED_WITHIN_S = 2 * WAITS["slow_poll_s"] + 2
SILENT_WITHIN_S = AlpacaScene.SILENCE_S + SEEN_WITHIN_S
TRADES = COUNT % "events.trade"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AlpacaScene]:
    async with alpaca_scene(tmp_path_factory.mktemp("prices")) as made:
        yield made


async def prices_go_on(scene: AlpacaScene, *, told_within_s: float = 3) -> None:
    """Prices move, executions happen: right within a poll, live all the time."""
    for _ in range(2):
        await scene.move("AAPL")
        await scene.move("BTC/USD")
        await scene.trade()
        await scene.bystander_trades(within_s=told_within_s)
        await scene.equal(within_s=POLLED_WITHIN_S)
    assert all(scene.watcher.statuses(user) <= {"live"} for user in scene.users), scene.watcher.seen
    assert await scene.counted("tradingStreamsOpened") == 0
    scene.held("every session live, prices right")


async def prices_go_on_in_silence(scene: AlpacaScene) -> None:
    """The same for streams that fall silent: that must be noticed before anybody asks elsewhere."""
    await prices_go_on(scene, told_within_s=SILENT_WITHIN_S)


async def prices_survive(scene: AlpacaScene) -> None:
    """A price that was changed on its way may be believed until the next one or the next poll."""
    await scene.move("AAPL")
    await scene.trade()
    await scene.trade(TRADER)
    await scene.equal(within_s=POLLED_WITHIN_S)
    assert all(scene.watcher.statuses(user) <= {"live"} for user in scene.users), scene.watcher.seen
    scene.held("every session live, prices right after the next poll")


async def mute(scene: AlpacaScene) -> None:
    """An open stream that says nothing is found out by the prices that REST says, and opened anew."""
    await prices_go_on(scene)

    async def opened_anew() -> bool:
        await scene.move("AAPL")
        return await scene.metric(COUNT % "reconnects.feed_mute") > 0

    limit_s = FEED_MUTE_S + 4 * WAITS["slow_poll_s"] + 4
    await eventually(opened_anew, within_s=limit_s, every_s=0.5, what="the mute stream is given up")


async def told_again(scene: AlpacaScene) -> None:
    """Once the trouble is over, prices come over the stream again."""

    async def told() -> bool:
        await scene.move("AAPL")
        return await scene.metric(TRADES) > before

    before = await scene.metric(TRADES)
    await eventually(told, within_s=12, every_s=0.2, what="prices come over the stream")


async def many_refusals(scene: AlpacaScene) -> None:
    """A slot that stays busy is asked for seldom."""
    await scene.fault("N01", stream="data", holdSlot=False)
    await prices_go_on(scene)
    opened = await scene.counted("dataStreamsOpened")
    assert opened <= 4 * len(scene.users), opened


async def cut_and_go_on(scene: AlpacaScene) -> None:
    await scene.fault("N01", stream="data", holdSlot=False)
    await prices_go_on(scene)


def data(fault: str, name: str, *, during: Step = prices_go_on, **parameters: object) -> Case:
    of = {"STREAM_ERROR": "N10"}.get(fault, "")
    told = {"stream": "data", **parameters}
    return Case(fault, told, during, told_again, codes=NONE, back_s=8, name=name, of=of)


CASES = [
    Case("MUTE_DATA", {}, mute, told_again, codes=NONE, back_s=8, of="N03"),
    data("N01", "reset", holdSlot=False),
    data("N01", "slot-held"),
    data("N02", "closed", code=1012),
    data("N03", "half-open", during=prices_go_on_in_silence),
    data("N04", "one-way", during=prices_go_on_in_silence, newConnections=True),
    data("N11", "drip"),
    data("N12", "cut-frame", kind="data"),
    data("N12", "cut-content", kind="data", variant="content", count=3),
    *(
        Case("N13", {"stream": "data", "variant": variant}, prices_go_on, aimed=True, codes=NONE, name=variant)
        for variant in ("announced", "real", "compressed")
    ),
    data("N14", "random", count=20),
    data("N14", "html", mode="html", count=20),
    Case(
        "N14",
        {"stream": "data", "mode": "mutated", "count": 20},
        prices_survive,
        told_again,
        codes=NONE,
        back_s=8,
        name="mutated",
    ),
    data("N16", "type", count=20),
    data("N16", "fields", variant="fields", count=20),
    data("N41", "flapping", upSeconds=0.4),
    *(data("STREAM_ERROR", str(code), code=code) for code in (400, 401, 405, 407, 500)),
    data("STREAM_ERROR", "500-closed", close=True),
    # what waits for a slot, or for another plan
    *(data("STREAM_ERROR", str(code), code=code) for code in (402, 406, 409)),
    Case("N37", {"stream": "data"}, many_refusals, told_again, codes=NONE, back_s=8, name="handshake"),
    Case("N37", {"stream": "data", "at": "login"}, many_refusals, told_again, codes=NONE, back_s=8, name="login"),
    Case("LOGIN_REFUSED", {"stream": "data"}, cut_and_go_on, told_again, codes=NONE, back_s=8, of="N36"),
]


@pytest.mark.parametrize("case", parameters(AlpacaScene, CASES))
async def test_prices_go_on_and_no_session_ends_when_price_streams_misbehave(
    scene: AlpacaScene, case: Case, observed: Observed
) -> None:
    await run_case(scene, case, observed)


async def test_prices_are_polled_and_no_data_connection_is_taken_when_the_feed_is_off(tmp_path: Path) -> None:
    async with alpaca_scene(tmp_path, ALPACA_DATA_FEED="off") as scene:
        await scene.begin()
        await prices_go_on(scene)
        counters = await scene.counters()
        assert (counters["dataStreamsOpened"], scene.prices.connections) == (0, 0)

        scene.rest.hold()  # nobody can ask for prices: old ones may not pass for present ones
        await eventually(lambda: _unpriced(scene, QUIET, VICTIM, TRADER), within_s=8, what="old prices are not shown")
        assert scene.watcher.statuses(VICTIM) <= {"live"}
        scene.rest.let_go()
        await scene.equal(within_s=10)

        await scene.cut()
        await scene.seen_not_live()
        await scene.trade()
        await scene.equal(within_s=6)
        assert not scene.watcher.violations, "\n".join(scene.watcher.violations)
        await scene.judged()


def _unpriced(scene: AlpacaScene, *users: str) -> bool:
    return all(row["currentPrice"] is None for user in users for row in scene.record(user)["positions"])


async def test_one_feed_serves_everybody_and_its_trouble_is_nobodys_when_the_house_has_a_key(tmp_path: Path) -> None:
    """The house's key is a live one of user 3, who himself is here with a consent."""
    house = {"ALPACA_DATA_KEY_ID": "SIMLIVE3", "ALPACA_DATA_SECRET_KEY": "sim-alpaca-live-secret-3"}
    async with alpaca_scene(tmp_path, **house) as scene:
        assert (await scene.counters())["dataStreams"] == 2  # stocks and crypto
        troubles: list[tuple[str, Step, dict[str, object]]] = [
            ("N01", prices_go_on, {"holdSlot": False}),
            ("N03", prices_go_on_in_silence, {}),
            ("STREAM_ERROR", prices_go_on, {"code": 407}),
        ]
        for fault, during, details in troubles:
            await scene.begin()
            await scene.fault(fault, stream="data", **details)
            await during(scene)
            await scene.end_faults()
            await told_again(scene)
            await scene.judged()

        async def both_again() -> bool:
            return (await scene.counters())["dataStreams"] == 2

        await eventually(both_again, within_s=20, every_s=0.1, what="both price streams are back")
        await scene.begin()
        await scene.fault("N30", users=[3], what="keys")  # the house's key is good no more
        await prices_go_on(scene)
        refusals = await scene.metric(COUNT % "reconnects.feed_refused")
        assert 1 <= refusals <= 4, refusals
        await scene.judged()
        assert not scene.watcher.violations, "\n".join(scene.watcher.violations)
