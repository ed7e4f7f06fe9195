"""Reading records through the public door."""

import orjson
import pytest

from core.errors import Unavailable
from tests.support.fake_services import APP_KEY, Api, user_key

KEY = f"sim_account_{user_key('u1')}"


async def test_account_is_the_record_with_its_freshness_when_stored(api: Api):
    now = api.clock.now_ms()
    api.records.put(KEY, now_ms=now)
    api.clock.advance(2)
    async with api.request("GET", "/account", APP_KEY, headers={"X-User-Id": "u1"}) as answer:
        raw = await answer.read()
    body = orjson.loads(raw)
    assert answer.status == 200
    assert (body["fresh"], body["ageMs"], body["serverTime"]) == (True, 2000, now + 2000)
    assert raw.startswith(api.records.records[KEY].document[:-1])
    assert answer.headers["ETag"] == '"7-1-true"'
    assert answer.headers["Cache-Control"] == "private, no-cache"


async def test_account_stops_being_fresh_when_its_time_has_come(api: Api):
    api.records.put(KEY, now_ms=api.clock.now_ms())
    api.clock.advance(9.999)
    async with api.request("GET", "/account", headers={"X-User-Id": "u1"}) as answer:
        assert (await answer.json())["fresh"] is True
    api.clock.advance(0.001)
    async with api.request("GET", "/account", headers={"X-User-Id": "u1", "If-None-Match": '"7-1-true"'}) as answer:
        assert answer.status == 200
        assert (await answer.json())["fresh"] is False
        assert answer.headers["ETag"] == '"7-1-false"'


@pytest.mark.parametrize("stated", ['"7-1-true"', 'W/"7-1-true"', '"other", "7-1-true"', "*"])
async def test_account_answers_304_when_the_caller_has_this_reading(api: Api, stated: str):
    api.records.put(KEY, now_ms=api.clock.now_ms())
    for path in ("/account", "/positions"):
        async with api.request("GET", path, headers={"X-User-Id": "u1", "If-None-Match": stated}) as answer:
            assert answer.status == 304
            assert await answer.read() == b""
            assert answer.headers["ETag"] == '"7-1-true"'


async def test_positions_are_the_same_envelope_without_the_figures(api: Api):
    api.records.put(KEY, now_ms=api.clock.now_ms())
    async with api.request("GET", "/api/v1/positions", headers={"X-User-Id": "u1"}) as answer:
        body = await answer.json()
    assert body["positions"] == []
    assert body["orders"] == []
    assert {"status", "reason", "fence", "version", "asOf", "staleAfter", "fresh", "ageMs", "serverTime"} <= set(body)
    assert not {"balance", "equity", "usedMargin", "login"} & set(body)


async def test_a_record_is_found_by_user_key_and_by_account(api: Api):
    api.records.put(KEY, now_ms=api.clock.now_ms())
    api.records.put(f"{KEY}_2", account_id="2", now_ms=api.clock.now_ms())
    for query, expected in (("", "1"), ("&accountId=1", "1"), ("&accountId=2", "2"), ("&broker=sim", "1")):
        async with api.request("GET", f"/account?userKey={user_key('u1')}{query}") as answer:
            assert (await answer.json())["accountId"] == expected
        async with api.request("GET", f"/account?{query[1:]}", headers={"X-User-Id": "u1"}) as answer:
            assert (await answer.json())["accountId"] == expected


async def test_another_account_is_not_served_when_only_the_default_exists(api: Api):
    api.records.put(KEY, now_ms=api.clock.now_ms())
    async with api.request("GET", "/account?accountId=9", headers={"X-User-Id": "u1"}) as answer:
        assert answer.status == 404
        assert (await answer.json())["type"].endswith(":no-record")


async def test_a_read_is_refused_when_nobody_is_named_or_two_are(api: Api):
    async with api.request("GET", "/account") as answer:
        assert answer.status == 422
        assert (await answer.json())["errors"][0]["field"] == "X-User-Id"
    async with api.request("GET", f"/account?userKey={user_key('u1')}", headers={"X-User-Id": "u1"}) as answer:
        assert answer.status == 422
    async with api.request("GET", "/account?userKey=abc") as answer:
        assert answer.status == 422


async def test_a_read_answers_503_when_no_store_answers(api: Api):
    api.records.fail = Unavailable("no store answers")
    async with api.request("GET", "/account", headers={"X-User-Id": "u1"}) as answer:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1


async def test_head_answers_like_get_without_a_body(api: Api):
    api.records.put(KEY, now_ms=api.clock.now_ms())
    async with api.request("HEAD", "/account", headers={"X-User-Id": "u1"}) as answer:
        assert answer.status == 200
        assert answer.headers["ETag"] == '"7-1-true"'
        assert await answer.read() == b""


async def test_a_read_counts_as_use_of_the_session(api: Api):
    key = user_key("u1")
    api.records.put(f"sim_account_{key}", now_ms=api.clock.now_ms())
    for path, headers in (("/account", {"X-User-Id": "u1"}), (f"/positions?userKey={key}", {})):
        async with api.request("GET", path, headers=headers) as answer:
            etag = answer.headers["ETag"]
    async with api.request("GET", "/account", headers={"X-User-Id": "u1", "If-None-Match": etag}) as answer:
        assert answer.status == 304
    assert api.sessions.reads == [(key, "sim")] * 3
    async with api.request("GET", "/account", headers={"X-User-Id": "u2"}) as answer:
        assert answer.status == 404
    assert len(api.sessions.reads) == 3
