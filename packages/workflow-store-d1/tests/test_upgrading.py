"""Tables that are in use: what expands, indexes that nobody needs, what contracts, and whose tables they are."""

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from workflow_migrations import quote_identifier
from workflow_runtime.errors import ConfigurationError, SchemaBehindError, WrongEnvironmentError
from workflow_runtime.metering import meter_queries
from workflow_runtime.store import RunStatus
from workflow_store_d1 import D1WorkflowStore, get_migration_sql, get_migrations
from workflow_test_support.workloads import odd_names

OpenStore = Callable[..., Awaitable[D1WorkflowStore]]

FIRST, EXPAND, FAILED, TERMINAL, CONTRACT, WAITING, QUEUE = (migration.migration_id for migration in get_migrations())
RUN: dict[str, Any] = {"workflow_id": "w", "workflow_version": "1", "input": "1", "operation_id": "o", "now_ms": 1}


def run_script(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def recorded(path: Path, table: str = "workflow_schema_migrations") -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT migration_id FROM {quote_identifier(table)} ORDER BY migration_id")
        return [migration_id for (migration_id,) in rows]


@pytest.fixture
def old(path: Path) -> None:
    """The tables of the first release."""
    run_script(path, get_migration_sql(to_id=FIRST))


@pytest.mark.usefixtures("old")
async def test_tables_in_use_are_expanded_and_indexed_and_contracted_on_request(
    path: Path, open_store: OpenStore
) -> None:
    store = await open_store()
    with pytest.raises(SchemaBehindError) as behind:
        await store.check_schema()
    assert behind.value.missing == (EXPAND,), "nothing else is needed"
    await store.ensure_schema(online=False)
    assert recorded(path) == [FIRST, EXPAND]
    await store.check_schema(deep=True)
    for _ in range(2):
        await store.ensure_schema()
        assert recorded(path) == [FIRST, EXPAND, FAILED, TERMINAL, WAITING, QUEUE]
        await store.check_schema(deep=True)
    await store.ensure_schema(contract=True)
    assert recorded(path) == [FIRST, EXPAND, FAILED, TERMINAL, CONTRACT, WAITING, QUEUE]
    await store.check_schema(deep=True)


@pytest.mark.usefixtures("old")
async def test_contracting_builds_indexes_first(path: Path, open_store: OpenStore) -> None:
    """What contracts takes away what an index was built in place of."""
    await (await open_store()).ensure_schema(contract=True, online=False)
    assert recorded(path) == [FIRST, EXPAND, FAILED, TERMINAL, CONTRACT, WAITING, QUEUE]


@pytest.mark.usefixtures("old")
async def test_old_tables_serve_what_the_indexes_are_for(open_store: OpenStore) -> None:
    """New code on tables whose indexes are not there yet."""
    store = await open_store()
    await store.ensure_schema(online=False)
    for run_id in ("a", "b"):
        await store.create_run(run_id=run_id, **RUN)
        await store.terminate_run(run_id=run_id, reason="no longer wanted", now_ms=2)
    page = await store.list_runs(limit=5, statuses=[RunStatus.ABORTED])
    assert [run.run_id for run in page.runs] == ["a", "b"]
    assert (await store.count_runs(statuses=[RunStatus.ABORTED])).get(RunStatus.ABORTED) == 2
    assert await store.prune_runs(statuses=[RunStatus.ABORTED], finished_before_ms=3, limit=1) == 1


async def test_names_of_the_users_own(path: Path, open_store: OpenStore) -> None:
    """From the first release to the last, where names have quotes, upper case, 63 bytes and reserved words."""
    run_script(path, get_migration_sql(odd_names.TABLES, to_id=FIRST))
    store = await open_store(tables=odd_names.TABLES)
    await store.ensure_schema(contract=True)
    await store.check_schema(deep=True)
    assert recorded(path, odd_names.TABLES["schema_migrations"]) == [
        FIRST,
        EXPAND,
        FAILED,
        TERMINAL,
        CONTRACT,
        WAITING,
        QUEUE,
    ]


async def test_new_tables_say_which_environment_they_belong_to(path: Path, open_store: OpenStore) -> None:
    store = await open_store(environment="production")
    await store.ensure_schema()
    await store.ensure_schema()
    with meter_queries() as meter:
        await store.check_schema()
    assert meter.queries == 1, "a look at tables that fit is one statement"
    for other in (None, "staging"):
        store = await open_store(environment=other)
        for call in (store.check_schema, store.ensure_schema):
            with pytest.raises(WrongEnvironmentError, match="belong to the environment 'production'") as refused:
                await call()
            assert (refused.value.recorded, refused.value.expected) == ("production", other)
    run_script(path, "UPDATE workflow_schema_migrations SET environment = 'staging' WHERE migration_id LIKE '0000%'")
    with pytest.raises(WrongEnvironmentError, match="'staging'"):
        await (await open_store(environment="production")).check_schema()
    run_script(path, "UPDATE workflow_schema_migrations SET environment = 'staging'")
    await (await open_store(environment="staging")).check_schema()


@pytest.mark.usefixtures("old")
async def test_tables_in_use_are_not_marked_by_themselves(
    path: Path, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Programs that do not say where they belong would be refused in the middle of a deploy."""
    store = await open_store(environment="production")
    await store.ensure_schema(contract=True)
    with meter_queries() as meter:
        await store.check_schema()
    assert meter.queries == 1, "a host with few queries pays for the warning by none"
    assert 'mark them with UPDATE "workflow_schema_migrations" SET environment' in caplog.text
    caplog.clear()
    run_script(path, "UPDATE workflow_schema_migrations SET environment = 'production'")
    await store.check_schema()
    assert not caplog.records


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x ", 5])
async def test_environment_that_is_no_name_is_refused(path: Path, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="environment"):
        await D1WorkflowStore.open(path, environment=name)
    assert not path.exists()
