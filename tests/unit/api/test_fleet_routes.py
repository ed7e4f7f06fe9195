"""The fleet through the public door: for operators only, and what a process alone answers."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from bridge.sessions.views import FleetProcess, FleetView, Moving, OwnershipView
from core.errors import Conflict, NotFound
from tests.support.fake_services import APP_KEY, OPS_KEY, Api, running_api, user_key

OWNER = "0123456789ab"
STANDING = OwnershipView(OWNER, "active", 1200, 3, 2)


class FakeFleet:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.state = STANDING
        self.fail: Exception | None = None

    def standing(self) -> OwnershipView:
        return self.state

    async def view(self) -> FleetView:
        process = FleetProcess(OWNER, "1.2", 1000, 4, 3, False, 10, 20, 9000, {"live": 3}, True)
        return FleetView((process,), 4, 1)

    async def drain(self, owner: str, *, draining: bool, actor: str) -> str:
        if self.fail is not None:
            raise self.fail
        self.asked.append((owner, draining, actor))
        return OWNER

    async def move(
        self, user_key: str, *, broker: str | None, account_id: str | None, to: str | None, actor: str
    ) -> list[Moving]:
        if self.fail is not None:
            raise self.fail
        self.asked.append((user_key, broker, account_id, to, actor))
        return [Moving(user_key, "sim", "1", OWNER, to)]


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet()


@pytest.fixture
async def api(fleet: FakeFleet) -> AsyncIterator[Api]:
    async with running_api(fleet=fleet) as running:
        yield running


async def test_fleet_is_shown_with_shares_and_leases(api: Api) -> None:
    async with api.request("GET", "/api/fleet") as answer:
        assert await answer.json() == {
            "processes": [
                {
                    "owner": OWNER,
                    "version": "1.2",
                    "capacity": 1000,
                    "share": 4,
                    "load": 3,
                    "draining": False,
                    "startedAt": 10,
                    "renewedAt": 20,
                    "leaseLeftMs": 9000,
                    "sessions": {"live": 3},
                    "here": True,
                }
            ],
            "total": 4,
            "unowned": 1,
        }


async def test_process_is_drained_and_taken_back(api: Api, fleet: FakeFleet) -> None:
    for body, draining in (({"owner": "0123"}, True), ({"owner": "0123", "draining": False}, False)):
        async with api.request("POST", "/api/v1/fleet/drain", OPS_KEY, json=body) as answer:
            assert (answer.status, await answer.json()) == (202, {"owner": OWNER, "draining": draining})
    assert fleet.asked == [("0123", True, "key:ops"), ("0123", False, "key:ops")]


async def test_sessions_of_a_user_are_moved(api: Api, fleet: FakeFleet) -> None:
    async with api.request("POST", "/api/start-session", json={"userId": "u1", "broker": "sim"}):
        pass
    key = user_key("u1")
    for path, body, asked in (
        (key, {}, (key, None, None, None, "key:ops")),
        (key[:12].upper(), {"broker": "sim", "accountId": "1", "to": "ab"}, (key, "sim", "1", "ab", "key:ops")),
    ):
        async with api.request("POST", f"/api/sessions/{path}/move", OPS_KEY, json=body) as answer:
            assert answer.status == 202
            (moving,) = (await answer.json())["sessions"]
            assert (moving["userKey"], moving["moveTo"]) == (key, body.get("to"))
        assert fleet.asked[-1] == asked


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/fleet", None),
        ("POST", "/api/fleet/drain", {"owner": OWNER}),
        ("POST", f"/api/sessions/{'a' * 64}/move", {}),
    ],
)
async def test_only_operators_may(api: Api, fleet: FakeFleet, method: str, path: str, body: Any) -> None:
    for key, status in ((APP_KEY, 403), (None, 401)):
        async with api.request(method, path, key, json=body) as answer:
            assert answer.status == status
    assert fleet.asked == []


@pytest.mark.parametrize(
    "body", [{}, {"owner": "not hex"}, {"owner": ""}, {"owner": "a", "more": 1}, {"owner": "a" * 13}]
)
async def test_wish_for_no_process_is_refused(api: Api, fleet: FakeFleet, body: Any) -> None:
    async with api.request("POST", "/api/fleet/drain", OPS_KEY, json=body) as answer:
        assert answer.status == 422
    assert fleet.asked == []


@pytest.mark.parametrize(("error", "status"), [(NotFound("none"), 404), (Conflict("the last one"), 409)])
async def test_refusals_say_why(api: Api, fleet: FakeFleet, error: Exception, status: int) -> None:
    fleet.fail = error
    async with api.request("POST", "/api/fleet/drain", OPS_KEY, json={"owner": "a"}) as answer:
        assert (answer.status, (await answer.json())["detail"]) == (status, str(error))


async def test_process_alone_has_no_fleet() -> None:
    async with running_api() as api, api.request("GET", "/api/fleet") as answer:
        assert (answer.status, (await answer.json())["type"].rpartition(":")[2]) == (409, "conflict")


@pytest.mark.parametrize(("state", "status"), [("active", "ok"), ("draining", "ok"), ("suspended", "degraded")])
async def test_health_tells_how_the_process_stands(api: Api, fleet: FakeFleet, state: str, status: str) -> None:
    fleet.state = replace(STANDING, state=state)
    async with api.request("GET", "/health", None) as answer:
        health = await answer.json()
    expected = {"owner": OWNER, "state": state, "leaseAgeMs": 1200, "owned": 3, "processes": 2}
    assert (health["status"], health["ownership"]) == (status, expected)
