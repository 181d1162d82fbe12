"""The server finds what it needs by index, in a database of some size, whether it plans for the values or without them.

A claim, and a page of a listing, must also cost the same when there is much more that does not concern them.
"""

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import asyncpg
import pytest
from workflow_runtime.store import RunStatus, RunSummary, WorkflowVersion, encode_run_cursor
from workflow_store_postgres import PostgresWorkflowStore, get_partition_sql
from workflow_store_sql import load_statements
from workflow_test_support.servers.postgres_databases import at_database, new_database, new_template

SQL = load_statements("workflow_store_postgres")
RUNS = 20_000
NOW_MS = 5_000

# Half of the runs are paused with a timer, a quarter queued, few running, the others ended; most are due later.
FILL = f"""
INSERT INTO workflow_event_locks (
    run_id, status, workflow_id, workflow_version, queue, priority, due_at, lease_owner, lease_token, lease_number,
    lease_expires_at, next_index, inbox_seq, cancel_requested, crashes, awaiting, operation_id, operation_answer,
    created_at, updated_at, finished_at
)
SELECT
    'run-' || lpad(n::text, 8, '0'),
    CASE WHEN n % 2 = 0 THEN 'paused' WHEN n % 4 = 1 THEN 'queued' WHEN n % 1000 = 3 THEN 'running' ELSE 'finished' END,
    'workflow-' || n % 3, '1', 'default', n % 2, CASE WHEN n % 4 <> 3 THEN n END, 'w',
    CASE WHEN n % 1000 = 3 THEN 'token' END, 1, CASE WHEN n % 1000 = 3 THEN n END, 3, 1, false, 0, '[]', 'o', '{{}}',
    n, n, CASE WHEN n % 4 = 3 AND n % 1000 <> 3 THEN n END
FROM generate_series(1, {RUNS}) AS n;
INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
SELECT run_id, workflow_id, workflow_version, queue, priority, created_at FROM workflow_event_locks;
INSERT INTO workflow_run_states (run_id, input) SELECT run_id, '{{}}' FROM workflow_event_locks;
INSERT INTO workflow_events (run_id, event_index, kind, created_at, payload_bytes, payload)
SELECT head.run_id, i, 'step', 1, 2, '{{}}' FROM workflow_event_locks AS head CROSS JOIN generate_series(0, 2) AS i;
INSERT INTO workflow_signal_deliveries (
    run_id, inbox_seq, kind, name, delivery_id, received_at, taken, payload_bytes, payload
)
SELECT head.run_id, 1, 'signal', 'go', 's', 1, true, 2, '{{}}' FROM workflow_event_locks AS head;
INSERT INTO workflow_timers (run_id, timer_id, fire_at)
SELECT run_id, 't', due_at FROM workflow_event_locks WHERE status = 'paused';
INSERT INTO workflow_schedules (
    schedule_id, workflow_id, workflow_version, overlap_policy, queue, priority, enabled, next_fire_at, last_fire_at,
    previous_run_id, buffered_fire_at, requested_fire_at, requested_waits, lease_token, lease_expires_at, revision,
    changes, lease_number, created_at, updated_at, spec, input
)
SELECT
    's' || n, 'w' || n % 3, '1', 'skip', 'default', 0, true, n + {NOW_MS} - 5, 1,
    'run-' || lpad(n::text, 8, '0'), CASE WHEN n % 1000 = 1 THEN 3 END, CASE WHEN n % 1000 = 2 THEN 4 END,
    CASE WHEN n % 1000 = 2 THEN false END,
    CASE WHEN n % 1000 = 3 THEN 'token' END, CASE WHEN n % 1000 = 3 THEN 7000 END, 1, 0, 1, 1, 1, '1', '1'
FROM generate_series(1, {RUNS}) AS n;
INSERT INTO workflow_schedule_buckets (schedule_id, fire_at, requested_at, waits)
SELECT schedule_id, n, 1, false FROM workflow_schedules CROSS JOIN generate_series(4, 1003) AS n
WHERE requested_fire_at IS NOT NULL;
"""


@pytest.fixture(scope="session")
def filled_template(server_dsn: str, template: str) -> Iterator[str]:
    with new_template(server_dsn, template, FILL, "VACUUM ANALYZE") as name:
        yield name


@pytest.fixture(scope="session")
def rare_template(server_dsn: str, filled_template: str) -> Iterator[str]:
    with new_template(server_dsn, filled_template, MAKE_SOME_RARE, "VACUUM ANALYZE") as name:
        yield name


@pytest.fixture(scope="session")
def shared_dsn(server_dsn: str, filled_template: str) -> Iterator[str]:
    """A database of some size, for tests that only look."""
    with new_template(server_dsn, filled_template) as name:
        yield at_database(server_dsn, name)


