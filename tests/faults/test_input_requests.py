"""What callers may send to a real process: every odd request gets a refusal that says why, and touches nobody.

One world for all cases: broker, store, issuer and bridge are processes or servers of their own; rates are unlimited.
"""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from bridge.api.routes import ROUTES
from bridge.runtime.clock import SystemClock
from tests.support.fault_table import fault
from tests.support.issuer import ISSUER, KeyServer, claims, ec_key, jwk, key_server, resigned, sign
from tests.support.raw_http import RawAnswer, exchange, read_answer
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, OPS_KEY, World, running_world
from tests.unit.api.test_access import misspelt

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
START = "/api/start-session"
ORIGIN = "https://app.example.com"


@dataclass
class Door:
    """A live bridge, and hands that send anything."""

    world: World
    issuer: KeyServer

    @property
    def port(self) -> int:
        return int(self.world.url.rpartition(":")[2])

    async def raw(self, head: str, body: bytes = b"", *, key: str = APP_KEY) -> RawAnswer:
        """One request; its length and the key are added."""
        lines = f"Host: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n"
        return await exchange(self.port, f"{head}\r\n{lines}\r\n".encode() + body)

    async def post(self, body: bytes | dict[str, Any], path: str = START) -> RawAnswer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.raw(f"POST {path} HTTP/1.1\r\nContent-Type: application/json", data)

    async def handled(self) -> float:
        """How many requests were answered so far."""
        async with self.world.http.get(
            f"{self.world.url}/metrics", headers={"Authorization": f"Bearer {OPS_KEY}"}
        ) as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith("bridge_http_answers_total"))

    def token(self, user: str) -> str:
        return sign(claims(SystemClock(), sub=user), ec_key(), "ES256", kid="ec-1")

    def unharmed(self) -> None:
        """Nothing was our fault."""
        assert self.world.bridge.returncode is None
        assert self.world.bridge.lines("request failed") == self.world.bridge.lines("connection failed") == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with key_server(jwk(ec_key(), "ec-1")) as issuer:
        env = {"JWKS_URL": issuer.url, "JWT_ISSUER": ISSUER, "CORS_ORIGINS": ORIGIN}
        folder, module = tmp_path_factory.mktemp("input"), "tests.support.unlimited_bridge"
        async with running_world(folder, users=3, bridge_env=env, bridge_module=module) as world:
            await world.start_all()
            await world.all_live(within_s=30)
            yield Door(world, issuer)


# ------------------------------------------------------------ bodies

BODIES: list[tuple[bytes, str]] = [
    (b"", "body"),
    (b"{", "body"),
    (b"[1]", "body"),
    (b"{}", "broker"),
    (b'{"userId": "user-1", "broker": "ctrader", "extra": 1}', "extra"),
    (b'{"userId": ["user-1"], "broker": "ctrader"}', "userId"),
    (b'{"userId": "user-1", "broker": null}', "broker"),
    (b'{"userId": "user-1", "broker": "ctrader", "broker": "ctrader"}', "body"),
    (b'{"a":' * 200 + b"1" + b"}" * 200, "body"),
    (b'{"userId": "user-1", "broker": {"name": "ctrader"}}', "broker"),
]


@fault("I01", "ten wrong bodies at a real process", "422 with the path of the field")
async def test_a_wrong_body_is_refused_with_its_field(door: Door) -> None:
    for body, field in BODIES:
        answer = await door.post(body)
        assert answer.status == 422, (body, answer)
        assert json.loads(answer.body)["errors"][0]["field"] == field, body
    door.unharmed()


@fault("I02", "64 KiB and one byte: told, in chunks, and dripping on", "413 early, connection closed, memory stays")
async def test_a_large_body_is_refused_early_and_the_connection_ends(door: Door) -> None:
    head = f"POST {START} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {APP_KEY}\r\nContent-Type: application/json\r\n"
    told = f"{head}Content-Length: {10 * 2**30}\r\n\r\n".encode()
    chunked = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode()
    for start in (told, chunked):
        async with asyncio.timeout(15):
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
            writer.write(start)
            sent = 0
            reading = asyncio.ensure_future(read_answer(reader))
            try:
                while not reading.done():  # a caller that goes on until it is told
                    writer.write(b"10000\r\n" + b" " * 65_536 + b"\r\n")
                    await writer.drain()
                    sent += 65_536
                    await asyncio.wait([reading], timeout=0.01)
            except OSError:
                pass  # the other end has closed already
            answer = await reading
            assert (answer.status, answer.headers["connection"]) == (413, "close")
            assert sent < 64 * 2**20
            writer.close()
    door.unharmed()


