"""`python -m bridge serve` as a process: how it starts, what it refuses, and how it ends (faults.md P01–P03)."""

import asyncio
import json
import signal
import socket
import sys
import textwrap
import time
from pathlib import Path

import aiohttp
import pytest

from tests.support.fault_table import fault
from tests.support.processes import BridgeProcess, bridge_process
from tests.support.waiting import eventually
from tests.support.world import API_KEY_SECRET, APP_KEY, OPS_KEY, World, api_keys, running_world

DRAIN_S = 2.5
NOTICED_S = 0.5  # for this test to see that a process has ended, on a busy machine


async def serving(process: BridgeProcess) -> dict:
    return json.loads(await process.line(lambda line: '"message":"serving"' in line))


async def test_nothing_configured_serves_open_on_loopback_and_says_so_loudly():
    async with bridge_process("serve", env={"PORT": "0"}) as process:
        start = await serving(process)
        assert start["urls"] == [f"http://127.0.0.1:{start['port']}"]
        assert start["auth"] == "open"
        assert any("IN MEMORY ONLY" in line for line in process.stdout)
        assert any("NO API KEYS" in line for line in process.stdout)
        async with aiohttp.ClientSession(start["urls"][0]) as http:
            async with http.get("/health") as answer:
                health = await answer.json()
            async with http.get("/health/ready") as answer:
                assert answer.status == 200
        assert health["auth"] == "open"
        assert health["stores"]["memory"]["role"] == "primary"
        assert await process.stop() == 0


async def test_all_addresses_are_served_when_keys_are_configured():
    env = {"PORT": "0", "API_KEYS": api_keys(), "API_KEY_SECRET": API_KEY_SECRET}
    async with bridge_process("serve", env=env) as process:
        start = await serving(process)
        assert start["urls"][0] == f"http://0.0.0.0:{start['port']}"
        hosts = ["127.0.0.1", *(["[::1]"] if len(start["urls"]) == 2 and socket.has_ipv6 else [])]
        async with aiohttp.ClientSession() as http:
            for host in hosts:
                async with http.get(f"http://{host}:{start['port']}/health") as answer:
                    assert (await answer.json())["auth"] == "keys"


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({"PORT": "many"}, "PORT"),
        ({"CTRADER_DEMO_URL": "ws://demo.example.com"}, "CTRADER_DEMO_URL"),
        ({"RAILWAY_ENVIRONMENT": "production"}, "API_KEYS"),
        ({"DATABASE_URL": "postgres://user:canary@127.0.0.1:1/d"}, "DATABASE_URL"),
        ({"API_KEY_SECRET": "canary-short"}, "API_KEY_SECRET"),
    ],
)
async def test_a_wrong_setting_ends_the_start_with_one_line(env: dict[str, str], name: str):
    async with bridge_process("serve", env=env) as process:
        assert await process.ended(within_s=40) == 2  # a database that starts at the same time is waited for
        assert len(process.stderr) == 1
        assert process.stderr[0].startswith(f"configuration: {name}: ")
        assert "canary" not in process.output


async def test_a_taken_port_ends_the_start_with_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with bridge_process("serve", env={"PORT": str(port)}) as process:
            assert await process.ended() == 2
            assert len(process.stderr) == 1
            assert process.stderr[0].startswith(f"configuration: PORT: cannot listen on 127.0.0.1 port {port}")


async def live_world(world: World) -> None:
    await world.start_all()
    await world.all_live(within_s=20)

    def stored() -> bool:
        return all(record and record["status"] == "live" for record in world.records())

    await eventually(stored, within_s=5, what="live records in the store")


@fault(
    "P01",
    "SIGTERM with 20 live sessions",
    "every last record is stale with reason draining, a higher version, exit 0 within 3 s",
)
async def test_the_last_records_say_draining_when_the_process_is_asked_to_end(tmp_path: Path):
    async with running_world(tmp_path, users=20) as world:
        await live_world(world)
        before = world.records()
        asked = time.monotonic()
        world.bridge.send(signal.SIGTERM)
        assert await world.bridge.ended(within_s=DRAIN_S + NOTICED_S) == 0
        assert time.monotonic() - asked < DRAIN_S + NOTICED_S
        for old, new in zip(before, world.records(), strict=True):
            assert new["status"] == "stale"
            assert new["reason"]["code"] == "draining"
            assert (new["fence"], new["balance"]) == (old["fence"], old["balance"])
            assert new["version"] > old["version"]
        counters = await world.sim("GET", "/counters")
        assert counters["budgetViolations"] == 0


@fault("P01", "SIGINT with a frozen store", "not ready, new work refused, exit 0 within 3 s")
async def test_a_drain_refuses_new_work_and_ends_in_time_when_the_store_hangs(tmp_path: Path):
    async with running_world(tmp_path, users=3) as world:
        await live_world(world)
        with world.valkey.paused():
            asked = time.monotonic()
            world.bridge.send(signal.SIGINT)
            await world.bridge.line(lambda line: '"message":"draining"' in line)
            ready = await world.api("GET", "/health/ready")
            start = await world.api(
                "POST", "/api/start-session", key=APP_KEY, body={"userId": "u", "broker": "ctrader"}
            )
            assert (ready["_status"], start["_status"]) == (503, 503)
            assert start["type"].endswith(":draining")
            assert await world.bridge.ended(within_s=DRAIN_S + NOTICED_S) == 0
            assert time.monotonic() - asked < DRAIN_S + NOTICED_S