@pytest.fixture
async def filled(shared_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to it."""
    connection = await asyncpg.connect(shared_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def dsn(server_dsn: str, filled_template: str) -> AsyncIterator[str]:
    """A database of some size, for a test that changes it."""
    async with new_database(server_dsn, filled_template) as dsn:
        yield dsn


@pytest.fixture
async def changeable(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to it."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
def with_some_rare(server_dsn: str, rare_template: str) -> str:
    """A database of some size in which some things are rare, for tests that only look."""
    return at_database(server_dsn, rare_template)


@pytest.fixture(scope="session")
def crowded(server_dsn: str, rare_template: str) -> Iterator[str]:
    """The same with many more runs that finished, at all times, for tests that only look."""
    with new_template(server_dsn, rare_template, CROWD, "VACUUM ANALYZE") as name:
        yield at_database(server_dsn, name)


@pytest.fixture(scope="session")
def runs_with_some_rare() -> list[RunSummary]:
    """All runs of it, as soon as the first test has read them."""
    return []


RUN = "run-00000002"
FENCE = (RUN, "token", 3, "o2")
EVENTS = (["step"], [None], ["1"], ["1"])
TIMERS = (["t"], ["9"], ["u"])
MANY = [RUN]  # a plan that fits one run must fit many: the server keeps it
UNITS = (MANY, *([text] * len(MANY) for text in ("token", "3", "o2", "1")))
UNIT_EVENTS = (
    [str(number + 1) for number in range(len(MANY))],
    *([text] * len(MANY) for text in ("3", "step", None, "1")),
)
PAUSE = ("0", "[]", "5", "60005", "true")
PAUSE_TIMERS = (["1"], ["t"], ["9"], ["1"], ["u"])
START = ("w", "1", "default", "0", "1", "queued", "1", None, None, "0", None, "create_run:o", "{}", "1", "true")
CLAIM = ("w", "token-2", 9_000, NOW_MS, 1_000, 1_000_000, 1_000, 1_000_000)
WANTED = (["workflow-1", "workflow-2"], ["1", "1"], ["default"])
ANY = (None, None, None)
PAGE = (4_000, "run-00004000", 2**53, 51)
PAGE_BACKWARDS = (4_000, "run-00004000", 0, 51)
FILTERED = (["queued", "finished"], ["workflow-1"], None)

STATEMENTS: dict[str, tuple[Any, ...]] = {
    "append_events": (*FENCE, *EVENTS, *TIMERS, 9, 5),
    "append_plain": (*FENCE, *EVENTS[:3], 9, 5),
    "append_events_to_many": (*UNITS, ["9"] * len(MANY), ["5"] * len(MANY), *UNIT_EVENTS),
    "mark_runs_ended": (*UNITS, *([text] * len(MANY) for text in ("finished", "1", None, None, "5")), *UNIT_EVENTS),
    "mark_runs_paused": (*UNITS, *([text] for text in PAUSE), *UNIT_EVENTS, *PAUSE_TIMERS),
    "mark_run_paused": (*FENCE, *EVENTS, *TIMERS, 0, "[]", 5, 60_005, True),
    "mark_run_ended": (*FENCE, *EVENTS, "finished", "1", None, None, 5),
    "schedule_timer": (RUN, "token", "o2", "t", 9, 5),
    "release_run_lease": (RUN, "token", "o2", 5, True),
    "heartbeat_run_lease": (RUN, "token", 9),
    "heartbeat_run_leases": ([RUN], ["token"], 9),
    "fenced_write.before": (RUN,),
    "fenced_write.settled": (RUN,),
    "load_run": (RUN,),
    "load_execution": (RUN, 1_000, 1_000_000, 1_000, 1_000_000, False),
    "read_events": (RUN, 0, 100, 1_000_000),
    "look_at_log": (RUN, 0, 100, 1_000_000),
    "read_inbox": (RUN, 0, 100, 1_000_000),
    "create_run": (RUN, "w", "1", "default", 0, 1, "queued", 1, None, None, 0, None, "create_run:o", "{}", "1", True),
    "read_creation": (RUN,),
    "create_runs": ([RUN], ["w"], ["1"], ["default"], ["0"], ["1"], ["create_run:o"], ["1"], 1),
    "read_creations": ([RUN], ["1"]),
    "start_runs_together": ([RUN], *([text] for text in START)),
    "deliver_signals": ([RUN], ["s2"], ["go"], ["1"], ["5"], ["true"]),
    "deliver": (RUN, "signal", "go", "s2", False, 5, "1", True),
    "cancel_run": (RUN, 5, "1", True),
    "terminate_run": (RUN, 5, None),
    "requeue_run": (RUN, 5, True),
    "cancel_runs": ([RUN], 5, "1"),
    "terminate_runs": ([RUN], 5, None),
    "requeue_runs": ([RUN], 5),
    "retry_runs": ([RUN], ["errored", "dead"], 5, "retried", None, "1", True),
    "fork_run": (RUN, "new", 0, None, 5, "fork_run:o", "f", None, None, True),
    "delete_run": (RUN, 5, False),
    "prune_runs": (4_000, ["finished"], None, 100),
    "claim_run": (*CLAIM, RUN, 3),
    "claim_stale_runs": (*CLAIM, 10, *WANTED, 3),
    "claim_pending_runs": (*CLAIM, 10, *WANTED),
    "claim_due_timers": (*CLAIM, 10, *WANTED),
    "request_schedule_buckets": ("s1", ["5", "6"], 5, "buffer-all"),
    "claim_due_schedule_buckets": ("w", "token", 9_000, NOW_MS, 10, ["w1", "w2"]),
    "mark_schedule_bucket_started": ("s1", 5, "token", 1, "r", 9, 5, "o", "start", 5, "create_run:o", "{}", True),
    "upsert_schedule": ("s1", "w", "1", "skip", "default", 0, True, 5, "1", "1", 5, None),
    "delete_schedule": ("s1",),
    "get_schedule": ("s1",),
    "list_schedules": ("s1", 50),
    "list_requested_buckets": ("s2", 5, 50),
    "list_runs": PAGE,
    "list_runs_descending": PAGE_BACKWARDS,
    "list_runs_in_lanes": (*FILTERED, *PAGE),
    "list_runs_in_lanes_descending": (*FILTERED, *PAGE_BACKWARDS),
    "list_nearby_runs": (*FILTERED, *PAGE),
    "list_nearby_runs_descending": (*FILTERED, *PAGE_BACKWARDS),
    "list_failed_runs": (["dead", "errored"], *PAGE),
    "list_failed_runs_descending": (["dead", "errored"], *PAGE_BACKWARDS),
    "count_runs": (["running"], None, None, 0, 2**53),
}
PLANNED_FOR_VALUES: dict[str, tuple[Any, ...]] = {
    # How much a prefix matches decides between two indexes; the store has the server plan these for their values.
    "list_runs_by_prefix": (*FILTERED, *PAGE, "run-%"),
    "list_runs_by_prefix_descending": (*FILTERED, *PAGE_BACKWARDS, "run-%"),
    "count_runs_by_prefix": (None, None, None, 0, 2**53, "run-000001%"),
    "list_pending_runs": (NOW_MS, 10, *WANTED),
}


async def explain(
    connection: asyncpg.Connection, name: str, values: tuple[Any, ...], mode: str, options: str = ""
) -> str:
    """Give the plan of one of the store's statements, as the server makes it for a prepared one in this mode.

    The server plans what is explained directly for its values, whatever the mode.
    """
    await connection.execute(f"SET plan_cache_mode = {mode}")
    await connection.execute(f"PREPARE explained AS {SQL[name]}")
    try:
        rows = await connection.fetch(f"EXPLAIN {options} EXECUTE explained({', '.join(map(literal, values))})")
    finally:
        await connection.execute("DEALLOCATE explained")
    return "\n".join(row[0] for row in rows)


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return f"ARRAY[{', '.join(map(literal, value))}]"
    return "'" + str(value).replace("'", "''") + "'" if isinstance(value, str) else str(value)


def check(plan: str) -> None:
    # Tables of this size are never read from end to end, and such plans are too cheap to be compiled.
    assert not re.findall(r"Seq Scan on workflow_\w+", plan), plan
    assert "JIT" not in plan, plan


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_statements_use_the_indexes(filled: asyncpg.Connection, mode: str) -> None:
    for name, values in STATEMENTS.items():
        check(await explain(filled, name, values, mode))


@pytest.mark.parametrize("name", PLANNED_FOR_VALUES)
async def test_listings_walk_their_index(filled: asyncpg.Connection, name: str) -> None:
    plan = await explain(filled, name, PLANNED_FOR_VALUES[name], "force_custom_plan")
    check(plan)
    assert name in {"list_pending_runs", "count_runs_by_prefix"} or "Sort" not in plan, plan


@pytest.mark.parametrize("values", [WANTED, ANY])
async def test_claims_walk_the_index_of_their_lanes(filled: asyncpg.Connection, values: tuple[Any, ...]) -> None:
    for name, index in (("claim_pending_runs", "queued"), ("claim_due_timers", "paused")):
        plan = await explain(filled, name, (*CLAIM, 10, *values), "force_custom_plan")
        assert plan.count(f"workflow_event_locks_{index}") >= 3, plan


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("known", [True, False])
async def test_heartbeats_look_each_head_up_by_itself(
    filled: asyncpg.Connection, database: asyncpg.Connection, mode: str, known: bool
) -> None:
    """Also where the server knows nothing of the table: a join of the lists would compare each with each."""
    connection = filled if known else database
    values = ([f"run-{number:08}" for number in range(200)], ["token"] * 200, 9)
    plan = await explain(connection, "heartbeat_run_leases", values, mode)
    assert "Join Filter" not in plan, plan
    assert "Seq Scan" not in plan, plan
    assert plan.count("Index Cond: (run_id = ") == 3, plan


READS_A_TABLE = {"count_all_runs"}
"""What is meant to read a table from end to end."""


def test_every_statement_that_finds_runs_is_explained() -> None:
    finds = {name for name in SQL if name.startswith(("list_", "count_", "claim_", "prune_"))}
    assert finds == {name for name in {*STATEMENTS, *PLANNED_FOR_VALUES} if name in finds} | READS_A_TABLE


SOME_IDS = [f"run-{number:08}" for number in range(200)]
OF_MANY: dict[str, tuple[Any, ...]] = {
    "create_runs": (SOME_IDS, *(["1"] * 200,) * 7, 9),
    "read_creations": (SOME_IDS, ["1"] * 200),
    "start_runs_together": (SOME_IDS, *([text] * 200 for text in START)),
    "deliver_signals": (SOME_IDS, ["s"] * 200, ["go"] * 200, ["1"] * 200, ["9"] * 200, ["true"] * 200),
}


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", OF_MANY)
async def test_many_are_looked_up_each_by_itself(
    filled: asyncpg.Connection, database: asyncpg.Connection, mode: str, known: bool, name: str
) -> None:
    """Also where the server knows nothing of the table: a join of the lists would compare each with each."""
    plan = await explain(filled if known else database, name, OF_MANY[name], mode)
    compared = plan.replace("Join Filter: (((waiting.item ->> 1) = given.name)", "")  # within one run
    assert "Join Filter" not in compared, plan
    assert "Seq Scan on workflow" not in plan, plan


# The log in partitions: what concerns one run looks into the partition of that run.


@pytest.fixture(scope="session")
def divided_template(server_dsn: str, filled_template: str) -> Iterator[str]:
    with new_template(server_dsn, filled_template, get_partition_sql(4), "VACUUM ANALYZE") as name:
        yield name


@pytest.fixture
async def divided(server_dsn: str, divided_template: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database of some size whose log is in partitions. Nothing is committed there."""
    connection = await asyncpg.connect(at_database(server_dsn, divided_template))
    yield connection
    await connection.close()


OF_EVENTS = sorted(name for name in STATEMENTS if "workflow_events" in SQL[name])
RUNS_OF = {"prune_runs": 100 + 1 + 4, "claim_stale_runs": 10, "claim_pending_runs": 10, "claim_due_timers": 10}
"""Looks of statements that take many runs. Pruning looks where one event is, too, and for none in each partition."""


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan", "auto"])
@pytest.mark.parametrize("name", OF_EVENTS)
async def test_each_run_is_looked_up_in_its_own_partition(divided: asyncpg.Connection, name: str, mode: str) -> None:
    """Also by the plan that the server keeps after ten calls, whichever that is."""
    transaction = divided.transaction()
    await transaction.start()
    await divided.execute(f"SET plan_cache_mode = {mode}; PREPARE explained AS {SQL[name]}")
    call = f"EXECUTE explained({', '.join(map(literal, STATEMENTS[name]))})"
    for _ in range(10):
        await divided.execute(f"SAVEPOINT before; {call}; ROLLBACK TO before")
    plan = "\n".join(row[0] for row in await divided.fetch(f"EXPLAIN (ANALYZE, TIMING OFF) {call}"))
    await transaction.rollback()
    await divided.execute("DEALLOCATE explained")
    check(plan)
    looks = re.findall(r"Scan (?:using \w+ )?on workflow_events_p4_\d .*loops=(\d+)", plan)
    reads = "INSERT INTO workflow_events" not in SQL[name] or name == "fork_run"
    assert (sum(map(int, looks)) > 0) == reads, plan
    assert sum(map(int, looks)) <= RUNS_OF.get(name, 1), plan
    taking_a_list = r"on workflow_events_p4_\d .*\(actual rows=([^0].*?) .*\n +(?:Index|Recheck) Cond: \(run_id = ANY"
    assert re.findall(taking_a_list, plan) == [], f"each partition was asked for all runs: {plan}"


async def test_pruning_takes_all_runs_at_once_from_one_table(changeable: asyncpg.Connection) -> None:
    """Run by run would take half as long again."""
    plan = await explain(changeable, "prune_runs", STATEMENTS["prune_runs"], "auto", "(ANALYZE, TIMING OFF)")
    assert re.search(r"Function Scan on unnest gone .*\(actual rows=0", plan), plan


def test_every_statement_about_events_is_looked_at() -> None:
    assert {name for name in SQL if "workflow_events" in SQL[name]} == set(OF_EVENTS)


BULK = {"cancel_runs", "terminate_runs", "requeue_runs", "retry_runs"}
LISTINGS = {name for name in STATEMENTS if name.startswith(("list_", "count_"))}
HOT = sorted(STATEMENTS.keys() - BULK - LISTINGS - {"prune_runs"})


async def test_frequent_statements_are_planned_once(changeable: asyncpg.Connection) -> None:
    """After five tries the server keeps the plan that holds for all values: planning costs more than running."""
    kept = {name: await _plans_kept(changeable, name) for name in HOT}
    assert kept == dict.fromkeys(HOT, 2)


async def test_frequent_statements_are_planned_once_in_partitions_too(changeable: asyncpg.Connection) -> None:
    """A plan for one run, which leaves the other partitions out, must not look cheaper than the one for all."""
    await changeable.execute(get_partition_sql(16))
    await changeable.execute("VACUUM ANALYZE")
    kept = {name: await _plans_kept(changeable, name) for name in HOT}
    assert kept == dict.fromkeys(HOT, 2)


async def _plans_kept(connection: asyncpg.Connection, name: str) -> int:
    """Execute a statement seven times, in vain, and tell how often the server took the plan that it keeps."""
    statement = await connection.prepare(SQL[name])
    for _ in range(7):
        transaction = connection.transaction()
        await transaction.start()
        await statement.fetch(*STATEMENTS[name])
        await transaction.rollback()
    sql = "SELECT generic_plans FROM pg_prepared_statements WHERE name = $1"
    kept: int = await connection.fetchval(sql, statement.get_name())
    return kept


async def pages_read(
    connection: asyncpg.Connection, name: str, values: tuple[Any, ...], mode: str = "force_custom_plan"
) -> int:
    """Run a statement, take it back, and tell how many pages of tables and indexes it looked at."""
    transaction = connection.transaction()
    await transaction.start()
    plan = await explain(connection, name, values, mode, "(ANALYZE, BUFFERS, TIMING OFF)")
    await transaction.rollback()
    match = re.search(r"Buffers: shared (?:hit=(\d+))?(?: read=(\d+))?", plan)
    assert match is not None
    return sum(int(count) for count in match.groups(default="0"))


@pytest.mark.parametrize("name", ["claim_pending_runs", "claim_due_timers"])
async def test_claim_does_not_look_at_what_is_not_due(changeable: asyncpg.Connection, name: str) -> None:
    values = (*CLAIM[:3], 40, *CLAIM[4:], 5, *WANTED)  # a few are due, thousands are not
    many = await pages_read(changeable, name, values)
    await changeable.execute("DELETE FROM workflow_event_locks WHERE created_at > 100")
    await changeable.execute("VACUUM ANALYZE")
    few = await pages_read(changeable, name, values)
    assert many <= 1.5 * few, (many, few)


@pytest.mark.parametrize("workflow_ids", [["w1", "w2"], None])
async def test_claim_of_ticks_does_not_look_at_other_schedules(
    changeable: asyncpg.Connection, workflow_ids: list[str] | None
) -> None:
    values = ("w", "token", 9_000, NOW_MS, 10, workflow_ids)
    many = await pages_read(changeable, "claim_due_schedule_buckets", values)
    await changeable.execute(
        "DELETE FROM workflow_schedules WHERE next_fire_at > $1 AND buffered_fire_at IS NULL"
        " AND requested_fire_at IS NULL AND lease_token IS NULL",
        NOW_MS + 20,
    )
    await changeable.execute("VACUUM ANALYZE")
    few = await pages_read(changeable, "claim_due_schedule_buckets", values)
    assert many <= 1.5 * few, (many, few)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_failed_and_ended_runs_are_read_by_their_own_indexes(changeable: asyncpg.Connection, mode: str) -> None:
    """However many workflows they are of, and however many others ended."""
    for name in ("list_failed_runs", "list_failed_runs_descending"):
        assert "workflow_event_locks_failed" in await explain(changeable, name, STATEMENTS[name], mode)
    await changeable.execute(
        "UPDATE workflow_event_locks SET status = 'aborted' WHERE finished_at IS NOT NULL AND finished_at % 400 = 399"
    )
    await changeable.execute("VACUUM ANALYZE")
    values = (100_000, ["aborted"], None, 5)
    assert "workflow_event_locks_terminal" in await explain(changeable, "prune_runs", values, mode)
    many = await pages_read(changeable, "prune_runs", values, mode)
    await changeable.execute("DELETE FROM workflow_event_locks WHERE status = 'finished'")
    await changeable.execute("VACUUM ANALYZE")
    few = await pages_read(changeable, "prune_runs", values, mode)
    assert many <= 1.5 * few, (many, few)


async def test_late_page_costs_what_the_first_does(filled: asyncpg.Connection) -> None:
    first = await pages_read(filled, "list_runs", (0, "", 2**53, 51))
    late = await pages_read(filled, "list_runs", (19_000, "run-00019000", 2**53, 51))
    assert late <= 1.2 * first, (late, first)


RARE: dict[str, dict[str, Any]] = {
    "running": {"statuses": [RunStatus.RUNNING]},
    "dead": {"statuses": [RunStatus.DEAD]},
    "failed": {"statuses": [RunStatus.DEAD, RunStatus.ERRORED, RunStatus.ABORTED]},
    "two statuses": {"statuses": [RunStatus.RUNNING, RunStatus.DEAD]},
    "a status of a workflow": {"statuses": [RunStatus.RUNNING], "workflow_ids": ["workflow-1"]},
    "a status of two workflows": {"statuses": [RunStatus.RUNNING], "workflow_ids": ["workflow-1", "rare"]},
    "a workflow": {"workflow_ids": ["rare"]},
    "a queue": {"queues": ["rare"]},
    "a queue of a workflow": {"queues": ["rare"], "workflow_ids": ["rare"]},
    "a common status of a rare workflow": {"statuses": [RunStatus.FINISHED], "workflow_ids": ["rare"]},
    "a prefix": {"run_id_prefix": "run-0001999"},
    "a prefix and a status": {"run_id_prefix": "run-", "statuses": [RunStatus.DEAD]},
    "a short time": {"created_from_ms": 15_000, "created_before_ms": 15_020},
    "a short time in a status": {
        "created_from_ms": 15_000,
        "created_before_ms": 15_020,
        "statuses": [RunStatus.FINISHED],
    },
}


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("what", RARE)
async def test_rare_runs_are_found_without_reading_the_others(
    with_some_rare: str,
    runs_with_some_rare: list[RunSummary],
    what: str,
    descending: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also by the one plan for all values that a connection keeps after five calls."""
    filters = RARE[what]
    async with PostgresWorkflowStore.connect(with_some_rare, listen=False) as store:
        if not runs_with_some_rare:
            runs_with_some_rare += await everything(store)
        expected = {run.run_id for run in runs_with_some_rare if matches(run, filters)}
        asked = listen_in(store, monkeypatch)
        page = await store.list_runs(limit=50, descending=descending, **filters)
        counts = await store.count_runs(**filters)

    assert {run.run_id for run in page.runs} == expected
    assert sum(counts.values()) == len(expected) > 0
    connection = await asyncpg.connect(with_some_rare)
    table = await connection.fetchval("SELECT relpages FROM pg_class WHERE relname = 'workflow_event_locks'")
    for mode, name, values in asked:
        pages = await pages_read(connection, name, values, mode)
        assert pages < table * 0.6, f"{name} looks at {pages} pages for {len(expected)} runs; the table has {table}"
    await connection.close()


MAKE_SOME_RARE = """
UPDATE workflow_event_locks
SET awaiting = (
    SELECT json_agg(json_build_array('signal', 'go', 'wait-' || i, NULL))
    FROM generate_series(1, 1 + created_at % 3 * 40) AS i
)
WHERE status = 'paused' AND created_at % 20 < 8;
UPDATE workflow_event_locks SET status = 'dead', finished_at = 1 WHERE created_at % 4000 = 3999;
UPDATE workflow_event_locks SET workflow_id = 'rare' WHERE created_at % 2000 IN (1, 7);
UPDATE workflow_event_locks SET queue = 'rare' WHERE created_at % 4000 IN (5, 7);
UPDATE workflow_runs AS run SET workflow_id = head.workflow_id, queue = head.queue
FROM workflow_event_locks AS head WHERE head.run_id = run.run_id;
"""


CROWD = f"""
INSERT INTO workflow_event_locks (
    run_id, status, workflow_id, workflow_version, queue, priority, lease_number, next_index, inbox_seq,
    cancel_requested, crashes, awaiting, operation_id, operation_answer, created_at, updated_at, finished_at
)
SELECT
    'crowd-' || n, 'finished', 'workflow-' || n % 3, '1', 'default', 0, 1, 3, 1, false, 0, '[]', 'o', '{{}}',
    1 + n % {RUNS}, n, n
FROM generate_series(1, 3 * {RUNS}) AS n
WHERE n % {RUNS} NOT BETWEEN 14990 AND 15030;
INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
SELECT run_id, workflow_id, workflow_version, queue, priority, created_at FROM workflow_event_locks
WHERE run_id LIKE 'crowd-%';
INSERT INTO workflow_run_states (run_id, input)
SELECT run_id, '{{}}' FROM workflow_event_locks WHERE run_id LIKE 'crowd-%';
"""

COMMON: dict[str, dict[str, Any]] = {
    "everything": {},
    "a status": {"statuses": [RunStatus.QUEUED]},
    "what finished": {"statuses": [RunStatus.FINISHED]},
    "all statuses but one": {"statuses": [status for status in RunStatus if status != RunStatus.DEAD]},
    "a workflow": {"workflow_ids": ["workflow-1"]},
    "a status of a workflow": {"workflow_ids": ["workflow-1"], "statuses": [RunStatus.PAUSED]},
    "a queue": {"queues": ["default"]},
    "a status in a queue": {"queues": ["default"], "statuses": [RunStatus.QUEUED]},
    "everything named": {
        "queues": ["default", "rare"],
        "workflow_ids": ["workflow-1", "workflow-2"],
        "statuses": [RunStatus.QUEUED, RunStatus.FINISHED],
    },
    "a prefix": {"run_id_prefix": "run-"},
    "what finished in some milliseconds": {
        "statuses": [RunStatus.FINISHED],
        "created_from_ms": 10_000,
        "created_before_ms": 10_004,
    },
    "from some time": {"statuses": [RunStatus.QUEUED], "created_from_ms": 10_000},
}
SHAPES = {f"common: {what}": filters for what, filters in COMMON.items()} | {
    f"rare: {what}": filters for what, filters in RARE.items()
}


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("what", SHAPES)
async def test_pages_cost_the_same_however_many_others_finished(
    with_some_rare: str, crowded: str, what: str, descending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the plan that holds for all values, the first page and one in the middle."""
    for cursor in (None, encode_run_cursor(RUNS // 2, "run-")):
        page = {"limit": 50, "cursor": cursor, "descending": descending} | SHAPES[what]
        few = await rows_of_listing(with_some_rare, monkeypatch, **page)
        many = await rows_of_listing(crowded, monkeypatch, **page)
        assert many <= 1.2 * few + 100, (many, few)
        assert many <= MOST_ROWS, (many, few)


@pytest.fixture(scope="session")
def runs_in_the_crowd() -> list[RunSummary]:
    """All runs of the crowded database, as soon as the first test has read them."""
    return []


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("what", SHAPES)
async def test_pages_are_those_of_the_full_listing(
    crowded: str, runs_in_the_crowd: list[RunSummary], what: str, descending: bool
) -> None:
    """Several runs stand at each moment, so pages begin and end among runs of one."""
    filters = SHAPES[what]
    async with PostgresWorkflowStore.connect(crowded, listen=False) as store:
        if not runs_in_the_crowd:
            runs_in_the_crowd += await everything(store)
        runs = reversed(runs_in_the_crowd) if descending else runs_in_the_crowd
        expected = [run for run in runs if matches(run, filters)]
        for start in (0, len(expected) // 2):
            before = expected[start - 1] if start else None
            cursor = encode_run_cursor(before.created_at_ms, before.run_id) if before else None
            found: list[RunSummary] = []
            for _ in range(6):
                page = await store.list_runs(limit=7, cursor=cursor, descending=descending, **filters)
                found += page.runs
                if (cursor := page.next_cursor) is None:
                    break
            assert found == expected[start : start + 42]
        assert await store.count_runs(**filters) == Counter(run.status for run in expected)


MOST_ROWS = 51 * 10 + 51 * 7 + 51 * 2 + 200
"""How many rows a listing reads: where what finished is asked for, it looks at ten times the page first; then it may
read a page of each status, and it reads the runs of its page from two tables. The rest is for finding lanes."""


async def rows_of_listing(dsn: str, monkeypatch: pytest.MonkeyPatch, **asked_for: Any) -> int:
    """List runs, and count the rows that the statements read."""
    async with PostgresWorkflowStore.connect(dsn, listen=False) as store:
        with monkeypatch.context() as patch:
            asked = listen_in(store, patch)
            await store.list_runs(**asked_for)
    connection = await asyncpg.connect(dsn)
    read = [await rows_read(connection, name, values, mode) for mode, name, values in asked]
    await connection.close()
    return sum(read)


async def rows_read(connection: asyncpg.Connection, name: str, values: tuple[Any, ...], mode: str) -> int:
    """Run a statement and count what it reads of tables and indexes, and how often it searches in vain."""
    plan = json.loads(await explain(connection, name, values, mode, "(ANALYZE, TIMING OFF, FORMAT JSON)"))
    return sum(_rows_of_node(node) for node in _nodes(plan[0]["Plan"]) if "workflow_" in node.get("Relation Name", ""))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", []):
        yield from _nodes(inner)


def _rows_of_node(node: dict[str, Any]) -> int:
    rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return int(node["Actual Loops"] * max(rows, 1))


@pytest.mark.parametrize("descending", [False, True])
async def test_common_runs_are_found_nearby_however_many_lanes_there_are(
    changeable: asyncpg.Connection, dsn: str, descending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue for each tenant."""
    await changeable.execute("UPDATE workflow_event_locks SET queue = 'tenant-' || created_at % 2000")
    await changeable.execute("VACUUM ANALYZE")
    many_lanes = await rows_of_listing(dsn, monkeypatch, limit=50, descending=descending, statuses=[RunStatus.FINISHED])
    await changeable.execute("UPDATE workflow_event_locks SET queue = 'default'")
    await changeable.execute("VACUUM ANALYZE")
    one_lane = await rows_of_listing(dsn, monkeypatch, limit=50, descending=descending, statuses=[RunStatus.FINISHED])
    assert many_lanes <= 1.5 * one_lane, (many_lanes, one_lane)


async def test_of_many_lanes_only_those_are_read_that_may_be_on_the_page(
    changeable: asyncpg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each lane its first run, and no more of those whose first run comes too late."""
    await changeable.execute(
        "UPDATE workflow_event_locks SET queue = 'tenant-' || created_at / 40 WHERE status = 'queued'"
    )
    await changeable.execute("VACUUM ANALYZE")
    lanes = await changeable.fetchval(
        "SELECT count(DISTINCT (workflow_id, queue)) FROM workflow_event_locks WHERE status = 'queued'"
    )
    assert lanes == 1_500
    async with PostgresWorkflowStore.connect(dsn, listen=False) as store:
        for descending in (False, True):
            page = await store.list_runs(limit=10, statuses=[RunStatus.QUEUED], descending=descending)
            moments = [run.created_at_ms for run in page.runs]
            assert moments == [RUNS - 3 - 4 * n if descending else 1 + 4 * n for n in range(10)]
    read = await rows_of_listing(dsn, monkeypatch, limit=10, statuses=[RunStatus.QUEUED])
    # One search finds each lane and one its first run. The page reads eleven lanes, and eleven runs from two tables.
    assert read <= 2 * lanes + 11 * 11 + 2 * 11 + 10, read


async def test_the_count_of_everything_reads_the_table_once(
    with_some_rare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lane by lane it would take ten times as long: this is the one statement that is meant to read a table."""
    for asked_for in ({}, {"statuses": [RunStatus.FINISHED, RunStatus.DEAD]}):
        async with PostgresWorkflowStore.connect(with_some_rare, listen=False) as store:
            with monkeypatch.context() as patch:
                asked = listen_in(store, patch)
                counts = await store.count_runs(**asked_for)  # type: ignore[arg-type]
        assert [name for _, name, _ in asked] == ["count_all_runs"]
        assert set(counts) == set(asked_for.get("statuses", [*RunStatus])) - {RunStatus.ABORTED, RunStatus.ERRORED}


def listen_in(store: PostgresWorkflowStore, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, tuple[Any, ...]]]:
    """Note what the store asks, and by which kind of plan it is answered at worst."""
    asked: list[tuple[str, str, tuple[Any, ...]]] = []

    async def ask(send: Any, mode: str, name: str, *values: Any) -> Any:
        asked.append((mode, name, values))
        return await send(name, *values)

    sender = store._sender
    monkeypatch.setattr(sender, "rows", partial(ask, sender.rows, "force_generic_plan"))
    for_values = partial(ask, sender.rows_planned_for_values, "force_custom_plan")
    monkeypatch.setattr(sender, "rows_planned_for_values", for_values)
    return asked


async def everything(store: PostgresWorkflowStore) -> list[RunSummary]:
    runs: list[RunSummary] = []
    cursor: str | None = None
    while True:
        page = await store.list_runs(limit=5_000, cursor=cursor)
        runs += page.runs
        if (cursor := page.next_cursor) is None:
            return runs


def matches(run: RunSummary, filters: dict[str, Any]) -> bool:
    return (
        run.status in filters.get("statuses", [run.status])
        and run.workflow_id in filters.get("workflow_ids", [run.workflow_id])
        and run.queue in filters.get("queues", [run.queue])
        and run.run_id.startswith(filters.get("run_id_prefix", ""))
        and filters.get("created_from_ms", 0) <= run.created_at_ms < filters.get("created_before_ms", 2**53)
    )


async def test_claims_and_listings_agree_with_the_fill(dsn: str) -> None:
    """The data above are what the store itself would have written, as far as it can tell."""
    async with PostgresWorkflowStore.connect(dsn) as store:
        batch = await store.claim_due_timers(
            owner="w",
            lease_ms=5,
            now_ms=40,
            limit=3,
            workflows=[WorkflowVersion(workflow_id="workflow-1", version="1")],
        )
        assert [claim.run.run_id for claim in batch.claims] == ["run-00000004", "run-00000010", "run-00000016"]
        assert batch.next_due_ms == 22
        counts = await store.count_runs()
        assert counts[RunStatus.RUNNING] == RUNS // 1_000 + 3