IDS = ["a\x00b", "\ud800", "\u0007bell", "\u0378", "x" * 2**20, "", "   ", "line\nbreak"]
LOOK_ALIKES = ["us\u0435r-1", "USER-1", "user\u20101", "user-1\u200b", "\u202euser-1", "user\uff0d1", "user-\u0661"]


@fault("I04", "NUL, half surrogates, unknown characters, 1 MiB; seven look-alikes of a user", "refused; nobody's key")
async def test_an_odd_user_id_is_refused_or_somebody_else(door: Door) -> None:
    for odd in IDS:
        answer = await door.post({"userId": odd, "broker": "ctrader"})
        assert answer.status in (413, 422), (odd[:20], answer.status)
    mine = json.loads((await door.post({"userId": "user-1", "broker": "ctrader"})).body)["userKey"]
    same = await door.post({"userId": "  user-1\t", "broker": "ctrader"})  # the one rule: NFC, no space around
    assert (same.status, json.loads(same.body)["userKey"]) == (202, mine)
    for other in LOOK_ALIKES:
        answer = await door.post({"userId": other, "broker": "ctrader"})
        assert (answer.status, answer.problem.rpartition(":")[2]) == (409, "no-credentials"), other
        read = await door.world.api("GET", f"/api/sessions/{mine}", key=OPS_KEY)
        assert len(read["sessions"]) == 1
    broken = f"GET /account HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {APP_KEY}\r\nX-User-Id: ".encode()
    for data in (b"\xff\xfe", b"user-1\x00", b"\xed\xa0\x80"):
        answer = await exchange(door.port, broken + data + b"\r\n\r\n")
        assert answer.status in (400, 404, 422), data
    door.unharmed()


@fault("I07", "1e400, NaN, -0, commas, 2^63 and 20 decimals where numbers are read", "422 with the path, or as written")
async def test_a_number_that_is_none_is_refused_with_its_field(door: Door) -> None:
    for text in ("1e400", "NaN", "Infinity", "-1", "1,0", "0x1", str(2**63), "1" * 400, "\u0661"):
        for path, field in ((f"{START}?wait={text}", "wait"), (f"/api/sessions?limit={text}", "limit")):
            body = {"userId": "user-1", "broker": "ctrader"}
            answer = await door.world.api(
                "POST" if path.startswith(START) else "GET",
                path,
                key=APP_KEY if path.startswith(START) else OPS_KEY,
                body=body if path.startswith(START) else None,
            )
            assert (answer["_status"], answer["errors"][0]["field"]) == (422, field), (path, answer)
    for text in ("1e400", "NaN", "12345.0", "1" * 5000, "-0"):  # a number is no account id
        body = b'{"userId": "user-1", "broker": "ctrader", "accountId": ' + text.encode() + b"}"
        assert (await door.post(body)).status == 422, text
    assert (
        await door.post(b'{"userId": "user-1", "broker": "ctrader", "accountId": "9223372036854775808"}')
    ).status in (
        202,
        409,
    )
    door.unharmed()


# ------------------------------------------------------------ addresses and requests


@fault("I05", "18 spellings of every route of a real process, without a key", "400 or 404")
async def test_no_spelling_of_a_path_reaches_what_is_behind_it(door: Door) -> None:
    paths = {
        path.replace("{userKey}", "0" * 64).replace("{broker}", "ctrader") for route in ROUTES for path in route.paths
    }
    gate = asyncio.Semaphore(16)

    async def ask(spelling: str) -> tuple[str, int]:
        async with gate:
            return spelling, (await exchange(door.port, f"GET {spelling} HTTP/1.1\r\nHost: x\r\n\r\n".encode())).status

    answers = await asyncio.gather(*(ask(spelling) for path in sorted(paths) for spelling in misspelt(path)))
    assert len(answers) > 300
    assert [each for each in answers if each[1] not in (400, 404)] == []
    door.unharmed()