@fault("P02", "the second signal with a frozen store", "ended within 1 s")
async def test_a_second_signal_ends_the_process_at_once(tmp_path: Path):
    async with running_world(tmp_path, users=3, bridge_env={"DRAIN_SECONDS": "60"}) as world:
        await live_world(world)
        with world.valkey.paused():
            world.bridge.send(signal.SIGTERM)
            await world.bridge.line(lambda line: '"message":"draining"' in line)
            asked = time.monotonic()
            world.bridge.send(signal.SIGTERM)
            assert await world.bridge.ended() == 128 + signal.SIGTERM
            assert time.monotonic() - asked < 0.5 + NOTICED_S


@fault("P03", "SIGKILL of the only process", "the record names an end of its freshness")
async def test_a_killed_process_leaves_records_that_stop_looking_fresh(tmp_path: Path):
    async with running_world(tmp_path, users=1) as world:
        await live_world(world)
        world.bridge.send(signal.SIGKILL)
        await world.bridge.ended()
        (record,) = world.records()
        assert record["status"] == "live"
        assert record["staleAfter"] <= record["asOf"] + 60_000
        assert record["staleAfter"] <= time.time() * 1000 + 60_000


@pytest.mark.parametrize("target", ["bridge.cache.flusher.Flusher._run", "bridge.sessions.supervisor.Supervisor.run"])
async def test_the_process_ends_with_an_error_when_an_essential_task_crashes(target: str):
    module, name, method = target.rsplit(".", 2)
    script = f"""
        import asyncio, importlib, sys
        from bridge.cli import main
        async def broken(self):
            await asyncio.sleep(0.05)
            raise RuntimeError("broken on purpose")
        setattr(getattr(importlib.import_module("{module}"), "{name}"), "{method}", broken)
        sys.exit(main(["serve"]))
    """
    code, output = await run_script(script)
    assert code == 1, output.decode()
    assert b"essential task ended" in output


async def test_no_secret_is_in_any_output_when_everything_is_logged(tmp_path: Path):
    async with running_world(tmp_path, users=2, bridge_env={"LOG_LEVEL": "DEBUG"}) as world:
        await live_world(world)
        await world.sim("POST", "/faults", {"id": "N40"})
        await world.all_live(within_s=30)
        await world.api("GET", "/account", key=APP_KEY, user="user-1")
        await world.api("GET", "/account", key="app.canary-wrong-key", user="user-1")
        await world.bridge.stop()
        secrets = [API_KEY_SECRET, APP_KEY, OPS_KEY, "sim-secret", "sim-access-1", "sim-refresh-1", "canary-wrong-key"]
        for secret in secrets:
            for form in (secret, secret.encode().hex()):
                assert form not in world.bridge.output
        assert "user-1" not in world.bridge.output


async def run_script(script: str, *, until: bytes = b"", then: signal.Signals | None = None) -> tuple[int, bytes]:
    """Run Python with the bridge in it; send a signal once a line was seen. Returns exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", textwrap.dedent(script)),
        cwd=Path(__file__).resolve().parents[2],
        env={"PORT": "0", "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    output = b""
    try:
        async with asyncio.timeout(20):
            if then is not None:
                while until not in output:
                    output += await process.stdout.readline()
                process.send_signal(then)
            output += await process.stdout.read()
            return await process.wait(), output
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@fault("P05", "the loop hangs while the process ends", "ended in time")
async def test_a_drain_ends_in_time_when_the_loop_itself_hangs():
    script = """
        import sys, time
        from bridge.cli import main
        from bridge.sessions.service import SessionService
        async def hang(self, deadline_s):
            time.sleep(60)
        SessionService.drain = hang
        sys.exit(main(["serve"]))
    """
    asked = time.monotonic()
    code, output = await run_script(script, until=b'"message":"serving"', then=signal.SIGTERM)
    assert code == 0, output.decode()
    assert time.monotonic() - asked < 10  # not the sixty seconds that it would sleep


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@fault("P15", "standard streams closed by the parent", "serves, and ends with exit 0")
async def test_a_process_whose_standard_streams_are_closed_serves_and_ends_well(closed: str):
    """A daemon's parent may have closed them; no socket may take their numbers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$0" -m bridge serve {closed}', sys.executable),
        cwd=Path(__file__).resolve().parents[2],
        env={"PORT": str(port), "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def healthy() -> bool:
        assert process.returncode is None, "it ended"
        try:
            async with http.get(f"http://127.0.0.1:{port}/health") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    try:
        async with aiohttp.ClientSession() as http:
            await eventually(healthy, within_s=20)
        process.terminate()
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_fast_event_loop_carries_the_process():
    script = """
        import asyncio, sys
        from bridge.__main__ import loop_factory
        from bridge import daemon
        async def serve(settings, served):
            print(type(asyncio.get_running_loop()).__module__)
            return 0
        daemon.serve = serve
        from bridge.cli import main
        sys.exit(main(["serve"], loop_factory=loop_factory()))
    """
    assert await run_script(script) == (0, b"uvloop\n")
