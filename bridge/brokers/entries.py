"""Fields of a credential entry and of a sign-in server's answer, as every adapter reads them. Pure.

Invariant: what is no text or no token is refused or left out, never repeated in a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from bridge.brokers.base import Environment
from core.errors import InvalidInput
from core.secret import Secret, is_token

LARGEST_ANSWER = 64 * 1024  # bytes of a sign-in server's answer
LONGEST_TOKEN = 4096  # characters


def text_field(entry: Mapping[str, object], name: str) -> str | None:
    """An optional text; null counts as absent. Raises InvalidInput naming the field."""
    value = entry.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{name} must be a string that is not empty", field=name)
    return value.strip()


def secret_field(entry: Mapping[str, object], name: str) -> Secret | None:
    """An optional key or token. Raises InvalidInput naming the field."""
    text = text_field(entry, name)
    if text is not None and not is_token(text):
        raise InvalidInput(f"{name} is not a key or token", field=name)
    return None if text is None else Secret(text)


def other_environment(environment: Environment) -> Environment:
    """Demo for live and the reverse."""
    return Environment.DEMO if environment is Environment.LIVE else Environment.LIVE


def answer_document(body: bytes) -> dict[str, Any]:
    """The JSON object of a sign-in server's answer; empty when it is anything else."""
    if len(body) > LARGEST_ANSWER:
        return {}
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def issued_token(value: object) -> Secret | None:
    """A token of an answer: visible ASCII, as it must stand in addresses, headers and messages."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_TOKEN:
        return None
    return Secret(value) if value.isascii() and value.isprintable() and " " not in value else None
