"""The D1 store with one fault each, made by changing its SQL texts or what carries them to the database."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import metering_faults
from mutant_catalogue import Mutant
from workflow_contract_tests import StoreHarness
from workflow_runtime.errors import LeaseLostError, StoreOperationError
from workflow_runtime.ids import new_id
from workflow_runtime.store import LeaseRenewal
from workflow_store_d1 import D1Transaction, D1WorkflowStore

__all__ = ["SQL_MUTANTS", "d1_harness", "open_broken"]


Verb = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is changed: in one named statement one text for another, or the database itself."""

    clause: str
    story: str
    edits: Sequence[tuple[str, str, str]] = ()
    database: Callable[[Any], Any] | None = None
    transaction: Callable[[Any, Verb], Verb] | None = None
    """Makes another `append_in_transaction` of the store and its right one."""
    heartbeats: Callable[[Any, Any], AbstractAsyncContextManager[Any]] | None = None
    """Stands in for `open_heartbeats`, given the store and what its right one gives."""
    metering: Callable[[Any], None] | None = None
    """Changes how the store counts, or what it declares."""
    words: str = ""
    """See `Mutant`."""
    case: str = ""
    """See `Mutant`."""


class _SingleStatements:
    """A database whose batch is no transaction: statement after statement, each on its own."""

    def __init__(self, database: Any) -> None:
        self._database = database

    def prepare(self, sql: str) -> Any:
        return self._database.prepare(sql)

    async def batch(self, statements: Sequence[Any]) -> list[Any]:
        return [await statement.all() for statement in statements]


class _OnlyBatches:
    """A database that has no transactions but batches, as D1 itself."""

    def __init__(self, database: Any) -> None:
        self.prepare = database.prepare
        self.batch = database.batch


def _working(change: Callable[[Any, Callable[[Any], Awaitable[Any]], Any], Awaitable[Any]]) -> Any:
    """Make a fault of what happens around the function of a transaction."""

    def around(store: Any, verb: Verb) -> Verb:
        async def call(**arguments: Any) -> Any:
            work = arguments["work"]
            return await verb(**(arguments | {"work": lambda tx: change(store, work, tx)}))

        return call

    return around


async def _write_at_once(store: Any, work: Callable[[Any], Awaitable[Any]], tx: Any) -> Any:
    write = await work(tx)
    await store._sender.database.batch(tx.take())
    return write


async def _write_whatever_comes(store: Any, work: Callable[[Any], Awaitable[Any]], tx: Any) -> Any:
    try:
        return await work(tx)
    except BaseException:
        await store._sender.database.batch(tx.take())
        raise


async def _write_nothing(store: Any, work: Callable[[Any], Awaitable[Any]], tx: Any) -> Any:
    write = await work(tx)
    tx.take()
    return write


async def _write_twice(store: Any, work: Callable[[Any], Awaitable[Any]], tx: Any) -> Any:
    await work(tx)
    return await work(tx)


async def _wrap_errors(store: Any, work: Callable[[Any], Awaitable[Any]], tx: Any) -> Any:
    try:
        return await work(tx)
    except Exception as error:
        raise StoreOperationError("the function failed") from error


def _commit_the_record_first(store: Any, verb: Verb) -> Verb:
    async def call(**arguments: Any) -> Any:
        kept: list[Any] = []

        async def work(tx: Any) -> Any:
            write = await arguments["work"](tx)
            kept[:] = tx.take()
            return write

        answer = await verb(**(arguments | {"work": work}))
        if kept:
            await store._sender.database.batch(kept)
        return answer

    return call


def _forget_the_operation(store: Any, verb: Verb) -> Verb:
    return lambda **arguments: verb(**(arguments | {"operation_id": new_id()}))


def _begin_without_looking(store: Any, verb: Verb) -> Verb:
    async def call(**arguments: Any) -> Any:
        await arguments["work"](D1Transaction(store._sender.database))
        return await verb(**arguments)

    return call


class _Beats:
    """Renews as a function says."""

    def __init__(self, renew: Verb) -> None:
        self.heartbeat_run_lease = renew


@contextlib.asynccontextmanager
async def _beat_on_the_loop_of_the_store(store: Any, right: Any) -> AsyncIterator[Any]:
    async def renew(**arguments: Any) -> Any:
        call = asyncio.run_coroutine_threadsafe(store.heartbeat_run_lease(**arguments), store.loop)
        return await asyncio.wrap_future(call)

    yield store if asyncio.get_running_loop() is store.loop else _Beats(renew)


@contextlib.asynccontextmanager
async def _beat_whoever_has_the_run(store: Any, right: Any) -> AsyncIterator[Any]:
    async def renew(**arguments: Any) -> Any:
        try:
            return await renewer.heartbeat_run_lease(**arguments)
        except LeaseLostError:
            expires_at_ms = arguments["now_ms"] + arguments["lease_ms"]
            return LeaseRenewal(
                lease_expires_at_ms=expires_at_ms, inbox_seq=0, cancel_requested=False, store_clock_ms=0
            )

    async with right as renewer:
        yield _Beats(renew)


