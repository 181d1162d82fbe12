"""The SQL itself: its parameters, its plans, and how its work grows."""

import os
import re
import sqlite3
from collections.abc import Iterator

import pytest
from workflow_migrations import split_statements
from workflow_store_d1 import get_migration_sql
from workflow_store_sql import Query, load_queries

QUERIES = load_queries("workflow_store_d1")

MANY = int(os.environ.get("WORKFLOW_BIG_TABLE", "3000"))
"""Rows in a table that counts as big; the session `release` takes a million."""

WHOLE_TABLE = {
    "read_tables": "the database's own catalogue",
    "read_columns": "the same",
    "read_indexes": "the same",
    "read_applied_migrations": "a row per migration",
    "mark_environment": "the same",
    "count_all_runs": "it counts every run",
}

INDEXES = {
    "claim_pending_runs.heads": "workflow_event_locks_queued (lane=? AND due_at<?)",
    "claim_pending_runs.next_due": "workflow_event_locks_queued (lane=?)",
    "list_pending_runs": "workflow_event_locks_queued (lane=? AND due_at<?)",
    "claim_due_timers.heads": "workflow_event_locks_paused (lane=? AND due_at<?)",
    "claim_due_timers.next_due": "workflow_event_locks_paused (lane=? AND due_at>?)",
    "claim_stale_runs.heads": "workflow_event_locks_running (lease_token>?)",
    "claim_stale_runs.next_due": "workflow_event_locks_running (lease_token>?)",
    "claimed.runs": "workflow_event_locks_running (lease_token=?)",
    "claimed.inbox": "workflow_signal_deliveries_untaken (run_id=?)",
    "read_inbox": "workflow_signal_deliveries_untaken (run_id=? AND inbox_seq>?)",
    "list_runs": "workflow_runs_created ((created_at,run_id)>(?,?) AND created_at<?)",
    "list_runs_descending": "workflow_runs_created (created_at>? AND (created_at,run_id)<(?,?))",
    "list_runs_of_workflow": "workflow_runs_workflow (workflow_id=? AND (created_at,run_id)>(?,?) AND created_at<?)",
    "list_runs_of_workflow_descending": (
        "workflow_runs_workflow (workflow_id=? AND created_at>? AND (created_at,run_id)<(?,?))"
    ),
    "list_runs_of_queue": "workflow_runs_queue (queue=? AND (created_at,run_id)>(?,?) AND created_at<?)",
    "list_runs_of_queue_descending": "workflow_runs_queue (queue=? AND created_at>? AND (created_at,run_id)<(?,?))",
    "list_waiting_runs": "workflow_event_locks_waiting (status=? AND (created_at,run_id)>(?,?) AND created_at<?)",
    "list_waiting_runs_descending": (
        "workflow_event_locks_waiting (status=? AND created_at>? AND (created_at,run_id)<(?,?))"
    ),
    "list_failed_runs": "workflow_event_locks_failed (status=? AND (created_at,run_id)>(?,?) AND created_at<?)",
    "list_failed_runs_descending": (
        "workflow_event_locks_failed (status=? AND created_at>? AND (created_at,run_id)<(?,?))"
    ),
    "list_runs_by_prefix": "PRIMARY KEY (run_id>? AND run_id<?)",
    "list_runs_by_prefix_descending": "PRIMARY KEY (run_id>? AND run_id<?)",
    "count_prefix": "PRIMARY KEY (run_id>? AND run_id<?)",
    "count_runs": "workflow_runs_created (created_at>? AND created_at<?)",
    "count_waiting_runs": "workflow_event_locks_waiting (status=? AND created_at>? AND created_at<?)",
    "list_running_runs": "USING INDEX workflow_event_locks_running",
    "list_running_runs_descending": "USING INDEX workflow_event_locks_running",
    "count_running_runs": "USING INDEX workflow_event_locks_running",
    "count_failed_runs": "workflow_event_locks_failed (status=? AND created_at>? AND created_at<?)",
    "count_runs_of_workflows": "workflow_runs_workflow (workflow_id=? AND created_at>? AND created_at<?)",
    "count_runs_of_queues": "workflow_runs_queue (queue=? AND created_at>? AND created_at<?)",
    "count_runs_by_prefix": "PRIMARY KEY (run_id>? AND run_id<?)",
    "prune_runs.heads": "workflow_event_locks_terminal (status=? AND finished_at<?)",
    "claim_due_schedule_buckets.schedules": "workflow_schedules_due (workflow_id=? AND next_fire_at<?)",
    "claim_due_schedule_buckets.claimed": "workflow_schedules_claimed (lease_token=?)",
    "claim_due_schedule_buckets.next_due": "workflow_schedules_due (workflow_id=? AND next_fire_at>?)",
    "claim_due_schedule_buckets.unclaimable": "workflow_schedules_requested (requested_fire_at>?)",
}


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in split_statements(get_migration_sql()):
        connection.execute(statement)
    yield connection
    connection.close()