@fault("I06", "CL with TE, TE twice, a request hidden in a body, odd methods and types", "one in, one handled")
async def test_one_request_in_is_one_request_handled(door: Door) -> None:
    hidden = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    head = f"POST {START} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {APP_KEY}\r\nContent-Type: application/json\r\n"
    smuggled = [
        f"{head}Content-Length: {len(hidden)}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode() + hidden,
        f"{head}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n".encode() + hidden,
        f"{head}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".encode() + hidden,
        f"{head}Content-Length: 0\r\nContent-Length: {len(hidden)}\r\n\r\n".encode() + hidden,
        f"{head}Content-Length : {len(hidden)}\r\n\r\n".encode() + hidden,
    ]
    for data in smuggled:
        before = await door.handled()
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
            writer.write(data)
            said = await reader.read()  # to its end
            writer.close()
        assert said[:10] in (b"HTTP/1.0 4", b"HTTP/1.1 4"), said[:80]
        assert said.count(b"HTTP/1.") == 1
        assert await door.handled() <= before + 2  # that one at most, and the one that asked before
    for method, status in (("GET", 405), ("PUT", 405), ("PATCH", 405), ("TRACE", 405), ("BREW", 400)):
        assert (await door.raw(f"{method} {START} HTTP/1.1")).status == status
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "multipart/form-data",
    ):
        answer = await door.raw(f"POST {START} HTTP/1.1\r\nContent-Type: {kind}", b'{"broker": "ctrader"}')
        assert answer.status == 415, kind
    door.unharmed()


# ------------------------------------------------------------ callers


@fault("I10", "reads and commands for a stopped, an unknown and another's session", "404, 403, or said to be stopped")
async def test_a_session_is_shown_to_its_user_only_and_as_what_it_is(door: Door) -> None:
    world = door.world
    user, body = "user-3", {"userId": "user-3", "broker": "ctrader"}
    assert (await world.api("POST", "/api/stop-session", key=APP_KEY, body=body))["_status"] == 202

    async def stopped() -> bool:
        record = await world.api("GET", "/account", key=APP_KEY, user=user)
        return bool(record["status"] == "stopped" and record["fresh"] is False)

    await eventually(stopped, within_s=10, every_s=0.1, what="its record says so")
    again = await world.api("POST", "/api/stop-session", key=APP_KEY, body=body)
    assert (again["_status"], again["status"]) == (202, "stopped")
    nobody = {"userId": "nobody", "broker": "ctrader"}
    assert (await world.api("POST", "/api/stop-session", key=APP_KEY, body=nobody))["_status"] == 404

    mine, key = door.token("user-1"), (await world.start("user-2"))["userKey"]
    for path in (f"/api/sessions/{key}", f"/api/sessions/{key}/explain", f"/account?userKey={key}"):
        answer = await world.api("GET", path, key=mine)
        assert answer["_status"] in (403, 404), path
        assert "balance" not in answer
    for path in (START, "/api/stop-session"):
        refused = await world.api("POST", path, key=mine, body={"userId": "user-2", "broker": "ctrader"})
        assert refused["_status"] == 403
    assert (await world.api("GET", "/account", key=mine, user="user-2"))["_status"] == 403
    assert (await world.api("GET", "/account", key=mine))["balance"] is not None
    assert (await world.api("POST", START, key=APP_KEY, body=body))["_status"] == 202
    await world.all_live(within_s=20)