@contextlib.asynccontextmanager
async def _beat_many_whoever_has_the_runs(store: Any, right: Any) -> AsyncIterator[Any]:
    async with right as renewer:
        renew = renewer.heartbeat_run_leases

        async def renew_all(**arguments: Any) -> Any:
            answers = await renew(**arguments)
            renewal = next(answer for answer in answers if isinstance(answer, LeaseRenewal))
            return tuple(renewal for _ in answers)

        renewer.heartbeat_run_leases = renew_all
        yield renewer


@contextlib.asynccontextmanager
async def _beat_and_close(store: Any, right: Any) -> AsyncIterator[Any]:
    async with right as renewer:
        yield renewer
    await store.close()


FAULTS = {
    "unfenced-append": Fault(
        clause="FENCE-1",
        story="An append is refused after it was written: the statements do not carry the fence.",
        edits=[
            ("fenced_write.event", "AND head.lease_token = ?2", "AND ?2 = ?2"),
            ("append_events.head", "AND lease_token = ?2", "AND ?2 = ?2"),
        ],
    ),
    "unfenced-finish": Fault(
        clause="FENCE-1",
        story="A run that somebody else drives can be finished.",
        edits=[("mark_run_ended.head", "AND lease_token = ?2", "AND ?2 = ?2")],
    ),
    "unfenced-heartbeat": Fault(
        clause="FENCE-1",
        story="A heartbeat renews whatever lease there is.",
        edits=[("heartbeat_run_lease", "AND lease_token = ?2", "AND ?2 = ?2")],
    ),
    "unfenced-heartbeat-among-many": Fault(
        clause="FENCE-1",
        story="A heartbeat of many renews whatever lease there is of each run.",
        edits=[
            (
                "heartbeat_run_leases",
                "AND workflow_event_locks.lease_token = json_extract(asked.value, '$[1]')",
                "",
            )
        ],
    ),
    "many-runs-are-due-now": Fault(
        clause="BULK-4",
        story="Many runs are due at once, whatever their times.",
        edits=[("create_runs.heads", "json_extract(asked.value, '$[5]')", "?2")],
        words="as by `create_run` without a claim",
        case="runs_are_created_as_one_by_one",
    ),
    "many-runs-may-have-any-input": Fault(
        clause="BULK-4",
        story="A run that is there is what was asked for, whatever its input.",
        edits=[
            ("create_runs.before", "state.input = json_extract(asked.value, '$[7]') AS same_input", "1 AS same_input")
        ],
        words="`existing` with what differs from that run",
        case="answers_of_creations_are_in_order",
    ),
    "many-signals-have-one-number": Fault(
        clause="BULK-5",
        story="Signals for all runs of a call are numbered together.",
        edits=[("deliver_signals.entries", "PARTITION BY head.run_id ", "")],
        words="get their numbers in that order",
        case="signals_for_one_run_keep_their_order",
    ),
    "many-signals-are-numbered-backwards": Fault(
        clause="BULK-5",
        story="Of signals for one run the last one gets the first number.",
        edits=[("deliver_signals.entries", "ORDER BY asked.key", "ORDER BY asked.key DESC")],
        words="get their numbers in that order",
        case="signals_for_one_run_keep_their_order",
    ),
    "many-signals-wake-whoever-waits": Fault(
        clause="BULK-5",
        story="Of many signals each wakes its run, whatever that waits for.",
        edits=[("deliver_signals.waken", "json_extract(waiting.value, '$[1]') IN", "1 IN (1) OR 1 IN")],
        words="Each signal is dealt with as by `deliver_signal`",
        case="without_signals_nothing_is_delivered",
    ),
    "many-signals-count-as-one": Fault(
        clause="BULK-5",
        story="The head of a run counts one of its new entries, however many came.",
        edits=[("deliver_signals.heads", "max(entry.inbox_seq)", "min(entry.inbox_seq)")],
        words="get their numbers in that order",
        case="signals_for_one_run_keep_their_order",
    ),
    "half-a-late-pause": Fault(
        clause="FENCE-1",
        story="A late pause leaves its timers behind: one statement of the batch lacks the fence.",
        edits=[("fenced_write.set_timers", "AND head.lease_token = ?2", "AND ?2 = ?2")],
    ),
    "repeat-is-written": Fault(
        clause="OP-1",
        story="A repeated timer is written again.",
        edits=[
            ("schedule_timer.timer", "AND head.operation_id <> ?3", "AND ?3 = ?3"),
            ("schedule_timer.head", "AND operation_id <> ?3", "AND ?3 = ?3"),
        ],
    ),
    "claim-forgets-the-operation": Fault(
        clause="OP-2",
        story="A claim clears the last operation.",
        edits=[("claim_run.head", "awaiting = '[]',", "awaiting = '[]', operation_id = '',")],
    ),
    "crash-count-survives": Fault(
        clause="LOG-3",
        story="An append does not set the crash count to zero.",
        edits=[("append_events.head", "CASE WHEN ?5 > 0 THEN 0 ELSE crashes END", "crashes")],
    ),
    "inbox-is-never-taken": Fault(
        clause="LOG-6",
        story="Taken entries are not marked.",
        edits=[("fenced_write.taken", "SET taken = 1", "SET taken = 0")],
    ),
    "page-counts-from-zero": Fault(
        clause="LOG-7",
        story="A page that begins later may exceed its bytes by what came before.",
        edits=[("read_events", "OR page.event_index = ?2", "OR page.event_index <= ?2 + 1")],
    ),
    "pause-ignores-the-inbox": Fault(
        clause="PAUSE-2",
        story="A pause parks the run whatever has arrived.",
        edits=[("mark_run_paused.head", "inbox_seq > ?6", "inbox_seq > ?6 + 1000")],
    ),
    "pause-forgets-older-timers": Fault(
        clause="TIMER-1",
        story="A paused run is due at its latest timer.",
        edits=[("mark_run_paused.head", "min(timer.fire_at)", "max(timer.fire_at)")],
    ),
    "delivery-never-wakes": Fault(
        clause="SIGNAL-1",
        story="A signal is written, and the run stays parked.",
        edits=[("deliver.waken", "AND status = 'paused'", "AND status = 'sleeping'")],
    ),
    "names-look-alike": Fault(
        clause="SIGNAL-1",
        story="A run is woken by a signal whose name differs in case.",
        edits=[
            (part, "json_extract(waiting.value, '$[1]') = ?3", "lower(json_extract(waiting.value, '$[1]')) = lower(?3)")
            for part in ("deliver.before", "deliver.waken")
        ],
    ),
    "ended-runs-take-signals": Fault(
        clause="SIGNAL-2",
        story="A signal for an ended run is refused in words and written all the same, so that its repeat is known.",
        edits=[("deliver.entry", "IN ('queued', 'running', 'paused', 'dead')", "<> 'unknown'")],
    ),
    "cancelled-run-waits": Fault(
        clause="CANCEL-2",
        story="A run queued for next week ends next week.",
        edits=[("cancel_run.head", "min(due_at, ?2)", "due_at")],
    ),
    "terminated-run-keeps-timers": Fault(
        clause="CANCEL-4",
        story="The timers of a terminated run are left behind.",
        edits=[("terminate_run.timers", "AND EXISTS", "AND NOT EXISTS")],
    ),
    "retry-overwrites-the-log": Fault(
        clause="RETRY-1",
        story="The head does not move past the event of a retry.",
        edits=[("retry_runs.heads", "next_index = next_index + 1,", "")],
    ),
    "retried-run-keeps-its-reason": Fault(
        clause="RETRY-1",
        story="The error and reason of a dead run stay.",
        edits=[
            ("retry_runs.states", "error = NULL", "error = error"),
            ("retry_runs.states", "reason = NULL", "reason = reason"),
        ],
    ),
    "finished-runs-get-events": Fault(
        clause="RETRY-2",
        story="A retry that is refused leaves its event in the log.",
        edits=[("retry_runs.events", "AND head.status IN (SELECT status.value FROM json_each(?2) AS status)", "")],
    ),
    "many-are-all": Fault(
        clause="BULK-1",
        story="A call for some runs ends all that live.",
        edits=[
            (
                "terminate_runs.heads",
                "run_id IN (SELECT asked.value FROM json_each(?1) AS asked)",
                "?1 IS NOT NULL",
            )
        ],
    ),
    "many-requests-are-one": Fault(
        clause="BULK-1",
        story="Where many are asked to end, a queued run keeps its time.",
        edits=[("cancel_runs.heads", "min(due_at, ?2)", "due_at")],
    ),
    "requests-stay-untaken": Fault(
        clause="RETRY-4",
        story="A request to end that nobody took ends the next life as well.",
        edits=[("retry_runs.requests", "taken = 1", "taken = taken")],
    ),
    "dead-runs-forget-requests": Fault(
        clause="RETRY-4",
        story="A request to end is lost when its run died before.",
        edits=[("retry_runs.heads", "CASE status WHEN 'aborted' THEN 0 ELSE cancel_requested END", "0")],
    ),
    "lease-ends-late": Fault(
        clause="CLAIM-1",
        story="The end of a lease is taken for its last moment.",
        edits=[("claim_run.head", "lease_expires_at <= ?5", "lease_expires_at < ?5")],
    ),
    "one-crash-too-many": Fault(
        clause="DEAD-2",
        story="A run dies one crash late.",
        edits=[("claim_stale_runs.heads", "crashes + (silent_claims IN (0, 4)) >= ?8", "crashes >= ?8")],
    ),
    "lost-claims-count": Fault(
        clause="DEAD-4",
        story="A claim whose answer was lost counts as a crash.",
        edits=[("claim_stale_runs.heads", "silent_claims IN (0, 4)", "silent_claims < 9")],
    ),
    "killers-live-for-ever": Fault(
        clause="DEAD-4",
        story="A run that kills its workers before they say anything is never parked.",
        edits=[("claim_run.head", "silent_claims IN (0, 4)", "silent_claims = 0")],
    ),
    "silent-death-keeps-the-lease": Fault(
        clause="DEAD-4",
        story="A run that kills its workers before they say anything dies with the name of its next worker on it.",
        edits=[("claim_run.head", "CASE WHEN NOT claim.kills THEN ?2 END", "?2")],
    ),
    "row-of-silent-claims-goes-on": Fault(
        clause="DEAD-4",
        story="After the fourth claim in a row `claim_stale_runs` counts on, and no later one is a crash.",
        edits=[("claim_stale_runs.heads", "silent_claims IN (0, 4) THEN 1 ELSE", "silent_claims = 0 THEN 1 ELSE")],
    ),
    "signs-of-life-are-lost": Fault(
        clause="DEAD-2",
        story="Nobody notes that a driver renewed its lease.",
        edits=[("heartbeat_run_lease", "silent_claims = 0", "silent_claims = silent_claims")],
    ),
    "sign-of-life-counts-for-ever": Fault(
        clause="DEAD-4",
        story="A claim of a queued run leaves the sign of life of an earlier driver in place.",
        edits=[("claim_pending_runs.heads", "silent_claims = 1", "silent_claims = silent_claims")],
    ),
    "priority-is-ignored": Fault(
        clause="CLAIM-5",
        story="Claims are in order of time alone.",
        edits=[("claim_pending_runs.heads", "ORDER BY due.priority DESC,", "ORDER BY")],
    ),
    "version-is-ignored": Fault(
        clause="CLAIM-6",
        story="A worker gets every version of its workflows.",
        edits=[
            (
                "claim_stale_runs.heads",
                "AND json_extract(wanted.value, '$[1]') = stale.workflow_version",
                "AND stale.workflow_version = stale.workflow_version",
            )
        ],
    ),
    "damage-is-not-noticed": Fault(
        clause="CLAIM-8",
        story="A damaged input is handed to the worker.",
        edits=[("claimed.runs", "json_valid(state.input)", "1")],
    ),
    "damage-is-claimed-by-id": Fault(
        clause="CLAIM-8",
        story="A damaged input is handed to whoever claims the run by its id.",
        edits=[("claimed.runs", "json_valid(state.input)", "1")],
        words="`claim_run`, which may leave it claimed",
        case="corrupt_run_is_named_where_its_record_would_be",
    ),
    "damage-is-not-noticed-at-creation": Fault(
        clause="CLAIM-8",
        story="A damaged input is compared with that of a creation, and found to differ.",
        edits=[("create_run.before", "json_valid(state.input)", "1")],
        words="`create_run` of its id too",
        case="corrupt_run_is_named_where_its_record_would_be",
    ),
    "heartbeat-shortens": Fault(
        clause="LEASE-1",
        story="A late heartbeat moves the end of a lease back.",
        edits=[("heartbeat_run_lease", "max(lease_expires_at, ?3)", "?3")],
    ),
    "due-timers-are-late": Fault(
        clause="TIMER-2",
        story="A timer comes along one millisecond late.",
        edits=[("claimed.due_timers", "timer.fire_at <= ?2", "timer.fire_at < ?2")],
    ),
    "deletion-leaves-the-inbox": Fault(
        clause="RETAIN-1",
        story="The inbox of a deleted run is found again by its namesake.",
        edits=[("delete_run.inbox", "AND EXISTS", "AND NOT EXISTS")],
    ),
    "pruning-of-a-workflow-takes-the-inbox-of-others": Fault(
        clause="RETAIN-3",
        story="The filter of workflows chooses which runs go, but not whose inbox.",
        edits=[("prune_runs.inbox", "?3 IS NULL OR", "1 OR")],
    ),
    "pruning-of-a-workflow-leaves-the-log": Fault(
        clause="RETAIN-1",
        story="The log of a run that was pruned by its workflow is found again by its namesake.",
        edits=[("prune_runs.events", "?3 IS NULL OR", "?3 IS NULL AND")],
    ),
    "prune-takes-the-inbox-of-those-that-stay": Fault(
        clause="RETAIN-1",
        story="Of runs that ended at once, each table loses its own choice.",
        edits=[("prune_runs.inbox", "head.finished_at, head.run_id", "head.finished_at, head.run_id DESC")],
        case="runs_that_ended_at_once_go_whole",
    ),
    "prune-leaves-the-log-of-those-that-go": Fault(
        clause="RETAIN-1",
        story="Of runs that ended at once, the log goes of some, and everything else of others.",
        edits=[("prune_runs.events", "head.finished_at, head.run_id", "head.finished_at, head.run_id DESC")],
        case="runs_that_ended_at_once_go_whole",
    ),
    "prune-takes-the-youngest": Fault(
        clause="RETAIN-3",
        story="Pruning begins with the runs that ended last.",
        edits=[
            (f"prune_runs.{part}", "ORDER BY head.finished_at,", "ORDER BY head.finished_at DESC,")
            for part in ("events", "timers", "inbox", "states", "runs", "heads")
        ],
    ),
    "refused-deletion-takes-the-log": Fault(
        clause="RETAIN-2",
        story="A deletion that is refused takes the log all the same, if any other run could be deleted.",
        edits=[("delete_run.events", "head.run_id = ?1 AND (", "head.run_id = ?1 OR (")],
        case="live_lease_protects",
    ),
    "end-of-the-lease-spares-the-log": Fault(
        clause="RETAIN-1",
        story="A run that is deleted at the very end of its lease goes, and its log stays.",
        edits=[("delete_run.events", "head.lease_expires_at <= ?2", "head.lease_expires_at < ?2")],
        case="run_deleted_alive_goes_whole",
    ),
    "first-request-of-any-schedule": Fault(
        clause="SCHEDULE-8",
        story="The first requested tick of a schedule is looked up among those of all.",
        edits=[("request_schedule_buckets.schedule", "WHERE bucket.schedule_id = ?1", "WHERE ?1 = ?1")],
        case="requests_of_schedules_are_apart",
    ),
    "latest-of-all-workflows-first": Fault(
        clause="CLAIM-5",
        story="Each workflow's earliest runs are found, and of these the latest is claimed.",
        edits=[
            (
                "claim_pending_runs.heads",
                "ORDER BY due.priority DESC, due.due_at,",
                "ORDER BY due.priority DESC, due.due_at DESC,",
            )
        ],
        case="earliest_due_is_first_among_all_workflows",
    ),
    "ties-of-one-workflow-go-backwards": Fault(
        clause="CLAIM-5",
        story="Of one workflow's runs that are due at once the greatest ids are found first.",
        edits=[
            ("claim_due_timers.heads", "ORDER BY head.due_at, head.run_id", "ORDER BY head.due_at, head.run_id DESC")
        ],
        case="ties_of_one_workflow_go_by_run_id",
    ),
    "bulk-termination-spares-timers": Fault(
        clause="CANCEL-4",
        story="Runs that are terminated together while they are queued keep their timers.",
        edits=[("terminate_runs.timers", "'queued'", "'never'")],
        case="terminated_run_has_no_timers_in_a_later_life",
    ),
    "bulk-requeue-keeps-the-error": Fault(
        clause="DEAD-1",
        story="Runs that are given back together keep the errors that they were parked with.",
        edits=[("requeue_runs.states", "error = NULL,", "")],
        case="requeued_run_forgets_why_it_was_parked",
    ),
    "appends-without-events-are-repeated": Fault(
        clause="OP-1",
        story="The repeat of an append without events renews the lease once more.",
        edits=[("append_events.head", "AND operation_id <> ?4", "AND ?4 <> ''")],
        case="repeated_append_without_events_changes_nothing",
    ),
    "runs-of-a-claim-share-a-page": Fault(
        clause="CLAIM-2",
        story="The bound on bytes of history is one for all runs of a claim.",
        edits=[("claimed.history", "PARTITION BY entry.run_id", "")],
        case="each_run_of_a_claim_has_a_page_of_its_own",
    ),
    "claims-bring-the-whole-inbox": Fault(
        clause="CLAIM-2",
        story="A claim brings as many inbox entries as their bytes allow.",
        edits=[("claimed.inbox", "page.position <= ?2 AND", "page.position <= ?2 OR")],
        case="inbox_of_more_than_a_thousand",
    ),
    "paused-run-holds-nothing-up": Fault(
        clause="SCHEDULE-18",
        story="A tick with `buffer-all` comes while the run before it is paused.",
        edits=[("claim_due_schedule_buckets.schedules", "('queued', 'running', 'paused')", "('queued', 'running')")],
        case="live_run_holds_up_what_waits_for_it",
    ),
    "running-run-is-named-by-nobody": Fault(
        clause="SCHEDULE-10",
        story="A claimed tick does not say that the previous run is running.",
        edits=[("claim_due_schedule_buckets.claimed", "('queued', 'running', 'paused')", "('queued', 'paused')")],
        case="live_run_holds_up_what_waits_for_it",
    ),
    "token-for-any-moment-leaves-a-row": Fault(
        clause="SCHEDULE-16",
        story="One table of four takes the token of a tick for another moment.",
        edits=[("mark_schedule_bucket_started.state", "schedule.tick_at = ?2", "?2 = ?2")],
        case="wrong_token_refuses_the_mark",
    ),
    "ticks-runs-are-asked-to-end": Fault(
        clause="RUN-1",
        story="A run that a tick starts is asked to end before it begins.",
        edits=[("mark_schedule_bucket_started.head", "0, ?7, ?8, 0, 0, 0, 0,", "0, ?7, ?8, 0, 0, 1, 0,")],
        case="marking_starts_the_run_and_moves_on",
    ),
    "ticks-runs-have-crashed": Fault(
        clause="RUN-1",
        story="A run that a tick starts counts one crash before it begins.",
        edits=[("mark_schedule_bucket_started.head", "0, ?7, ?8, 0, 0, 0, 0,", "0, ?7, ?8, 0, 0, 0, 1,")],
        case="marking_starts_the_run_and_moves_on",
    ),
    "refused-start-leaves-a-row": Fault(
        clause="SCHEDULE-17",
        story="One table of four gets its row of a run that must wait behind the buffered tick.",
        edits=[("mark_schedule_bucket_started.run", "schedule.buffered_fire_at IS NULL", "1")],
        case="buffered_tick_goes_first",
    ),
    "newer-tick-starts-without-its-input": Fault(
        clause="SCHEDULE-17",
        story="One table of four does not know that a newer tick takes the place of the buffered one.",
        edits=[("mark_schedule_bucket_started.state", "'cancel-previous'", "'never'")],
        case="newer_tick_takes_the_place_of_the_buffered_one",
    ),
    "ties-are-lost": Fault(
        clause="LIST-2",
        story="Of runs created in one millisecond a page shows those that fit; the next skips the rest.",
        edits=[("list_runs", "(run.created_at, run.run_id) > (?1, ?2)", "run.created_at > ?1 AND ?2 = ?2")],
    ),
    "prefix-is-a-pattern": Fault(
        clause="LIST-3",
        story="A prefix is matched with LIKE.",
        edits=[
            ("list_runs_by_prefix", "head.run_id >= ?7", "head.run_id LIKE ?7 || '%'"),
            ("list_runs_by_prefix", "head.run_id < ?9", "?9 IS NOT NULL"),
        ],
    ),
    "payload-is-normalised": Fault(
        clause="PAYLOAD-1",
        story="The database writes JSON in its own way.",
        edits=[("create_run.state", "SELECT ?1, ?2", "SELECT ?1, json(?2)")],
    ),
    "tick-fires-again": Fault(
        clause="SCHEDULE-12",
        story="The high-water mark is kept and not looked at.",
        edits=[
            (
                "claim_due_schedule_buckets.schedules",
                "schedule.next_fire_at > coalesce(schedule.last_fire_at, -1)",
                "schedule.next_fire_at >= 0",
            )
        ],
    ),
    "business-write-is-dropped": Fault(
        clause="TX-1",
        story="The record of a transaction is committed, and its business write is not.",
        transaction=_working(_write_nothing),
    ),
    "business-write-has-no-fence": Fault(
        clause="TX-2",
        story="The guard lets every token pass: of a late transaction the business write stays.",
        edits=[("fenced_write.guard", "AND head.lease_token = ?2", "AND ?2 = ?2")],
    ),
    "business-write-is-seen-first": Fault(
        clause="TX-1",
        story="The business write is committed before its record.",
        transaction=_working(_write_at_once),
        words="nobody sees a part of it",
        case="readers_see_row_and_record_together",
    ),
    "record-is-seen-first": Fault(
        clause="TX-1",
        story="The record is committed before its business write.",
        transaction=_commit_the_record_first,
        words="nobody sees a part of it",
        case="readers_see_row_and_record_together",
    ),
    "record-is-left-alone": Fault(
        clause="TX-1",
        story="A call that ends between the two transactions leaves the record without its business write.",
        transaction=_commit_the_record_first,
        words="are one unit",
        case="abandoned_transaction_is_whole_or_nothing",
    ),
    "late-transaction-begins": Fault(
        clause="TX-2",
        story="The function runs before anybody has looked at the lease.",
        transaction=_begin_without_looking,
    ),
    "business-write-goes-anywhere": Fault(
        clause="TX-3",
        story="The guard does not compare the length of the log.",
        edits=[("fenced_write.guard", "AND head.next_index = ?3", "AND ?3 = ?3")],
    ),
    "business-write-goes-first": Fault(
        clause="TX-3",
        story="The business write is a transaction of its own, before the record.",
        transaction=_working(_write_at_once),
    ),
    "failed-function-has-written": Fault(
        clause="TX-4",
        story="What the function wrote before it failed is committed.",
        transaction=_working(_write_whatever_comes),
    ),
    "error-of-the-function-is-the-store-s": Fault(
        clause="TX-4",
        story="An error of the function comes out as one of the store.",
        transaction=_working(_wrap_errors),
    ),
    "transaction-is-done-again": Fault(
        clause="TX-5",
        story="A repeated transaction is a new one.",
        transaction=_forget_the_operation,
    ),
    "function-s-first-call-stays": Fault(
        clause="TX-6",
        story="The function is called twice, and the writes of both calls stay.",
        transaction=_working(_write_twice),
    ),
    "heartbeats-need-the-event-loop": Fault(
        clause="HEARTBEAT-1",
        story="Heartbeats from a thread are handed to the store's event loop, which may be blocked.",
        heartbeats=_beat_on_the_loop_of_the_store,
    ),
    "heartbeats-never-tell-a-loss": Fault(
        clause="HEARTBEAT-2",
        story="A heartbeat on the connection of its own says that all is well, whoever has the run.",
        heartbeats=_beat_whoever_has_the_run,
    ),
    "heartbeats-of-many-never-tell-a-loss": Fault(
        clause="HEARTBEAT-2",
        story="A heartbeat of many on the connection of its own says that all is well, whoever has the runs.",
        heartbeats=_beat_many_whoever_has_the_runs,
        words="and `heartbeat_run_leases` of the store do",
        case="heartbeats_of_many_on_their_own_connection_are_those_of_the_store",
    ),
    "heartbeats-close-the-store": Fault(
        clause="HEARTBEAT-3",
        story="The store is closed together with its heartbeats.",
        heartbeats=_beat_and_close,
    ),
    "single-statements-are-free": Fault(
        clause="METER-1",
        story="Only batches count; a statement on its own does not.",
        metering=metering_faults.look_for_nothing,
    ),
    "counted-when-it-is-done": Fault(
        clause="METER-2",
        story="A batch is counted, and refused, when it has been sent.",
        metering=metering_faults.count_afterwards,
    ),
    "refused-in-the-middle": Fault(
        clause="METER-2",
        story="The statements of a batch are counted and sent one by one, until one is too many.",
        metering=metering_faults.send_one_by_one,
    ),
    "rows-read-are-rows-written": Fault(
        clause="METER-3",
        story="The rows that were read count as written, and the other way round.",
        database=metering_faults.MixedUpRows,
    ),
    "claims-declared-too-cheap": Fault(
        clause="METER-4",
        story="A claim takes a statement more than is declared.",
        metering=metering_faults.declaring(claim=5),
    ),
    "events-declared-too-cheap": Fault(
        clause="METER-4",
        story="Fewer events go into one statement than is declared.",
        metering=metering_faults.declaring(events_per_query=50),
    ),
    "changed-tick-stays-claimed": Fault(
        clause="SCHEDULE-2",
        story="A change leaves the claimed tick with its claimer.",
        edits=[("upsert_schedule.changed", "lease_expires_at = NULL,", "")],
    ),
    "deploy-swallows-the-tick": Fault(
        clause="SCHEDULE-3",
        story="Any change takes over the next fire time.",
        edits=[("upsert_schedule.changed", "WHEN spec <> ?9 OR", "WHEN ?9 = ?9 OR")],
    ),
    "conflict-is-written": Fault(
        clause="SCHEDULE-4",
        story="A change meant for an older revision is written.",
        edits=[("upsert_schedule.changed", "OR revision = ?12", "OR ?12 = ?12")],
    ),
    "requests-stay": Fault(
        clause="SCHEDULE-7",
        story="The requested ticks of a deleted schedule are left to its namesake.",
        edits=[("delete_schedule.buckets", "WHERE schedule_id = ?1", "WHERE schedule_id = '-' || ?1")],
    ),
    "live-run-is-overlooked": Fault(
        clause="SCHEDULE-14",
        story="A paused run does not count as live.",
        edits=[
            (f"mark_schedule_bucket_started.{part}", "('queued', 'running', 'paused')", "('queued', 'running')")
            for part in ("run", "state", "head", "bucket", "schedule")
        ],
    ),
    "overlapping-tick-is-settled": Fault(
        clause="SCHEDULE-14",
        story="A start that is refused beside a live run settles its tick all the same.",
        edits=[
            (
                "mark_schedule_bucket_started.schedule",
                "AND (\n        ?5 IS NULL",
                "AND (\n        1\n        OR ?5 IS NULL",
            )
        ],
    ),
    "buffered-tick-is-impatient": Fault(
        clause="SCHEDULE-15",
        story="A buffered tick does not wait for the end of the previous run.",
        edits=[
            ("claim_due_schedule_buckets.schedules", "AND NOT EXISTS", "AND ?4 = ?4 OR NOT EXISTS"),
            ("claim_due_schedule_buckets.schedules", "AND previous.run_id IS NULL THEN", "THEN"),
        ],
    ),
    "later-tick-overtakes": Fault(
        clause="SCHEDULE-17",
        story="A tick starts before the one that waits when the run has ended in time for it.",
        edits=[
            (f"mark_schedule_bucket_started.{part}", "schedule.buffered_fire_at IS NULL", "?1 = ?1")
            for part in ("run", "state", "head", "bucket", "schedule")
        ],
    ),
    "waiting-ticks-wake-workers": Fault(
        clause="SCHEDULE-18",
        story="Ticks that wait for their turn are announced as due.",
        edits=[("claim_due_schedule_buckets.next_due", "schedule.requested_waits = 0", "?1 = ?1")],
    ),
    "refused-fork-leaves-events": Fault(
        clause="FORK-3",
        story="A fork of a log that is too short copies the events, and no head.",
        edits=[("fork_run.events", "AND source.next_index >= ?3", "AND ?3 = ?3")],
    ),
    "few-things-are-shown": Fault(
        clause="LIST-6",
        story="Of a long list a listing shows and counts only two things.",
        edits=[
            ("list_runs", ", '$[2]')", ", '$[9]')"),
            ("list_runs", "THEN json_array_length(head.awaiting)", "THEN 2"),
        ],
    ),
    "settled-request-stays": Fault(
        clause="SCHEDULE-8",
        story="A requested tick waits on after it was settled.",
        edits=[("mark_schedule_bucket_started.bucket", "AND fire_at = ?2", "AND fire_at <> ?2 AND fire_at = ?2")],
    ),
    "unfenced-tick": Fault(
        clause="SCHEDULE-16",
        story="A tick may be settled with any token.",
        edits=[("mark_schedule_bucket_started.schedule", "AND schedule.lease_token = ?3", "AND ?3 = ?3")],
    ),
    "batch-is-no-transaction": Fault(
        clause="RUN-7",
        story="The statements of a batch are sent one by one.",
        database=_SingleStatements,
    ),
}


