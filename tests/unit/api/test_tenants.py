"""Every route × everything that names another user × every kind of caller: denied, or about the caller only (S08).

The services behind are stand-ins that note whom they were asked about, so that nothing can hide behind a good answer.
"""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridge.api.callers import Access
from bridge.api.routes import ROUTES
from bridge.brokers.base import BrokerAccount, ConsentScope, Environment
from bridge.credentials.views import Begun, Connected, CoveredAccounts, Entered, Returned
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme
from tests.support.fake_services import APP_KEY, OPS_KEY, Api, FakeUsers, running_api, user_key
from tests.support.tenants import Request, Tenant, may, requests_about

ATTACKER, VICTIM = "mallory@example.com", "ann@example.com"
TOKEN = {name: f"user.{name.replace('.', '%')}.sig" for name in (ATTACKER, VICTIM)}
WRONG = ("app.wrong", "user.x.forged", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1MSJ9.")
DENIED = (401, 403, 404, 422)


class Users(FakeUsers):
    async def user_id(self, token: str) -> str | None:
        found = await super().user_id(token)
        return found and found.replace("%", ".")


class Noting:
    """Connecting and credentials: remembers for whom it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def start(self, *, user_id: str, broker: str, return_to: str, scope: ConsentScope, actor: str) -> str:
        self.asked.append(user_id)
        return "https://bridge.example.com/oauth/sim/begin?state=s"

    async def begin(self, *, broker: str, state: str) -> Begun:
        return Begun("https://broker.example.com/", "c", "v", "/", True, 600)

    async def callback(self, **more: Any) -> Returned:
        return Returned("https://app.example.com/back", "c", "/")

    async def complete(self, *, user_id: str, broker: str, ticket: str, actor: str) -> Connected:
        self.asked.append(user_id)
        return Connected(user_key(user_id), broker, ConsentScope.ACCOUNTS, self._covered(user_id))

    async def accounts(self, *, user_id: str, broker: str) -> CoveredAccounts:
        self.asked.append(user_id)
        return self._covered(user_id)

    async def enter(self, *, user_id: str, broker: str, entry: Any, actor: str) -> Entered:
        self.asked.append(user_id)
        return Entered(user_key(user_id), broker, Environment.DEMO, None)

    async def remove(self, *, user_id: str, broker: str, actor: str) -> None:
        self.asked.append(user_id)

    def _covered(self, user_id: str) -> CoveredAccounts:
        return CoveredAccounts((BrokerAccount("1", Environment.DEMO, f"login-of-{user_id}"),), 1, True)


def tenant(user_id: str, account_id: str, canary: str) -> Tenant:
    key = user_key(user_id)
    return Tenant(user_id, key, account_id, f"sim_account_{key}", (key[:12], user_id, canary))


ANN = tenant(VICTIM, "777", "21021.77")
MINE = tenant(ATTACKER, "888", "31031.88")


class Scene:
    """Two users with sessions and records, and a count of what is done about whom."""

    def __init__(self, api: Api, noting: Noting) -> None:
        self.api, self.noting = api, noting
        self.asked: list[str] = noting.asked
        for name in ("start", "stop", "cache_key", "used", "of_user", "user_key", "explain"):
            self._listen(name)

    async def fill(self) -> None:
        for each, balance in ((ANN, b"21021.77"), (MINE, b"31031.88")):
            await self.api.sessions.start(user_id=each.user_id, broker="sim", account_id=None, environment=None)
            self.api.records.put(each.record_key, now_ms=self.api.clock.now_ms())
            stored = self.api.records.records[each.record_key]
            stored = type(stored)(stored.key, 7, 1, stored.document.replace(b"12345.67", balance))
            self.api.records.records[each.record_key] = stored
        self.asked.clear()

    async def ask(self, request: Request, token: str | None) -> tuple[int, str]:
        """Status, and the whole answer as text."""
        more = {"json": request.body} if request.body is not None else {}
        async with self.api.request(
            request.method, request.target, token, headers=request.headers, allow_redirects=False, **more
        ) as answer:
            return answer.status, f"{dict(answer.headers)} {await answer.text()}"

    def concerned(self, victim: Tenant) -> list[str]:
        """What the services were asked about the victim."""
        return [each for each in self.asked if victim.user_id in each or each.strip().lower()[:12] in victim.user_key]

    def _listen(self, name: str) -> None:
        inner = getattr(self.api.sessions, name)

        def noted(*given: Any, **more: Any) -> Any:
            self.asked.append(str(more.get("user_id", given[0] if given else "")))
            return inner(*given, **more)

        setattr(self.api.sessions, name, noted)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    noting = Noting()
    async with running_api(users=Users(), connecting=noting, credentials=noting) as api:
        scene = Scene(api, noting)
        await scene.fill()
        yield scene


REQUESTS = list(requests_about(ANN, broker="sim"))


def test_the_matrix_covers_every_route():
    assert {(request.route.method, path) for request in REQUESTS for path in request.route.paths} == {
        (route.method, path) for route in ROUTES for path in route.paths
    }
    for route in ROUTES:
        kinds = {request.kind for request in REQUESTS if request.route is route}
        if route.access is Access.APP:
            assert "id" in kinds
        if route.access is Access.OPS_OR_USER:
            assert "key" in kinds
    assert len(REQUESTS) > 400


async def test_a_user_reaches_nobody_else(scene: Scene):
    answered = 0
    for request in REQUESTS:
        before = dict(scene.api.sessions.table)
        status, text = await scene.ask(request, TOKEN[ATTACKER])
        assert status in (*DENIED, 200, 202, 204, 303), f"{request}: {status} {text}"
        if request.kind in ("id", "key") and request.route.access is not Access.PUBLIC:
            assert status in (403, 404), f"{request}: {status} {text}"
        for mark in ANN.marks:
            assert mark not in text, f"{request}: {text}"
        assert scene.concerned(ANN) == [], f"{request}: {scene.asked}"
        key = (ANN.user_key, "sim")
        assert scene.api.sessions.table[key] == before[key], str(request)
        answered += status < 300
    assert answered > 50, "a user must be able to use the API for themself"


async def test_the_answer_is_the_same_whether_or_not_there_is_such_a_user(scene: Scene):
    stranger = tenant("nobody-of-that-name", "777", "none")
    date = re.compile(r"'Date': '[^']*'")
    for there, absent in zip(REQUESTS, requests_about(stranger, broker="sim"), strict=True):
        if there.kind in ("id", "key") and there.route.access is not Access.PUBLIC:
            status, text = await scene.ask(there, TOKEN[ATTACKER])
            other_status, other_text = await scene.ask(absent, TOKEN[ATTACKER])
            assert status == other_status, str(there)
            assert date.sub("", text) == date.sub("", other_text), str(there)


async def test_the_user_themself_may_do_all_that(scene: Scene):
    """The matrix would see it if everybody were refused."""
    for request in REQUESTS:
        if request.route.access in (Access.APP, Access.OPS_OR_USER) and request.kind in ("id", "key"):
            status, text = await scene.ask(request, TOKEN[VICTIM])
            assert status not in (401, 403), f"{request}: {status} {text}"
            if request.names != "most of the key" and "id with space" not in request.names:
                assert status < 300, f"{request}: {status} {text}"


@pytest.mark.parametrize("token", [None, *WRONG])
async def test_nobody_in_particular_reaches_nobody(scene: Scene, token: str | None):
    for request in REQUESTS:
        status, text = await scene.ask(request, token)
        if request.route.access is Access.PUBLIC:
            assert status < 500, str(request)
        else:
            assert status in ((401, 404) if request.names in ANN.strange_keys else (401,)), f"{request}: {status}"
        assert not any(mark in text for mark in ANN.marks), str(request)
        assert scene.asked == [], str(request)


@pytest.mark.parametrize(("key", "scopes"), [(APP_KEY, {"app"}), (OPS_KEY, {"ops"})])
async def test_a_key_reaches_users_within_its_scope_only(scene: Scene, key: str, scopes: set[str]):
    reached = 0
    for request in REQUESTS:
        scene.asked.clear()
        status, text = await scene.ask(request, key)
        if not may(scopes, request.route):
            assert status in (403, 404) if request.names in ANN.strange_keys else status == 403, f"{request}: {status}"
            assert scene.asked == [], str(request)
            assert not any(mark in text for mark in ANN.marks), str(request)
        elif request.kind in ("id", "key"):
            reached += bool(scene.concerned(ANN))
    assert reached > 10


@pytest.mark.parametrize("mode", [UserKeyMode.KEYED, UserKeyMode.DUAL])
async def test_a_user_may_use_either_form_of_their_key_and_no_other(mode: UserKeyMode):
    scheme = UserKeyScheme(mode, Secret("only-for-tests-0123456789abcdefghij"))
    own, other = scheme.keys(VICTIM).all, scheme.keys(ATTACKER).all
    async with running_api(users=Users(), user_keys=scheme) as api:
        seen: list[str] = []

        async def of_user(prefix: str) -> list[Any]:
            seen.append(prefix)
            return []

        api.sessions.of_user = of_user  # type: ignore[method-assign]
        for form in own:
            for spelling in (form, form[:12], form.upper()):
                async with api.request("GET", f"/api/sessions/{spelling}", TOKEN[VICTIM]) as answer:
                    assert answer.status == 404
        assert seen == [own[0]] * 3 * len(own), "the whole canonical key: a prefix may be somebody else's too"
        for form in other:
            for spelling in (form, form[:12]):
                async with api.request("GET", f"/api/sessions/{spelling}", TOKEN[VICTIM]) as answer:
                    assert answer.status == 404
        assert len(seen) == 3 * len(own)
