"""A Postgres store that sends every write that may be combined by the statement for many, also one that is alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from workflow_contract_tests import StoreHarness
from workflow_store_postgres import PostgresWorkflowStore

from . import postgres

__all__ = ["CombiningStore", "harness"]


class CombiningStore(PostgresWorkflowStore):
    """A store on which each case of the contract meets the statements that otherwise only many runs at once meet."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for writes in self._combined:
            writes.always = True


@asynccontextmanager
async def harness() -> AsyncIterator[StoreHarness]:
    """Make a harness on a database of a server of our own."""
    async with postgres._databases().database() as dsn:  # noqa: SLF001  # the same server as the other harness's
        yield postgres.harness_on(dsn, store=CombiningStore)
