"""The cost of reading large payloads grows with their number and no faster: bytes that are read are counted."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import NewEvent
from workflow_store_d1 import D1WorkflowStore
from workflow_store_d1.local import LocalD1Database

PAYLOAD_BYTES = 400_000
PAYLOAD = JsonText('"' + "x" * (PAYLOAD_BYTES - 2) + '"')
COUNT = 60
"""Enough of them to leave SQLite's cache of 2 MB far behind."""
BESIDE = 1_000_000
"""Bytes for everything that is no payload."""


def bytes_read() -> int:
    """Return the number of bytes that this process has read from files, from caches of the system too.

    The account of the whole process holds what its ended threads have read. A list of its threads does not, and a
    thread may end while the list is read.
    """
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


@pytest.fixture
async def store(path: Path) -> AsyncIterator[D1WorkflowStore]:
    if not Path("/proc/self/io").exists():
        pytest.fail("the bytes that a process reads are counted on Linux only")
    async with D1WorkflowStore.open(path, synchronous="NORMAL") as store:
        await store.ensure_schema()
        yield store


async def a_run(store: D1WorkflowStore, run_id: str) -> str:
    await store.create_run(
        run_id=run_id, workflow_id="w", workflow_version="1", input=PAYLOAD, operation_id="create", now_ms=1
    )
    claim = await store.claim_run(run_id=run_id, owner="o", lease_ms=1, now_ms=1, max_crashes=100)
    assert claim.kind == "claimed"
    return claim.claim.lease.token


async def a_history(store: D1WorkflowStore, count: int = COUNT) -> str:
    token = await a_run(store, "r")
    for index in range(count):
        await store.append_events(
            run_id="r",
            lease_token=token,
            operation_id=f"append-{index}",
            expected_next_index=index,
            events=[NewEvent(kind="step", step_id=f"s{index}", payload=PAYLOAD)],
            now_ms=1,
            lease_ms=1,
        )
    return token


async def an_inbox(store: D1WorkflowStore) -> None:
    await a_run(store, "r")
    for number in range(COUNT):
        await store.deliver_signal(run_id="r", signal_id=f"s{number}", name="go", payload=PAYLOAD, now_ms=1)


async def page_by_page(store: D1WorkflowStore) -> int:
    index = 0
    while events := await store.read_events(run_id="r", limit=1_000, from_index=index):
        index += len(events)
    return index


async def followed(store: D1WorkflowStore) -> int:
    events = store.subscribe_events(run_id="r")
    count = 0
    async for _ in events:
        count += 1
        if count == COUNT:
            break
    await events.aclose()
    return count


async def at_once(store: D1WorkflowStore) -> int:
    entries = (await store.get_run_timeline(run_id="r")).entries
    return sum(entry.source == "log" for entry in entries)


@pytest.mark.parametrize("read", [page_by_page, followed, at_once])
async def test_a_history_is_read_once(
    store: D1WorkflowStore, read: Callable[[D1WorkflowStore], Awaitable[int]]
) -> None:
    await a_history(store)
    before = bytes_read()
    assert await read(store) == COUNT
    assert bytes_read() - before < COUNT * PAYLOAD_BYTES + PAYLOAD_BYTES + BESIDE


async def test_an_inbox_is_read_once(store: D1WorkflowStore) -> None:
    await an_inbox(store)
    before = bytes_read()
    seen = 0
    while entries := await store.read_inbox(run_id="r", limit=1_000, after_seq=seen):
        seen += len(entries)
    assert seen == COUNT
    assert bytes_read() - before < COUNT * PAYLOAD_BYTES + BESIDE


@pytest.mark.parametrize("prepare", [a_history, an_inbox])
@pytest.mark.parametrize("verb", ["claim_run", "load_execution", "claim_stale_runs"])
async def test_a_first_page_reads_what_it_brings(
    store: D1WorkflowStore, prepare: Callable[[D1WorkflowStore], Awaitable[object]], verb: str
) -> None:
    """However long the rest is: the input, and as much of history and inbox as fits into a page."""
    await prepare(store)
    claim: dict[str, Any] = {"owner": "o", "lease_ms": 1, "now_ms": 10, "max_crashes": 100}
    values: dict[str, dict[str, Any]] = {
        "claim_run": {"run_id": "r", **claim},
        "claim_stale_runs": {"limit": 5, **claim},
        "load_execution": {"run_id": "r"},
    }
    before = bytes_read()
    await getattr(store, verb)(**values[verb])
    assert bytes_read() - before < 3 * PAYLOAD_BYTES + BESIDE


async def test_an_append_does_not_read_what_lies_before(store: D1WorkflowStore) -> None:
    token = await a_history(store)
    before = bytes_read()
    await store.append_events(
        run_id="r",
        lease_token=token,
        operation_id="another",
        expected_next_index=COUNT,
        events=[NewEvent(kind="step", step_id="another", payload=PAYLOAD)],
        now_ms=1,
        lease_ms=1,
    )
    assert bytes_read() - before < BESIDE


async def test_a_run_is_found_without_reading_the_payloads_of_others(store: D1WorkflowStore) -> None:
    for number in range(COUNT):
        await a_run(store, f"r{number}")
    before = bytes_read()
    for number in range(COUNT):
        await store.load_run(run_id=f"r{number}")
    assert bytes_read() - before < COUNT * PAYLOAD_BYTES + BESIDE


async def test_tables_with_payloads_have_a_rowid(store: D1WorkflowStore) -> None:
    """A row without one lies in the tree of its key, and a long one is read whole for each key that is compared."""
    sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name LIKE 'workflow_%'"
    rows = (await store.database.prepare(sql).all()).results
    assert isinstance(store.database, LocalD1Database)
    for row in rows:
        text = " ".join(str(row["sql"]).split())
        with_payload = any(f" {column} TEXT" in text for column in ("payload", "input", "output", "spec"))
        assert with_payload != text.endswith("WITHOUT ROWID"), row["name"]
