"""How the simulated Alpaca says no: one exception with the HTTP status, the 8-digit code and the sentence.

Codes and sentences follow reference/alpaca.md §1.6: the first three digits of a code equal the status, but for
40010001, which was measured with 422. Some 403 bodies carry extra keys, whose values are strings or lists of them.
Nothing was changed when one of these is raised.
"""

from __future__ import annotations

from typing import Any


class ApiRefusal(Exception):
    """A request refused whole. The body on the wire is {"code", "message", **extra}."""

    def __init__(self, status: int, code: int, message: str, extra: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.extra = extra or {}

    def body(self) -> dict[str, Any]:
        """The answer's JSON body."""
        return {"code": self.code, "message": self.message, **self.extra}


def malformed(message: str) -> ApiRefusal:
    """422: a field is missing, unreadable or taken."""
    return ApiRefusal(422, 40010001, message)


def unprocessable(message: str) -> ApiRefusal:
    """422: well formed, but against a rule of order entry or of the order's state."""
    return ApiRefusal(422, 42210000, message)


def forbidden(message: str, **extra: Any) -> ApiRefusal:
    """403: not with this money, these shares, this account."""
    return ApiRefusal(403, 40310000, message, extra)


def missing(message: str) -> ApiRefusal:
    """404: no such order, position or asset."""
    return ApiRefusal(404, 40410000, message)
