"""Writing values down as plain data, and reading them back exactly.

`to_plain` gives what JSON can hold and nothing else. A document is an object with two fields of its own, `document`
(the name of what it is, such as "Trade") and `version` (1), and the fields of the value under their own names:

- a Decimal is a string of all its digits ("-0.50" stays "-0.50"), so that no reader makes a float of it;
- an integer (ids, times in Unix ms, digits), a boolean, a text and None are themselves; an enum is its value;
- a list is a list; a value inside another is an object of its fields, without `document` and `version`.

`from_plain` wants just that: each field there, none besides, each of its type. `from_plain(kind, to_plain(value))`
equals `value`, digits and all. Anything else raises `Refused`, which names the field by its path, the innermost row,
and the rule: "document", "version", "missing", "unknown", "kind", "decimal", "choice", "length", "number".
A change of what fields mean or are called raises VERSION; readers of an older one are then added here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from core.paper_account.errors import Refused

VERSION = 1
OWN_FIELDS = ("document", "version")

T = TypeVar("T")
Path = tuple[str | int, ...]


def to_plain(value: Any) -> dict[str, Any]:
    """A value of this room or of the paper trader as a document. Raises TypeError for what is no such value."""
    if isinstance(value, type) or not is_dataclass(value):
        raise TypeError(f"{type(value).__name__} is no document")
    return {"document": type(value).__name__, "version": VERSION, **_fields(value)}


def from_plain(kind: type[T], data: object) -> T:
    """The value of that kind that a document describes. Raises Refused."""
    if not isinstance(data, Mapping):
        raise _refused((), "must be an object", "kind")
    if data.get("document") != kind.__name__:
        raise _refused(("document",), f"must be {kind.__name__}, not {data.get('document')!r}", "document")
    version = data.get("version")
    if isinstance(version, bool) or version != VERSION:
        raise _refused(("version",), f"must be {VERSION}, not {version!r}", "version")
    value: T = _read_fields(kind, {name: each for name, each in data.items() if name not in OWN_FIELDS}, ())
    return value


def _fields(value: Any) -> dict[str, Any]:
    kind: Any = type(value)
    return {name: _write(getattr(value, name)) for name in _names(kind)}


def _write(value: Any) -> Any:
    match value:
        case Enum():
            return value.value
        case None | bool() | int() | float() | str():
            return value
        case Decimal():
            return str(value)
        case tuple():
            return [_write(each) for each in value]
        case _ if is_dataclass(value):
            return _fields(value)
    raise TypeError(f"{type(value).__name__} cannot be written down")


def _read(kind: Any, data: Any, path: Path) -> Any:
    """A part of that type; `path` is where it stands."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _read_union(get_args(kind), data, path)
    if origin is tuple:
        return _read_list(get_args(kind), data, path)
    if is_dataclass(kind):
        return _read_fields(kind, data, path)
    if kind is Decimal:
        return _read_decimal(data, path)
    if kind is float:
        return _read_float(data, path)
    if issubclass(kind, Enum):
        choices = [each.value for each in kind]
        if data not in choices:
            raise _refused(path, f"must be one of {', '.join(choices)}, not {data!r}", "choice")
        return kind(data)
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise _refused(path, f"must be {kind.__name__}, not {type(data).__name__}", "kind")
    return data


def _read_union(kinds: tuple[Any, ...], data: Any, path: Path) -> Any:
    """None and named constants are themselves; there is one other type at most."""
    if data is None and type(None) in kinds:
        return None
    rest = [each for each in kinds if each is not type(None)]
    constants = [value for each in rest if get_origin(each) is Literal for value in get_args(each)]
    for constant in constants:
        if data == constant.value:
            return constant
    return _read(next(each for each in rest if get_origin(each) is not Literal), data, path)


def _read_list(kinds: tuple[Any, ...], data: Any, path: Path) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise _refused(path, f"must be a list, not {type(data).__name__}", "kind")
    if kinds[-1] is Ellipsis:
        return tuple(_read(kinds[0], each, (*path, row)) for row, each in enumerate(data))
    if len(data) != len(kinds):
        raise _refused(path, f"must have {len(kinds)} items, not {len(data)}", "length")
    return tuple(_read(kind, each, (*path, row)) for row, (kind, each) in enumerate(zip(kinds, data, strict=True)))


def _read_fields(kind: Any, data: Any, path: Path) -> Any:
    if not isinstance(data, Mapping):
        raise _refused(path, f"must be an object, not {type(data).__name__}", "kind")
    kinds = _kinds(kind)
    for name in _names(kind):
        if name not in data:
            raise _refused((*path, name), "is missing", "missing")
    for name in data:
        if name not in kinds:
            raise _refused((*path, str(name)), "is not known", "unknown")
    return kind(**{name: _read(kinds[name], data[name], (*path, name)) for name in _names(kind)})


def _read_decimal(data: Any, path: Path) -> Decimal:
    if not isinstance(data, str):
        raise _refused(path, f"must be a decimal string, not {type(data).__name__}", "decimal")
    try:
        value = Decimal(data)
    except InvalidOperation as cause:
        raise _refused(path, f"must be a decimal string, not {data!r}", "decimal") from cause
    if not value.is_finite() or str(value) != data:
        raise _refused(path, f"must be a decimal string, not {data!r}", "decimal")
    return value


def _read_float(data: Any, path: Path) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float) or not math.isfinite(data):
        raise _refused(path, f"must be a finite number, not {data!r}", "number")
    return float(data)


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))


@cache
def _kinds(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {name: hints[name] for name in _names(kind)}


def _refused(path: Path, message: str, rule: str) -> Refused:
    rows = [each for each in path if isinstance(each, int)]
    field = ".".join(map(str, path)) or "document"
    return Refused(message, field=field, rule=rule, row=rows[-1] if rows else None)
