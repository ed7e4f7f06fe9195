"""One result of a check that a person reads: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One result. `ok` None: not known, or worth knowing, which fails nothing. `advice` is empty when all is well."""

    what: str
    ok: bool | None
    detail: str
    advice: str = ""

    def line(self) -> str:
        """As printed: one line, and one more when there is something to do."""
        mark = {True: "ok  ", False: "FAIL", None: "?   "}[self.ok]
        return f"{mark} {self.what}: {self.detail}" + (f"\n       do: {self.advice}" if self.advice else "")
