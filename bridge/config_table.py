"""The table behind `python -m bridge config`: every variable with type, default, unit, source and present value.

Must not show a secret: those appear as ***.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from bridge.config import ENV_ENCODING, ENV_FILE, Settings
from bridge.config_values import ApiKeyEntry, TokenKey
from core.user_key import UserKeyMode


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """One line of `python -m bridge config`."""

    name: str
    type: str
    default: str
    unit: str
    source: str
    value: str
    description: str


def describe(settings: Settings, env_file: str | Path | None = ENV_FILE) -> list[SettingInfo]:
    """All variables with type, default, unit, where the present value comes from, and that value; secrets as ***."""
    values = {} if settings.paas or env_file is None else dotenv_values(env_file, encoding=ENV_ENCODING)
    in_file = {name.upper(): value for name, value in values.items()}
    in_environment = {name.upper(): value for name, value in os.environ.items()}
    rows = []
    for field_name, field in Settings.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        name = field_name.upper()
        source = "environment" if in_environment.get(name) else "file" if in_file.get(name) else "default"
        if extra.get("hidden"):
            continue
        value = getattr(settings, field_name)
        rows.append(
            SettingInfo(
                name=name,
                type=_type_name(field),
                default=_shown(field.default),
                unit=str(extra.get("unit") or ""),
                source=source,
                value=_shown(value),
                description=field.description or "",
            )
        )
    return rows


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(_entry(entry) for entry in value)
    return str(value)  # a Secret shows ***


def _entry(entry: object) -> str:
    if isinstance(entry, ApiKeyEntry):
        return f"{entry.id}:{'+'.join(sorted(entry.scopes))}:***"
    return f"{entry.id}:***" if isinstance(entry, TokenKey) else str(entry)


def _type_name(field: Any) -> str:
    text = str(field.annotation)
    if "TokenKey" in text:
        return "list"
    if "Secret" in text:
        return "secret"
    if "ApiKeyEntry" in text or "tuple" in text:
        return "list"
    if "Literal" in text:
        return "|".join(re.findall(r"'([^']+)'", text))
    if "UserKeyMode" in text:
        return "|".join(UserKeyMode)
    marks = (("yes/no", "bool"), ("integer", "int"), ("number", "float"), ("path", "Path"))
    return next((name for name, mark in marks if re.search(rf"\b{mark}\b", text)), "text")  # not "int" of a constraint
