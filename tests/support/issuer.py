"""An issuer of user tokens: keys of its own, tokens signed with them, and its public keys on a loopback server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from bridge.api.user_tokens import UserTokens
from bridge.runtime.clock import Clock
from tests.support.canaries import plant

ISSUER = "https://project.example/auth/v1"
AUDIENCE = "authenticated"
HS_SECRET = "only-for-tests-shared-secret-0123456789"
plant(HS_SECRET)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


_KEYS: dict[tuple[object, ...], Any] = {}


def ec_key(number: int = 1, curve: str = "P-256") -> ec.EllipticCurvePrivateKey:
    """The same key each time for the same number."""
    if (number, curve) not in _KEYS:
        _KEYS[number, curve] = ec.generate_private_key({"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}[curve])
    return _KEYS[number, curve]


def rsa_key(number: int = 1, bits: int = 2048) -> rsa.RSAPrivateKey:
    if (number, bits) not in _KEYS:
        _KEYS[number, bits] = rsa.generate_private_key(65537, bits)
    return _KEYS[number, bits]


def jwk(key: Key, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """The public key as JWK."""
    algorithm = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), **({"kid": kid} if kid else {}), **more}


def claims(clock: Clock, **more: Any) -> dict[str, Any]:
    """What Supabase says of a signed-in user; a member that is None is left out."""
    now = clock.now_ms() // 1000
    usual = {
        **{
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "8a6e0804-2bd0-4672-b79d-d97027f9071a",
            "iat": now,
            "exp": now + 3600,
        },
        **{
            "role": "authenticated",
            "email": "ann@example.com",
            "is_anonymous": False,
            "session_id": "s",
            "aal": "aal1",
        },
        "user_metadata": {"email_verified": True},
    }
    return {name: value for name, value in {**usual, **more}.items() if value is not None}


def sign(payload: dict[str, Any], key: Any, algorithm: str, **headers: Any) -> str:
    return jwt.encode(payload, key, algorithm, headers=headers)


def raw(header: bytes, payload: bytes, signature: bytes = b"") -> str:
    """A token of exactly these parts."""
    return ".".join(jwt.utils.base64url_encode(part).decode() for part in (header, payload, signature))


def resigned(header: dict[str, Any], payload: dict[str, Any] | bytes, sign_input: Callable[[bytes], bytes]) -> str:
    """A token with this header, whatever it says, under a signature of the caller's."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    start = raw(json.dumps(header).encode(), body).rpartition(".")[0]
    return f"{start}.{jwt.utils.base64url_encode(sign_input(start.encode())).decode()}"


def verifier(keys: Any, clock: Clock, claim: str = "sub") -> UserTokens:
    return UserTokens(keys, issuer=ISSUER, audience=AUDIENCE, claim=claim, clock=clock)


class KeyServer:
    """Serves a JWKS; `answer` may be replaced by the test."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.asked = 0
        self.url = ""
        self.answer: Callable[[web.BaseRequest], Any] = self.publish

    async def publish(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"keys": self.keys})

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked += 1
        return await self.answer(request)


@asynccontextmanager
async def key_server(*keys: dict[str, Any]) -> AsyncIterator[KeyServer]:
    server = KeyServer()
    server.keys = list(keys)
    runner = web.ServerRunner(web.Server(server._handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/auth/v1/.well-known/jwks.json"
    try:
        yield server
    finally:
        async with asyncio.timeout(5):
            await runner.cleanup()
