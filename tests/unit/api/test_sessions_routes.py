"""Starting, stopping and listing sessions through the public door."""

import pytest

from core.errors import Unavailable
from tests.support.fake_services import Api, user_key


async def test_start_answers_202_with_the_session_when_accepted(api: Api):
    async with api.request("POST", "/api/v1/start-session", json={"userId": " u1 ", "broker": "sim"}) as answer:
        assert answer.status == 202
        assert await answer.json() == {
            "userKey": user_key("u1"),
            "broker": "sim",
            "environment": "demo",
            "accountId": "1",
            "status": "starting",
            "cacheKey": f"sim_account_{user_key('u1')}",
        }


@pytest.mark.parametrize("path", ["/api/start-websocket", "/api/v1/start-websocket"])
async def test_start_uses_the_default_broker_when_the_older_path_names_none(api: Api, path: str):
    async with api.request("POST", path, json={"userId": "u1"}) as answer:
        assert answer.status == 202
        assert (await answer.json())["broker"] == "sim"


async def test_start_requires_a_broker_when_the_path_is_the_newer_one(api: Api):
    async with api.request("POST", "/api/start-session", json={"userId": "u1"}) as answer:
        assert answer.status == 422
        assert [each["field"] for each in (await answer.json())["errors"]] == ["broker"]


async def test_start_waits_when_asked(api: Api):
    async with api.request("POST", "/api/start-session?wait=3", json={"userId": "u1", "broker": "sim"}) as answer:
        assert (await answer.json())["status"] == "live"
    assert api.sessions.waited == [3.0]


async def test_start_waits_no_longer_than_the_request_may_take(api: Api):
    async with api.request("POST", "/api/start-session?wait=10", json={"userId": "u1", "broker": "sim"}) as answer:
        assert answer.status == 202
    assert 9 < api.sessions.waited[0] < 9.8


@pytest.mark.parametrize("wait", ["11", "-1", "nan", "inf", "x", ""])
async def test_start_refuses_when_wait_is_out_of_range(api: Api, wait: str):
    async with api.request("POST", f"/api/start-session?wait={wait}", json={"userId": "u", "broker": "sim"}) as answer:
        assert answer.status == 422
        assert (await answer.json())["errors"][0]["field"] == "wait"
    assert not api.sessions.table


async def test_start_answers_409_with_the_accounts_when_one_must_be_chosen(api: Api):
    async with api.request("POST", "/api/start-session", json={"userId": "several", "broker": "sim"}) as answer:
        problem = await answer.json()
    assert answer.status == 409
    assert answer.content_type == "application/problem+json"
    assert problem["type"].endswith(":choose-account")
    assert [account["accountId"] for account in problem["accounts"]] == ["1", "2"]


async def test_start_answers_409_when_nothing_is_stored(api: Api):
    async with api.request("POST", "/api/start-session", json={"userId": "nobody", "broker": "sim"}) as answer:
        assert answer.status == 409
        assert (await answer.json())["type"].endswith(":no-credentials")


async def test_start_answers_503_with_retry_after_when_something_is_down(api: Api):
    api.sessions.fail = Unavailable("the credentials cannot be read now", retry_after_s=2.1)
    async with api.request("POST", "/api/start-session", json={"userId": "u", "broker": "sim"}) as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "3"


async def test_start_answers_500_without_details_when_the_fault_is_ours(api: Api):
    api.sessions.fail = RuntimeError("token=canary-secret")
    async with api.request("POST", "/api/start-session", json={"userId": "u", "broker": "sim"}) as answer:
        assert answer.status == 500
        assert "canary" not in await answer.text()
    async with api.request("GET", "/health") as answer:
        assert answer.status == 200


async def test_stop_answers_202_also_when_repeated_and_404_when_never_started(api: Api):
    await (await api.request("POST", "/api/start-session", json={"userId": "u1", "broker": "sim"})).release()
    for _ in range(2):
        async with api.request("POST", "/api/stop-session", json={"userId": "u1", "broker": "sim"}) as answer:
            assert answer.status == 202
            body = await answer.json()
            assert body["status"] == "stopped"
            assert [each["status"] for each in body["sessions"]] == ["stopped"]
    async with api.request("POST", "/api/stop-websocket", json={"userId": "u2"}) as answer:
        assert answer.status == 404
        assert (await answer.json())["type"].endswith(":not-found")


async def test_listing_pages_through_all_sessions_when_limited(api: Api):
    for number in range(5):
        await (
            await api.request("POST", "/api/start-session", json={"userId": f"u{number}", "broker": "sim"})
        ).release()
    seen, after = [], ""
    while True:
        async with api.request("GET", f"/api/v1/sessions?limit=2{after}") as answer:
            page = await answer.json()
        seen += [each["userKey"] for each in page["sessions"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == sorted(user_key(f"u{number}") for number in range(5))
    assert page["sessions"][0]["reason"] == {"code": "starting", "message": "It waits for its turn."}


@pytest.mark.parametrize(
    "query", ["status=nonsense", "limit=0", "limit=1001", "x=1", "limit=1&limit=2", "%ff=1", "broker="]
)
async def test_listing_refuses_when_a_parameter_is_wrong(api: Api, query: str):
    async with api.request("GET", f"/api/sessions?{query}") as answer:
        assert answer.status == 422
        assert (await answer.json())["errors"]


async def test_a_user_is_found_by_key_or_by_its_first_digits(api: Api):
    await (await api.request("POST", "/api/start-session", json={"userId": "u1", "broker": "sim"})).release()
    key = user_key("u1")
    for part in (key, key[:12], key[:12].upper()):
        async with api.request("GET", f"/api/sessions/{part}") as answer:
            body = await answer.json()
            assert (answer.status, body["userKey"], len(body["sessions"])) == (200, key, 1)
        async with api.request("GET", f"/api/v1/sessions/{part}/explain") as answer:
            body = await answer.json()
            assert body["explanations"][0]["chain"][0]["code"] == "connection_lost"
            assert body["explanations"][0]["whatNext"] == "It logs in."
    for part in (key[:11], key + "0", user_key("other")):
        async with api.request("GET", f"/api/sessions/{part}") as answer:
            assert answer.status == 404
