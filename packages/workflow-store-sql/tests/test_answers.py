"""Conclusions from a row: answers, verdicts, pages and the state of the tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from workflow_migrations import DEFAULT_TABLES, AppliedMigration, parse_migrations
from workflow_runtime.errors import (
    CorruptRecordError,
    ForeignTablesError,
    LeaseLostError,
    LogConflictError,
    SchemaAheadError,
    SchemaBehindError,
    SchemaError,
    SchemaHalfAppliedError,
    SchemaMissingError,
    SchemaUnrecordedError,
    StoreNotOpenError,
)
from workflow_runtime.store import LeaseBusy, LeaseLost, LeaseRenewal, encode_run_cursor
from workflow_store_sql import (
    END_OF_TIME_MS,
    Fence,
    RowReader,
    Schema,
    StoreOpening,
    TickMark,
    answer_approval,
    answer_cancel,
    answer_delete,
    answer_heartbeat,
    answer_heartbeat_groups,
    answer_heartbeats,
    answer_requeue,
    answer_retry,
    answer_retry_request,
    answer_signal,
    answer_terminate,
    not_claimable,
    run_page_bounds,
)

READ = RowReader(DEFAULT_TABLES)

Answer = Callable[[RowReader, str, dict[str, Any] | None], Any]


def head(status: str, **columns: Any) -> dict[str, Any]:
    nothing = {"known_seq": None, "inbox_seq": None, "awaited": False, "event_index": None, "deleted": False}
    return {"status": status} | nothing | columns


@pytest.mark.parametrize(
    ("answer", "row", "kind"),
    [
        (answer_signal, head("paused", inbox_seq=1, awaited=True), "delivered"),
        (answer_signal, head("paused", inbox_seq=1), "buffered"),
        (answer_signal, head("paused", known_seq=1), "duplicate"),
        (answer_signal, head("paused"), "not-waiting"),
        (answer_signal, head("finished"), "finished"),
        (answer_signal, head("finished", known_seq=1), "duplicate"),
        (answer_approval, head("paused", inbox_seq=1, awaited=True), "delivered"),
        (answer_approval, head("finished", known_seq=1, known_payload='{"approved": true}'), "already-decided"),
        (answer_retry_request, head("dead", inbox_seq=1), "buffered"),
        (answer_retry_request, head("errored"), "finished"),
        (answer_retry_request, head("errored", known_seq=1), "duplicate"),
        (answer_cancel, head("running", inbox_seq=1), "requested"),
        (answer_cancel, head("running", known_seq=1), "duplicate"),
        (answer_cancel, head("finished", known_seq=1), "finished"),
        (answer_cancel, head("dead"), "finished"),
        (answer_terminate, head("dead"), "terminated"),
        (answer_terminate, head("errored"), "finished"),
        (answer_requeue, head("dead"), "requeued"),
        (answer_requeue, head("paused"), "not-requeueable"),
        (answer_retry, head("errored", event_index=3), "retried"),
        (answer_retry, head("paused"), "not-retryable"),
        (answer_delete, head("paused", deleted=True), "deleted"),
        (answer_delete, head("running"), "not-deletable"),
    ],
)
def test_answer_follows_from_the_row(answer: Answer, row: dict[str, Any], kind: str) -> None:
    assert answer(READ, "a", row).kind == kind
    assert answer(READ, "a", None).kind == "not-found"


@pytest.mark.parametrize("answer", [answer_signal, answer_cancel, answer_terminate, answer_requeue, answer_delete])
def test_status_that_nobody_knows_is_named(answer: Answer) -> None:
    with pytest.raises(CorruptRecordError, match="unknown status 'odd'"):
        answer(READ, "a", head("odd"))


@pytest.mark.parametrize(("status", "claimable_at_ms"), [("running", 9), ("queued", 5), ("paused", 5), ("dead", None)])
def test_run_that_cannot_be_claimed_tells_when_it_can(status: str, claimable_at_ms: int | None) -> None:
    answer = not_claimable(READ, "a", status=status, lease_expires_at=9, due_at=5)
    assert answer.claimable_at_ms == claimable_at_ms


def test_heartbeat_without_a_row_has_lost_the_lease() -> None:
    with pytest.raises(LeaseLostError, match="run 'a'"):
        answer_heartbeat("a", [])


RENEWED = {"lease_expires_at": 9, "inbox_seq": 2, "cancel_requested": 0, "clock": 7}
RENEWAL = LeaseRenewal(lease_expires_at_ms=9, inbox_seq=2, cancel_requested=False, store_clock_ms=7)


def test_heartbeats_are_answered_in_the_order_of_the_leases() -> None:
    leases = [("b", "t"), ("a", "old"), ("a", "t"), ("b", "t")]
    rows = [RENEWED | {"run_id": "a", "lease_token": "t"}, RENEWED | {"run_id": "b", "lease_token": "t"}]
    assert answer_heartbeats(leases, rows) == (RENEWAL, LeaseLost(), RENEWAL, RENEWAL)
    assert answer_heartbeats([], []) == ()


def test_groups_of_heartbeats_are_answered_in_the_order_of_the_leases() -> None:
    rows: list[dict[str, Any]] = [RENEWED | {"places": "4,1"}, dict.fromkeys(RENEWED) | {"places": "3"}]
    assert answer_heartbeat_groups(4, rows) == (RENEWAL, LeaseLost(), LeaseBusy(), RENEWAL)


FENCE = Fence("append_events", "a", "token", "op", 2)
HEAD = {"status": "running", "lease_token": "token", "next_index": 2, "operation_id": "append_events:before"}


def test_fence_holds_and_recognises_a_repeat() -> None:
    assert FENCE.judge(HEAD) is None
    repeated = HEAD | {"operation_id": "append_events:op", "operation_answer": '{"next_index": 3}', "status": "paused"}
    assert FENCE.judge(repeated) == {"next_index": 3}
    assert Fence("release_run_lease", "a", "token", "op").values() == ("a", "token", "release_run_lease:op")


@pytest.mark.parametrize("change", [{"status": "queued"}, {"lease_token": "other"}])
def test_fence_refuses_who_has_lost_the_lease(change: dict[str, Any]) -> None:
    with pytest.raises(LeaseLostError):
        FENCE.judge(HEAD | change)
    with pytest.raises(LeaseLostError):
        FENCE.judge(None)


def test_fence_refuses_a_log_of_another_length() -> None:
    with pytest.raises(LogConflictError):
        FENCE.judge(HEAD | {"next_index": 3})


SCHEDULE = {
    "settled_fire_at": 1,
    "settled_operation_id": "before",
    "settled_outcome": "started",
    "previous_run_id": "last",
    "revision": 1,
    "tick_at": 5,
    "lease_token": "t",
    "live_run_id": None,
    "buffered_fire_at": 4,
}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"settled_fire_at": 5, "settled_operation_id": "op"}, "started"),
        ({"settled_fire_at": 5, "settled_operation_id": "op", "settled_outcome": "skipped"}, "skipped"),
        ({"revision": 2}, "schedule-changed"),
        ({"live_run_id": "other"}, "overlapping"),
        ({"live_run_id": "r"}, "behind"),
        ({}, "behind"),
    ],
)
def test_tick_that_was_not_settled_says_why(change: dict[str, Any], kind: str) -> None:
    mark = TickMark("s", 5, "t", 1, "r")
    assert mark.refused(SCHEDULE | change, "op").kind == kind
    assert mark.refused(None, "op").kind == "schedule-changed"
    with pytest.raises(LeaseLostError, match="tick 5 of schedule 's'"):
        mark.refused(SCHEDULE | {"lease_token": "other"}, "op")


@pytest.mark.parametrize(
    ("cursor", "descending", "bounds"),
    [
        (None, False, (10, "", 20)),
        (None, True, (20, "", 10)),
        ((15, "x"), False, (15, "x", 20)),
        ((15, "x"), True, (15, "x", 10)),
        ((5, "x"), False, (10, "", 20)),
        ((25, "x"), True, (20, "", 10)),
    ],
)
def test_page_begins_at_the_cursor_or_at_the_filter(
    cursor: tuple[int, str] | None, descending: bool, bounds: tuple[int, str, int]
) -> None:
    text = None if cursor is None else encode_run_cursor(*cursor)
    assert run_page_bounds(text, 10, 20, descending=descending) == bounds
    assert run_page_bounds(None, None, None, descending=False) == (0, "", END_OF_TIME_MS)


SHIPPED = Schema(
    distribution="workflow-store-mine",
    version="0.2.0",
    migrations=parse_migrations(
        {
            "0000_first.sql": "CREATE TABLE workflow_runs (run_id TEXT, queue TEXT);",
            "0001_expand_more.sql": "CREATE INDEX workflow_runs_queue ON workflow_runs (queue);",
        }
    ),
    tables=DEFAULT_TABLES,
    remedy="mend it",
)
OWN_COLUMNS = ("migration_id", "package_name", "package_version", "oldest_code", "checksum", "applied_at")
RECORD_TABLE = DEFAULT_TABLES.schema_migrations


def record(index: int, **change: str) -> dict[str, str | None]:
    migration = SHIPPED.migrations[index]
    own = {"package_name": SHIPPED.distribution, "migration_id": migration.migration_id, "checksum": migration.checksum}
    return {"oldest_code": None, **own, **change}


def found(table: str, *columns: str | None) -> list[dict[str, str | None]]:
    return [{"table_name": table, "column_name": column} for column in columns]


OURS = found(RECORD_TABLE, *OWN_COLUMNS)


def test_tables_of_others_are_refused() -> None:
    assert not SHIPPED.is_ours([])
    assert SHIPPED.is_ours(OURS)
    assert SHIPPED.is_ours(found(RECORD_TABLE.upper(), *OWN_COLUMNS))
    with pytest.raises(ForeignTablesError, match="says who made it"):
        SHIPPED.is_ours(found("workflow_runs", "run_id", "queue"))
    with pytest.raises(ForeignTablesError, match="not those of this package"):
        SHIPPED.is_ours(found(RECORD_TABLE, "version"))
    with pytest.raises(ForeignTablesError, match="not those of this package"):
        SHIPPED.is_ours(found(RECORD_TABLE, None))  # a sequence, say
    with pytest.raises(ForeignTablesError, match="records migrations of 'another'"):
        SHIPPED.applied(OURS, [record(0, package_name="another")])


@pytest.mark.parametrize("columns", [("run_id",), ("run_id", "queue", "more"), (None,)])
def test_tables_that_none_of_ours_made_are_refused_beside_an_empty_record(columns: tuple[str | None, ...]) -> None:
    with pytest.raises(ForeignTablesError, match="says nothing about it") as refused:
        SHIPPED.applied([*OURS, *found("Workflow_Runs", *columns)], [])
    assert refused.value.table == "Workflow_Runs"


def test_migration_that_stopped_in_the_middle_is_told_with_what_to_drop() -> None:
    with pytest.raises(SchemaHalfAppliedError) as told:
        SHIPPED.applied([*OURS, *found("Workflow_Runs", "queue", "run_id")], [])
    assert told.value.tables == ("Workflow_Runs", RECORD_TABLE)
    with pytest.raises(SchemaHalfAppliedError) as told:
        SHIPPED.applied(OURS, [])
    assert told.value.tables == (RECORD_TABLE,)


def test_what_is_missing_is_told_apart() -> None:
    applied = SHIPPED.applied(OURS, [record(0), record(1)])
    SHIPPED.check(applied)
    assert [migration.migration_id for migration in SHIPPED.missing(applied[:1])] == ["0001_expand_more"]
    with pytest.raises(SchemaMissingError, match="mend it"):
        SHIPPED.check([])
    with pytest.raises(SchemaBehindError, match="mend it"):
        SHIPPED.check(applied[:1])
    with pytest.raises(SchemaAheadError, match="upgrade workflow-store-mine"):
        SHIPPED.check([*applied, AppliedMigration(migration_id="0002_expand_new", checksum="c")])
    SHIPPED.check([*applied, AppliedMigration(migration_id="0002_expand_new", checksum="c", oldest_code="0.2")])
    with pytest.raises(SchemaAheadError, match=r"upgrade workflow-store-mine to 0\.3 or later; this is 0\.2\.0"):
        SHIPPED.check([*applied, AppliedMigration(migration_id="0002_expand_new", checksum="c", oldest_code="0.3")])
    with pytest.raises(SchemaError, match="another text"):
        SHIPPED.check(SHIPPED.applied(OURS, [record(0, checksum="c")]))


LATER = parse_migrations(
    {
        "0000_first.sql": "CREATE TABLE workflow_runs (run_id TEXT, queue TEXT);",
        "0001_expand_more.sql": """
            CREATE TABLE workflow_timers (run_id TEXT);
            UPDATE workflow_runs SET queue = 'a';
            ALTER TABLE workflow_runs DROP COLUMN queue;
            INSERT INTO workflow_schema_migrations VALUES (1);
        """,
    }
)


def column(table: str, name: str) -> dict[str, Any]:
    return {"table_name": table, "column_name": name, "column_type": "TEXT", "nullable": 1}


RUN_ID, QUEUE, TIMERS = (
    column("workflow_runs", "run_id"),
    column("workflow_runs", "queue"),
    column("workflow_timers", "run_id"),
)


@pytest.mark.parametrize(
    ("columns", "done"),
    [
        ([RUN_ID, QUEUE], 0),
        ([RUN_ID, QUEUE, TIMERS], 1),
        ([RUN_ID, TIMERS], 3),
        ([RUN_ID], 3),
        ([RUN_ID, QUEUE, TIMERS | {"column_type": "INTEGER"}], 0),
        ([RUN_ID, QUEUE, TIMERS, column("workflow_runs", "mine")], 1),
    ],
)
def test_how_far_a_later_migration_came_is_read_from_the_tables(columns: list[dict[str, Any]], done: int) -> None:
    shipped = replace(SHIPPED, migrations=LATER)
    applied, statements = [AppliedMigration(migration_id="0000_first", checksum=None)], LATER[1].statements
    if not done:
        shipped.refuse_half_applied(LATER[1], statements, applied, columns, [])
        return
    with pytest.raises(SchemaUnrecordedError, match="0001_expand_more") as told:
        shipped.refuse_half_applied(LATER[1], statements, applied, columns, [])
    assert told.value.left == statements[done:]


class Closing:
    """A store that counts how often it was closed."""

    closed = 0

    async def close(self) -> None:
        self.closed += 1


async def test_store_is_opened_by_await_or_by_async_with() -> None:
    store = Closing()

    async def open_store() -> Closing:
        return store

    opened = await StoreOpening(open_store, "Mine.open(...)")
    assert (opened, store.closed) == (store, 0)
    async with StoreOpening(open_store, "Mine.open(...)") as entered:
        assert entered is store
    assert store.closed == 1


def test_opening_taken_for_the_store_names_the_call() -> None:
    opening: Any = StoreOpening(Closing, "Mine.open(...)")  # type: ignore[arg-type]
    with pytest.raises(StoreNotOpenError, match=r"Mine\.open"):
        opening.create_run  # noqa: B018
