"""The issuer's public keys: what is believed, for how long, and how little an issuer in trouble can do (I12)."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from jwt.algorithms import ECAlgorithm

from bridge.api import jwks
from bridge.api.jwks import AGAIN_S, FRESH_S, MOST_KEYS, KeySet, usable_keys
from bridge.api.strict_json import NotStrict
from bridge.runtime.clock import ManualClock
from core.errors import Unavailable
from tests.support.fake_services import Api, running_api
from tests.support.fault_table import fault
from tests.support.issuer import KeyServer, claims, ec_key, jwk, key_server, rsa_key, sign, verifier


def document(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


EC, RSA = jwk(ec_key(), "ec-1"), jwk(rsa_key(), "rsa-1")


def test_a_key_is_for_the_one_algorithm_of_its_kind():
    keys = usable_keys(document(EC, RSA, {**EC, "kid": "ec-2", "alg": "ES256", "use": "sig", "key_ops": ["verify"]}))
    assert set(keys) == {("ES256", "ec-1"), ("RS256", "rsa-1"), ("ES256", "ec-2")}


@pytest.mark.parametrize(
    "entry",
    [
        {**RSA, "alg": "HS256"},
        {**RSA, "alg": "RS512"},
        {**RSA, "alg": "none"},
        {**RSA, "use": "enc"},
        {**RSA, "key_ops": ["encrypt"]},
        {**RSA, "key_ops": "verify"},
        {**RSA, "kty": "oct", "k": "c2VjcmV0"},
        {**RSA, "kty": ["RSA"]},
        {**RSA, "kid": 7},
        {**RSA, "n": "AQAB"},
        {**RSA, "n": 7},
        {**RSA, "e": "AQ"},
        {**ECAlgorithm.to_jwk(ec_key(), as_dict=True), "kid": "private"},
        {"kty": "RSA", "kid": "x"},
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "x", "alg": "HS256"},
        jwk(rsa_key(2, 1024), "weak"),
        jwk(ec_key(2, "P-384"), "other-curve"),
        {**EC, "crv": "P-384"},
        {**EC, "crv": None},
        {**EC, "crv": "secp256k1"},
        {**EC, "x": EC["y"]},
        {**EC, "x": "AAAA"},
        {**EC, "alg": "RS256"},
        "a text",
        7,
        None,
        [],
    ],
)
def test_a_key_that_must_not_verify_is_passed_over(entry: Any):
    good = jwk(ec_key(3), "good")
    assert set(usable_keys(document(entry, good))) == {("ES256", "good")}
    with pytest.raises(NotStrict):
        usable_keys(document(entry))


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"<!doctype html><title>Down</title>", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b"null"),
        document(*[{**EC, "kid": str(number)} for number in range(MOST_KEYS + 1)]),
        b'{"keys": [], "keys": ' + json.dumps([EC]).encode() + b"}",
    ],
)
def test_an_answer_without_usable_keys_is_a_failure(answer: bytes):
    with pytest.raises(NotStrict):
        usable_keys(answer)


def test_the_first_counts_when_two_keys_have_one_id():
    keys = usable_keys(document(EC, jwk(ec_key(5), "ec-1")))
    assert keys["ES256", "ec-1"].key.public_numbers() == ec_key().public_key().public_numbers()


class Scene:
    """An issuer, its keys as the bridge has them, and the real API in front."""

    def __init__(self, issuer: KeyServer, keys: KeySet, clock: ManualClock, api: Api) -> None:
        self.issuer, self.keys, self.clock, self.api = issuer, keys, clock, api

    def token(self, kid: str | None = "ec-1", number: int = 1) -> str:
        return sign(claims(self.clock), ec_key(number), "ES256", **({"kid": kid} if kid else {}))

    async def status(self, token: str | None = None) -> int:
        """404: the token is good and its user has no record yet."""
        async with self.api.request("GET", "/account", token or self.token()) as answer:
            if answer.status == 503:
                assert int(answer.headers["Retry-After"]) >= 1
            return answer.status

    async def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.status()
        if self.keys._flight is not None:
            await asyncio.wait({self.keys._flight})


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    clock = ManualClock()
    async with key_server(EC) as issuer:
        keys = KeySet(issuer.url, clock)
        async with running_api(users=verifier(keys, clock)) as api:
            yield Scene(issuer, keys, clock, api)
        await keys.close()


GOOD, UNKNOWN, FORGED = 404, 503, 401


async def html(request: web.BaseRequest) -> web.Response:
    return web.Response(text="<!doctype html>", content_type="text/html")


async def broken(request: web.BaseRequest) -> web.Response:
    raise web.HTTPInternalServerError


async def huge(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        while True:
            await response.write(b" " * 2**16)
    except ConnectionError:
        return response


async def zipped(request: web.BaseRequest) -> web.Response:
    return web.Response(body=gzip.compress(document(EC)), headers={"Content-Encoding": "gzip"})


async def reset(request: web.BaseRequest) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


TROUBLES = {"HTML": html, "an error": broken, "no end": huge, "zipped": zipped, "a reset": reset}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
@fault("I12", "an issuer in every kind of trouble", "users do not notice for an hour")
async def test_users_do_not_notice_for_an_hour_when_the_issuer_is_in_trouble(scene: Scene, trouble: Any):
    assert await scene.status() == GOOD
    scene.issuer.answer = trouble
    for _ in range(11):
        await scene.later(300)
        assert await scene.status() == GOOD
    assert scene.keys.failures >= 5
    assert "JWKS_URL" in (scene.keys.trouble() or "")
    await scene.later(301)
    assert await scene.status() == UNKNOWN
    scene.issuer.answer = scene.issuer.publish
    scene.clock.advance(60)
    assert await scene.status() == GOOD
    assert scene.keys.trouble() is None


async def test_one_fetch_in_vain_is_no_trouble(scene: Scene):
    assert await scene.status() == GOOD
    scene.issuer.answer = broken
    await scene.later(FRESH_S + 1)
    assert (scene.keys.failures, scene.keys.trouble()) == (1, None)
    await scene.later(AGAIN_S)
    await scene.later(AGAIN_S)
    assert scene.keys.trouble() is None
    await scene.later(AGAIN_S)
    assert (scene.keys.failures, scene.keys.trouble() is None) == (4, False)


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
async def test_nobody_is_told_401_when_there_were_never_keys(scene: Scene, trouble: Any):
    scene.issuer.answer = trouble
    assert await scene.status() == UNKNOWN
    async with scene.api.request("GET", "/health", scene.token()) as answer:
        assert answer.status == 200, "a public route needs nobody's keys"
    for _ in range(20):
        assert await scene.status() == UNKNOWN
    assert scene.keys.fetches == 1
    scene.issuer.answer = scene.issuer.publish
    scene.clock.advance(5)
    assert await scene.status() == GOOD


async def test_a_redirect_is_not_followed(scene: Scene):
    async with key_server(EC) as elsewhere:

        async def redirect(request: web.BaseRequest) -> web.Response:
            return web.Response(status=302, headers={"Location": elsewhere.url})

        scene.issuer.answer = redirect
        assert await scene.status() == UNKNOWN
        assert elsewhere.asked == 0


@fault("I12", "keys without end", "cut early")
async def test_an_answer_without_end_is_cut_early(scene: Scene):
    taken = 0

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal taken
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while taken < 2**26:
                await response.write(b" " * 2**16)
                taken += 2**16
        except ConnectionError:
            pass
        return response

    scene.issuer.answer = endless
    assert await scene.status() == UNKNOWN
    assert taken < 2**25, "beyond what sockets buffer"


@fault("I12", "a slow issuer", "asked once for all, given up in time")
async def test_a_slow_issuer_is_asked_once_for_all_and_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jwks, "FETCH_S", 0.6)
    monkeypatch.setattr(jwks, "WAIT_S", 0.2)

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    scene.issuer.answer = slow
    assert set(await asyncio.gather(*(scene.status() for _ in range(50)))) == {UNKNOWN}
    assert scene.issuer.asked == 1
    flight = scene.keys._flight
    assert flight is not None, "callers leave before the fetch is given up"
    await asyncio.wait({flight})
    assert scene.keys.failures == 1


async def test_a_slow_issuer_holds_nobody_up_when_keys_are_known(scene: Scene):
    assert await scene.status() == GOOD

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    scene.issuer.answer = slow
    scene.clock.advance(601)
    async with asyncio.timeout(2):  # less than anybody waits for a fetch
        assert await scene.status() == GOOD
    assert scene.issuer.asked <= 2


@fault("I12", "rotation", "the new key counts, the old one does not")
async def test_a_rotated_key_is_found_and_the_old_one_is_out(scene: Scene):
    assert await scene.status() == GOOD
    scene.issuer.keys = [jwk(ec_key(7), "ec-2")]
    new = scene.token("ec-2", 7)
    assert await scene.status(new) == FORGED, "at most one fetch a minute"
    scene.clock.advance(60)
    assert await scene.status(scene.token("ec-2", 7)) == GOOD
    assert await scene.status() == FORGED
    assert scene.issuer.asked == 2


async def test_an_unknown_key_id_is_not_told_401_when_the_issuer_cannot_be_asked(scene: Scene):
    assert await scene.status() == GOOD
    scene.issuer.answer = broken
    scene.clock.advance(60)
    assert await scene.status(scene.token("ec-2", 7)) == UNKNOWN
    assert await scene.status() == GOOD


async def test_a_token_without_key_id_is_for_the_only_key_of_its_algorithm(scene: Scene):
    assert await scene.status(scene.token(None)) == GOOD
    scene.issuer.keys = [EC, jwk(ec_key(7), "ec-2")]
    await scene.later(601)
    assert await scene.status(scene.token(None)) == FORGED


async def test_the_keys_cannot_be_had_when_nobody_listens():
    clock = ManualClock()
    keys = KeySet("http://127.0.0.1:1/jwks.json", clock)
    with pytest.raises(Unavailable):
        await keys.find("ES256", "ec-1")
    await keys.close()
