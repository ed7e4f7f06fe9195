"""Refusals as Alpaca words them: an HTTP status, an eight-digit code, a text, and at times further keys.

Source: reference/alpaca.md §1.6. Status and code are stable, the text is not. Codes are written where they are decided.
"""

from __future__ import annotations

from typing import Any

from core.errors import BridgeError


class ApiError(BridgeError):
    """A request is refused. `extras` are further keys of the body (strings or lists, as the broker sends them)."""

    def __init__(self, status: int, code: int, message: str, **extras: Any) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.extras = extras

    def document(self) -> dict[str, Any]:
        """The JSON body."""
        return {"code": self.code, "message": self.message, **self.extras}


def invalid(message: str) -> ApiError:
    """Malformed input: 422 with the code for fields (a `client_order_id` that was used before has it as well)."""
    return ApiError(422, 40010001, message)


def not_found(message: str) -> ApiError:
    return ApiError(404, 40410000, message)
