"""Existing settings: tokens that an app kept in a key-value row of its own before it had this bridge (DESIGN §10).

A row is named `{broker}_settings_{user key}`; what its value means, the broker's adapter knows. A row is taken over
once and again whenever its tokens change; from then on the vault owns them, and a refresh that makes the row's own
tokens worthless does not bring them back. Rows are looked up for one user at a time and never listed. Nothing is
assumed: a row that does not say whether its account is a live one is refused, by name of what is missing.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import orjson

from bridge.brokers.base import Broker, Credential
from bridge.credentials.grant_table import Grant, Source
from bridge.db.database import Database, DatabaseMisused
from core.errors import InvalidInput, Unavailable
from core.user_key import normalise_user_id

log = logging.getLogger(__name__)

NOTHING_THERE = ""  # what is remembered where no row was found


class SettingsRows(Protocol):
    """Where an app keeps its settings rows."""

    async def get(self, key: str) -> Mapping[str, object] | None:
        """The value of one row, None when there is none. Raises Unavailable, and InvalidInput when it is no object."""


class KvTableRows:
    """Rows of a key-value table `(key text, value jsonb)` in our own database. `table`: a checked name, in public."""

    def __init__(self, database: Database, table: str) -> None:
        self._database = database
        quoted = table.replace('"', '""')
        self._sql = f'select value::text from public."{quoted}" where key = $1'  # noqa: S608  a name cannot be an argument

    async def get(self, key: str) -> Mapping[str, object] | None:
        try:
            text = await self._database.fetch_value(self._sql, key)
        except DatabaseMisused as error:
            raise Unavailable(f"existing settings cannot be read: {error}") from error
        return None if text is None else read_value(text)


def read_value(text: str | bytes) -> Mapping[str, object] | None:
    """A row's value: a JSON object, or a JSON text that holds one. None for JSON null. Raises InvalidInput."""
    try:
        value = orjson.loads(text)
        if isinstance(value, str):
            value = orjson.loads(value)
    except orjson.JSONDecodeError:
        raise InvalidInput("the existing settings are not JSON", field="settings") from None
    if value is not None and not isinstance(value, dict):
        raise InvalidInput("the existing settings are not an object", field="settings")
    return value


@dataclass(frozen=True, slots=True)
class FoundSettings:
    """A settings row as the broker reads it; `print` tells another state of it apart: tokens, then choices."""

    entry: Mapping[str, object] = field(repr=False)
    credential: Credential
    print: str

    @property
    def token_print(self) -> str:
        """The part of the print that the tokens make."""
        return self.print.partition(".")[0]


async def find_settings(rows: SettingsRows, broker: Broker, user_id: str, user_key: str) -> FoundSettings | None:
    """The user's row, under the plain key that apps compute, else under the canonical one.

    Raises Unavailable, and InvalidInput with a path such as `settings.environment`.
    """
    plain = hashlib.sha256(normalise_user_id(user_id).encode()).hexdigest()
    for key in dict.fromkeys((plain, user_key)):
        value = await rows.get(f"{broker.name}_settings_{key}")
        if value is not None:
            return _read(broker, user_key, value)
    return None


def _read(broker: Broker, user_key: str, value: Mapping[str, object]) -> FoundSettings:
    try:
        entry = broker.settings_entry(value)
        credential = broker.read_credential("settings", entry)
    except InvalidInput as error:
        where = f"settings.{error.field}" if error.field else "settings"
        raise InvalidInput(f"the existing settings cannot be taken over: {error}", field=where) from error
    tokens = hashlib.sha256(user_key.encode())  # salted: equal tokens of two users do not show
    for name, secret in sorted(credential.secrets.items()):
        tokens.update(f"\0{name}\0{secret.reveal()}".encode())
    choice = hashlib.sha256(f"{user_key}\0{credential.environment}\0{credential.account_id}".encode())
    return FoundSettings(entry, credential, f"{tokens.hexdigest()[:32]}.{choice.hexdigest()[:16]}")


class Step(StrEnum):
    """What a look at the settings row leads to."""

    NOTHING = "nothing"
    REMEMBER = "remember"  # take down what was seen
    CHOOSE = "choose"  # the same tokens, another account or environment
    IMPORT = "import"


def next_step(grant: Grant | None, found: FoundSettings | None) -> Step:
    """Decide. The vault wins over a row of which it is not known that it is newer."""
    if found is None:
        return Step.REMEMBER if grant is not None and grant.source_print is None else Step.NOTHING
    if grant is None:
        return Step.IMPORT
    if grant.source_print is None:
        return Step.REMEMBER
    if grant.source_print == found.print:
        return Step.NOTHING
    if grant.source_print.partition(".")[0] != found.token_print:
        return Step.IMPORT
    return Step.CHOOSE if grant.source is Source.SETTINGS and grant.sealed is not None else Step.REMEMBER
