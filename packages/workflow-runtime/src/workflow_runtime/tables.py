"""The tables of a runtime's store: looked at before they are used, and made where a program need not own them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, cast

from .errors import (
    ConfigurationError,
    InvalidArgumentError,
    QueryLimitReachedError,
    SchemaBehindError,
    SchemaMissingError,
    StoreError,
)
from .logs import get_logger
from .store import WorkflowExecutionStore

__all__ = ["Tables"]

logger = get_logger("workflow_runtime")


class Tables:
    """The tables of one store, as one runtime knows them.

    Args:
        store: Whose tables.
        auto_schema: Whether to make what is missing; `None` for what the store declares.

    Raises:
        InvalidArgumentError: `auto_schema` is something else.
    """

    def __init__(self, store: WorkflowExecutionStore, auto_schema: bool | None) -> None:
        if auto_schema is not None and not isinstance(auto_schema, bool):
            raise InvalidArgumentError("auto_schema", f"must be True, False or None, not {auto_schema!r}")
        self.store = store
        """The store as it was given."""
        self.fit = False
        """True if a look has found, or left, tables that fit."""
        self._makes = store.capabilities.auto_schema if auto_schema is None else auto_schema
        self._under_way: asyncio.Future[StoreError | None] | None = None

    def guarded(self) -> WorkflowExecutionStore:
        """Return the store for callers that know nothing of tables: the first call waits until they are made.

        Where the runtime makes none, it is the store itself: clients look at nothing.
        """
        return cast("WorkflowExecutionStore", _GuardedStore(self)) if self._makes else self.store

    async def made(self) -> None:
        """Make the tables if that is the runtime's business and has not been done; look at nothing otherwise."""
        if self._makes:
            await self.ready()

    async def ready(self) -> None:
        """Look at the tables unless they have fitted before.

        Raises:
            SchemaError: As `look`.
        """
        if not self.fit:
            await self.look()

    async def look(self) -> None:
        """Look at the tables, and make what is missing if that is the runtime's business.

        Of several callers at once one looks. The others wait for it and get what it gets; when it was cancelled, or had
        too few queries, the next one of them looks.

        Raises:
            SchemaError: The tables do not fit, and cannot be made to; says what mends it.
            ConfigurationError: The caller may not send as many queries as it takes to make them.
        """
        # What was under way on another event loop, as in the parent of a fork, may never end here.
        loop = asyncio.get_running_loop()
        while (ending := self._under_way) is not None and ending.get_loop() is loop:
            await asyncio.wait([ending])  # which leaves it alone when this caller is cancelled
            if (failure := ending.result()) is not None:
                raise failure
            if self.fit:
                return
        ending = self._under_way = loop.create_future()
        failure = None
        try:
            await self._check_or_make()
            self.fit = True
        except StoreError as error:
            if not isinstance(error, QueryLimitReachedError):  # the limit is this caller's own
                failure = error
            raise
        finally:
            self._under_way = None
            ending.set_result(failure)

    async def _check_or_make(self) -> None:
        # A check of tables that fit costs little, and a metered store says how much. It needs no right to create
        # anything, and passes tables of a newer release that this one may run on.
        try:
            await self.store.check_schema()
        except (SchemaMissingError, SchemaBehindError):
            if not self._makes:
                raise
        else:
            return
        await self._make()

    async def _make(self) -> None:
        try:
            await self.store.ensure_schema()
        except QueryLimitReachedError as error:
            raise ConfigurationError(
                f"auto_schema: making the tables takes too many queries here ({error}): call `await "
                "store.ensure_schema()` where nothing limits them, as when the program is deployed"
            ) from error
        logger.info("auto_schema: the workflow tables were missing or behind, and are up to date now")


class _GuardedStore:
    """A store whose calls wait for its tables. As soon as these fit, what it gives is the store's own."""

    __slots__ = ("_tables",)

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._tables.store, name)
        if self._tables.fit or name == "capabilities":
            return attribute
        return partial(self._follow if name == "subscribe_events" else self._call, attribute)

    async def _call(self, verb: Callable[..., Awaitable[Any]], /, **arguments: Any) -> Any:
        await self._tables.ready()
        return await verb(**arguments)

    async def _follow(
        self, verb: Callable[..., AsyncGenerator[Any, None]], /, **arguments: Any
    ) -> AsyncGenerator[Any, None]:
        await self._tables.ready()
        async with aclosing(verb(**arguments)) as events:
            async for event in events:
                yield event
