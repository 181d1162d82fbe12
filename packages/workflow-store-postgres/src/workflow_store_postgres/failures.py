"""Errors of asyncpg and of the server, translated into the contract's errors."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

import asyncpg
from asyncpg import connect_utils
from workflow_runtime.store import (
    ConfigurationError,
    SchemaMissingError,
    StoreAccessError,
    StoreOperationError,
    StoreUnavailableError,
    WorkflowError,
)

__all__ = ["DATABASE_ERRORS", "REMEDY", "SERIALIZATION_STATES", "UNREADABLE_DSN", "database_errors", "opening_error"]

REMEDY = (
    "run `workflow-store-postgres migrate` or `await store.ensure_schema()`, or apply the .sql files in the package's "
    "folder `migrations` with psql"
)

SERIALIZATION_STATES = frozenset({"40001", "40P01"})
"""The server has rolled the statement back because of another one: it may simply be sent again."""

_MISSING_STATES = frozenset({"42P01", "3F000"})
_UNAVAILABLE_CLASSES = ("08", "40", "53", "57", "58")
"""Connections; statements rolled back because of others; disk, memory and connections used up; operators, shutdowns
and timeouts; the machine below the server. All of it passes, or somebody mends it, and the work goes on."""
_UNAVAILABLE_STATES = frozenset(
    {
        "25006",  # read-only: a failover behind a fixed name passes, and an operator's setting is taken back
        "25P03",  # idle in transaction for too long
        "25P04",  # transaction_timeout
        "55006",  # the database is being copied or altered
        "55P03",  # a lock was not available in time
        "72000",  # a snapshot is too old
    }
)
_ACCESS_CLASSES = ("28",)
_ACCESS_STATES = frozenset({"3D000", "42501"})
"""No such database for this program, or a grant is missing: the operator mends it."""
_STATEMENTS_MIXED_UP = "a pooler has mixed up prepared statements: create the pool with statement_cache_size=0"
_NOT_LET_IN = "the server does not let this role in: check user, password and pg_hba.conf"
_HINTS = {
    "25006": "this server takes no writes: a standby, or default_transaction_read_only is on",
    "25P02": "an earlier statement of this transaction failed: leave the transaction",
    "26000": _STATEMENTS_MIXED_UP,
    "28000": _NOT_LET_IN,
    "28P01": _NOT_LET_IN,
    "3D000": "create the database, or correct its name",
    "42501": (
        "the role needs USAGE on the schema and SELECT, INSERT, UPDATE and DELETE on the tables; "
        "the role that migrates needs CREATE on the schema (on the database, to make the schema) "
        "and has to own the tables"
    ),
    "42P05": _STATEMENTS_MIXED_UP,
    "53100": "free space on the server: the work goes on by itself",
}
_REFUSED_SETTING = "unsupported startup parameter"
"""PgBouncer says so under a code that it also uses for what passes."""
UNREADABLE_DSN = (
    "the DSN cannot be read; it looks like postgresql://user:password@host:5432/database, and characters of user and "
    "password such as / @ : # ? % have to be percent-encoded: urllib.parse.quote(password, safe='')"
)
_NOT_REACHED: Sequence[tuple[type[Exception], str]] = (
    (TimeoutError, "the server did not answer to a new connection in time"),
    (socket.gaierror, "the name of the host is not known; are special characters in the DSN percent-encoded?"),
    (FileNotFoundError, "there is no such socket, certificate or key file"),
)
_REFUSED_SETTING_HINT = "the pooler refuses it: leave it out of server_settings, and use ALTER ROLE ... SET instead"
_UNUSABLE = (
    asyncpg.ClientConfigurationError,
    asyncpg.UnsupportedClientFeatureError,
    asyncpg.UnsupportedServerFeatureError,
)
DATABASE_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


@contextmanager
def database_errors() -> Iterator[None]:
    """Raise what goes wrong inside in the contract's words, with the original as the cause."""
    try:
        yield
    except DATABASE_ERRORS as error:
        raise _store_error(error) from error