async def open_broken(path: str, fault: str) -> D1WorkflowStore:
    """Open the store with a fault; child processes call this too."""
    store = await D1WorkflowStore.open(path)
    sender, what = store._sender, FAULTS[fault]
    texts = dict(sender._sql)
    for name, old, new in what.edits:
        if old not in texts[name]:
            raise LookupError(f"{fault}: the statement {name} has no {old!r}")
        texts[name] = texts[name].replace(old, new)
    sender._sql = texts
    # The mutants know D1 as it is; the local file's own transactions have tests of their own.
    sender._database = (what.database or _OnlyBatches)(sender._database)
    if what.transaction is not None:
        faulty: Any = what.transaction(store, store.append_in_transaction)
        store.append_in_transaction = faulty  # type: ignore[method-assign]  # that is the fault
    if what.metering is not None:
        what.metering(store)
    if what.heartbeats is not None:
        _break_heartbeats(store, what.heartbeats)
    return store


def _break_heartbeats(store: Any, heartbeats: Callable[[Any, Any], AbstractAsyncContextManager[Any]]) -> None:
    right = store.open_heartbeats
    store.loop = asyncio.get_running_loop()
    store.open_heartbeats = lambda: heartbeats(store, right())


async def _write_business(tx: D1Transaction, key: str) -> None:
    tx.add("INSERT INTO business VALUES (?1)", key)