def bound(query: Query, **values: object) -> dict[str, object]:
    return {str(number): values.get(name) for number, name in enumerate(query.parameters, start=1)}


def plan(database: sqlite3.Connection, query: Query) -> list[str]:
    return [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {query.sql}", bound(query))]


@pytest.mark.parametrize("name", QUERIES)
def test_comment_names_every_parameter(name: str) -> None:
    numbers = {int(number) for number in re.findall(r"\?(\d+)", QUERIES[name].sql)}
    assert numbers == set(range(1, len(QUERIES[name].parameters) + 1))


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_walks_a_whole_table(database: sqlite3.Connection, name: str) -> None:
    own_results = re.compile(
        r"SCAN (CONSTANT|alike|claim|lane|found|waiting|chosen|page|entry|wanted|\(subquery)|.* VIRTUAL TABLE"
        r"|SCAN head USING INDEX workflow_event_locks_running"
    )
    scans = [step for step in plan(database, QUERIES[name]) if step.startswith("SCAN") and not own_results.match(step)]
    assert bool(scans) == (name in WHOLE_TABLE), scans


@pytest.mark.parametrize("name", INDEXES)
def test_query_uses_its_index(database: sqlite3.Connection, name: str) -> None:
    assert any(step.endswith(INDEXES[name]) for step in plan(database, QUERIES[name])), plan(database, QUERIES[name])


WALKS = re.compile(r"list_(runs|runs_of_\w+|waiting_runs|failed_runs)(_descending)?")


@pytest.mark.parametrize("name", [name for name in QUERIES if WALKS.fullmatch(name)])
def test_listing_is_not_sorted(database: sqlite3.Connection, name: str) -> None:
    assert not any("ORDER BY" in step for step in plan(database, QUERIES[name]))


def add_runs(database: sqlite3.Connection, workflow: str, status: str, count: int, due_at: int) -> None:
    database.execute(
        """
        WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?3)
        INSERT INTO workflow_event_locks (
            run_id, status, workflow_id, workflow_version, queue, priority, due_at, lease_number, next_index,
            inbox_seq, cancel_requested, crashes, awaiting, operation_id, operation_answer, created_at, updated_at
        )
        SELECT ?1 || ?2 || ?4 || '-' || n, ?2, ?1, '1', 'default', n % 3, ?4, 0, 0, 0, 0, 0, '[]', '', '{}', n, n
        FROM number
        """,
        {"1": workflow, "2": status, "3": count, "4": due_at},
    )
    database.execute(
        """
        INSERT INTO workflow_runs
        SELECT run_id, workflow_id, workflow_version, queue, priority, created_at
        FROM workflow_event_locks AS head
        WHERE NOT EXISTS (SELECT 1 FROM workflow_runs AS run WHERE run.run_id = head.run_id)
        """
    )


def work(database: sqlite3.Connection, name: str, **values: object) -> int:
    """Count the virtual machine's instructions; what was changed is taken back."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    database.execute("BEGIN")
    database.set_progress_handler(count, 1)
    database.execute(QUERIES[name].sql, bound(QUERIES[name], **values)).fetchall()
    database.set_progress_handler(None, 1)
    database.execute("ROLLBACK")
    return steps


CLAIM = {
    "owner": "w",
    "lease_token": "t",
    "lease_expires_at_ms": 200,
    "now_ms": 100,
    "limit": 10,
    "workflows": '[["mine","1"]]',
    "queues": '["default"]',
}


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("claim_pending_runs.heads", "queued"),
        ("claim_pending_runs.next_due", "queued"),
        ("list_pending_runs", "queued"),
        ("claim_due_timers.heads", "paused"),
        ("claim_due_timers.next_due", "paused"),
    ],
)
def test_claim_costs_the_same_whatever_waits_besides(database: sqlite3.Connection, name: str, status: str) -> None:
    """Runs of others that are due, and own runs whose time has not come, add nothing."""
    add_runs(database, "mine", status, 30, due_at=50)
    add_runs(database, "mine", status, 30, due_at=500)
    add_runs(database, "another", status, 30, due_at=50)
    few = work(database, name, **CLAIM)
    add_runs(database, "mine", status, MANY, due_at=501)
    add_runs(database, "another", status, MANY, due_at=49)
    assert work(database, name, **CLAIM) <= few * 1.05


@pytest.mark.parametrize(
    ("name", "status"),
    [("claim_pending_runs.heads", "queued"), ("list_pending_runs", "queued"), ("claim_due_timers.heads", "paused")],
)
def test_claim_costs_the_same_however_many_are_due(database: sqlite3.Connection, name: str, status: str) -> None:
    add_runs(database, "mine", status, 60, due_at=50)
    few = work(database, name, **CLAIM)
    add_runs(database, "mine", status, MANY, due_at=51)
    assert work(database, name, **CLAIM) <= few * 1.05


def add_schedules(database: sqlite3.Connection, workflow: str, count: int, next_fire_at: int) -> None:
    database.execute(
        """
        WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?2)
        INSERT INTO workflow_schedules (
            schedule_id, workflow_id, workflow_version, overlap_policy, queue, priority, enabled, next_fire_at,
            revision, lease_number, created_at, updated_at, spec, input
        )
        SELECT ?1 || ?3 || '-' || n, ?1, '1', 'skip', 'default', 0, 1, ?3, 1, 0, 0, 0, '1', '1' FROM number
        """,
        {"1": workflow, "2": count, "3": next_fire_at},
    )


@pytest.mark.parametrize("part", ["schedules", "next_due"])
@pytest.mark.parametrize("wanted", ['["mine"]', None])
def test_claim_of_ticks_costs_the_same_whatever_waits_besides(
    database: sqlite3.Connection, part: str, wanted: str | None
) -> None:
    """Ticks whose time has not come, and due ones of others, add nothing."""
    add_schedules(database, "mine", 10, next_fire_at=50)
    add_schedules(database, "mine", 30, next_fire_at=500)
    add_schedules(database, "another", 30, next_fire_at=500 if wanted is None else 50)
    claim = CLAIM | {"workflow_ids": wanted}
    few = work(database, f"claim_due_schedule_buckets.{part}", **claim)
    add_schedules(database, "mine", MANY, next_fire_at=501)
    add_schedules(database, "another", MANY, next_fire_at=502 if wanted is None else 51)
    assert work(database, f"claim_due_schedule_buckets.{part}", **claim) <= few * 1.05


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (
            "list_runs",
            {"after_created_at_ms": 0, "after_run_id": ""},
            {"after_created_at_ms": MANY - 100, "after_run_id": ""},
        ),
        (
            "list_runs_of_workflow_descending",
            {"before_created_at_ms": MANY + 1, "before_run_id": ""},
            {"before_created_at_ms": 100, "before_run_id": ""},
        ),
    ],
)
def test_late_page_of_a_listing_costs_no_more_than_the_first(
    database: sqlite3.Connection, name: str, before: dict[str, object], after: dict[str, object]
) -> None:
    add_runs(database, "mine", "queued", MANY, due_at=50)
    common = {"created_before_ms": 2**53, "created_from_ms": 0, "workflow_id": "mine", "limit": 20}
    first = work(database, name, **common, **before)
    assert first > 100
    assert work(database, name, **common, **after) <= first * 1.05


@pytest.mark.parametrize("statuses", ['["errored"]', '["errored", "finished"]'])
def test_pruning_costs_the_same_however_many_others_have_ended(database: sqlite3.Connection, statuses: str) -> None:
    def end(status: str, count: int, due_at: int) -> None:
        add_runs(database, "mine", status, count, due_at)
        database.execute("UPDATE workflow_event_locks SET finished_at = created_at WHERE finished_at IS NULL")

    asked = {"finished_before_ms": 2**53, "statuses": statuses, "limit": 20}
    end("errored", 60, due_at=1)
    end("finished", 60, due_at=1)
    few = work(database, "prune_runs.heads", **asked)
    assert few > 100
    end("aborted", MANY, due_at=2)
    end("finished", MANY, due_at=3)
    assert work(database, "prune_runs.heads", **asked) <= few * 1.3  # as above


def test_append_costs_the_same_in_a_long_log(database: sqlite3.Connection) -> None:
    add_runs(database, "mine", "queued", 1, due_at=50)
    database.execute("UPDATE workflow_event_locks SET run_id = 'a', status = 'running', lease_token = 't'")
    event = {"run_id": "a", "lease_token": "t", "operation_id": "o", "kind": "k", "now_ms": 1, "payload_bytes": 1}
    costs = []
    for length in (10, 10_000):
        database.execute("DELETE FROM workflow_events")
        database.execute(
            """
            WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < ? - 1)
            INSERT INTO workflow_events SELECT 'a', n, 'k', NULL, 1, 1, '1' FROM number
            """,
            (length,),
        )
        database.execute("UPDATE workflow_event_locks SET next_index = ?", (length,))
        at = {"expected_next_index": length, "event_index": length, "event_count": 1, "lease_expires_at_ms": 5}
        costs.append(sum(work(database, name, **event, **at) for name in ("fenced_write.event", "append_events.head")))
    assert costs[1] <= costs[0] * 1.05
