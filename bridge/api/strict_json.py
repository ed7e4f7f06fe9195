"""JSON without any of its ambiguities, for what callers send: request bodies and the parts of user tokens.

orjson keeps the last of two equal names silently, so this reads with the standard decoder, which shows every pair.
Must not say in an error what the text was.
"""

from __future__ import annotations

import json  # noqa: TID251 (the only decoder here that shows duplicate keys)
from typing import Any, NoReturn

DEEPEST = 16


class NotStrict(ValueError):
    """The text is not JSON, or it is ambiguous; the message says why and is safe to show."""


def strict_loads(text: bytes) -> Any:
    """The data. Raises NotStrict for duplicate names, NaN, Infinity, deep nesting, broken UTF-8 and what is no JSON."""
    try:
        data = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except NotStrict:
        raise
    except UnicodeDecodeError:
        raise NotStrict("is not UTF-8") from None
    except RecursionError:
        raise NotStrict("is nested too deeply") from None
    except ValueError:
        raise NotStrict("is not JSON") from None
    if _depth(data) > DEEPEST:
        raise NotStrict("is nested too deeply")
    return data


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise NotStrict("holds a name twice in one object")
    return data


def _no_constant(name: str) -> NoReturn:
    raise NotStrict("holds NaN or Infinity, which are not JSON")


def _depth(data: Any) -> int:
    """How deeply lists and objects are nested, without recursion."""
    depth, level = 0, [data]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth
