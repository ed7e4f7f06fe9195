"""Request bodies as exact values: every JSON number becomes the decimal it was written as.

Clients send prices and quantities as strings or as numbers (reference/alpaca.md §1.4); both must mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson

from bridge.simulator.alpaca.refusals import malformed

MAX_DEPTH = 16


def read_object(raw: bytes) -> dict[str, Any]:
    """A JSON object; an empty body is an empty one. Raises ApiRefusal 422 for anything else."""
    try:
        body = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError as cause:
        raise malformed("request body format is invalid") from cause
    if not isinstance(body, dict):
        raise malformed("request body must be an object")
    exact: dict[str, Any] = _exact(body, 0)
    return exact


def _exact(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise malformed("request body is nested too deeply")
    match value:
        case bool():
            return value
        case int():
            return Decimal(value)
        case float():
            return Decimal(repr(value))  # the shortest decimal of that float: what the client wrote, up to 17 digits
        case list():
            return [_exact(each, depth + 1) for each in value]
        case dict():
            return {name: _exact(each, depth + 1) for name, each in value.items()}
        case _:
            return value


def truth_value(query: Mapping[str, str], name: str) -> bool:
    """A boolean of the query, in JSON's words or Python's; absent = false. Raises ApiRefusal 422."""
    match query.get(name, "false").lower():
        case "true" | "1":
            return True
        case "false" | "0" | "":
            return False
        case _:
            raise malformed(f"{name} must be true or false")
