"""The command line: `python -m bridge <command>`.

Exit codes: 0 well, 1 failed, 2 wrong configuration or arguments (one line on stderr says what). Must not print a
secret, except the new one that `keys new` is asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import secrets
import sys
from collections.abc import Callable, Sequence

from bridge.config import Settings, load_settings
from bridge.config_values import SCOPES
from core.errors import BridgeError, ConfigurationError
from core.secret import Secret
from core.user_key import UserKeyScheme

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
WRONG_CONFIGURATION = 2
DESCRIPTION = "Keeps users' broker sessions alive and a truthful copy of each account in a cache."
EPILOG = "Settings come from the environment and .env: `python -m bridge config` lists them all."


def main(argv: Sequence[str], *, loop_factory: LoopFactory | None = None) -> int:
    """Run one command and return the exit code."""
    if argv and argv[0] == "simulate":  # owns its arguments
        from bridge.simulator.cli import main as simulate

        return simulate(list(argv[1:]))
    if not argv:
        _parser().print_help(sys.stderr)
        return WRONG_CONFIGURATION
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options, loop_factory))
    except ConfigurationError as error:
        print(f"configuration: {_one_line(error)}", file=sys.stderr)
        return WRONG_CONFIGURATION
    except BridgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bridge", description=DESCRIPTION, epilog=EPILOG)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, text: str, run: Callable[..., int]) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    command("serve", "Run the bridge until SIGTERM or SIGINT.", _serve)
    command("simulate", "Run a broker on this machine (see simulate --help).", _serve)  # handled in main
    demo = command("demo", "Simulator, bridge and three users on this machine, live in the terminal.", _demo)
    demo.add_argument(
        "--seconds", type=_positive, help="end after this time; exit 0 when all three were live and fresh"
    )
    demo.add_argument(
        "--memory", action="store_true", help="without embedded Postgres and Valkey: records and sessions in memory"
    )
    demo.add_argument("--port", type=int, default=0, help="port of the bridge (default: any free one)")
    keys = command("keys", "Make API keys and token keys, and seal stored tokens anew.", _keys)
    keys.add_argument(
        "action",
        choices=["new", "new-token-key", "rotate-tokens"],
        help="new: print a key and its entry for API_KEYS; new-token-key: print an entry for TOKEN_ENCRYPTION_KEYS; "
        "rotate-tokens: seal every stored token with the first of TOKEN_ENCRYPTION_KEYS, while the bridge runs",
    )
    keys.add_argument("--scope", choices=SCOPES, help="app: the app's server; ops: operations (default: both)")
    keys.add_argument("--id", help="public id of the key, letters, digits, - and _ (default: random)")
    migrate = command("migrate", "Bring the database up to date (`serve` does so too).", _migrate)
    migrate.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 when the database lacks something"
    )
    migrate.add_argument("--export", metavar="FOLDER", help="write Supabase migration files there; needs no database")
    audit = command("audit", "Verify the audit log, or show its last rows.", _audit)
    audit.add_argument("action", choices=["verify", "tail"], help="verify: exit 1 when a row was changed or is missing")
    audit.add_argument("--expect", metavar="ROW:HASH", help="a head printed earlier that the log must still hold")
    audit.add_argument("--from", dest="start", metavar="ROW:HASH", help="begin behind this row")
    audit.add_argument("--limit", type=int, default=20, help="rows that tail shows")
    user = command("user", "Export or erase all that is stored of one user.", _user)
    user.add_argument("action", choices=["export", "erase"], help="export: JSON; erase: with --yes, in every store")
    user.add_argument("user", metavar="userId", help="the app's own id of the user, or a user key")
    user.add_argument("--output", metavar="FILE", help="export to a new file that only you can read")
    user.add_argument("--yes", action="store_true", help="really erase; without it, only say what would be")
    user.add_argument("--forget-fences", action="store_true", help="leave not even the keys; with the bridge stopped")
    user_keys = command("user-keys", "Move users from plain to keyed user keys.", _user_keys)
    user_keys.add_argument(
        "action",
        choices=["migrate", "finish"],
        help="migrate: give every user the key of USER_KEY_MODE and USER_KEY_SECRET, with the bridge stopped; "
        "finish: remove the records under plain keys",
    )
    config = command("config", "List all settings with type, default, unit, source and value.", _config)
    config.add_argument("--check", action="store_true", help="only check: exit 0 when all is well, else 2")
    command("doctor", "Check configuration, stores, clock, limits and brokers, and say what to do.", _doctor)
    smoke = command("smoke", "Check a deployment from the outside, end to end.", _smoke)
    smoke.add_argument("url", metavar="URL", help="where callers reach the bridge")
    key, ops = (
        os.environ.get("SMOKE_KEY"),
        os.environ.get("SMOKE_OPS_KEY"),
    )  # command lines show in listings of processes
    smoke.add_argument("--key", default=key, required=not key, help="an API key with scope app (or SMOKE_KEY)")
    smoke.add_argument(
        "--ops-key", default=ops, help="one with scope ops, to check sessions and metrics (SMOKE_OPS_KEY)"
    )
    smoke.add_argument("--user", metavar="userId", help="start this user's session and read the record (with --broker)")
    smoke.add_argument("--broker", help="the broker of that session")
    smoke.add_argument("--account", metavar="accountId", help="the account, when there are several")
    smoke.add_argument("--environment", choices=["demo", "live"], help="of the account")
    smoke.add_argument("--stop", action="store_true", help="stop the session again, unless it ran before")
    whois = command("whois", "Print the user keys of a user id.", _whois)
    whois.add_argument("user_id", metavar="userId", help="the app's own id of the user")
    return parser


def _serve(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    from bridge.app import serve

    settings = load_settings()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(serve(settings))


def _demo(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
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


def _keys(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
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


def _smoke(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
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


def _audit(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    from bridge.audit.command import run_tail, run_verify

    settings = load_settings()
    if options.action == "tail":
        return asyncio.run(run_tail(settings, limit=options.limit))
    return asyncio.run(run_verify(settings, start=options.start, expect=options.expect))


def _migrate(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    from bridge.db.command import run_export, run_migrate

    if options.export:
        return run_export(options.export)
    return asyncio.run(run_migrate(load_settings(), only_check=options.check))


def _config(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
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


def _doctor(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    from bridge.assembly import stores_of
    from bridge.doctor import Doctor
    from bridge.runtime.clock import SystemClock

    settings = load_settings()

    async def examine() -> int:
        clock = SystemClock()
        return await Doctor(settings, stores_of(settings, clock), clock).run()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(examine())


def _user(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    from bridge.assembly import BROKERS, stores_of
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


def _user_keys(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    from bridge.assembly import BROKERS, stores_of
    from bridge.runtime.clock import SystemClock
    from bridge.user_data.key_command import run_finish_keys, run_migrate_keys

    settings = load_settings()

    async def act() -> int:
        run = run_migrate_keys if options.action == "migrate" else run_finish_keys
        return await run(settings, stores_of(settings, SystemClock()), BROKERS)

    return asyncio.run(act())


def _whois(options: argparse.Namespace, loop_factory: LoopFactory | None) -> int:
    settings: Settings = load_settings()
    keys = UserKeyScheme(settings.user_key_mode, settings.user_key_secret).keys(options.user_id)
    print(f"{keys.canonical}  ({settings.user_key_mode.value})")
    for copy in keys.copies:
        print(f"{copy}  (plain copy)")
    return 0


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError("must be a positive number of seconds")
    return value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
