"""The credentials file as JSON: what it must look like, and how secrets in it are replaced. Pure.

The file is checked as a whole (bad JSON, unknown fields) and entry by entry (wrong types), so that one user's mistake
stays that user's. Messages name paths, never values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from bridge.credentials.disk import SIZE_CAP
from core.errors import InvalidInput
from core.secret import Secret
from core.user_key import normalise_user_id


@dataclass(frozen=True, slots=True)
class Entries:
    """The file's entries by normalised user id. `ambiguous`: ids that the file holds in more than one spelling."""

    users: Mapping[str, object]
    ambiguous: frozenset[str]

    def entry(self, user_id: str, broker: str) -> Mapping[str, object] | None:
        """One user's entry for a broker, None when there is none. Raises InvalidInput with the path."""
        path = f"users.{user_id}"
        if user_id in self.ambiguous:
            raise InvalidInput("this user id stands in the file more than once, differently spelt", field=path)
        user = self.users.get(user_id)
        if user is None and user_id not in self.users:
            return None
        if not isinstance(user, dict):
            raise InvalidInput("a user is an object of brokers", field=path)
        if broker not in user:
            return None
        entry = user[broker]
        if not isinstance(entry, dict):
            raise InvalidInput("a broker's entry is an object", field=f"{path}.{broker}")
        return entry


def parse(data: bytes) -> Entries:
    """Read the file. Raises InvalidInput for what makes it unusable as a whole."""
    users: dict[str, object] = {}
    ambiguous: set[str] = set()
    for raw_id, user in _users(data).items():
        try:
            user_id = normalise_user_id(raw_id)
        except InvalidInput:
            continue  # no caller can ever ask for such an id
        if user_id in users:
            ambiguous.add(user_id)
        users[user_id] = user
    return Entries(users, frozenset(ambiguous))


def replace_secrets(
    data: bytes, broker: str, stale: Mapping[str, Secret], renewed: Mapping[str, Secret]
) -> bytes | None:
    """The file with `stale` replaced by `renewed` wherever a user's entry for `broker` holds it; None if none does.

    Everything else stays, in its order; the layout stays indented or compact. Raises InvalidInput as `parse`.
    """
    users = _users(data)
    found = False
    for user in users.values():
        entry = user.get(broker) if isinstance(user, dict) else None
        if isinstance(entry, dict) and all(entry.get(name) == secret.reveal() for name, secret in stale.items()):
            entry.update({name: secret.reveal() for name, secret in renewed.items()})
            found = True
    if not found:
        return None
    indented = b"\n" in data.strip()
    return orjson.dumps({"users": users}, option=orjson.OPT_INDENT_2 if indented else None) + b"\n"


def _users(data: bytes) -> dict[str, object]:
    if len(data) > SIZE_CAP:
        raise InvalidInput(f"the credentials file is larger than {SIZE_CAP // 1024 // 1024} MiB")
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"  # the message itself quotes nothing of the file
        raise InvalidInput(f"the credentials file is not JSON ({place})") from None
    if not isinstance(document, dict):
        raise InvalidInput("the credentials file is an object")
    unknown = next((name for name in document if name != "users"), None)
    if unknown is not None:
        raise InvalidInput("unknown field in the credentials file", field=unknown)
    users = document.get("users")
    if not isinstance(users, dict):
        raise InvalidInput("users is an object of user ids", field="users")
    return users
