"""The Postgres store keeps the contract through PgBouncer in transaction mode."""

from typing import Any

import asyncpg
import pytest
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_store_postgres import PostgresWorkflowStore


class TestContract(StoreContract):
    server_may_be_absent = True

    @pytest.fixture
    def harness(self, dsn: str, pooled_dsn: str, business: dict[str, Any]) -> StoreHarness:
        options: dict[str, Any] = {"dsn": pooled_dsn, "statement_cache_size": 0, "listen": False}

        async def corrupt(run_id: str) -> None:
            connection = await asyncpg.connect(dsn)
            await connection.execute("DELETE FROM workflow_run_states WHERE run_id = $1", run_id)
            await connection.close()

        return StoreHarness(
            lambda: PostgresWorkflowStore.connect(**options),
            contract_version="0.1",
            process_factory="workflow_store_postgres:PostgresWorkflowStore.connect",
            process_arguments=options,
            corrupt=corrupt,
            **business,
        )
