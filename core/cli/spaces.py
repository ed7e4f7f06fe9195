"""Parameter spaces from flags: `fast=int:5:30:5`, `stop=real:0.001:0.01`, `stop=log:0.0001:0.1`, `side=choice:a,b`."""

from __future__ import annotations

import argparse

from core.cli.arguments import value_of
from core.errors import InvalidInput
from core.optimizer.space import Choice, Integer, Log, Parameter, Real, Space

SHAPE = "NAME=int:LOW:HIGH[:STEP], NAME=real:LOW:HIGH, NAME=log:LOW:HIGH or NAME=choice:A,B,..."


def parameter(text: str) -> tuple[str, Parameter]:
    """One named axis, for argparse: raises ArgumentTypeError saying which part of it is wrong."""
    name, found, axis = text.partition("=")
    kind, _, rest = axis.partition(":")
    try:
        if not found or not name.isidentifier():
            raise ValueError
        return name, _axis(kind, rest)
    except InvalidInput as cause:
        raise argparse.ArgumentTypeError(f"{name}: {cause}") from cause
    except ValueError as cause:
        raise argparse.ArgumentTypeError(f"must be {SHAPE}, not {text!r}") from cause


def space_of(named: list[tuple[str, Parameter]]) -> Space:
    """The space. Raises InvalidInput for none, or a name given twice."""
    if not named:
        raise InvalidInput(f"--parameter is missing: {SHAPE}", field="--parameter")
    for name, _ in named:
        if sum(name == other for other, _ in named) > 1:
            raise InvalidInput(f"--parameter: {name} is given twice", field="--parameter")
    return Space(dict(named))


def _axis(kind: str, rest: str) -> Parameter:
    parts = rest.split(":")
    match kind, len(parts):
        case "int", 2 | 3:
            return Integer(*map(int, parts))
        case "real", 2:
            return Real(*map(float, parts))
        case "log", 2:
            return Log(*map(float, parts))
        case "choice", 1 if rest:
            return Choice(tuple(map(value_of, rest.split(","))))
    raise ValueError(kind)
