"""The contract on a log in partitions: by cases that read, write or remove events, or the whole of it.

By default the first two cases of each clause about logs, claims, forks and deletion.
`WORKFLOW_CONTRACT_PARTITIONS=all` takes the whole contract, as `nox -s release` does.
"""

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
from workflow_contract_tests import Case, catalogue
from workflow_contract_tests.certification import run_case
from workflow_store_postgres import get_partition_sql
from workflow_test_support.harnesses.postgres import harness_on
from workflow_test_support.servers.database_pool import DatabasePool, database_pool
from workflow_test_support.servers.postgres_databases import new_template

CASES = [case for case in catalogue() if case.capability != "metered"]  # which this store does not declare
HOW_MANY = os.environ.get("WORKFLOW_CONTRACT_PARTITIONS", "some")
ABOUT_EVENTS = ("LOG-", "FORK-", "RETAIN-", "CLAIM-", "PAYLOAD-", "FENCE-", "OP-", "SUBSCRIBE-", "RETRY-", "TX-")
"""Clauses, by their beginnings, whose cases read, write or remove events."""


def chosen() -> list[Case]:
    """Return all cases, or the first two of each clause about events."""
    if HOW_MANY == "all":
        return CASES
    seen: Counter[str] = Counter()
    some = []
    for case in CASES:
        if any(clause.startswith(ABOUT_EVENTS) and seen[clause] < 2 for clause in case.clauses):
            some.append(case)
        seen.update(case.clauses)
    return some


@pytest.fixture(scope="module")
def divided_databases(server_dsn: str, template: str) -> Iterator[DatabasePool]:
    """Databases whose log is in partitions."""
    with (
        new_template(server_dsn, template, get_partition_sql(4)) as divided,
        database_pool(server_dsn, divided) as pool,
    ):
        yield pool


@pytest.fixture
async def divided_dsn(divided_databases: DatabasePool) -> AsyncIterator[str]:
    async with divided_databases.database() as dsn:
        yield dsn


@pytest.mark.parametrize("case", chosen(), ids=lambda case: case.id)
async def test_contract_holds_on_a_log_in_partitions(case: Case, divided_dsn: str) -> None:
    await run_case(case, harness_on(divided_dsn))
