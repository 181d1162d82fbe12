"""The Postgres store keeps the contract through PgBouncer in transaction mode."""

import pytest
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_test_support.harnesses.postgres import harness_on


class TestContract(StoreContract):
    server_may_be_absent = True

    @pytest.fixture
    def harness(self, dsn: str, pooled_dsn: str) -> StoreHarness:
        return harness_on(dsn, arguments={"dsn": pooled_dsn, "statement_cache_size": 0, "listen": False})
