"""How a row of `bridge_sessions` is read, whoever reads it."""

from __future__ import annotations

from typing import Any

from bridge.brokers.base import Environment, ReasonCode
from bridge.db.database import Row
from bridge.sessions.desired import StoredSession

SELECT = """
select u.user_id, s.user_key, s.broker, s.account_id, s.environment, s.wanted, s.command, s.at_risk, s.reason,
  s.owes_record, s.owner, s.fence, s.move_to,
  (extract(epoch from s.started_at) * 1000)::bigint as started_at_ms,
  (extract(epoch from s.stopped_at) * 1000)::bigint as stopped_at_ms,
  (extract(epoch from s.last_used_at) * 1000)::bigint as last_used_at_ms,
  d.account_id as default_account
from public.bridge_sessions s
join public.bridge_users u using (user_key)
left join public.bridge_default_accounts d using (user_key, broker)
"""
IN_ORDER = "order by s.user_key, s.broker, s.account_id"


def stored(row: Row) -> StoredSession:
    """A row of SELECT."""
    values: dict[str, Any] = dict(row)
    reason, account_id = values.pop("reason"), values.pop("account_id")
    values["environment"] = Environment(values["environment"])
    return StoredSession(**values, account_id=account_id or None, ended=ReasonCode(reason) if reason else None)
