from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from workflow_runtime.payloads import JsonText, encode_json
from workflow_runtime.store import Awaited, Lease, NewEvent
from workflow_store_d1 import D1WorkflowStore
from workflow_store_d1.local import LocalD1Database
from workflow_test_support.servers.d1_rest import RestDatabase
from workflow_test_support.servers.d1_server import D1Server, d1_server
from workflow_test_support.servers.worker_database import WorkerD1Database, open_empty

NOW_MS = 1_000_000
LEASE_MS = 10_000


class Scenes:
    """Puts runs of a store into the states that tests begin with."""

    now_ms = NOW_MS
    lease_ms = LEASE_MS

    def __init__(self, store: D1WorkflowStore) -> None:
        self.store = store
        self._operations = 0

    def operation(self) -> str:
        self._operations += 1
        return f"operation-{self._operations}"

    def json(self, value: object) -> JsonText:
        return encode_json(value)

    async def queued(self, run_id: str, **options: Any) -> None:
        await self.store.create_run(**self._new(run_id, options))

    async def running(self, run_id: str, **options: Any) -> Lease:
        created = await self.store.create_run(**self._new(run_id, options), owner="worker", lease_ms=LEASE_MS)
        assert created.kind == "created"
        assert created.claim is not None
        return created.claim.lease

    async def append(self, run_id: str, lease: Lease, first: int, payloads: Sequence[JsonText | None]) -> None:
        await self.store.append_events(
            run_id=run_id,
            lease_token=lease.token,
            operation_id=self.operation(),
            expected_next_index=first,
            events=[NewEvent(kind="step", payload=payload) for payload in payloads],
            now_ms=NOW_MS,
            lease_ms=LEASE_MS,
        )

    async def pause(self, run_id: str, lease: Lease, **options: Any) -> None:
        values = {"expected_next_index": 0, "seen_inbox_seq": 0, "now_ms": NOW_MS} | options
        await self.store.mark_run_paused(
            run_id=run_id, lease_token=lease.token, operation_id=self.operation(), **values
        )

    async def waiting(self, run_id: str, signal: str) -> None:
        lease = await self.running(run_id)
        await self.pause(run_id, lease, awaited=[Awaited(kind="signal", name=signal, step_id="wait")])

    def _new(self, run_id: str, options: dict[str, Any]) -> dict[str, Any]:
        facts = {
            "workflow_id": "ship",
            "workflow_version": "1",
            "input": JsonText('{"order":1}'),
            "operation_id": self.operation(),
            "now_ms": NOW_MS,
        }
        return {"run_id": run_id, **facts, **options}


@pytest.fixture(scope="session")
def d1() -> Iterator[D1Server]:
    """Real D1, in workerd, one for each process of pytest's: a database for its binding and one for the REST API."""
    with d1_server(("DB", "REST")) as server:
        yield server


@pytest.fixture(scope="session")
def rest_server(d1: D1Server) -> RestDatabase:
    """The REST API of D1."""
    return RestDatabase(d1, "REST")


@pytest.fixture
def rest(rest_server: RestDatabase) -> RestDatabase:
    """The same with an empty database."""
    rest_server.drop_everything()
    return rest_server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
async def open_store(path: Path) -> AsyncIterator[Callable[..., Awaitable[D1WorkflowStore]]]:
    """Open further handles on the file; those that the test leaves open are closed after it."""
    opened: list[D1WorkflowStore] = []

    async def open_one(**options: Any) -> D1WorkflowStore:
        opened.append(await D1WorkflowStore.open(path, **options))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def open_database(path: Path) -> AsyncIterator[Callable[..., Awaitable[LocalD1Database]]]:
    """The same for databases."""
    opened: list[LocalD1Database] = []

    async def open_one(**options: Any) -> LocalD1Database:
        opened.append(await LocalD1Database.open(path, **options))
        return opened[-1]

    yield open_one
    for database in opened:
        await database.close()


@pytest.fixture
async def store(path: Path) -> AsyncIterator[D1WorkflowStore]:
    async with D1WorkflowStore.open(path) as store:
        await store.ensure_schema()
        yield store


@pytest.fixture
def scenes(store: D1WorkflowStore) -> Scenes:
    return Scenes(store)


@pytest.fixture
def unguarded() -> Callable[[LocalD1Database, str], Awaitable[Any]]:
    """Ask a local file's connection what the database refuses to be asked; gives the first value."""

    async def ask(database: LocalD1Database, sql: str) -> Any:
        def on_the_thread(connection: Any) -> Any:
            connection.set_authorizer(None)
            return connection.execute(sql).fetchone()[0]

        return await database._thread.call(on_the_thread, within_s=10)

    return ask


@pytest.fixture
async def worker_database(d1: D1Server) -> AsyncIterator[WorkerD1Database]:
    """A database of workerd's without tables."""
    async with open_empty(d1.url) as database:
        yield database
