"""Alerts and heartbeat to a real HTTP receiver that is well, slow, broken, greedy or gone."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from bridge.alerts.alerts import Alerts, Sources
from bridge.alerts.heartbeat import Beat
from bridge.alerts.webhook import NOTICES_KEPT, TEXT_LIMIT, Pace, Webhook
from bridge.runtime.clock import ManualClock, SystemClock
from bridge.runtime.tasks import Tasks
from core.secret import Secret
from tests.support.waiting import eventually

TOKEN = "canary-0a1b2c3d4e5f6a7b"
FAST = Pace(attempt_s=0.4, first_s=0.02, most_s=0.05, asked_most_s=0.1, give_up_s=60, apart_s=0)
WITHIN_S = 15.0


class Receiver:
    """Takes posts and fetches; `behave` says how it answers: a status, or what else it does."""

    def __init__(self) -> None:
        self.behave: Any = 204
        self.headers: dict[str, str] = {}
        self.got: list[dict[str, Any]] = []
        self.tries = 0
        self.sent = 0
        self.elsewhere = 0
        self.url = ""
        self.release = asyncio.Event()

    async def hook(self, request: web.Request) -> web.StreamResponse:
        self.tries += 1
        body = await request.json() if request.method == "POST" else {}
        if self.behave == "hang":
            await self.release.wait()
            return web.Response()  # whoever asked has gone
        if self.behave == "endless":
            answer = web.StreamResponse()
            await answer.prepare(request)
            for _ in range(10_000):
                self.sent += 1024
                await answer.write(b"x" * 1024)
            return answer
        status = self.behave if isinstance(self.behave, int) else 200
        if status == 204:
            self.got.append(body)
        return web.Response(status=status, headers=self.headers)

    async def other(self, request: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response()

    @property
    def lines(self) -> list[str]:
        """What arrived, without title and time of day."""
        return [line.split("UTC ")[1] for body in self.got for line in body["text"].splitlines()[1:]]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_route("*", "/hooks/{token}", made.hook)
    app.router.add_route("*", "/elsewhere", made.other)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    made.url = f"http://127.0.0.1:{port}/hooks/{TOKEN}"
    made.headers = {"Location": f"http://127.0.0.1:{port}/elsewhere"}
    yield made
    made.release.set()
    await runner.cleanup()


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    crashes: list[BaseException] = []
    made = Tasks("test", lambda _, error: crashes.append(error))
    yield made
    await made.close()
    assert crashes == []


def webhook(url: str, tasks: Tasks, clock: Any = None, pace: Pace = FAST) -> Webhook:
    made = Webhook(Secret(url), clock=clock or SystemClock(), rng=Random(1), title="Bridge", pace=pace)
    tasks.start(made.run(), name="webhook", essential=True)
    return made


async def test_discord_and_slack_both_find_their_text(receiver: Receiver, tasks: Tasks) -> None:
    hook = webhook(receiver.url, tasks)
    hook.send(["store down", "loop lag"])
    await eventually(lambda: receiver.got, within_s=WITHIN_S)
    assert len(receiver.got) == 1
    body = receiver.got[0]
    assert body.keys() == {"content", "text"}
    assert body["content"] == body["text"]
    assert body["text"].startswith("Bridge\n")
    assert receiver.lines == ["store down", "loop lag"]


@pytest.mark.parametrize("behaviour", [500, 404, 301, 307, "hang", "endless"])
async def test_a_notice_is_kept_and_tried_again_until_the_receiver_is_well(
    receiver: Receiver, tasks: Tasks, behaviour: Any
) -> None:
    receiver.behave = behaviour
    hook = webhook(receiver.url, tasks)
    hook.send(["one"])
    if behaviour == "endless":  # its answer is well, so it counts as delivered, and is not read
        await eventually(lambda: hook.posts, within_s=WITHIN_S)
        assert receiver.sent < 10_000 * 1024
        return
    await eventually(lambda: hook.failures >= 3, within_s=WITHIN_S)
    hook.send(["two"])
    receiver.behave = 204
    receiver.release.set()
    await eventually(lambda: hook.posts and not hook.waiting, within_s=WITHIN_S)
    assert receiver.lines == ["one", "two"]
    assert receiver.elsewhere == 0


async def test_nobody_there_costs_attempts_and_nothing_else(tasks: Tasks, unused_tcp_port: int) -> None:
    hook = webhook(f"http://127.0.0.1:{unused_tcp_port}/hooks/{TOKEN}", tasks)
    hook.send(["one"])
    await eventually(lambda: hook.failures >= 3, within_s=WITHIN_S)
    assert hook.waiting == 1


async def test_the_time_that_a_receiver_asks_for_is_kept_up_to_a_limit(receiver: Receiver, tasks: Tasks) -> None:
    receiver.behave, receiver.headers = 429, {"Retry-After": "3600"}
    pace = Pace(attempt_s=5, first_s=0.01, most_s=0.01, asked_most_s=30)
    hook = webhook(receiver.url, tasks, pace=pace)
    hook.send(["one"])
    await eventually(lambda: hook.failures == 1, within_s=WITHIN_S)
    assert await hook._deliver_some() == 30
    receiver.headers = {"Retry-After": "2.5"}
    assert await hook._deliver_some() == 2.5
    receiver.headers = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert await hook._deliver_some() <= 0.01
    receiver.behave, receiver.headers = 500, {"Retry-After": "2.5"}
    assert await hook._deliver_some() <= 0.01


async def test_the_pauses_grow_to_a_limit(receiver: Receiver, tasks: Tasks) -> None:
    receiver.behave = 500
    hook = Webhook(Secret(receiver.url), clock=ManualClock(), rng=Random(1), pace=Pace())
    hook.send(["one"])
    pauses = [await hook._deliver_some() for _ in range(12)]
    assert 2.5 <= pauses[0] <= 5
    assert all(450 <= pause <= 900 for pause in pauses[8:])


async def test_what_waits_is_bounded_and_the_oldest_goes(receiver: Receiver, tasks: Tasks) -> None:
    receiver.behave = 500
    hook = webhook(receiver.url, tasks)
    hook.send([f"notice {number}" for number in range(NOTICES_KEPT + 20)])
    assert (hook.waiting, hook.dropped) == (NOTICES_KEPT, 20)
    receiver.behave = 204
    await eventually(lambda: not hook.waiting, within_s=WITHIN_S)
    assert receiver.lines == [f"notice {number}" for number in range(20, NOTICES_KEPT + 20)]
    assert len(receiver.got) > 1
    assert all(len(body["content"]) <= TEXT_LIMIT for body in receiver.got)


async def test_one_endless_line_is_cut_and_does_not_stop_the_others(receiver: Receiver, tasks: Tasks) -> None:
    hook = webhook(receiver.url, tasks)
    hook.send(["x" * 5000, "after"])
    await eventually(lambda: not hook.waiting, within_s=WITHIN_S)
    assert len(receiver.got[0]["content"]) == TEXT_LIMIT
    assert receiver.lines[-1] == "after"


async def test_a_notice_is_dropped_when_it_has_waited_too_long(receiver: Receiver, tasks: Tasks) -> None:
    receiver.behave = 500
    clock = ManualClock()
    hook = webhook(receiver.url, tasks, clock)
    hook.send(["old"])
    await eventually(lambda: hook.failures, within_s=WITHIN_S)
    clock.advance(FAST.give_up_s - 1)
    hook.send(["young"])
    clock.advance(2)
    await eventually(lambda: hook.dropped == 1, within_s=WITHIN_S)
    receiver.behave = 204
    await eventually(lambda: not hook.waiting, within_s=WITHIN_S)
    assert receiver.lines == ["young"]


@pytest.mark.parametrize("behaviour", [500, "hang", 301])
async def test_the_address_is_never_logged(
    receiver: Receiver, tasks: Tasks, behaviour: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.behave = behaviour
    hook = webhook(receiver.url, tasks)
    gone = webhook(f"http://{TOKEN}.invalid/hooks/{TOKEN}", tasks)
    for each in (hook, gone):
        each.send(["one"])
        await eventually(lambda each=each: each.failures >= 2, within_s=WITHIN_S)
    ours = [record for record in caplog.records if not record.name.startswith(("aiohttp", "asyncio"))]
    assert [record.message for record in ours] == ["alerts cannot be delivered"] * 2
    assert all(TOKEN not in str(vars(record)) for record in ours)


# ------------------------------------------------------------ the whole


class Process:
    """What alerts look at."""

    def __init__(self) -> None:
        self.store = SimpleNamespace(role="primary", state="up")
        self.broker = SimpleNamespace(state="up")
        self.counts = {"live": 3}
        self.lag_ms = 1.0
        self.live: str | None = None
        self.ready: str | None = None
        self.audit: str | None = None

    def sources(self) -> Sources:
        return Sources(
            stores=lambda: {"redis": self.store},
            brokers=lambda: {"sim": self.broker},
            sessions=lambda: self.counts,
            flusher=lambda: {"record_age_s": 1.0, "record_failures": 0},
            loop_lag_ms=lambda: self.lag_ms,
            not_live=lambda: self.live,
            not_ready=lambda: self.ready,
            watches={"audit": lambda: self.audit},
        )


@pytest.fixture
def process() -> Process:
    return Process()


async def test_every_trouble_and_its_end_is_told_once(receiver: Receiver, process: Process) -> None:
    clock = ManualClock()
    pace = replace(FAST, give_up_s=3600)
    alerts = Alerts(Secret(receiver.url), None, process.sources(), clock=clock, rng=Random(1), pace=pace, look_s=3600)
    alerts.start()

    def passes(seconds: float) -> None:
        for _ in range(round(seconds / 5)):
            alerts.look()
            clock.advance(5)

    passes(60)
    process.store.state, process.broker.state = "down", "maintenance"
    process.counts = {"live": 1, "action_required": 2}
    process.lag_ms, process.audit, process.live = 2000, "1000 entries wait", "the flusher makes no progress"
    passes(300)
    assert alerts.stats()["open"] == 6
    await eventually(lambda: len(receiver.lines) == 6, within_s=WITHIN_S)
    process.store.state = process.broker.state = "up"
    process.counts = {"live": 3}
    process.lag_ms, process.audit, process.live = 1, None, None
    passes(300)
    await eventually(lambda: len(receiver.lines) == 12, within_s=WITHIN_S)
    assert [line.split(" (after")[0] for line in receiver.lines] == [
        "store down: redis (primary) takes no records",
        "broker down: sim is in maintenance",
        "loop lag: the process is short of processor time, up to 2000 ms late",
        "sessions need action: 2, see /api/sessions?status=action_required",
        "audit: 1000 entries wait",
        "process: the flusher makes no progress",
        "store up: redis (primary) takes records again",
        "broker up: sim is reached again",
        "loop lag: back to normal",
        "sessions need action: none any more",
        "audit: well again",
        "process: well again",
    ]
    assert alerts.stats()["open"] == 0
    await alerts.close()


async def test_looking_goes_on_when_a_figure_cannot_be_read(receiver: Receiver, process: Process) -> None:
    clock = ManualClock()
    alerts = Alerts(Secret(receiver.url), None, process.sources(), clock=clock, rng=Random(1), pace=FAST, look_s=0.001)
    good, process.counts = process.counts, None  # type: ignore[assignment]
    alerts.start()
    await eventually(lambda: alerts.failed_looks > 2, within_s=WITHIN_S)
    process.counts, process.store.state = good, "down"
    await eventually(lambda: clock.advance(1) or receiver.lines, within_s=WITHIN_S)
    await alerts.close()


async def test_the_monitor_is_told_while_live_and_ready_and_not_otherwise(receiver: Receiver, process: Process) -> None:
    beat = Beat(every_s=0.01, again_s=0.01, look_s=0.01, attempt_s=5)
    process.ready = "the primary store does not answer"
    alerts = Alerts(
        None, Secret(receiver.url), process.sources(), clock=SystemClock(), rng=Random(1), beat=beat, look_s=3600
    )
    alerts.start()
    await asyncio.sleep(0.2)  # twenty looks at a process that is not ready
    assert receiver.tries == 0
    process.ready = None
    await eventually(lambda: alerts.stats()["beats"] > 3, within_s=WITHIN_S)
    process.live = "the flusher makes no progress"
    await asyncio.sleep(0.1)  # the fetch in flight
    tries = receiver.tries
    await asyncio.sleep(0.2)  # twenty looks again
    assert receiver.tries == tries
    process.live = None
    receiver.behave = 500
    await eventually(lambda: alerts.stats()["beat_failures"] > 2, within_s=WITHIN_S)
    receiver.behave = 302
    failures = alerts.stats()["beat_failures"]
    await eventually(lambda: alerts.stats()["beat_failures"] > failures + 1, within_s=WITHIN_S)
    assert receiver.elsewhere == 0
    receiver.behave = 204
    beats = alerts.stats()["beats"]
    await eventually(lambda: alerts.stats()["beats"] > beats, within_s=WITHIN_S)
    await alerts.close()


async def test_nothing_waits_for_a_receiver_that_hangs(receiver: Receiver, process: Process) -> None:
    receiver.behave = "hang"
    alerts = Alerts(
        Secret(receiver.url), Secret(receiver.url), process.sources(), clock=SystemClock(), rng=Random(1), look_s=0.001
    )
    alerts.start()
    await eventually(lambda: receiver.tries, within_s=WITHIN_S)
    process.counts = {"action_required": 1}
    for _ in range(100):
        alerts.look()
        await asyncio.sleep(0)
    async with asyncio.timeout(WITHIN_S):
        await alerts.close()
