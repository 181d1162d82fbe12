"""The contract on whatever pool its user has, and behind PgBouncer in transaction mode, by a sample of its cases.

By default one case of each clause that such a pool could break, another one on each pool.
`WORKFLOW_POSTGRES_POOLS=delicate` takes all their cases, `all` the whole contract. Behind PgBouncer
`nox -s "contract(postgres-pgbouncer)"` takes the whole contract.
"""

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from workflow_contract_tests import Case, StoreHarness, catalogue
from workflow_contract_tests.certification import NotDeclaredError, run_case
from workflow_store_postgres import PostgresWorkflowStore


async def decode_json(connection: asyncpg.Connection) -> None:
    """Set the codecs of json that most programs set."""
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=json.dumps, decoder=json.loads)


async def spoil_json(connection: asyncpg.Connection) -> None:
    """Codecs that nothing survives, in binary, as those of quick libraries are."""
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=lambda value: b"spoilt", decoder=lambda value: object(), format="binary"
        )


class OwnRecord(asyncpg.Record):  # type: ignore[misc]  # asyncpg ships no types
    """A record class of the user's."""


def isolation(level: str) -> dict[str, Any]:
    return {"server_settings": {"default_transaction_isolation": level}}


POOLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "json-decoded": {"init": decode_json},
    "json-spoilt": {"init": spoil_json},
    "own-record": {"record_class": OwnRecord},
    "no-statement-cache": {"statement_cache_size": 0},
    "one-connection": {"max_size": 1},
    "serializable": isolation("serializable"),
    "repeatable-read": isolation("repeatable read"),
    "generic-plans": {"server_settings": {"plan_cache_mode": "force_generic_plan"}},
}

DELICATE = {
    "CLAIM-4",
    "LOG-5",
    "NOTIFY-4",
    "OP-1",
    "PAUSE-3",
    "PAYLOAD-2",
    "RETAIN-1",
    "RETAIN-3",
    "RUN-4",
    "SCHEDULE-9",
    "SCHEDULE-14",
    "SIGNAL-2",
    "TX-1",
    "TX-3",
    "TX-4",
    "TX-5",
    "TX-6",
}
# Every verb of a driver, and what holds a connection or meets others.
DELICATE_BEHIND_A_POOLER = {
    "CLAIM-4",
    "OP-1",
    "PAUSE-3",
    "PAYLOAD-2",
    "RUN-4",
    "SCHEDULE-6",
    "SCHEMA-1",
    "SIGNAL-2",
    "TX-2",
}
HOW_MANY = os.environ.get("WORKFLOW_POSTGRES_POOLS", "some")
EVERYTHING = [case for case in catalogue() if not case.needs]


def chosen(turn: int) -> list[Case]:
    """Return the cases of a pool: each pool has another turn, and so other cases of a clause."""
    if HOW_MANY == "all":
        return EVERYTHING
    by_clause = [[case for case in EVERYTHING if clause in case.clauses] for clause in sorted(DELICATE)]
    if HOW_MANY == "delicate":
        return list(dict.fromkeys(case for cases in by_clause for case in cases))
    return list(dict.fromkeys(cases[turn % len(cases)] for cases in by_clause))


BEHIND_A_POOLER = [case for case in EVERYTHING if DELICATE_BEHIND_A_POOLER & set(case.clauses)][::3]
CASES = [(pool, case) for turn, pool in enumerate(POOLS) for case in chosen(turn)]

NewHarness = Callable[[dict[str, Any]], StoreHarness]


@pytest.fixture
async def new_harness(dsn: str, business: dict[str, Any]) -> AsyncIterator[NewHarness]:
    """Make a harness whose handles stand on pools that the test owns."""
    async with AsyncExitStack() as stack:

        def harness(options: dict[str, Any]) -> StoreHarness:
            async def open_store() -> PostgresWorkflowStore:
                pool = await stack.enter_async_context(asyncpg.create_pool(dsn, **{"min_size": 1, **options}))
                return PostgresWorkflowStore(pool)

            return StoreHarness(open_store, contract_version="0.1", **business)

        yield harness


@pytest.mark.parametrize(("pool", "case"), CASES, ids=lambda value: getattr(value, "id", value))
async def test_contract_holds_on_pool(pool: str, case: Any, new_harness: NewHarness) -> None:
    if (pool, case.capability) == ("one-connection", "notify"):
        with pytest.raises(NotDeclaredError):
            await run_case(case, new_harness(POOLS[pool]))
    else:
        await run_case(case, new_harness(POOLS[pool]))


@pytest.mark.parametrize("case", BEHIND_A_POOLER, ids=lambda case: case.id)
async def test_contract_holds_through_the_pooler(case: Any, pooled_dsn: str, business: dict[str, Any]) -> None:
    # What such a pooler needs: no prepared statement outlives its transaction.
    options: dict[str, Any] = {"statement_cache_size": 0, "listen": False}
    await run_case(
        case,
        StoreHarness(lambda: PostgresWorkflowStore.connect(pooled_dsn, **options), contract_version="0.1", **business),
    )
