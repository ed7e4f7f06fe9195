"""All that is stored of one user, as one JSON document for them. Secrets are not told: tokens stay sealed."""

from __future__ import annotations

from typing import Any

from bridge.audit.table import rows_of
from bridge.credentials.user_data import export_consents, export_grants
from bridge.sessions.durable import DurableSessions
from bridge.telemetry.audit import Action
from bridge.user_data.places import Places
from bridge.user_data.records import find_keys, tell_records
from bridge.user_data.whom import Whom


async def tell(places: Places, whom: Whom, *, note: bool = True) -> dict[str, Any]:
    """The document. `note`: take the export down in the audit log.

    Raises Unavailable when a place does not answer: half an answer would look whole.
    """
    told: dict[str, Any] = {
        "exportedAt": places.clock.now_ms(),
        "user": {"userId": whom.user_id, "userKey": whom.user_key, "otherKeys": list(whom.keys[1:])},
    }
    if places.database is not None:
        told |= await DurableSessions(places.database).export(whom.user_key)
        async with places.database.transaction() as connection:
            told["grants"] = await export_grants(connection, whom.user_key)
            told["consents"] = await export_consents(connection, whom.user_key)
            told["audit"] = await rows_of(connection, whom.audit_id) if whom.audit_id else []
    accounts = accounts_in(told)
    brokers = {*places.brokers, *(broker for broker, _ in accounts)}
    keys = await find_keys(places.stores, whom.keys, sorted(brokers), accounts)
    told["records"] = {store.name: await tell_records(store, keys) for store in places.stores}
    if note and places.database is not None and whom.audit_id:
        async with places.database.transaction() as connection:
            await places.take_down(connection, Action.EXPORT, whom.user_key)
    return told


def accounts_in(told: dict[str, Any]) -> list[tuple[str, str]]:
    """Brokers and accounts of a user's stored sessions and defaults."""
    rows = [*told.get("sessions", ()), *told.get("defaultAccounts", ())]
    return [(row["broker"], row["account_id"]) for row in rows if row["account_id"]]