def opening_error(error: BaseException, *, from_asyncpg: bool = False) -> BaseException:
    """Return what went wrong while a connection was opened in the contract's words, and in nothing but these.

    What asyncpg and the server say then quotes the DSN: host, port and names, and of a DSN that was misread any part
    of the password. So neither their words nor their exceptions are in what this gives, not even as its context; raise
    it where no exception is being handled. What other functions raise that a pool calls is given as it is.

    Args:
        error: What was raised.
        from_asyncpg: Whether nothing but asyncpg can have raised it.
    """
    if isinstance(error, WorkflowError) or not isinstance(error, Exception):
        return error
    if _is_about_the_pool(error):
        return _caused_by(error, _store_error(error))
    if from_asyncpg or isinstance(error, DATABASE_ERRORS) or _is_raised_below(error.__traceback__):
        return _caused_by(_without_words(error), _opening_error(error))
    return error


def _caused_by(cause: Exception | None, error: WorkflowError) -> WorkflowError:
    error.__cause__ = cause
    return error


def _is_about_the_pool(error: Exception) -> bool:
    return isinstance(error, asyncpg.InterfaceError) and str(error).startswith("pool is")


def _is_raised_below(traceback: TracebackType | None) -> bool:
    """Return True if the error comes from reading the DSN or other connection settings."""
    while traceback is not None:
        if traceback.tb_frame.f_globals is vars(connect_utils):
            return True
        traceback = traceback.tb_next
    return False


def _opening_error(error: Exception) -> WorkflowError:
    if isinstance(error, asyncpg.PostgresError):
        return _server_error(error.sqlstate or "", _REFUSED_SETTING if _refuses_setting(error) else _name(error))
    for kinds, problem in _NOT_REACHED:
        if isinstance(error, kinds):
            return StoreUnavailableError(problem)
    if isinstance(error, OSError):
        return StoreUnavailableError(f"the server cannot be reached ({_name(error)})")
    if isinstance(error, (ValueError, OverflowError)):
        return ConfigurationError(UNREADABLE_DSN)
    if isinstance(error, (TypeError, AttributeError)):
        return ConfigurationError("no connection can be made with a DSN or options of these types")
    return StoreUnavailableError(f"the connection broke while it was opened ({_name(error)})")


def _refuses_setting(error: asyncpg.PostgresError) -> bool:
    return str(error).startswith(_REFUSED_SETTING)


def _name(error: Exception) -> str:
    return type(error).__name__.removesuffix("Error")


def _without_words(error: Exception) -> Exception | None:
    """Return the server's code for those who decide by it."""
    if not isinstance(error, asyncpg.PostgresError):
        return None
    bare: Exception = type(error)("(what it says may quote the DSN)")
    bare.sqlstate = error.sqlstate  # type: ignore[attr-defined]  # asyncpg ships no types
    return bare


def _store_error(error: Exception) -> WorkflowError:
    if isinstance(error, asyncpg.PostgresError):
        return _server_error(error.sqlstate or "", str(error))
    if isinstance(error, TimeoutError):
        return StoreUnavailableError("no answer, or no free connection, in time")
    if isinstance(error, _UNUSABLE):
        return ConfigurationError(f"the connection cannot be configured: {error}")
    if isinstance(error, asyncpg.InterfaceError) and str(error).startswith("pool is"):
        return ConfigurationError(f"the store's {error}")
    if isinstance(error, ValueError):
        return StoreOperationError(str(error))
    return StoreUnavailableError(str(error) or type(error).__name__)


def _server_error(state: str, text: str) -> WorkflowError:
    if state in _MISSING_STATES:
        return SchemaMissingError(REMEDY)
    if text.startswith(_REFUSED_SETTING):
        return StoreOperationError(f"{text} ({state}); {_REFUSED_SETTING_HINT}")
    hint = _HINTS.get(state)
    told = f"{text} ({state})" + (f"; {hint}" if hint else "")
    if state in _UNAVAILABLE_STATES or state.startswith(_UNAVAILABLE_CLASSES):
        return StoreUnavailableError(told)
    if state in _ACCESS_STATES or state.startswith(_ACCESS_CLASSES):
        return StoreAccessError(told)
    return StoreOperationError(told)
