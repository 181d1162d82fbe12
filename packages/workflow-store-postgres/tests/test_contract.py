"""The Postgres store keeps the contract."""

import pytest
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.catalogue import Case, catalogue
from workflow_contract_tests.certification import run_case
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_store_postgres import PostgresWorkflowStore, claims
from workflow_test_support.harnesses.postgres import harness_on


class TestContract(StoreContract):
    @pytest.fixture
    def harness(self, dsn: str) -> StoreHarness:
        return harness_on(dsn)


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
