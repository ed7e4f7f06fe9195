"""What the audit log is told of callers: keys at work and refusals, each once a minute, and never too much."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from bridge.api import access_log
from bridge.telemetry.audit import Action, Detail
from tests.support.fake_services import APP_KEY, BOTH_KEY, OPS_KEY, Api, FakeUsers, running_api, user_key


@dataclass
class Lines:
    """An audit log."""

    lines: list[tuple[Action, str | None, str, str, dict]] = field(default_factory=list)

    def record(
        self, action: Action, *, user_key: str | None, actor: str, outcome: str = "ok", detail: Detail | None = None
    ) -> None:
        self.lines.append((action, user_key, actor, outcome, dict(detail or {})))

    def take(self) -> list[tuple[Action, str | None, str, str, dict]]:
        taken, self.lines = self.lines, []
        return taken


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
async def told(lines: Lines) -> AsyncIterator[Api]:
    async with running_api(users=FakeUsers(), audit=lines) as api:
        yield api


async def call(api: Api, method: str, path: str, key: str | None, **more: object) -> int:
    async with api.request(method, path, key, **more) as answer:
        return answer.status


START = {"route": "POST /api/v1/start-session"}


async def test_what_a_key_changes_is_told_for_each_user(told: Api, lines: Lines):
    for user in ("u1", "u1", "u2", "nobody"):
        await call(told, "POST", "/api/start-session", APP_KEY, json={"userId": user, "broker": "sim"})
    assert lines.take() == [
        (Action.KEY_USE, user_key("u1"), "key:app", "ok", START),
        (Action.KEY_USE, user_key("u2"), "key:app", "ok", START),
        (Action.KEY_USE, user_key("nobody"), "key:app", "no-credentials", START),
    ]


async def test_a_key_that_polls_is_told_once_a_minute(told: Api, lines: Lines):
    for _ in range(3):
        for number in range(10):
            await call(told, "GET", "/account", BOTH_KEY, headers={"X-User-Id": f"u{number}"})
        told.clock.advance(30)
    route = {"route": "GET /api/v1/account"}
    assert lines.take() == [
        (Action.KEY_USE, None, "key:both", "no-record", route),
        (Action.KEY_USE, None, "key:both", "no-record", {**route, "held_back": 19}),
    ]


async def test_refusals_are_told_without_what_the_caller_sent(told: Api, lines: Lines):
    await call(told, "GET", "/api/sessions", None)
    await call(told, "GET", "/api/sessions", "app.canary")
    await call(told, "GET", "/api/sessions", APP_KEY)
    await call(told, "GET", "/account", "user.u1.sig", headers={"X-User-Id": "canary"})
    await call(told, "GET", "/account", OPS_KEY, headers={"Origin": "https://canary.example"})
    await call(told, "GET", "/api/sessions/" + "c" * 64, "user.u1.sig")  # 404: not their key
    assert lines.take() == [
        (Action.REFUSED, None, "ip", "unauthorized", {"route": "GET /api/v1/sessions"}),
        (Action.REFUSED, None, "key:app", "forbidden", {"route": "GET /api/v1/sessions"}),
        (Action.REFUSED, user_key("u1"), "user", "forbidden", {"route": "GET /api/v1/account"}),
        (Action.REFUSED, None, "ip", "key-in-browser", {"route": ""}),
    ]


async def test_what_is_public_or_a_users_own_is_not_told(told: Api, lines: Lines):
    for path in ("/health", "/docs", "/nowhere"):
        await call(told, "GET", path, BOTH_KEY)
    await call(told, "GET", "/account", "user.u1.sig")
    await call(told, "POST", "/api/start-session", "user.u1.sig", json={"broker": "sim"})
    assert lines.take() == []


async def test_a_flood_writes_one_line_and_little_memory(told: Api, lines: Lines, monkeypatch: pytest.MonkeyPatch):
    for number in range(200):
        await call(
            told, "GET", f"/api/sessions?x={number}", f"app.{number}", headers={"X-Forwarded-For": f"10.0.{number}.1"}
        )
    assert len(lines.take()) == 1
    log = told.server.dispatcher._access_log
    monkeypatch.setattr(log, "_told", access_log.LRUCache(50))
    for number in range(200):
        await call(told, "POST", "/api/stop-session", APP_KEY, json={"userId": f"u{number}", "broker": "sim"})
    assert len(lines.take()) == 200
    assert len(log._told) == 50
