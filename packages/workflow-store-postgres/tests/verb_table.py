"""`python verb_table.py`: what each verb costs, in statements and round trips, beside its budget.

The server counts the statements that it executed (pg_stat_statements), a proxy what goes over the wire.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from verb_calls import BY_THE_DRIVER, ONE_TRIP, named, prepare, start, until_quiet
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.relays.postgres_wire import Wire, wire_to
from workflow_test_support.servers.postgres_server import LocalServer

__all__ = ["BUDGET", "VerbCost", "verb_costs"]

BUDGET = 1
"""Statements, and round trips, of every verb."""

SETTINGS = ("shared_preload_libraries=pg_stat_statements", "compute_query_id=on")
AFRESH = "DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE EXTENSION pg_stat_statements"
COUNT = """
SELECT coalesce(sum(calls), 0)::integer FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query !~ 'pg_stat_statements'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerbCost:
    """What one call of a verb cost."""

    work: str
    verb: str
    executed: int
    """Statements, as the server counted them."""
    sent: int
    """Statements, as the wire counted them."""
    trips: int


class Counter:
    """Makes calls and reads both counts."""

    def __init__(self, store: PostgresWorkflowStore, wire: Wire, observer: asyncpg.Connection) -> None:
        self._store = store
        self._wire = wire
        self._observer = observer

    async def cost(self, work: str, verb: str, values: dict[str, Any]) -> VerbCost:
        await until_quiet(self._store)
        before = await self._observer.fetchval(COUNT)
        self._wire.reset()
        await getattr(self._store, verb)(**values)
        sent, trips = self._wire.statements, self._wire.trips
        executed = await self._observer.fetchval(COUNT) - before
        return VerbCost(work=work, verb=verb, executed=executed, sent=sent, trips=trips)


@asynccontextmanager
async def _database() -> AsyncIterator[tuple[PostgresWorkflowStore, Wire, asyncpg.Connection]]:
    with LocalServer(*SETTINGS) as server:
        observer = await asyncpg.connect(server.dsn)
        try:
            await observer.execute("CREATE EXTENSION pg_stat_statements")
            async with wire_to(server.dsn) as wire, PostgresWorkflowStore.connect(wire.dsn, max_size=1) as store:
                yield store, wire, observer
        finally:
            await observer.close()


async def verb_costs() -> list[VerbCost]:
    """Call every verb twice, the first time to have its statement prepared, and give what the second call cost."""
    costs = []
    async with _database() as (store, wire, observer):
        counter = Counter(store, wire, observer)
        for work, (verb, values) in {**ONE_TRIP, **BY_THE_DRIVER}.items():
            await observer.execute(AFRESH)
            await store.ensure_schema()
            await prepare(store)
            await counter.cost(work, verb, await _arguments(store, work, values, "first"))
            costs.append(await counter.cost(work, verb, await _arguments(store, work, values, "second")))
    return costs


async def _arguments(store: PostgresWorkflowStore, work: str, values: dict[str, Any], name: str) -> dict[str, Any]:
    if work not in BY_THE_DRIVER:
        return named(values, name)
    return {"run_id": name, "lease_token": await start(store, name), "operation_id": "o", **values}


async def main() -> int:
    costs = await verb_costs()
    print("| work | verb | statements, by the server | statements, on the wire | round trips | budget |")
    print("|---|---|---|---|---|---|")
    for cost in costs:
        print(f"| {cost.work} | `{cost.verb}` | {cost.executed} | {cost.sent} | {cost.trips} | {BUDGET} |")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
