"""User tokens, through the real HTTP server: good ones name their user, all others are one and the same 401 (I11)."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from bridge.api.jwks import KeySet
from bridge.api.user_tokens import LARGEST_TOKEN, SharedSecret, UserTokens
from bridge.runtime.clock import ManualClock
from core.secret import Secret
from tests.support.fake_services import Api, running_api, user_key
from tests.support.fault_table import fault
from tests.support.issuer import (
    HS_SECRET,
    KeyServer,
    claims,
    ec_key,
    jwk,
    key_server,
    raw,
    resigned,
    rsa_key,
    sign,
    verifier,
)
from tests.support.raw_http import exchange

CLOCK = ManualClock()  # never moves here
NOW = CLOCK.now_ms() // 1000
ANN = claims(CLOCK)["sub"]
HS = {"alg": "HS256", "typ": "JWT"}


def hs(payload: Any = None, secret: bytes = HS_SECRET.encode(), **header: Any) -> str:
    """A token under a shared secret, whatever its header says."""
    payload = claims(CLOCK) if payload is None else payload
    return resigned({**HS, **header}, payload, lambda data: hmac.new(secret, data, hashlib.sha256).digest())


def es(payload: Any = None, key: Any = None, kid: str = "ec-1", **header: Any) -> str:
    payload = claims(CLOCK) if payload is None else payload
    key = key or ec_key()

    def signature(data: bytes) -> bytes:
        der = key.sign(data, ec.ECDSA(hashes.SHA256()))
        return jwt.utils.der_to_raw_signature(der, key.curve)

    return resigned({"alg": "ES256", "typ": "JWT", "kid": kid, **header}, payload, signature)


def rs(payload: Any = None, key: Any = None, kid: str = "rsa-1", **header: Any) -> str:
    payload = claims(CLOCK) if payload is None else payload
    key = key or rsa_key()
    return resigned(
        {"alg": "RS256", "typ": "JWT", "kid": kid, **header},
        payload,
        lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256()),
    )


def public_forms() -> dict[str, bytes]:
    """Everything that an attacker can read of our public keys, as bytes to sign with."""
    found = {}
    for name, key in (("rsa", rsa_key()), ("ec", ec_key())):
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        found[f"{name} pem"] = pem
        found[f"{name} pem without its last newline"] = pem.rstrip()
        found[f"{name} der"] = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        found[f"{name} jwk"] = json.dumps(jwk(key, f"{name}-1")).encode()
        found[f"{name} base64"] = base64.b64encode(found[f"{name} der"])
    found["rsa pkcs1"] = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)
    found["ec point"] = ec_key().public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return {**found, "nothing": b"", "a guess": b"secret"}


def forged(good: Callable[..., str]) -> dict[str, str]:
    """Tokens that must prove nothing, made from a good token of either kind."""
    parts = good().split(".")
    payload = json.dumps(claims(CLOCK)).encode()
    other = {
        "no signature": f"{parts[0]}.{parts[1]}.",
        "signature cut": good()[:-5],
        "signature of another": f"{parts[0]}.{parts[1]}.{good(claims(CLOCK, sub='mallory')).split('.')[2]}",
        "payload changed": f"{parts[0]}.{good(claims(CLOCK, sub='x')).split('.')[1]}.{parts[2]}",
        "two dots more": f"{good()}.{parts[1]}.{parts[2]}",
        "one dot more": f"{good()}.x",
        "only dots": "..",
        "four dots (JWE)": "a.b.c.d.e",
        "JWE": raw(b'{"alg":"dir","enc":"A256GCM"}', b"", b"iv") + ".BBBB.CCCC",
        "broken base64": f"{parts[0]}.{parts[1]}!.{parts[2]}",
        "padded base64": f"{parts[0]}=.{parts[1]}=.{parts[2]}=",
        "standard base64": good().replace("-", "+").replace("_", "/") + "+",
        "not ASCII": f"{parts[0]}.{parts[1]}.é",
        "embedded NUL escape": good(payload.replace(b"8a6e", b"\\u00008a6e")),
        "header not JSON": raw(b"nonsense", payload, b"x"),
        "header a list": raw(b'["alg"]', payload, b"x"),
        "header with a name twice": raw(b'{"alg":"none","alg":"HS256"}', payload, b"x"),
        "deep header": raw(b'{"alg":' + b"[" * 3000 + b"]" * 3000 + b"}", b"{}", b"x")[:8000],
        "payload not JSON": good(b"nonsense"),
        "payload a list": good(b"[1]"),
        "payload a text": good(b'"sub"'),
        "payload with a name twice": good(payload[:-1] + b', "sub": "mallory"}'),
        "payload with NaN": good(payload[:-1] + b', "exp": NaN}'),
        "payload not UTF-8": good(payload[:-1] + b', "x": "\xff"}'),
        "deep payload": good(b'{"a":' * 40 + b"1" + b"}" * 40),
        "nested": good(good().encode(), cty="JWT"),
        "nested without saying so": good(json.dumps(good()).encode()),
        "critical header": good(crit=["exp"]),
        "critical header, empty": good(crit=[]),
        "unencoded payload": good(b64=False, crit=["b64"]),
        "unencoded payload, not critical": good(b64=False),
        "compressed": good(zip="DEF"),
        "another kind": good(typ="secevent+jwt"),
        "kind not a text": good(typ=7),
        "key id not a text": good(kid=7),
        "key id empty": good(kid=""),
        "key id a path": good(kid="../../dev/null", jku="http://127.0.0.1:1/keys"),
        "keys by address": good(jku="http://127.0.0.1:1/keys"),
        "certificate by address": good(x5u="http://127.0.0.1:1/cert"),
        "certificate in the token": good(x5c=["MIIB"]),
    }
    for spelling in (
        "none",
        "None",
        "NONE",
        "nOnE",
        "",
        "hs256",
        "HS256 ",
        "HS384",
        "HS512",
        "RS512",
        "PS256",
        "ES384",
    ):
        header = json.dumps({"alg": spelling, "typ": "JWT"}).encode()
        other[f"alg {spelling!r}, unsigned"] = raw(header, payload)
        other[f"alg {spelling!r}, signed"] = good(alg=spelling)
    for value in (None, 7, [], ["HS256"], {"HS256": 1}):
        other[f"alg {value!r}"] = good(alg=value)
    now = NOW
    wrong: dict[str, dict[str, Any]] = {
        "expired": {"exp": now - 31},
        "expired long ago": {"exp": 0},
        "expires never": {"exp": None},
        "expires as text": {"exp": str(now + 60)},
        "expires true": {"exp": True},
        "expires beyond numbers": {"exp": 10**400},
        "issued in the future": {"iat": now + 31},
        "never issued": {"iat": None},
        "issued as text": {"iat": "now"},
        "not yet": {"nbf": now + 31},
        "not before as text": {"nbf": "soon"},
        "no audience": {"aud": None},
        "another audience": {"aud": "anon"},
        "audience alike": {"aud": "authenticated "},
        "other audiences": {"aud": ["a", "b"]},
        "audiences of mixed kinds": {"aud": ["authenticated", 7]},
        "audience an object": {"aud": {"authenticated": True}},
        "no issuer": {"iss": None},
        "another issuer": {"iss": "https://evil.example/auth/v1"},
        "issuer alike": {"iss": claims(CLOCK)["iss"] + "/"},
        "part of the issuer": {"iss": claims(CLOCK)["iss"][:-1]},
        "issuers": {"iss": [claims(CLOCK)["iss"]]},
        "no subject": {"sub": None},
        "empty subject": {"sub": ""},
        "blank subject": {"sub": "  "},
        "numeric subject": {"sub": 12345},
        "subjects": {"sub": [ANN]},
        "subject with a line end": {"sub": "a\nb"},
        "subject too long": {"sub": "x" * 600},
        "subject broken": {"sub": "\ud800"},
        "anonymous key": {"role": "anon"},
        "service role": {"role": "service_role"},
        "role not a text": {"role": ["authenticated"]},
        "anonymous sign-in": {"is_anonymous": True},
        "anonymous, oddly": {"is_anonymous": "true"},
    }
    return {**other, **{name: good(claims(CLOCK, **more)) for name, more in wrong.items()}}


def asymmetric_only() -> dict[str, str]:
    found = {f"HS256 under {name}": hs(secret=secret) for name, secret in public_forms().items()}
    found |= {f"HS256 under {name}, our kid": hs(secret=secret, kid="ec-1") for name, secret in public_forms().items()}
    return {
        **found,
        "another key, same kid": es(key=ec_key(9)),
        "another RSA key, same kid": rs(key=rsa_key(9)),
        "its own key in the token": es(key=ec_key(9), jwk=jwk(ec_key(9))),
        "RSA key, said to be EC": rs(kid="rsa-1", alg="ES256"),
        "EC key, said to be RSA": es(kid="ec-1", alg="RS256"),
        "EC key under the id of the RSA key": es(kid="rsa-1"),
        "unknown kid": es(kid="who"),
        "signature of zeros": resigned({"alg": "ES256", "kid": "ec-1"}, claims(CLOCK), lambda _: bytes(64)),
        "signature in DER": resigned(
            {"alg": "ES256", "kid": "ec-1"}, claims(CLOCK), lambda data: ec_key().sign(data, ec.ECDSA(hashes.SHA256()))
        ),
    }


def shared_only() -> dict[str, str]:
    return {
        "another secret": hs(secret=b"another-secret-of-good-length-0123456789"),
        "secret as text of base64": hs(secret=base64.b64encode(HS_SECRET.encode())),
        "EC": es(),
        "RSA": rs(),
        "RSA with its key in the token": rs(jwk=jwk(rsa_key())),
    }


SHARED = {**forged(hs), **shared_only()}
PUBLIC = {**forged(es), **{f"rsa: {name}": token for name, token in forged(rs).items()}, **asymmetric_only()}


@pytest.fixture
async def shared() -> AsyncIterator[Api]:
    async with running_api(users=verifier(SharedSecret(Secret(HS_SECRET)), CLOCK)) as api:
        yield api


@pytest.fixture
async def issuer() -> AsyncIterator[KeyServer]:
    async with key_server(jwk(ec_key(), "ec-1"), jwk(rsa_key(), "rsa-1", alg="RS256", use="sig")) as server:
        yield server


@pytest.fixture
async def asymmetric(issuer: KeyServer) -> AsyncIterator[Api]:
    keys = KeySet(issuer.url, CLOCK)
    async with running_api(users=verifier(keys, CLOCK)) as api:
        yield api
    await keys.close()


async def answer_to(api: Api, token: str) -> tuple[int, dict[str, str], bytes]:
    """The whole answer, less what differs between any two."""
    head = f"GET /account HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    answer = await exchange(api.port, head.encode())
    return answer.status, {name: value for name, value in answer.headers.items() if name != "date"}, answer.body


async def all_alike(api: Api, tokens: dict[str, str]) -> None:
    expected = await answer_to(api, "who.ever")  # an unknown API key
    assert expected[0] == 401
    for name, token in tokens.items():
        assert await answer_to(api, token) == expected, name


async def test_good_tokens_name_their_user(shared: Api, asymmetric: Api):
    for api, tokens in ((shared, [hs(), hs(kid="any")]), (asymmetric, [es(), rs()])):
        for token in tokens:
            async with api.request("POST", "/api/start-session", token, json={"broker": "sim"}) as answer:
                assert (answer.status, (await answer.json())["userKey"]) == (202, user_key(ANN))


@fault("I11", "over 100 forged tokens under a shared secret", "one and the same 401")
async def test_forged_tokens_are_refused_alike_under_a_shared_secret(shared: Api):
    assert len(SHARED) > 100
    await all_alike(shared, SHARED)


@fault("I11", "over 200 forged tokens under public keys", "one and the same 401; the issuer is asked once")
async def test_forged_tokens_are_refused_alike_under_public_keys(asymmetric: Api, issuer: KeyServer):
    assert len(PUBLIC) > 200
    await all_alike(asymmetric, PUBLIC)
    assert issuer.asked == 1


@fault("I11", "made-up key ids", "the issuer is asked once a minute")
async def test_made_up_key_ids_ask_the_issuer_once_a_minute(issuer: KeyServer):
    clock = ManualClock()
    keys = KeySet(issuer.url, clock)
    async with running_api(users=verifier(keys, clock)) as api:
        for _ in range(3):
            for number in range(100):
                assert (await answer_to(api, es(claims(clock), kid=f"made-up-{number}")))[0] == 401
            clock.advance(30)
        assert issuer.asked == 2  # at 0 and 60 seconds
    await keys.close()


@fault("I11", "a token of 1 MiB", "400")
async def test_a_token_is_cut_short_when_it_is_huge(shared: Api):
    assert (await answer_to(shared, "x" * 2**20))[0] == 400
    at_the_limit = hs(claims(CLOCK, user_metadata={"x": "y" * 5700}))
    assert 7800 < len(at_the_limit) < 8150
    assert (await answer_to(shared, at_the_limit))[0] == 404  # good, and its user has no record


async def test_a_token_over_the_limit_proves_nothing():
    users = verifier(SharedSecret(Secret(HS_SECRET)), CLOCK)
    token = hs(claims(CLOCK, user_metadata={"x": "y" * LARGEST_TOKEN}))
    assert await users.user_id(token) is None


@pytest.mark.parametrize(
    ("more", "known"),
    [
        ({"exp": NOW - 29}, True),
        ({"exp": NOW - 30}, False),
        ({"iat": NOW + 30}, True),
        ({"nbf": NOW + 30, "iat": NOW + 30.5}, False),
        ({"nbf": NOW + 30}, True),
        ({"aud": ["other", "authenticated"]}, True),
        ({"role": None}, True),
        ({"is_anonymous": None}, True),
        ({"exp": NOW + 0.5}, True),
        ({"sub": "  spaced "}, True),
    ],
)
async def test_a_token_counts_within_its_bounds_only(more: dict[str, Any], known: bool):
    users = verifier(SharedSecret(Secret(HS_SECRET)), CLOCK)
    assert (await users.user_id(hs(claims(CLOCK, **more))) is not None) is known


@pytest.mark.parametrize(
    ("more", "user_id"),
    [
        ({}, "ann@example.com"),
        ({"email": " Ann@Example.com "}, "Ann@Example.com"),
        ({"email": "e\u0301@example.com"}, "\u00e9@example.com"),
        ({"user_metadata": None}, "ann@example.com"),
        ({"user_metadata": "odd"}, "ann@example.com"),
        ({"email_verified": True}, "ann@example.com"),
        ({"email_verified": False}, None),
        ({"email_verified": "false"}, None),
        ({"user_metadata": {"email_verified": False}}, None),
        ({"email": ""}, None),
        ({"email": None}, None),
        ({"email": 7}, None),
        ({"email": ["ann@example.com"]}, None),
        ({"sub": None}, None),
    ],
)
async def test_the_address_is_the_user_id_when_it_is_configured_and_confirmed(
    more: dict[str, Any], user_id: str | None
):
    users = verifier(SharedSecret(Secret(HS_SECRET)), CLOCK, claim="email")
    assert await users.user_id(hs(claims(CLOCK, **more))) == user_id


async def test_a_remembered_token_ends_when_it_expires_and_when_its_key_is_withdrawn(issuer: KeyServer):
    clock = ManualClock()
    keys = KeySet(issuer.url, clock)
    users = verifier(keys, clock)
    short, long = es(claims(clock, exp=NOW + 10)), es(claims(clock))
    assert await users.user_id(short) == await users.user_id(long) == ANN
    issuer.keys = issuer.keys[1:]
    clock.advance(41)
    assert await users.user_id(short) is None
    clock.advance(600)
    assert await users.user_id(rs(claims(clock))) == ANN  # asks for the keys behind this caller's back
    while keys._flight is not None:
        await keys._flight
    assert await users.user_id(long) is None
    await keys.close()


async def test_what_is_remembered_of_tokens_is_bounded_and_holds_no_token():
    users = verifier(SharedSecret(Secret(HS_SECRET)), CLOCK)
    for number in range(5000):
        assert await users.user_id(hs(claims(CLOCK, sub=str(number))))
    assert len(users._verified) <= 4096
    assert hs(claims(CLOCK, sub="4999")) not in repr(vars(users))


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: raw(b'{"alg":"HS256"}', data, data)))
def test_no_token_is_ever_our_fault(token: str):
    users: UserTokens = verifier(SharedSecret(Secret(HS_SECRET)), CLOCK)
    assert asyncio.run(users.user_id(token)) is None


def test_the_library_agrees_that_our_good_tokens_are_good():
    assert jwt.decode(
        hs(), HS_SECRET, ["HS256"], audience="authenticated", options={"verify_exp": False, "verify_iat": False}
    )
    assert sign(claims(CLOCK), HS_SECRET, "HS256").count(".") == 2
