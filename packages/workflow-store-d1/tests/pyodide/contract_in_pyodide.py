"""Runs inside Pyodide: holds the store on a Worker's binding to the cases of the contract that it is told."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from workflow_contract_tests import StoreHarness, catalogue, certify_async
from workflow_store_d1 import BindingD1Database, D1Transaction, D1WorkflowStore
from workflow_test_support.servers.case_database import CaseDatabase

NO_PROCESSES = "Python in a Worker cannot start processes"

DAMAGE = "UPDATE workflow_run_states SET input = '{\"cut' WHERE run_id = ?1"


async def serve(binding: Any, emit: Callable[[Any], None], receive: Callable[[], Awaitable[str]]) -> None:
    """Run one case after the other, each on fresh data, and tell what it found."""
    cases = {case.id: case for case in catalogue()}
    database = BindingD1Database(binding)
    tables = CaseDatabase()
    while True:
        case = cases[await receive()]
        await tables.afresh(database, with_tables=not case.fresh)
        report = await certify_async(lambda: harness(binding, database), [case])
        emit({"store": report.store, "capabilities": list(report.capabilities)} | asdict(report.results[0]))


def harness(binding: Any, database: BindingD1Database) -> StoreHarness:
    """Give the store to the kit: each handle takes the binding for itself, as each Worker would."""

    async def corrupt(run_id: str) -> None:
        await database.prepare(DAMAGE).bind(run_id).run()

    async def write_business(tx: D1Transaction, key: str) -> None:
        tx.add("INSERT INTO business VALUES (?1)", key)

    async def read_business() -> list[str]:
        return [row["key"] for row in (await database.prepare("SELECT key FROM business").all()).results]

    return StoreHarness(
        lambda: D1WorkflowStore(binding),
        contract_version="0.1",
        corrupt=corrupt,
        write_business=write_business,
        read_business=read_business,
        not_applicable={"processes": NO_PROCESSES},
    )
