"""`python -m bridge user export` and `user erase`. They print nothing of a user but what was asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import orjson

from bridge.cache.store import Store
from bridge.config import Settings
from bridge.user_data.erasing import WAIT_S, Erased, erase
from bridge.user_data.places import opened_places
from bridge.user_data.telling import tell
from core.errors import InvalidInput

NOT_SURE = 1


async def run_export(
    settings: Settings, stores: Sequence[Store], brokers: Sequence[str], user: str, *, output: str | None = None
) -> int:
    """Write all that is stored of `user` (id or key) as JSON to standard output, or to a new file only we can read.

    Raises NotFound, Conflict, InvalidInput, Unavailable, ConfigurationError.
    """
    async with opened_places(settings, stores, brokers) as places:
        told = await tell(places, await places.find(user))
    text = orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        _write(output, text)
    return 0


async def run_erase(
    settings: Settings,
    stores: Sequence[Store],
    brokers: Sequence[str],
    user: str,
    *,
    yes: bool = False,
    wait_s: float = WAIT_S,
    forget_fences: bool = False,
) -> int:
    """Erase all that is stored of `user` (id or key). `yes`: really; else only say what would be erased.

    0: done. 1: done, but a bridge may still serve the user and was not heard of. Raises as `run_export`.
    """
    async with opened_places(settings, stores, brokers) as places:
        whom = await places.find(user)
        if not yes:
            _list(await tell(places, whom, note=False))
            print("nothing was erased: add --yes")
            return 0
        print(f"erasing {whom.user_key} (and whatever is under {', '.join(whom.keys[1:]) or 'no other key'})")
        erased = await erase(places, whom, wait_s=wait_s, fences=forget_fences)
    return _report(erased, settings, forget_fences)


def _report(erased: Erased, settings: Settings, forgotten: bool) -> int:
    print(f"erased: {erased.records} records, {erased.sessions} sessions, {erased.grants} grants")
    if not (erased.known or erased.records):
        print("nothing was stored of this user")
    if erased.keys and not forgotten:
        print(f"fences stay under {len(erased.keys)} keys, which hold the user key and account ids, so that a process")
        print("that was away cannot write there; with the bridge stopped, --forget-fences leaves none")
    print("not touched: backups, logs, what the app stores itself (its settings rows among it)")
    if settings.bridge_credentials_file is not None:
        print("not touched: the credentials file; remove the user's entry there")
    if not erased.settled:
        print("no bridge has ended the user's sessions in time; one that runs ends them as soon as it sees this, and")
        print("can write nothing meanwhile")
        return NOT_SURE
    return 0


def _list(told: dict[str, Any]) -> None:
    for name in ("sessions", "defaultAccounts", "grants", "consents", "audit"):
        if name in told:
            print(f"{name}: {len(told[name])}")
    for store, held in told["records"].items():
        print(f"records in {store}: {len(held)}")


def _write(path: str, text: str) -> None:
    """A new file that nobody else can read. Raises InvalidInput when there is one already or none can be made."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}", field="--output") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
