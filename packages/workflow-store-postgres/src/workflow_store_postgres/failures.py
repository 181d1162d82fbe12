"""What the driver and the server say went wrong, in the contract's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from workflow_runtime.errors import (
    ConfigurationError,
    SchemaMissingError,
    StoreOperationError,
    StoreUnavailableError,
    WorkflowError,
)

__all__ = ["REMEDY", "SERIALIZATION_STATES", "driver_errors"]

REMEDY = "run `await store.ensure_schema()`, or apply the .sql files in the package's folder `migrations` with psql"

SERIALIZATION_STATES = frozenset({"40001", "40P01"})
"""The server has rolled the statement back because of another one: it may simply be sent again."""

_MISSING_STATES = frozenset({"42P01", "3F000"})
_UNAVAILABLE_CLASSES = ("08", "57P", "40")
"""Connection exceptions, shutdowns of the server and of sessions, transactions rolled back by the server."""
_UNAVAILABLE_STATES = frozenset(
    {
        "25P03",  # idle in transaction for too long
        "53200",  # out of memory
        "53300",  # too many connections
        "53400",  # a configured limit
        "55P03",  # a lock was not available in time
        "57014",  # statement_timeout
    }
)
_HINTS = {
    "25006": "this server takes no writes: a standby, or default_transaction_read_only is on",
    "26000": "a pooler has mixed up prepared statements: create the pool with statement_cache_size=0",
    "42P05": "a pooler has mixed up prepared statements: create the pool with statement_cache_size=0",
}
_DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


@contextmanager
def driver_errors() -> Iterator[None]:
    """Raise what goes wrong inside in the contract's words, with the original as the cause."""
    try:
        yield
    except _DRIVER_ERRORS as error:
        raise _store_error(error) from error


def _store_error(error: Exception) -> WorkflowError:
    if isinstance(error, asyncpg.PostgresError):
        return _server_error(error.sqlstate or "", str(error))
    if isinstance(error, TimeoutError):
        return StoreUnavailableError("no answer, or no free connection, in time")
    if isinstance(error, asyncpg.ClientConfigurationError):
        return ConfigurationError(f"the connection cannot be configured: {error}")
    if isinstance(error, asyncpg.InterfaceError) and str(error).startswith("pool is"):
        return ConfigurationError(f"the store's {error}")
    if isinstance(error, ValueError):
        return StoreOperationError(str(error))
    return StoreUnavailableError(str(error) or type(error).__name__)


def _server_error(state: str, text: str) -> WorkflowError:
    if state in _MISSING_STATES:
        return SchemaMissingError(REMEDY)
    if state in _UNAVAILABLE_STATES or state.startswith(_UNAVAILABLE_CLASSES):
        return StoreUnavailableError(f"{text} ({state})")
    hint = _HINTS.get(state)
    return StoreOperationError(f"{text} ({state})" + (f"; {hint}" if hint else ""))
