"""The way to the server: its functions, called by name, and its errors in the words of the contract."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any, TypeAlias

from valkey import exceptions
from valkey.asyncio import Valkey
from workflow_runtime.store import (
    ConfigurationError,
    Home,
    SchemaAheadError,
    SchemaBehindError,
    SchemaMissingError,
    StoreAccessError,
    StoreError,
    StoreOperationError,
    StoreUnavailableError,
    Timer,
    WorkflowVersion,
)

__all__ = ["Reply", "Server"]

FORMAT = 1
"""The format of the records. Another one takes other names of functions, so that both can be in use at once."""
LUA_FILES = ("records", "lives", "writes", "claims", "inbox", "schedules", "reads")
ANSWER_S = 30.0
"""How long a call waits for its answer."""
REMEDY = "call ensure_schema() once"
UNAVAILABLE = ("OOM", "MISCONF", "LOADING", "READONLY", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS")
"""The first words of errors after which nothing was done and a later try may succeed."""

Reply: TypeAlias = Any
"""A reply of a function: nested lists of text, integers and `None`."""


class Server:
    """The connections of one store, to a server whose functions are the store's methods.

    Args:
        url: Where the server is, as the client takes it.
        prefix: What the names of all keys of this store begin with.
        max_connections: The most connections at once; a call waits for one to be free.
    """

    def __init__(self, url: str, prefix: str, max_connections: int) -> None:
        self.url = url
        self.prefix = prefix
        self.home = Home("this Valkey store")
        self.client = make_client(url)
        self._free = asyncio.Semaphore(max_connections)
        self._execute: Callable[..., Awaitable[Any]] = self.client.execute_command  # the client leaves it untyped
        self._closed = False

    async def call(self, verb: str, **arguments: Any) -> Reply:
        """Call one function: one atomic unit. Arguments that are `None` are left out."""
        given = json.dumps({name: value for name, value in arguments.items() if value is not None}, default=_plain)
        return await self._send("FCALL", f"workflow_{FORMAT}_{verb}", 1, self.prefix, given)

    async def load_functions(self) -> None:
        """Load the functions into the server, in place of those of another release with the same format."""
        folder = resources.files(__package__) / "lua"
        source = "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in LUA_FILES)
        await self._send("FUNCTION", "LOAD", "REPLACE", source)
        await self.call("read_format", format=FORMAT)

    async def _send(self, *command: str | int) -> Reply:
        if self._closed:
            raise ConfigurationError("this Valkey store is closed")
        self.home.check()
        try:
            async with self._free, asyncio.timeout(ANSWER_S):
                return await self._execute(*command)
        except (exceptions.ValkeyError, OSError) as error:
            raise translate_error(error) from error

    async def check_format(self) -> None:
        """Raise unless functions and records are there and fit this code."""
        stored = int(await self.call("read_format"))
        if stored == 0:
            raise SchemaMissingError(REMEDY)
        if stored < FORMAT:
            raise SchemaBehindError((f"format {FORMAT}",), REMEDY)
        if stored > FORMAT:
            raise SchemaAheadError((f"format {stored}",), "upgrade workflow-store-valkey")

    async def close(self) -> None:
        """Close the connections, unless they are those of the process from which this one was forked."""
        self._closed = True
        if not self.home.is_inherited:
            await self.client.aclose()
            await self.client.connection_pool.disconnect()


def _plain(value: Any) -> list[Any]:
    """Return what stands for a value in the arguments of a function."""
    if isinstance(value, Timer):
        return [value.timer_id, value.fire_at_ms]
    if isinstance(value, WorkflowVersion):
        return [value.workflow_id, value.version]
    return list(value)  # a sequence of some other kind


def make_client(url: str) -> Valkey:
    """Make a client. It repeats nothing by itself: a claim whose answer was lost must not be made twice.

    Its own timeout is off: on Python 3.11 that may swallow the cancellation of a task.
    """
    client: Valkey = Valkey.from_url(url, decode_responses=True, encoding_errors="replace", socket_timeout=None)
    return client


def translate_error(error: Exception) -> StoreError:
    """Return what an error of the client or of the server means to the caller."""
    text = str(error) or type(error).__name__
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError | exceptions.NoPermissionError):
        return StoreAccessError(text)
    if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError):
        return StoreUnavailableError(text)
    if "Function not found" in text:
        return SchemaMissingError(REMEDY)
    if isinstance(error, exceptions.ReadOnlyError | exceptions.OutOfMemoryError):
        return StoreUnavailableError(text)
    if text.startswith(UNAVAILABLE):
        return StoreUnavailableError(text)
    return StoreOperationError(text)
