"""A row that cannot be read is named, by table and key, and keeps nothing else back. Invalid JSON cannot be there."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from workflow_runtime.errors import CorruptRecordError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import SILENT_CLAIMS_PER_CRASH, NewEvent, RunStatus

if TYPE_CHECKING:
    from conftest import Scenes

Damage = Callable[[str], Awaitable[None]]

ONE = JsonText("1")


@pytest.fixture
def damage(database: asyncpg.Connection) -> Damage:
    async def execute(sql: str) -> None:
        assert not (await database.execute(sql)).endswith(" 0")

    return execute


def claim(scenes: "Scenes") -> dict[str, Any]:
    return {"owner": "w", "lease_ms": scenes.lease_ms, "now_ms": scenes.now_ms + scenes.lease_ms}


@pytest.mark.parametrize(
    ("sql", "table", "key", "problem"),
    [
        ("DELETE FROM workflow_run_states", "workflow_run_states", "a", "input is missing"),
        ("UPDATE workflow_event_locks SET status = 'odd'", "workflow_event_locks", "a", "unknown status 'odd'"),
        ("UPDATE workflow_event_locks SET awaiting = '[[1]]'", "workflow_event_locks", "a", "awaited list"),
        ("DELETE FROM workflow_events WHERE event_index = 1", "workflow_events", "a[1]", "the event is missing"),
        ("DELETE FROM workflow_events WHERE event_index = 0", "workflow_events", "a[0]", "the event is missing"),
        ("DELETE FROM workflow_events", "workflow_events", "a[0]", "the event is missing"),
    ],
)
async def test_damage_is_named_wherever_the_run_is_read(
    scenes: "Scenes", damage: Damage, sql: str, table: str, key: str, problem: str
) -> None:
    lease = await scenes.running("a")
    await scenes.append("a", lease, 0, [ONE, None, ONE])
    await scenes.store.deliver_signal(run_id="a", signal_id="s", name="n", payload=ONE, now_ms=scenes.now_ms)
    await scenes.pause("a", lease, expected_next_index=3, seen_inbox_seq=1)
    await damage(sql)
    for read in (scenes.store.load_execution(run_id="a"), scenes.store.get_run_timeline(run_id="a")):
        with pytest.raises(CorruptRecordError, match=problem) as refused:
            await read
        assert (refused.value.table, refused.value.key) == (table, key)


@pytest.mark.parametrize(
    ("sql", "table"),
    [
        ("DELETE FROM workflow_run_states WHERE run_id = 'b'", "workflow_run_states"),
        ("DELETE FROM workflow_events WHERE run_id = 'b'", "workflow_events"),
    ],
)
async def test_claim_reports_the_damaged_run_and_brings_the_others(
    scenes: "Scenes", damage: Damage, sql: str, table: str
) -> None:
    for run_id in ("a", "b", "c"):
        lease = await scenes.running(run_id)
        await scenes.append(run_id, lease, 0, [ONE])
        await scenes.store.deliver_signal(run_id=run_id, signal_id="s", name="n", payload=ONE, now_ms=scenes.now_ms)
    await damage(sql)
    batch = await scenes.store.claim_stale_runs(**claim(scenes), limit=5, max_crashes=9)
    assert [claimed.run.run_id for claimed in batch.claims] == ["a", "c"]
    assert [(error.table, error.key.split("[")[0]) for error in batch.corrupt] == [(table, "b")]


async def test_damaged_run_becomes_dead_in_the_end(scenes: "Scenes", damage: Damage) -> None:
    await scenes.running("a")
    await damage("DELETE FROM workflow_run_states")
    values = claim(scenes)
    for _ in range(2 * SILENT_CLAIMS_PER_CRASH - 1):
        assert (await scenes.store.claim_stale_runs(**values, limit=5, max_crashes=2)).corrupt
        values["now_ms"] += scenes.lease_ms
    assert (await scenes.store.claim_stale_runs(**values, limit=5, max_crashes=2)).dead == ("a",)


async def test_claim_of_one_damaged_run_raises(scenes: "Scenes", damage: Damage) -> None:
    await scenes.queued("a")
    await damage("DELETE FROM workflow_run_states")
    with pytest.raises(CorruptRecordError, match="workflow_run_states, key a"):
        await scenes.store.claim_run(run_id="a", **claim(scenes), max_crashes=3)


async def test_unknown_status_is_named_by_every_verb_that_decides_by_it(scenes: "Scenes", damage: Damage) -> None:
    await scenes.queued("a")
    await damage("UPDATE workflow_event_locks SET status = 'odd'")
    store = scenes.store
    at: dict[str, Any] = {"run_id": "a", "now_ms": scenes.now_ms}
    calls = [
        store.deliver_signal(signal_id="s", name="n", payload=None, **at),
        store.deliver_approval(approval_id="s", approved=True, **at),
        store.cancel_run(**at),
        store.terminate_run(**at),
        store.requeue_run(**at),
        store.retry_run(**at, event=NewEvent(kind="retried")),
        store.claim_run(owner="w", lease_ms=1, max_crashes=1, **at),
        store.load_run(run_id="a"),
    ]
    for call in calls:
        with pytest.raises(CorruptRecordError, match="unknown status 'odd'"):
            await call
    assert await store.read_inbox(run_id="a", limit=5) == ()


async def test_damaged_rows_hide_no_others_in_a_listing(scenes: "Scenes", damage: Damage) -> None:
    """Each has its place on its page, whatever is wrong with it; counted apart."""
    for run_id in "abcdef":
        await scenes.queued(run_id)
    await damage("UPDATE workflow_event_locks SET status = 'odd' WHERE run_id IN ('b', 'd')")
    await damage("UPDATE workflow_event_locks SET status = 'paused', awaiting = '{}' WHERE run_id = 'e'")
    store = scenes.store
    for descending in (False, True):
        seen, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            page = await store.list_runs(limit=2, cursor=cursor, descending=descending)
            seen += [run.run_id for run in page.runs] + [f"-{error.key}" for error in page.corrupt]
            cursor, pages = page.next_cursor, pages + 1
        assert (sorted(seen), pages) == (["-b", "-d", "-e", "a", "c", "f"], 3)
    whole = await store.list_runs(limit=9)
    assert [str(error).partition(": ")[2] for error in whole.corrupt] == [
        "unknown status 'odd'",
        "unknown status 'odd'",
        "the awaited list cannot be read",
    ]
    counts = await store.count_runs()
    assert (counts, counts.unknown) == ({RunStatus.QUEUED: 3, RunStatus.PAUSED: 1}, {"odd": 2})
    counts = await store.count_runs(statuses=[RunStatus.QUEUED])
    assert (counts, counts.unknown) == ({RunStatus.QUEUED: 3}, {})


async def test_damaged_run_can_be_deleted(scenes: "Scenes", damage: Damage) -> None:
    await scenes.queued("a")
    await damage("UPDATE workflow_event_locks SET status = 'odd'")
    assert (await scenes.store.delete_run(run_id="a", now_ms=scenes.now_ms)).kind == "deleted"


async def test_damaged_approval_is_named(scenes: "Scenes", damage: Damage) -> None:
    await scenes.queued("a")
    decide: dict[str, Any] = {"run_id": "a", "approval_id": "p", "approved": True, "now_ms": scenes.now_ms}
    await scenes.store.deliver_approval(**decide)
    for payload in ("{}", "[]", "1"):
        await damage(f"UPDATE workflow_signal_deliveries SET payload = '{payload}'")
        with pytest.raises(CorruptRecordError, match=r"workflow_signal_deliveries, key a\[1\]"):
            await scenes.store.deliver_approval(**decide)
