"""Keeps secrets out of every log line, whatever wrote it (DESIGN §1.4, faults.md S05).

Known secrets are registered once and found in their plain, escaped, hex, base64 and URL-quoted forms; what merely
looks like a credential (`Bearer …`, `access_token=…`) is cut as well. The search costs one dictionary look-up per
character of the line, however many secrets are registered. Must not keep secrets for ever: the table is bounded,
oldest out first.
"""

from __future__ import annotations

import base64
import json  # noqa: TID251 (to know how others escape)
import re
from collections import OrderedDict
from urllib.parse import quote, quote_plus

from core.secret import Secret

MASK = "***"
SHORTEST = 6  # characters; a shorter secret would blank ordinary words
FORMS_KEPT = 50_000
_LOOKS_SECRET = re.compile(
    r"""(?ix) (?: \b bearer \s+ | \b basic \s+ | (?: access|refresh )_?token ["']? \s* [=:] \s* ["']?
      | client_?secret ["']? \s* [=:] \s* ["']? | password ["']? \s* [=:] \s* ["']?
      | :// [^\s/:@"]* : (?= [^\s/@"]+ @ ) )
      ( [^\s"'&,}@]+ )"""
)


class Redactor:
    """Replaces registered secrets in text by `***`."""

    def __init__(self) -> None:
        self._forms: OrderedDict[str, None] = OrderedDict()
        self._by_prefix: dict[str, set[str]] = {}

    def register(self, *secrets: Secret | None) -> None:
        """Remember secrets; None, short and known ones cost nothing."""
        for secret in secrets:
            if secret is None or len(secret.reveal()) < SHORTEST:
                continue
            for form in _forms(secret.reveal()):
                self._add(form)

    def redact(self, text: str) -> str:
        """Return `text` without any registered secret or anything that looks like a credential."""
        text = _LOOKS_SECRET.sub(lambda match: match[0][: match.start(1) - match.start()] + MASK, text)
        if not self._by_prefix:
            return text
        parts: list[str] = []
        start = at = 0
        while at <= len(text) - SHORTEST:
            found = self._longest(text, at)
            if not found:
                at += 1
                continue
            parts += (text[start:at], MASK)
            at += len(found)
            start = at
        return text if not parts else "".join([*parts, text[start:]])

    def _longest(self, text: str, at: int) -> str:
        candidates = self._by_prefix.get(text[at : at + SHORTEST])
        if not candidates:
            return ""
        return max((form for form in candidates if text.startswith(form, at)), key=len, default="")

    def _add(self, form: str) -> None:
        if form in self._forms:
            self._forms.move_to_end(form)
            return
        self._forms[form] = None
        self._by_prefix.setdefault(form[:SHORTEST], set()).add(form)
        if len(self._forms) > FORMS_KEPT:
            oldest, _ = self._forms.popitem(last=False)
            sharing = self._by_prefix[oldest[:SHORTEST]]
            sharing.discard(oldest)
            if not sharing:
                del self._by_prefix[oldest[:SHORTEST]]


def _forms(plain: str) -> set[str]:
    raw = plain.encode("utf-8", "surrogatepass")
    forms = {
        plain,
        raw.hex(),
        raw.hex().upper(),
        *(twice for once in _escaped(plain) for twice in _escaped(once)),  # such as the repr of an error in a JSON line
        quote(plain, safe="", errors="replace"),
        quote_plus(plain, errors="replace"),
    }
    for encoded in (base64.b64encode(raw), base64.urlsafe_b64encode(raw)):
        forms.add(encoded.decode().rstrip("="))
    return {form for form in forms if len(form) >= SHORTEST}


def _escaped(text: str) -> set[str]:
    """A text as Python and JSON show it inside of quotes, whichever quotes those are."""
    shown = {text, repr(text)[1:-1], repr(text + "'\"")[1:-4], json.dumps(text)[1:-1]}
    return shown | {json.dumps(text, ensure_ascii=False)[1:-1]}


REDACTOR = Redactor()
"""The one redactor of the process; whoever reads a secret from outside registers it here."""
