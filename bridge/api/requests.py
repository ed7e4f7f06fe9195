"""What requests may hold: the models that check bodies and parameters and make /openapi.json.

Names are camelCase on the wire. Unknown fields are refused. Must not decide anything: a model checks shape only.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from bridge.api.answers import EnvironmentName, Status
from bridge.api.problems import Problem
from bridge.telemetry.redaction import REDACTOR

UserId = Annotated[str, Field(min_length=1, max_length=2048, description="The app's own id of the user.")]
BrokerName = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z0-9_-]+$", description="Broker.")]
AccountId = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$", description="The broker's id of the account.")
]
UserKeyText = Annotated[
    str,
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
    Field(pattern=r"^[0-9a-f]{12,64}$", description="A user key, or at least 12 hex digits of it."),
]
LONGEST_WAIT_S = 10
LARGEST_PAGE = 1000
UNREADABLE_NAME = "?"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_MESSAGES = {  # where the library speaks of its own types
    "model_type": "must be a JSON object",
    "extra_forbidden": "is not known here",
    "missing": "is required",
    "string_type": "must be a string",
}


class _Request(BaseModel):
    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, strict=True, frozen=True, hide_input_in_errors=True
    )


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True, hide_input_in_errors=True)


class StartRequest(_Request):
    """Start a session, or find the one that runs."""

    user_id: UserId | None = Field(None, description="Required with an API key.")
    broker: BrokerName
    account_id: AccountId | None = None
    environment: EnvironmentName | None = None


class StartWebsocketRequest(StartRequest):
    """As start-session, for older callers: the broker may be left out."""

    broker: BrokerName | None = None  # type: ignore[assignment]


class StopRequest(_Request):
    """Stop a user's session at a broker; without an account, all of them."""

    user_id: UserId | None = Field(None, description="Required with an API key.")
    broker: BrokerName
    account_id: AccountId | None = None


class StopWebsocketRequest(StopRequest):
    """As stop-session, for older callers: the broker may be left out."""

    broker: BrokerName | None = None  # type: ignore[assignment]


ProcessName = Annotated[str, Field(pattern=r"^[0-9a-f]{1,12}$", description="A process, or how its name begins.")]


class DrainRequest(_Request):
    """Which process shall give up its sessions, or take sessions again."""

    owner: ProcessName
    draining: bool = True


class MoveRequest(_Request):
    """Which sessions of the user, and where to."""

    broker: BrokerName | None = None
    account_id: AccountId | None = None
    to: ProcessName | None = Field(None, description="Empty: the process with the most room.")


class NoQuery(_Query):
    """No parameters."""


class StartQuery(_Query):
    """How long to wait for the session to become live or need the user."""

    wait: float = Field(0, ge=0, le=LONGEST_WAIT_S, allow_inf_nan=False, description="Seconds.")


class ListQuery(_Query):
    """Which sessions to list. `after` is the `next` of the page before."""

    status: Status | None = None
    broker: BrokerName | None = None
    after: str | None = Field(None, min_length=1, max_length=512)
    limit: int = Field(100, ge=1, le=LARGEST_PAGE)


class RecordQuery(_Query):
    """Whose record, at which broker, which account."""

    broker: BrokerName | None = None
    account_id: AccountId | None = None
    user_key: UserKeyText | None = None


class BrokerQuery(_Query):
    """Which broker."""

    broker: BrokerName


class _BrowserQuery(BaseModel):
    """What a browser brings along; a broker may add to it, so nothing is refused."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class BeginQuery(_BrowserQuery):
    """The state in the address that `start` answered."""

    state: str = ""


class CallbackQuery(_BrowserQuery):
    """What the broker sends back: a code, or why there is none."""

    state: str = ""
    code: str | None = None
    error: str | None = None


class ConnectRequest(_Request):
    """Begin to connect a broker."""

    user_id: UserId | None = Field(None, description="Required with an API key.")
    return_to: str = Field(min_length=1, max_length=2048, description="Where the browser goes afterwards.")
    scope: Literal["accounts", "trading"] = Field("accounts", description="To look, or to trade as well.")


class CompleteRequest(_Request):
    """Finish connecting, as the same user."""

    user_id: UserId | None = Field(None, description="Required with an API key.")
    ticket: str = Field(min_length=1, max_length=128, description="From the address that the browser came back to.")


class CredentialsRequest(_Request):
    """Credentials of one user at one broker, in the broker's own names."""

    user_id: UserId | None = Field(None, description="Required with an API key.")
    broker: BrokerName
    credentials: dict[str, Any] = Field(max_length=16, description="Such as accessToken and environment.")


def parse(model: type[BaseModel], data: Any, *, where: str) -> Any:
    """Validate `data`. Raises Problem 422 with the path of each refused field; `where` names the whole."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    # no longer while the library's error is handled: it names what was sent, and a fault of ours would print it
    errors = [(_path(each["loc"]) or where, _MESSAGES.get(each["type"], each["msg"])) for each in found[:20]]
    detail = "; ".join(f"{field}: {message}" for field, message in errors[:3])
    raise Problem("invalid-input", detail, errors=errors)


def _path(loc: tuple[int | str, ...]) -> str:
    """A dotted path that is safe to repeat: a name that looks like none comes from the caller and may be a secret."""
    shown = (str(part) if isinstance(part, int) or _NAME.fullmatch(part) else UNREADABLE_NAME for part in loc)
    return REDACTOR.redact(".".join(shown)[:200])
