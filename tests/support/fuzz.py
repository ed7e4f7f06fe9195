"""Requests without end against /openapi.json of a live bridge: real servers behind it, keys and user tokens in turn.

Every answer must be one that the document names for that request, of the shape that it says, and none a 5xx: the bridge
is whole all the time, so even a documented 503 would be a fault. Rate limits are off (`unlimited_bridge`), they would
turn everything into 429.
"""

import asyncio
import base64
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import jwt
from prometheus_client.parser import text_string_to_metric_families

from bridge.api.keys import digest_of
from bridge.embedded.postgres import PostgresServer
from core.secret import Secret
from tests.support.databases import make_database, migrate_database
from tests.support.processes import ROOT
from tests.support.world import API_KEY_SECRET, OPS_KEY, World, api_keys, running_world

JWT_SECRET = "only-for-tests-0123456789abcdefghij"
BOTH_KEY = "both.key-of-both-scopes-0123456789abcdef"
ISSUER = "https://project.example/auth/v1"
USERS = 3
EVERY_BOUNDARY = 2000  # requests that all the boundaries of the schema take, about
FOR_EVER = 4_102_444_800  # Unix seconds: a token of these runs is good as long as the machine's clock is
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"),
    *("response_headers_conformance", "unsupported_method", "allow_header_conformance", "ignored_auth"),
)


@dataclass
class Outcome:
    """What a run came to. `found`: the tool's own words about what is wrong, empty when nothing is."""

    requests: int = 0
    answers: dict[str, int] = field(default_factory=dict)  # by status
    found: list[str] = field(default_factory=list)

    @property
    def server_errors(self) -> int:
        return sum(count for status, count in self.answers.items() if status.startswith("5"))


def user_token(user_id: str) -> str:
    claims = {"iss": ISSUER, "aud": "authenticated", "sub": user_id, "iat": 1_700_000_000, "exp": FOR_EVER}
    return jwt.encode({**claims, "role": "authenticated"}, JWT_SECRET, "HS256")


def durable_env(database_url: str) -> dict[str, str]:
    """What makes every route work: a database, a vault, user tokens, and where browsers come from and return to."""
    return {
        "DATABASE_URL": database_url,
        "CACHE_STORES": "postgres,redis",
        "TOKEN_ENCRYPTION_KEYS": f"one:{base64.b64encode(bytes(range(32))).decode()}",
        "SUPABASE_JWT_SECRET": JWT_SECRET,
        "JWT_ISSUER": ISSUER,
        "PUBLIC_URL": "http://127.0.0.1:3000",
        "CORS_ORIGINS": "https://app.example.com",
    }


async def fuzz(folder: Path, *, requests: int, seed: int) -> Outcome:
    """Send at least so many requests. The bridge must survive them."""
    outcome = Outcome()
    with PostgresServer() as postgres:
        url = await make_database(postgres)
        await migrate_database(url)
        env = {**durable_env(url), "API_KEYS": f"{api_keys()},both:{digest_of(BOTH_KEY, Secret(API_KEY_SECRET))}"}
        async with running_world(
            folder, users=USERS, bridge_env=env, bridge_module="tests.support.unlimited_bridge"
        ) as world:
            await world.start_all()
            await world.all_live(within_s=30)
            await _rounds(world, outcome, requests, seed)
            assert world.bridge.returncode is None, world.bridge.output
            assert world.bridge.lines("request failed") == 0, world.bridge.output
            assert (await world.api("GET", "/health/ready"))["_status"] == 200
    return outcome


async def _rounds(world: World, outcome: Outcome, requests: int, seed: int) -> None:
    callers = (BOTH_KEY, user_token("user-1"))
    phases = "coverage,fuzzing" if requests >= EVERY_BOUNDARY else "fuzzing"
    before = await _answers(world)
    while outcome.requests < requests:
        for caller in callers:
            left = requests - outcome.requests
            examples = max(2, min(100, left // 100))
            said = await _run(world.url, caller, phases=phases, examples=examples, seed=seed)
            outcome.found += said
            after = await _answers(world)
            outcome.answers = {status: count - before.get(status, 0) for status, count in after.items()}
            outcome.requests = int(sum(outcome.answers.values()))
            seed += 1
            if outcome.requests >= requests or outcome.found:
                return
        phases = "fuzzing"  # what the boundaries of the schema are does not change


async def _run(url: str, caller: str, *, phases: str, examples: int, seed: int) -> list[str]:
    """One run of the tool. Returns what it found."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
        *("--header", f"Authorization: Bearer {caller}"),
        *("--phases", phases, "--max-examples", str(examples), "--seed", str(seed), "--checks", ",".join(CHECKS)),
        *("--workers", "1", "--warnings", "off", "--continue-on-failure", "--no-color", "--no-shrink"),
        *("--suppress-health-check", "all"),
        cwd=ROOT,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.fuzz_hooks", "FUZZ_SEED": str(seed)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return [] if process.returncode == 0 else [output.decode(errors="replace")[-20_000:]]


async def _answers(world: World) -> dict[str, int]:
    """Answers that the bridge has given so far, by status."""
    async with world.http.get(f"{world.url}/metrics", headers={"Authorization": f"Bearer {OPS_KEY}"}) as answer:
        families = {each.name: each for each in text_string_to_metric_families(await answer.text())}
    return {each.labels["status"]: int(each.value) for each in families["bridge_http_answers"].samples}
