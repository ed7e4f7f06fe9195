"""One row of a user in every table, so that policies are tried on real rows.

A migration that adds a table adds its row here; `rows_of` says so when one is missing. Tables of which no row belongs
to a user are named too: nobody but the service may see those.
"""

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]

USER_ROWS: dict[str, Callable[[str, str], Row]] = {  # by table: (user key, user id) to the columns of one row
    "bridge_users": lambda key, user: {"user_key": key, "user_id": user},
    "account_cache": lambda key, user: {
        "key": f"ctrader_account_{key}",
        "fence": 1,
        "version": 1,
        "document": f'{{"accountId": "of {user}"}}',
    },
    "bridge_sessions": lambda key, user: {
        "user_key": key,
        "broker": "ctrader",
        "account_id": f"of {user}",
        "environment": "demo",
        "wanted": True,
    },
    "bridge_default_accounts": lambda key, user: {
        "user_key": key,
        "broker": "ctrader",
        "account_id": f"of {user}",
        "environment": "demo",
    },
    "bridge_grants": lambda key, user: {
        "user_key": key,
        "broker": "ctrader",
        "environment": "demo",
        "account_id": f"of {user}",
        "sealed": b"sealed tokens",
        "key_id": "k1",
        "source": "entered",
    },
    "bridge_consents": lambda key, user: {
        "state_hash": bytes.fromhex(key),
        "user_key": key,
        "broker": "ctrader",
        "scope": "accounts",
        "return_to": "https://app.example.com",
        "expires_at": "2100-01-01T00:00:00Z",
    },
}
OTHER_ROWS: dict[str, Row | None] = {  # None: the migrations put rows there, or it may be empty
    "bridge_migrations": None,
    "bridge_facts": None,
    "bridge_cache_fences": {"key": "ctrader_account_x", "fence": 1},
    "bridge_cache_life": {},
    "kv_store_bridge": {"key": "ctrader_account_x", "value": "{}"},
    "bridge_audit_head": None,
    "bridge_audit": {
        "seq": 1,
        "id": "00000000-0000-4000-8000-000000000001",
        "at": "2025-01-01T00:00:00Z",
        "actor": "bridge",
        "action": "start",
        "outcome": "ok",
        "detail": "{}",
        "prev_hash": bytes(32),
        "hash": bytes(range(32)),
    },
    "bridge_processes": {
        "owner": "0123456789ab",
        "version": "1",
        "capacity": 1,
        "expires_at": "2100-01-01T00:00:00Z",
    },
    "bridge_cache": {"key": "x", "value": b"{}", "expires_at": "2100-01-01T00:00:00Z"},
}


def rows_of(table: str, users: dict[str, str]) -> list[Row]:
    """The rows to insert into `table` for `users` (user key to user id)."""
    if table in USER_ROWS:
        return [USER_ROWS[table](key, user) for key, user in users.items()]
    if table in OTHER_ROWS:
        row = OTHER_ROWS[table]
        return [] if row is None else [row]
    raise AssertionError(
        f"table {table} is new: give it a row in {__name__}, in USER_ROWS when its rows belong to users"
    )
