"""Faults in how a D1 store counts its queries, put into one that is open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Any

from workflow_runtime.metering import spend_queries
from workflow_runtime.store import QueryCosts

__all__ = ["MixedUpRows", "count_afterwards", "declaring", "look_for_nothing", "send_one_by_one"]


async def _uncounted(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return await asyncio.create_task(call(), context=Context())


def look_for_nothing(store: Any) -> None:
    """Count no single statement."""
    right = store._sender.rows
    store._sender.rows = lambda name, *values: _uncounted(lambda: right(name, *values))


def count_afterwards(store: Any) -> None:
    """Count a batch when it is done."""
    right = store._sender.batch

    async def batch(statements: Sequence[Any], *rest: Any, **options: Any) -> Any:
        results = await _uncounted(lambda: right(statements, *rest, **options))
        spend_queries(len(statements))
        return results

    store._sender.batch = batch


def send_one_by_one(store: Any) -> None:
    """Count and send each statement of a batch as if it were alone."""
    right = store._sender.batch

    async def batch(statements: Sequence[Any], *rest: Any, **options: Any) -> Any:
        return [(await right([statement]))[0] for statement in statements]

    store._sender.batch = batch


def declaring(**costs: int) -> Callable[[Any], None]:
    """Make a fault of declaring other costs."""

    def declare(store: Any) -> None:
        declared: QueryCosts = store._capabilities.metered
        store._capabilities = replace(store._capabilities, metered=replace(declared, **costs))

    return declare


@dataclass(frozen=True)
class _Result:
    results: Sequence[Any]
    meta: dict[str, int]


class _Statement:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def bind(self, *values: Any) -> _Statement:
        return _Statement(self.inner.bind(*values))

    async def all(self) -> _Result:
        return _mixed_up(await self.inner.all())


class MixedUpRows:
    """A database that tells of rows, in a store that takes those read for those written."""

    def __init__(self, database: Any) -> None:
        self._database = database

    def prepare(self, sql: str) -> _Statement:
        return _Statement(self._database.prepare(sql))

    async def batch(self, statements: Sequence[Any]) -> list[_Result]:
        return [_mixed_up(result) for result in await self._database.batch([each.inner for each in statements])]


def _mixed_up(result: Any) -> _Result:
    changes = result.meta["changes"]
    return _Result(result.results, {"changes": changes, "rows_read": changes, "rows_written": len(result.results)})
