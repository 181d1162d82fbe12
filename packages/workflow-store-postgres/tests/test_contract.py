"""The Postgres store keeps the contract."""

from typing import Any

import asyncpg
import pytest
from workflow_contract_tests import Statements, StoreHarness
from workflow_contract_tests.catalogue import Case, catalogue
from workflow_contract_tests.certification import run_case
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_store_postgres import PostgresWorkflowStore, claims


def watched_connection(statements: Statements) -> type[asyncpg.Connection]:
    """Make the class of a connection whose statements can be disturbed, also those that begin and end transactions."""

    class WatchedConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
        async def fetch(self, *arguments: Any, **options: Any) -> Any:
            return await statements.send(lambda: super(WatchedConnection, self).fetch(*arguments, **options))

        async def execute(self, *arguments: Any, **options: Any) -> Any:
            return await statements.send(lambda: super(WatchedConnection, self).execute(*arguments, **options))

    return WatchedConnection


class TestContract(StoreContract):
    @pytest.fixture
    def harness(self, dsn: str, business: dict[str, Any]) -> StoreHarness:
        statements = Statements()
        connection_class = watched_connection(statements)

        async def corrupt(run_id: str) -> None:
            connection = await asyncpg.connect(dsn)
            await connection.execute("DELETE FROM workflow_run_states WHERE run_id = $1", run_id)
            await connection.close()

        return StoreHarness(
            lambda: PostgresWorkflowStore.connect(dsn, connection_class=connection_class),
            contract_version="0.1",
            statements=statements,
            process_factory="workflow_store_postgres:PostgresWorkflowStore.connect",
            process_arguments={"dsn": dsn},
            corrupt=corrupt,
            **business,
        )


CLAIMS = [case for case in catalogue() if {"CLAIM-4", "CLAIM-10"} & set(case.clauses) and not case.needs]


@pytest.mark.parametrize("case", CLAIMS, ids=lambda case: case.id)
async def test_claim_that_asks_once_keeps_the_contract(monkeypatch: pytest.MonkeyPatch, dsn: str, case: Case) -> None:
    """The plain form of a claim, `FOR UPDATE SKIP LOCKED` and no second try, may come back with nothing."""
    monkeypatch.setattr(claims, "CLAIM_TRIES", 1)
    harness = StoreHarness(
        lambda: PostgresWorkflowStore.connect(dsn),
        contract_version="0.1",
        not_applicable={"processes": "the races between tasks are enough", "corrupt": "nothing is damaged here"},
    )
    await run_case(case, harness)
