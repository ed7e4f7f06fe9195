"""What every admin body is made of: strict about names, camelCase, amounts as JSON numbers or strings."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from core.errors import InvalidInput


def _exact(value: Any) -> Any:
    """A JSON float as the decimal it was written as."""
    return repr(value) if isinstance(value, float) else value


Number = Annotated[Decimal, BeforeValidator(_exact), Field(allow_inf_nan=False, max_digits=30)]
Positive = Annotated[Number, Field(gt=0)]


class Body(BaseModel):
    """Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)


def impossible(cause: ValidationError) -> InvalidInput:
    """The first thing that is wrong with a body, and the field's path."""
    first = cause.errors()[0]
    return InvalidInput(str(first["msg"]), field=".".join(map(str, first["loc"])))
