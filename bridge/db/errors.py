"""What a failure of asyncpg, the network or the server means for whoever asked: the errors of this room.

Texts name classes, codes and objects of the schema, never an address, a user id, a password or a value out of a
statement: what the server says may quote whole rows, so a cause that may is not even kept as a cause.
"""

from __future__ import annotations

import socket
import ssl

import asyncpg

from core.errors import BridgeError, ConfigurationError, Conflict, Unavailable

FOREIGN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""Everything that asyncpg, the network and the server raise."""


class DatabaseUnavailable(Unavailable):
    """The database did not answer, cut the connection or cannot write now. What was asked may have been committed."""


class DatabaseRefusesUs(DatabaseUnavailable):
    """Address, user, password, database or TLS are not what the server wants; waiting alone does not help."""


class DatabaseReadOnly(DatabaseUnavailable):
    """This server takes no writes: another one is the primary now, and the next connection is made anew."""


class DatabaseContended(DatabaseUnavailable):
    """Somebody else was in the way (deadlock, serialization, a lock not had in time). Nothing was done; try again."""


class DatabaseConflict(Conflict):
    """A constraint refused the statement; `constraint` names it."""

    def __init__(self, message: str, *, constraint: str | None) -> None:
        super().__init__(message)
        self.constraint = constraint


class DatabaseRefusedValue(DatabaseConflict):
    """A value cannot be stored as what it should be (out of range, too long, a zero byte, not JSON)."""


class DatabaseMisused(BridgeError):
    """The schema or the statement is not what this version needs (a missing table or column, a wrong argument)."""


class DatabaseDenied(DatabaseMisused):
    """The database's user may not do that: a grant is missing."""


_UNAVAILABLE = {  # by code, or by its first two characters
    "08": "the connection was cut",
    "25P03": "the transaction waited too long for its next statement",
    "28": "it refuses our user or password",
    "3D": "there is no such database",
    "53300": "it has too many connections",
    "53": "it is out of memory, disk or connections",
    "57014": "a statement took too long",
    "57P01": "it is shutting down",
    "57P02": "it has crashed and is starting again",
    "57P03": "it is starting or stopping",
    "57P05": "it ended an idle session",
}
_CONTENDED = {"40001": "serialization failure", "40P01": "deadlock", "55P03": "a lock was not had in time"}
_MAY_BE_QUOTED = ("08P01", "0A", "25", "3F", "42", "P0", "XX")  # these name objects of the schema and settings only


def translated(error: Exception) -> BridgeError:
    """What `error`, one of FOREIGN, means for the caller."""
    if isinstance(error, asyncpg.PostgresError):
        return _said_by_server(error)
    if isinstance(error, asyncpg.ClientConfigurationError):
        return ConfigurationError(f"DATABASE_URL: {' '.join(str(error.args[0]).split())}")
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        return DatabaseRefusedValue("an argument cannot be sent as what the statement expects", constraint=None)
    if isinstance(error, asyncpg.InterfaceError) and not any(word in str(error) for word in ("connection", "pool")):
        return DatabaseMisused("a statement was not called as it is written")  # such as with too few arguments
    tls = isinstance(error, ssl.SSLError) or (isinstance(error, ConnectionError) and "SSL" in str(error))
    kind = DatabaseRefusesUs if tls else DatabaseUnavailable
    return kind(f"the database cannot be used now: {_reason(error)}")


def cause_of(error: Exception) -> Exception | None:
    """`error`, unless what it says may quote values; for `raise … from`."""
    if isinstance(error, asyncpg.PostgresError):
        for name in ("detail", "where", "internal_query", "hint"):
            setattr(error, name, None)
        code = getattr(error, "sqlstate", None) or ""
        return None if code[:2] in ("22", "23", "54", "P0") else error
    return None if isinstance(error, ValueError) else error


def _said_by_server(error: asyncpg.PostgresError) -> BridgeError:
    code: str = getattr(error, "sqlstate", None) or ""
    if code in _CONTENDED:
        return DatabaseContended(f"the database could not do that now: {_CONTENDED[code]}")
    if code == "25006":
        return DatabaseReadOnly("the database cannot be used now: this server is read-only")
    if code.startswith("23"):
        return DatabaseConflict(
            f"a constraint refused that: {type(error).__name__}", constraint=getattr(error, "constraint_name", None)
        )
    if code.startswith(("22", "54")):
        return DatabaseRefusedValue(f"a value was refused: {type(error).__name__}", constraint=None)
    if code == "42501":
        return DatabaseDenied(f"the database's user may not do that: {_quoted(error, code)}")
    if code.startswith(("0A", "25P02", "26", "2F", "34", "3F", "42", "P0")):
        return DatabaseMisused(f"the database refused a statement: {_quoted(error, code)}")
    reason = (
        _quoted(error, code)
        if code == "08P01"
        else _UNAVAILABLE.get(code) or _UNAVAILABLE.get(code[:2]) or _quoted(error, code)
    )
    kind = DatabaseRefusesUs if code.startswith(("28", "3D")) else DatabaseUnavailable
    return kind(f"the database cannot be used now: {reason}")


def _quoted(error: asyncpg.PostgresError, code: str) -> str:
    text = str(error.args[0]) if error.args and code.startswith(_MAY_BE_QUOTED) else type(error).__name__
    return f"{' '.join(text.split())} ({code})" if code else type(error).__name__


def _reason(error: Exception) -> str:
    """Why the network or the client gave up, without the address."""
    if isinstance(error, socket.gaierror):
        return "its host name is not known"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or 'no agreement'}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens at its address"
    if isinstance(error, ConnectionError) and "SSL" in str(error):
        return "it does not speak TLS, which the address asks for"
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "no server of the address takes writes"
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return "the connection was cut"  # or said something in the middle of that, and cannot be used again
    return type(error).__name__