def _business_reader(path: str) -> Callable[[], Awaitable[list[str]]]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TABLE business (key TEXT NOT NULL)")

    async def read() -> list[str]:
        with contextlib.closing(sqlite3.connect(path)) as database:
            return [key for (key,) in database.execute("SELECT key FROM business")]

    return read


def _corrupter(path: str) -> Callable[[str], Any]:
    async def corrupt(run_id: str) -> None:
        store = await D1WorkflowStore.open(path)
        damage = "UPDATE workflow_run_states SET input = '{\"cut' WHERE run_id = ?1"
        await store._sender.prepare(damage, run_id).run()
        await store.close()

    return corrupt


@contextlib.contextmanager
def d1_harness(fault: str | None) -> Iterator[StoreHarness]:
    """A harness for the D1 store on a file of its own, with a fault or without."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "mutant.db"))
        arguments = {"path": path} if fault is None else {"path": path, "fault": fault}
        factory = "workflow_store_d1:D1WorkflowStore.open" if fault is None else f"{__name__}:open_broken"
        yield StoreHarness(
            lambda: D1WorkflowStore.open(path) if fault is None else open_broken(path, fault),
            contract_version="0.1",
            process_factory=factory,
            process_arguments=arguments,
            corrupt=_corrupter(path),
            write_business=_write_business,
            read_business=_business_reader(path),
        )


def _mutant(name: str, fault: Fault) -> Mutant:
    return Mutant(
        name=f"d1-{name}",
        clause=fault.clause,
        story=fault.story,
        harness=lambda: d1_harness(name),
        words=fault.words,
        case=fault.case,
    )


SQL_MUTANTS = [_mutant(name, fault) for name, fault in FAULTS.items()]
