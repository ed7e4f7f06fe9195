"""What each command of the command line does: reads its options, and hands over to the room whose command it is.

Rooms are imported by the command that needs them, so that `whois` does not load a broker. Must not print a secret,
except the new one that `keys new` is asked for. Each returns the exit code and may raise BridgeError.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import secrets
import sys
from collections.abc import Callable
from functools import partial

from bridge.config import load_settings
from core.errors import ConfigurationError
from core.secret import Secret
from core.user_key import UserKeyScheme

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def run_serve(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    """Run the bridge until a signal."""
    from bridge.daemon import serve

    settings = load_settings()
    # To free thousands of sessions one by one takes seconds in which not even the guard of the drain can run: what
    # served is kept until the process is gone.
    served: list[object] = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        code = runner.run(serve(settings, served))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_demo(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    """Simulator, bridge and users on this machine."""
    from bridge.api.keys import digest_of, new_key
    from bridge.demo import Demo, DemoKeys

    secret = Secret(secrets.token_urlsafe(32))
    (app_id, app), (ops_id, ops) = new_key("app"), new_key("ops")
    entries = f"{app_id}:app:{digest_of(app.reveal(), secret)},{ops_id}:ops:{digest_of(ops.reveal(), secret)}"
    tokens = Secret(base64.b64encode(secrets.token_bytes(32)).decode())
    keys = DemoKeys(secret, entries, app, ops, tokens)
    demo = Demo(keys, seconds=options.seconds, memory=options.memory, port=options.port)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(demo.run())


def run_keys(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    """Make keys, or seal stored tokens anew."""
    from bridge.config_values import is_key_id
    from bridge.credentials.command import run_new_token_key, run_rotate_tokens
    from bridge.foundation import operators_audit

    if options.id is not None and not is_key_id(options.id):
        raise ConfigurationError("--id: use up to 64 letters, digits, - and _")
    if options.action == "new-token-key":
        return run_new_token_key(options.id)
    if options.action == "rotate-tokens":
        settings = load_settings()

        async def rotate() -> int:
            async with operators_audit(settings) as audit:
                keys = settings.token_encryption_keys
                return await run_rotate_tokens(settings.database_url, keys, audit=audit)

        return asyncio.run(rotate())
    return _new_api_key(options)


def _new_api_key(options: argparse.Namespace) -> int:
    from bridge.api.keys import digest_of, new_key
    from bridge.config import configured_api_key_secret

    configured = configured_api_key_secret()
    secret = configured or Secret(secrets.token_urlsafe(32))
    key_id, key = new_key(options.id)
    scope = f":{options.scope}" if options.scope else ""
    if configured is None:
        print("# API_KEY_SECRET was not set; set this one where the bridge runs, and here before you make another key:")
        print(f"API_KEY_SECRET={secret.reveal()}")
    print("# give the key to the caller, it is shown only now:")
    print(f"key: {key.reveal()}")
    print("# add this entry to API_KEYS, separated by a comma from others:")
    print(f"API_KEYS={key_id}{scope}:{digest_of(key.reveal(), secret)}")
    return 0


def run_smoke(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    """Check a deployment from the outside."""
    from bridge.smoke import run_smoke

    check = run_smoke(
        options.url,
        key=Secret(options.key),
        ops_key=Secret(options.ops_key) if options.ops_key else None,
        user=options.user,
        broker=options.broker,
        account_id=options.account,
        environment=options.environment,
        stop=options.stop,
    )
    return asyncio.run(check)


def run_audit(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    """Verify the audit log, or show its end."""
    from bridge.audit.command import run_tail, run_verify

    settings = load_settings()
    if options.action == "tail":
        return asyncio.run(run_tail(settings, limit=options.limit))
    return asyncio.run(run_verify(settings, start=options.start, expect=options.expect))


def run_migrate(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    """Bring the database up to date, say what it lacks, or write the migrations as files."""
    from bridge.db.command import run_export, run_migrate

    if options.export:
        return run_export(options.export)
    return asyncio.run(run_migrate(load_settings(), only_check=options.check))


def run_config(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    """List or check the settings."""
    from bridge.config_table import describe

    settings = load_settings()
    if options.check:
        print("configuration: ok")
        return 0
    for row in describe(settings):
        head = f"{row.name}  ({row.type}{', ' + row.unit if row.unit not in ('', row.type) else ''})"
        print(f"{head}\n    {row.description}")
        print(f"    default: {row.default or '-'}   now: {row.value or '-'}   from: {row.source}")
    return 0


def run_doctor(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    """Check what a start will need."""
    from bridge.app import stores_of
    from bridge.doctor import Doctor
    from bridge.runtime.clock import SystemClock

    settings = load_settings()

    async def examine() -> int:
        clock = SystemClock()
        return await Doctor(settings, stores_of(settings, clock), clock).run()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(examine())


def run_user(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    """Export or erase one user's data."""
    from bridge.app import BROKERS, stores_of
    from bridge.runtime.clock import SystemClock
    from bridge.user_data.command import run_erase, run_export

    settings, who = load_settings(), options.user

    async def act() -> int:
        stores = stores_of(settings, SystemClock())
        if options.action == "export":
            return await run_export(settings, stores, BROKERS, who, output=options.output)
        forget = options.forget_fences
        return await run_erase(settings, stores, BROKERS, who, yes=options.yes, forget_fences=forget)

    return asyncio.run(act())


def run_user_keys(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    """Move users to keyed user keys."""
    from bridge.app import BROKERS, stores_of
    from bridge.runtime.clock import SystemClock
    from bridge.user_data.key_command import run_finish_keys, run_migrate_keys

    settings = load_settings()

    async def act() -> int:
        run = run_migrate_keys if options.action == "migrate" else run_finish_keys
        return await run(settings, stores_of(settings, SystemClock()), BROKERS)

    return asyncio.run(act())


def run_fleet(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    """Show the processes that share the database."""
    from bridge.api.answers import FleetAnswer, render
    from bridge.sessions.ownership.command import run_fleet
    from bridge.telemetry.audit import NO_AUDIT

    as_json = partial(render, FleetAnswer) if options.json else None
    return asyncio.run(run_fleet(load_settings().database_url, NO_AUDIT, as_json=as_json))


def run_sessions(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    """Let another process serve the sessions of a user."""
    from bridge.foundation import operators_audit
    from bridge.sessions.ownership.command import run_move

    settings = load_settings()

    async def move() -> int:
        async with operators_audit(settings) as audit:
            what = {"broker": options.broker, "account_id": options.account, "to": options.to}
            return await run_move(settings.database_url, audit, options.user_key, **what)

    return asyncio.run(move())


def run_drain(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    """Let a process give its sessions up, or take sessions again."""
    from bridge.foundation import operators_audit
    from bridge.sessions.ownership.command import run_drain

    settings = load_settings()

    async def drain() -> int:
        async with operators_audit(settings) as audit:
            return await run_drain(settings.database_url, audit, options.owner, undo=options.undo)

    return asyncio.run(drain())


def run_whois(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    """Print the user keys of a user id."""
    settings = load_settings()
    keys = UserKeyScheme(settings.user_key_mode, settings.user_key_secret).keys(options.user_id)
    print(f"{keys.canonical}  ({settings.user_key_mode.value})")
    for copy in keys.copies:
        print(f"{copy}  (plain copy)")
    return 0
