"""Commands of the vault: `keys rotate-tokens` and `keys new-token-key`. They print counts and one new key only."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from bridge.credentials.rotation import Resealed, Resealer, check_keys
from bridge.credentials.vault import SealingKey, Vault, new_key_entry
from bridge.db.database import Database
from bridge.telemetry.audit import NO_AUDIT, Action, Audit
from core.errors import ConfigurationError
from core.secret import Secret

ROUNDS = 5  # rows that change meanwhile are taken in the next one

Say = Callable[[str], object]


async def run_rotate_tokens(
    database_url: Secret | None, keys: Sequence[SealingKey], *, say: Say = print, audit: Audit = NO_AUDIT
) -> int:
    """Seal every grant with the first key; 0 when all are, 1 when some are not. Safe while bridges run.

    Raises ConfigurationError, and what the database raises.
    """
    if database_url is None:
        raise ConfigurationError("DATABASE_URL: is needed, grants are kept there")
    vault = Vault(keys)
    database = Database(database_url, size=1, name="pulse-bridge rotate-tokens")
    await database.open()
    try:
        await check_keys(database, vault)
        done, last = 0, Resealed()
        for _ in range(ROUNDS):
            last = await Resealer(database, vault).run()
            done += last.resealed
            if not last.resealed and not last.changed:
                break
    finally:
        await database.close()
    left = last.changed + last.broken
    outcome = "ok" if not left else "incomplete"
    audit.record(Action.ROTATE, user_key=None, actor="operator", outcome=outcome, detail={"resealed": done})
    say(f"sealed again with key {vault.sealing_key_id}: {done}")
    if last.broken:
        say(f"do not open and were left as they are: {last.broken}")
    if last.changed:
        say(f"changed meanwhile: {last.changed}; run this again")
    if not left and len(vault.key_ids) > 1:
        say("the other keys open nothing that is stored and may be removed once every bridge runs with this list")
    return 1 if left else 0


def run_new_token_key(key_id: str | None = None, *, say: Say = print) -> int:
    """Print a new entry for TOKEN_ENCRYPTION_KEYS."""
    say(new_key_entry(key_id or f"k{secrets.token_hex(3)}"))
    return 0
