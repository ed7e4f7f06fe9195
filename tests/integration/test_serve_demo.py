"""`python -m bridge demo`, and the small commands."""

import os
import re
import signal
from pathlib import Path

import psutil

from tests.support.canaries import plant
from tests.support.processes import bridge_process
from tests.support.waiting import eventually


def children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


async def test_the_demo_shows_three_live_users_and_ends_well():
    async with bridge_process("demo", "--seconds", "4", "--memory") as process:
        await process.line(lambda line: line.startswith("user-1 |"), within_s=60)
        born = children(process.pid)
        assert len(born) == 2
        assert await process.ended(within_s=60) == 0, process.output
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", process.stdout[0])
        assert any("/api/sessions" in line and "Bearer ops." in line for line in process.stdout)
        assert any("X-User-Id: user-1" in line and "Bearer app." in line for line in process.stdout)
        for who in (f"user-{number} | {broker} |" for number in (1, 2, 3) for broker in ("ctrader", "alpaca")):
            assert any(line.startswith(who) and "| live | fresh" in line for line in process.stdout), who
        assert process.stdout[-1] == "all 3 users live and fresh"
        assert not any(child.is_running() for child in born)


async def test_the_demo_fails_and_cleans_up_when_a_part_ends():
    async with bridge_process("demo", "--seconds", "60", "--memory") as process:
        await process.line(lambda line: line.startswith("user-1 |"), within_s=60)
        born = children(process.pid)
        bridge = next(child for child in born if "serve" in child.cmdline())
        os.kill(bridge.pid, signal.SIGKILL)
        assert await process.ended(within_s=30) == 1, process.output
        assert process.stderr[0].startswith("error: ")
        assert not any(child.is_running() for child in born)


async def test_the_demo_cleans_up_when_it_is_interrupted_at_any_time():
    hangup_counts = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN  # under nohup it does not, here nor there
    ending = signal.SIGHUP if hangup_counts else signal.SIGTERM
    # nor does Ctrl-C before the demo listens to it, under a shell that started us in the background
    early = signal.SIGINT if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN else signal.SIGTERM
    for wait_for_users in (False, True):
        async with bridge_process("demo", "--memory") as process:
            if wait_for_users:
                await process.line(lambda line: line.startswith("user-1 |"), within_s=60)
            else:
                await eventually(lambda: len(children(process.pid)) >= 1, within_s=30)
            born = children(process.pid)
            process.send(ending if wait_for_users else early)
            assert await process.ended(within_s=60) in (0, 1, 130), process.output
            assert not any(child.is_running() for child in born)
            assert not any("Traceback" in line for line in process.stderr), process.output


async def test_a_new_key_and_its_entry_open_the_bridge(tmp_path: Path):
    async with bridge_process("keys", "new", "--scope", "ops", "--id", "me") as process:
        assert await process.ended() == 0
        lines = dict(re.split("=|: ", line, maxsplit=1) for line in process.stdout if not line.startswith("#"))
    assert lines["API_KEYS"].startswith("me:ops:")
    plant(lines["key"].partition(".")[2])
    env = {"PORT": "0", "API_KEYS": lines["API_KEYS"], "API_KEY_SECRET": lines["API_KEY_SECRET"]}
    async with bridge_process("serve", env=env) as bridge:
        import json

        import aiohttp

        port = json.loads(await bridge.line(lambda line: '"message":"serving"' in line))["port"]
        headers = {"Authorization": f"Bearer {lines['key']}"}
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            async with http.get("/api/sessions", headers=headers) as answer:
                assert answer.status == 200
            async with http.post("/api/start-session", headers=headers, json={}) as answer:
                assert answer.status == 403
    async with bridge_process("keys", "new", env={"API_KEY_SECRET": lines["API_KEY_SECRET"]}) as process:
        assert await process.ended() == 0
        assert not any(line.startswith("API_KEY_SECRET") for line in process.stdout)
        assert any(re.fullmatch(r"API_KEYS=\w+:[0-9a-f]{64}", line) for line in process.stdout)


async def test_the_small_commands_answer():
    async with bridge_process("whois", "user-1", env={"USER_KEY_MODE": "dual", "USER_KEY_SECRET": "k" * 32}) as process:
        assert await process.ended() == 0
        assert [len(line.split()[0]) for line in process.stdout] == [64, 64]
    async with bridge_process("config", env={"API_KEY_SECRET": "canary-" + "x" * 32, "PORT": "4000"}) as process:
        assert await process.ended() == 0
        assert "canary" not in process.output
        assert any(line.startswith("PORT  (integer, port)") for line in process.stdout)
        assert any("now: 4000   from: environment" in line for line in process.stdout)
    async with bridge_process("config", "--check", env={"PORT": "x"}) as process:
        assert await process.ended() == 2
    async with bridge_process("config", "--check") as process:
        assert await process.ended() == 0
    for arguments in ([], ["nonsense"], ["demo", "--seconds", "-1"], ["keys", "new", "--scope", "root"]):
        async with bridge_process(*arguments) as process:
            assert await process.ended() == 2
    for command in ("serve", "simulate", "demo", "keys", "config", "doctor", "whois"):
        async with bridge_process(command, "--help") as process:
            assert await process.ended() == 0
            assert process.stdout[0].startswith(f"usage: python -m bridge {command}")
