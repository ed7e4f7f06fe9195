"""Stored Alpaca credentials: what an entry must look like, and how each door wants them shown.

A key pair or the access token of a consent (reference/alpaca.md §1.5). Live and paper have separate pairs; which one a
pair is for is never guessed. Invariant: a secret leaves its wrapper only in what is handed to a socket.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bridge.brokers.base import BrokerFault, Credential, Environment, FaultKind, Reason, ReasonCode
from bridge.brokers.entries import other_environment, secret_field, text_field
from core.errors import InvalidInput
from core.secret import Secret

_ACCOUNT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FIELDS = frozenset({"keyId", "secretKey", "accessToken", "environment", "accountId"})
_ENVIRONMENTS = {"paper": Environment.DEMO, "demo": Environment.DEMO, "live": Environment.LIVE}
_SPELLINGS = {  # of an app's own settings
    "keyId": ("keyId", "key_id", "apiKeyId", "apiKey", "api_key"),
    "secretKey": ("secretKey", "secret_key", "apiSecret", "api_secret", "apiSecretKey"),
    "accessToken": ("accessToken", "access_token"),
    "accountId": ("accountId", "account_id"),
}
_FLAGS = {"isPaper": Environment.DEMO, "is_paper": Environment.DEMO, "paper": Environment.DEMO}
_FLAGS |= {"isDemo": Environment.DEMO, "isLive": Environment.LIVE, "is_live": Environment.LIVE}


# ---------------------------------------------------------------- entries


def read(grant_id: str, entry: Mapping[str, object]) -> Credential:
    """Check `{"keyId", "secretKey", "environment", "accountId"?}` or `{"accessToken", "environment", "accountId"?}`.

    `environment` is "paper" (or "demo") or "live" and required. Raises InvalidInput naming the field.
    """
    for name in entry:
        if name not in _FIELDS:
            raise InvalidInput(f"unknown field {name!r} in an alpaca credential", field=name)
    secrets = _secrets(entry)
    word = text_field(entry, "environment")
    if word is None or word.lower() not in _ENVIRONMENTS:
        raise InvalidInput('environment must be "paper" or "live"', field="environment")
    account_id = text_field(entry, "accountId")
    if account_id is not None:
        account_id = account_id.lower()
        if not _ACCOUNT_ID.fullmatch(account_id):
            raise InvalidInput("accountId must be the account's id, a UUID", field="accountId")
    return Credential(grant_id, _ENVIRONMENTS[word.lower()], secrets, account_id)


def _secrets(entry: Mapping[str, object]) -> dict[str, Secret]:
    access, key_id, secret_key = (secret_field(entry, name) for name in ("accessToken", "keyId", "secretKey"))
    if access is not None:
        for name, value in (("keyId", key_id), ("secretKey", secret_key)):
            if value is not None:
                raise InvalidInput(f"either accessToken or a key pair, not {name} as well", field=name)
        return {"accessToken": access}
    if key_id is None:
        raise InvalidInput("keyId is missing", field="keyId")
    if secret_key is None:
        raise InvalidInput("secretKey is missing", field="secretKey")
    return {"keyId": key_id, "secretKey": secret_key}


def entry_of_settings(value: Mapping[str, object]) -> dict[str, object]:
    """What `read` takes, of an app's own settings row: `apiKey`, `api_key`, `keyId`, `apiSecret`, `secretKey` ….

    One of environment, isPaper, paper, isDemo and isLive must say where the account is, and those that are there must
    agree: neither is ever assumed. Other fields are the app's own. Raises InvalidInput naming the field.
    """
    entry: dict[str, object] = {"environment": _environment_of_settings(value)}
    for name, spellings in _SPELLINGS.items():
        said = {each: value[each] for each in spellings if value.get(each) not in (None, "")}
        if len({repr(each) for each in said.values()}) > 1:
            raise InvalidInput(f"{' and '.join(said)} differ", field=name)
        if said:
            entry[name] = next(iter(said.values()))
    return entry


def _environment_of_settings(value: Mapping[str, object]) -> str:
    said: set[Environment] = set()
    for name, meant in _FLAGS.items():
        flag = value.get(name)
        if flag is None:
            continue
        if not isinstance(flag, bool):
            raise InvalidInput(f"{name} must be true or false", field=name)
        said.add(meant if flag else other_environment(meant))
    word = value.get("environment")
    if word is not None:
        if not isinstance(word, str) or word.strip().lower() not in _ENVIRONMENTS:
            raise InvalidInput('environment must be "paper" or "live"', field="environment")
        said.add(_ENVIRONMENTS[word.strip().lower()])
    if len(said) != 1:
        how = "says" if not said else "agrees on"
        raise InvalidInput(f"none of environment, isPaper and isLive {how} whether it is live", field="environment")
    return "live" if Environment.LIVE in said else "paper"


# ---------------------------------------------------------------- use


def is_oauth(credential: Credential) -> bool:
    """Whether it is the token of a consent, not a key pair."""
    return "accessToken" in credential.secrets


def fingerprint(credential: Credential) -> str:
    """Names these very secrets in memory; two credentials with the same secrets have the same one."""
    if is_oauth(credential):
        return credential.secrets["accessToken"].fingerprint()
    key_id, secret = _pair(credential)
    return Secret(f"{key_id.reveal()}\n{secret.reveal()}").fingerprint()


def headers(credential: Credential) -> dict[str, str]:
    """What REST wants to see. To be handed to the socket, never logged."""
    if is_oauth(credential):
        return {"Authorization": f"Bearer {credential.secrets['accessToken'].reveal()}"}
    key_id, secret = _pair(credential)
    return {"APCA-API-KEY-ID": key_id.reveal(), "APCA-API-SECRET-KEY": secret.reveal()}


def stream_auth(credential: Credential) -> dict[str, Any]:
    """The first message on the trading stream (alpaca.md §2.1). To be handed to the socket, never logged."""
    if is_oauth(credential):
        data = {"oauth_token": credential.secrets["accessToken"].reveal()}
    else:
        key_id, secret = _pair(credential)
        data = {"key_id": key_id.reveal(), "secret_key": secret.reveal()}
    return {"action": "authenticate", "data": data}


def data_auth(credential: Credential) -> dict[str, Any]:
    """The first message on a market data stream with the user's own credential (alpaca.md §3.2)."""
    if is_oauth(credential):
        return {"action": "auth", "key": "oauth", "secret": credential.secrets["accessToken"].reveal()}
    return house_data_auth(*_pair(credential))


def house_data_auth(key_id: Secret, secret: Secret) -> dict[str, Any]:
    """The first message on a market data stream with the house's own key pair."""
    return {"action": "auth", "key": key_id.reveal(), "secret": secret.reveal()}


def _pair(credential: Credential) -> tuple[Secret, Secret]:
    key_id, secret = credential.secrets.get("keyId"), credential.secrets.get("secretKey")
    if key_id is None or secret is None:
        raise BrokerFault(
            FaultKind.FATAL_USER, Reason(ReasonCode.NO_CREDENTIALS, "Neither keys nor a consent are stored.")
        )
    return key_id, secret
