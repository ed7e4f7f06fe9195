"""Loaded by the fuzzer: in half of its requests, puts names that exist in place of those it made up.

Otherwise nearly every request would end at "no such broker" or "no such user", and nothing behind would be reached.
"""

import hashlib
import os
import random
from typing import Any

import schemathesis

_DICE = random.Random(os.environ.get("FUZZ_SEED", "0"))
_USERS = [f"user-{number}" for number in range(1, 7)]  # the last three have no credentials
_KEYS = [hashlib.sha256(user.encode()).hexdigest() for user in _USERS]
_NAMES = {
    "broker": ["ctrader"],
    "userId": _USERS,
    "X-User-Id": _USERS,
    "userKey": [*_KEYS, _KEYS[0][:12]],
    "accountId": ["1000011", "1000012", "1000021"],
}


@schemathesis.hook
def before_call(context: Any, case: Any, **kwargs: Any) -> None:
    """Change the request that is about to be sent."""
    if _DICE.random() < 0.5:
        for part in (case.path_parameters, case.query, case.headers, case.body):
            if isinstance(part, dict):
                _name(part)
        if isinstance(case.body, dict):
            _name_user(case)


def _name(part: dict[str, Any]) -> None:
    for name in part:
        if name in _NAMES and _DICE.random() < 0.9:
            part[name] = _DICE.choice(_NAMES[name])


def _name_user(case: Any) -> None:
    """A body that says for whom it is, which the document only asks of API keys."""
    if case.operation.method.upper() in ("POST", "PUT") and _DICE.random() < 0.5:
        case.body["userId"] = _DICE.choice(_USERS)
