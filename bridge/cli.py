"""The command line: `python -m bridge <command>`.

Exit codes: 0 well, 1 failed, 2 wrong configuration or arguments (one line on stderr says what). What a command does
is in `commands`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from bridge import commands
from bridge.commands import LoopFactory
from bridge.config_values import SCOPES
from core.errors import BridgeError, ConfigurationError

Add = Callable[[str, str, Callable[..., int]], argparse.ArgumentParser]
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
    subparsers = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, text: str, run: Callable[..., int]) -> argparse.ArgumentParser:
        added = subparsers.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    command("serve", "Run the bridge until SIGTERM or SIGINT.", commands.run_serve)
    command("simulate", "Run a broker on this machine (see simulate --help).", commands.run_serve)  # handled in main
    demo = command(
        "demo", "Simulator, bridge and three users on this machine, live in the terminal.", commands.run_demo
    )
    demo.add_argument(
        "--seconds", type=_positive, help="end after this time; exit 0 when all three were live and fresh"
    )
    demo.add_argument(
        "--memory", action="store_true", help="without embedded Postgres and Valkey: records and sessions in memory"
    )
    demo.add_argument("--port", type=int, default=0, help="port of the bridge (default: any free one)")
    _add_setting_up(command)
    _add_looking(command)
    _add_fleet(command)
    _add_users(command)
    return parser


def _add_setting_up(command: Add) -> None:
    """Keys, database, settings."""
    keys = command("keys", "Make API keys and token keys, and seal stored tokens anew.", commands.run_keys)
    keys.add_argument(
        "action",
        choices=["new", "new-token-key", "rotate-tokens"],
        help="new: print a key and its entry for API_KEYS; new-token-key: print an entry for TOKEN_ENCRYPTION_KEYS; "
        "rotate-tokens: seal every stored token with the first of TOKEN_ENCRYPTION_KEYS, while the bridge runs",
    )
    keys.add_argument("--scope", choices=SCOPES, help="app: the app's server; ops: operations (default: both)")
    keys.add_argument("--id", help="public id of the key, letters, digits, - and _ (default: random)")
    migrate = command("migrate", "Bring the database up to date (`serve` does so too).", commands.run_migrate)
    migrate.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 when the database lacks something"
    )
    migrate.add_argument("--export", metavar="FOLDER", help="write Supabase migration files there; needs no database")
    config = command("config", "List all settings with type, default, unit, source and value.", commands.run_config)
    config.add_argument("--check", action="store_true", help="only check: exit 0 when all is well, else 2")


def _add_looking(command: Add) -> None:
    """Is all well, from the inside, from the outside, and in the audit log."""
    command(
        "doctor", "Check configuration, stores, clock, limits and brokers, and say what to do.", commands.run_doctor
    )
    smoke = command("smoke", "Check a deployment from the outside, end to end.", commands.run_smoke)
    smoke.add_argument("url", metavar="URL", help="where callers reach the bridge")
    # keys come from the environment too, because command lines show in listings of processes
    key, ops = os.environ.get("SMOKE_KEY"), os.environ.get("SMOKE_OPS_KEY")
    smoke.add_argument("--key", default=key, required=not key, help="an API key with scope app (or SMOKE_KEY)")
    smoke.add_argument(
        "--ops-key", default=ops, help="one with scope ops, to check sessions and metrics (SMOKE_OPS_KEY)"
    )
    smoke.add_argument("--user", metavar="userId", help="start this user's session and read the record (with --broker)")
    smoke.add_argument("--broker", help="the broker of that session")
    smoke.add_argument("--account", metavar="accountId", help="the account, when there are several")
    smoke.add_argument("--environment", choices=["demo", "live"], help="of the account")
    smoke.add_argument("--stop", action="store_true", help="stop the session again, unless it ran before")
    audit = command("audit", "Verify the audit log, or show its last rows.", commands.run_audit)
    audit.add_argument("action", choices=["verify", "tail"], help="verify: exit 1 when a row was changed or is missing")
    audit.add_argument("--expect", metavar="ROW:HASH", help="a head printed earlier that the log must still hold")
    audit.add_argument("--from", dest="start", metavar="ROW:HASH", help="begin behind this row")
    audit.add_argument("--limit", type=int, default=20, help="rows that tail shows")


def _add_fleet(command: Add) -> None:
    """The processes that share the database."""
    fleet = command(
        "fleet", "Show the processes: shares, leases, versions; exit 1 when sessions are unserved.", commands.run_fleet
    )
    fleet.add_argument("--json", action="store_true", help="print what GET /api/fleet answers")
    sessions = command("sessions", "Let another process serve the sessions of a user.", commands.run_sessions)
    sessions.add_argument("action", choices=["move"], help="move: log out here, in there; seconds without a session")
    sessions.add_argument("user_key", metavar="userKey", help="a user key, or its first 12 or more digits (see whois)")
    sessions.add_argument("--to", metavar="process", help="as `fleet` names it (default: the one with the most room)")
    sessions.add_argument("--broker", help="only the sessions at this broker")
    sessions.add_argument("--account", metavar="accountId", help="only the session of this account")
    drain = command("drain", "Let a process give all its sessions up; it goes on running.", commands.run_drain)
    drain.add_argument("owner", metavar="process", help="as `fleet` names it, or how that begins")
    drain.add_argument("--undo", action="store_true", help="let it take sessions again")


def _add_users(command: Add) -> None:
    """One user's data and keys, and all users' keys."""
    user = command("user", "Export or erase all that is stored of one user.", commands.run_user)
    user.add_argument("action", choices=["export", "erase"], help="export: JSON; erase: with --yes, in every store")
    user.add_argument("user", metavar="userId", help="the app's own id of the user, or a user key")
    user.add_argument("--output", metavar="FILE", help="export to a new file that only you can read")
    user.add_argument("--yes", action="store_true", help="really erase; without it, only say what would be")
    user.add_argument("--forget-fences", action="store_true", help="leave not even the keys; with the bridge stopped")
    user_keys = command("user-keys", "Move users from plain to keyed user keys.", commands.run_user_keys)
    user_keys.add_argument(
        "action",
        choices=["migrate", "finish"],
        help="migrate: give every user the key of USER_KEY_MODE and USER_KEY_SECRET, with the bridge stopped; "
        "finish: remove the records under plain keys",
    )
    whois = command("whois", "Print the user keys of a user id.", commands.run_whois)
    whois.add_argument("user_id", metavar="userId", help="the app's own id of the user")


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