@fault(
    "I11", "forged, expired, unsigned and huge tokens at a real process", "401, all alike; the issuer asked once more"
)
async def test_a_forged_token_is_refused_like_every_other(door: Door) -> None:
    clock = SystemClock()
    good, now = claims(clock, sub="user-1"), clock.now_ms() // 1000
    asked = door.issuer.asked
    public = json.dumps(jwk(ec_key(), "ec-1")).encode()
    head, payload, signature = door.token("user-1").split(".")
    forged = {
        "another key": sign(good, ec_key(9), "ES256", kid="ec-1"),
        "unknown kid": sign(good, ec_key(9), "ES256", kid="made-up"),
        "unknown kid again": sign(good, ec_key(9), "ES256", kid="made-up-2"),
        "alg none": sign(good, "", "none"),
        "HS256 under the public key": resigned(
            {"alg": "HS256", "kid": "ec-1"}, good, lambda data: hmac.digest(public, data, "sha256")
        ),
        "jku": sign(good, ec_key(9), "ES256", kid="ec-1", jku="http://127.0.0.1:9/keys"),
        "crit": sign(good, ec_key(), "ES256", kid="ec-1", crit=["exp"]),
        "expired": sign({**good, "exp": now - 60}, ec_key(), "ES256", kid="ec-1"),
        "not yet": sign({**good, "nbf": now + 600}, ec_key(), "ES256", kid="ec-1"),
        "another audience": sign({**good, "aud": "anon"}, ec_key(), "ES256", kid="ec-1"),
        "another issuer": sign({**good, "iss": "https://evil.example"}, ec_key(), "ES256", kid="ec-1"),
        "payload changed": f"{head}.{sign({**good, 'sub': 'user-2'}, ec_key(9), 'ES256').split('.')[1]}.{signature}",
        "two dots more": f"{head}.{payload}.{signature}.{payload}.{signature}",
        "no signature": f"{head}.{payload}.",
    }
    expected = await door.raw("GET /account HTTP/1.1", key="who.ever")
    assert expected.status == 401
    for name, token in forged.items():
        answer = await door.raw("GET /account HTTP/1.1", key=token)
        assert (answer.status, answer.body) == (401, expected.body), name
    assert door.issuer.asked <= asked + 2  # at first, and for the ids it does not know
    assert (await door.raw("GET /account HTTP/1.1", key="x" * 2**20)).status == 400
    assert (await door.raw("GET /account HTTP/1.1", key=door.token("user-1"))).status == 200


@fault("I12", "the issuer answers 500, HTML, then without end", "users who are known go on")
async def test_known_users_go_on_when_the_issuer_is_in_trouble(door: Door) -> None:
    async def broken(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=500, text="<html>", content_type="text/html")

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(64):
            await response.write(b" " * 65_536)
        return response

    assert (await door.raw("GET /account HTTP/1.1", key=door.token("user-1"))).status == 200
    try:
        for trouble in (broken, endless):
            door.issuer.answer = trouble
            for _ in range(20):
                unknown = sign(claims(SystemClock()), ec_key(9), "ES256", kid="new-key")
                assert (await door.raw("GET /account HTTP/1.1", key=unknown)).status in (401, 503)
                fresh = door.token("user-2")  # a token that nobody has seen yet
                assert (await door.raw("GET /account HTTP/1.1", key=fresh)).status == 200
    finally:
        door.issuer.answer = door.issuer.publish
    door.unharmed()


@fault("I17", "null, suffixes, other ports and schemes, credentials", "only the listed origin; never with credentials")
async def test_only_the_listed_origin_may_read(door: Door) -> None:
    foreign = (
        "null",
        "https://evil-app.example.com",
        f"{ORIGIN}.evil.com",
        "http://app.example.com",
        f"{ORIGIN}:8443",
        "*",
    )
    for origin in (ORIGIN, *foreign):
        for method, path in (("GET", "/health"), ("OPTIONS", START)):
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\nCookie: a=b\r\n"
            answer = await exchange(door.port, f"{head}Access-Control-Request-Method: POST\r\n\r\n".encode())
            assert (answer.headers.get("access-control-allow-origin") == origin) is (origin == ORIGIN)
            assert "*" not in answer.headers.get("access-control-allow-origin", "")
            assert "access-control-allow-credentials" not in answer.headers
        answer = await door.raw(f"GET /api/sessions HTTP/1.1\r\nOrigin: {origin}", key=OPS_KEY)
        assert answer.status == 403  # a key does not belong in a page
    door.unharmed()
