"""The D1 store on the D1 of workerd: by its REST API, and by the binding of a Worker."""

from __future__ import annotations

import atexit
import functools
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing

from workflow_contract_tests import StoreHarness
from workflow_store_d1 import D1Transaction, D1WorkflowStore
from workflow_test_support.servers.case_database import CaseDatabase
from workflow_test_support.servers.d1_rest import RestDatabase
from workflow_test_support.servers.d1_server import D1Server, d1_server
from workflow_test_support.servers.node_tools import WRANGLER
from workflow_test_support.servers.worker_database import WorkerD1Database

_CUT = "UPDATE workflow_run_states SET input = '{\"cut' WHERE run_id = ?1"


async def _write_business(tx: D1Transaction, key: str) -> None:
    tx.add("INSERT INTO business VALUES (?1)", key)


def rest_harness_on(rest: RestDatabase) -> StoreHarness:
    """Return a harness on a database that has the table of the business, by the REST API."""

    async def corrupt(run_id: str) -> None:
        rest.run(_CUT, run_id)

    async def read_business() -> list[str]:
        return [row["key"] for row in rest.run("SELECT key FROM business")]

    return StoreHarness(
        lambda: D1WorkflowStore.connect_http(**rest.arguments),
        contract_version="0.1",
        process_factory="workflow_store_d1:D1WorkflowStore.connect_http",
        process_arguments=rest.arguments,
        corrupt=corrupt,
        write_business=_write_business,
        read_business=read_business,
        subject={"database": "D1 in workerd", "way": "REST API", "server": WRANGLER},
    )


@asynccontextmanager
async def binding_harness_on(url: str, database: WorkerD1Database) -> AsyncIterator[StoreHarness]:
    """Make a harness on a database that has the table of the business, by the binding of a Worker."""
    with ExitStack() as handles:

        def open_store() -> D1WorkflowStore:
            return D1WorkflowStore(handles.enter_context(closing(WorkerD1Database(url, "DB"))))

        async def corrupt(run_id: str) -> None:
            await database.prepare(_CUT).bind(run_id).run()

        async def read_business() -> list[str]:
            return [row["key"] for row in (await database.prepare("SELECT key FROM business").all()).results]

        yield StoreHarness(
            open_store,
            contract_version="0.1",
            process_factory="workflow_test_support.servers.worker_database:open_store",
            process_arguments={"url": url, "name": "DB"},
            corrupt=corrupt,
            write_business=_write_business,
            read_business=read_business,
            subject={"database": "D1 in workerd", "way": "binding of a Worker", "server": WRANGLER},
        )


@asynccontextmanager
async def rest_harness() -> AsyncIterator[StoreHarness]:
    """Make a harness on a database without rows, by the REST API."""
    async with _emptied("REST"):
        yield rest_harness_on(RestDatabase(_server(), "REST"))


@asynccontextmanager
async def binding_harness() -> AsyncIterator[StoreHarness]:
    """Make a harness on a database without rows, by the binding of a Worker."""
    async with _emptied("DB") as database, binding_harness_on(_server().url, database) as harness:
        yield harness


@asynccontextmanager
async def _emptied(name: str) -> AsyncIterator[WorkerD1Database]:
    with closing(WorkerD1Database(_server().url, name)) as database:
        await _tables(name).afresh(database, with_tables=True)
        yield database


@functools.cache
def _tables(name: str) -> CaseDatabase:
    return CaseDatabase()


@functools.cache
def _server() -> D1Server:
    until_exit = ExitStack()
    atexit.register(until_exit.close)
    return until_exit.enter_context(d1_server(("DB", "REST")))
