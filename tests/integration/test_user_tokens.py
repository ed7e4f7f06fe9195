"""User tokens as an operator configures them: a process of its own that asks a real issuer for its keys."""

from collections.abc import Mapping

import aiohttp

from bridge.embedded.surroundings import free_port
from bridge.runtime.clock import SystemClock
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme
from tests.support.fault_table import fault
from tests.support.issuer import ISSUER, claims, ec_key, jwk, key_server, rsa_key, sign
from tests.support.processes import bridge_process

USER_KEY_SECRET = "only-for-tests-user-keys-0123456789ab"


@fault("I11", "tokens of other keys at a process of its own", "401; the issuer is asked once")
async def test_users_call_a_bridge_that_knows_the_issuer_only_by_its_address():
    scheme = UserKeyScheme(UserKeyMode.DUAL, Secret(USER_KEY_SECRET))
    async with key_server(jwk(ec_key(), "ec-1")) as issuer, aiohttp.ClientSession() as http:
        port = free_port()
        env = {
            **{"PORT": str(port), "HOST": "127.0.0.1", "JWKS_URL": issuer.url, "JWT_ISSUER": ISSUER},
            **{"USER_ID_CLAIM": "email", "USER_KEY_MODE": "dual", "USER_KEY_SECRET": USER_KEY_SECRET},
            **{"CTRADER_CLIENT_ID": "x", "CTRADER_CLIENT_SECRET": "y"},
        }

        async def get(path: str, token: str | None = None) -> tuple[int, Mapping[str, object]]:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            async with http.get(f"http://127.0.0.1:{port}{path}", headers=headers) as answer:
                return answer.status, await answer.json(content_type=None)

        async with bridge_process("serve", env=env) as process:
            await process.line(lambda line: '"message":"serving"' in line)
            assert (await get("/health"))[1]["auth"] == "tokens"
            good = claims(SystemClock(), email="ann@example.com")
            token = sign(good, ec_key(), "ES256", kid="ec-1")
            assert (await get("/account", token))[1]["type"] == "urn:pulse-bridge:problem:no-record"
            for key in scheme.keys("ann@example.com").all:
                status, problem = await get(f"/api/sessions/{key[:12]}", token)
                assert (status, problem["type"]) == (404, "urn:pulse-bridge:problem:not-found")
            for forged in (sign(good, ec_key(9), "ES256", kid="ec-1"), sign(good, rsa_key(), "RS256", kid="ec-1")):
                assert (await get("/account", forged))[0] == 401
            assert (await get("/account"))[0] == 401
            assert issuer.asked == 1
            await process.stop()
        assert token not in process.output
        assert "ann@example.com" not in process.output
