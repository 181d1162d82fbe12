"""The store contract: what a store must do, as Protocols by role and as numbered clauses.

A clause is one rule, written once, in the docstring of the method or role that it binds. A line that begins
with an id such as `LOG-1:` starts a clause. `workflow-contract-tests` holds at least one test that cites each of them.

Shape. A run has a **head** (one row: status, lease, next event index, inbox number, due time), a **log** (written
only by the holder of the lease) and an **inbox** (everything from outside). Every method is one atomic unit that
decides by the head. Times are integer milliseconds since the Unix epoch and come in as arguments.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ..payloads import JsonText
from .results import (
    BucketResult,
    CancelResult,
    ClaimResult,
    CreateManyResult,
    CreateResult,
    DeleteResult,
    DeleteScheduleResult,
    DeliverApprovalResult,
    DeliverRetryResult,
    DeliverSignalResult,
    ForkResult,
    LeaseResult,
    RequestBucketsResult,
    RequeueResult,
    RetryResult,
    ScheduleUpserted,
    TerminateResult,
)
from .values import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    DEFAULT_QUEUE,
    Appended,
    Awaited,
    BucketAction,
    BucketClaims,
    ClaimBatch,
    Event,
    Execution,
    InboxEntry,
    LeaseRenewal,
    NewEvent,
    OverlapPolicy,
    Paused,
    RequestedBucket,
    RequestedOverlap,
    RunCounts,
    RunPage,
    RunRecord,
    RunStatus,
    RunSummary,
    RunTimeline,
    RunToCreate,
    Schedule,
    SchedulePage,
    SignalToDeliver,
    StoreCapabilities,
    Timer,
    TransactionWork,
    WorkflowVersion,
    WorkNotice,
)

__all__ = [
    "CONTRACT_VERSION",
    "BulkStore",
    "EventLogStore",
    "LeaseRenewer",
    "LeaseStore",
    "Listening",
    "QueryStore",
    "RunLifecycleStore",
    "ScheduleStore",
    "SignalStore",
    "StoreAdmin",
    "SupportsHeartbeats",
    "SupportsMetering",
    "SupportsNotify",
    "SupportsSubscribe",
    "SupportsTransactions",
    "TimerStore",
    "WorkflowExecutionStore",
]

CONTRACT_VERSION = "0.1"
"""Changes when a clause is added, removed or given another meaning."""


class RunLifecycleStore(Protocol):
    """Creating, ending and removing runs.

    Driver's writes (`mark_run_paused`, `mark_run_finished`, `mark_run_errored`, `append_events`, `schedule_timer`,
    `release_run_lease`) share these clauses. An `operation_id` is random and names one call of one verb: no other call
    carries it, whatever the verb, so a store may compare it with the verb's name or without.

    Contract:
        FENCE-1: A driver's write whose `lease_token` is not the run's current one, or whose run is not `running`
            (ended, released, deleted), raises `LeaseLostError` and changes nothing.
        FENCE-2: Expiry alone takes nothing away: a holder whose lease has expired but whom nobody replaced may still
            write and renew.
        FENCE-3: Every claim gives a token that no claim of this run id ever gave before, also after the run was
            deleted and created again.
        OP-1: Repeating a run's last driver's write with its `operation_id` gives the first answer again and changes
            nothing, also when that write ended the lease. This is checked before the fence. What others can
            change (the inbox number, the cancel flag, the lease's end) is in the answer as it was then or as it is now.
        OP-2: Outside calls, claims by others and heartbeats in between do not make a store forget that operation.
    """

    async def create_run(
        self,
        *,
        run_id: str,
        workflow_id: str,
        workflow_version: str,
        input: JsonText,
        operation_id: str,
        now_ms: int,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        available_at_ms: int | None = None,
        owner: str | None = None,
        lease_ms: int | None = None,
    ) -> CreateResult:
        """Create a run, and claim it in the same unit when `owner` and `lease_ms` are given.

        Args:
            run_id: The id of the run, chosen by the caller.
            workflow_id: Which workflow.
            workflow_version: Which version of it; the run stays on it.
            input: The handler's input.
            operation_id: Random; a repeat of the same call after a lost answer carries the same.
            now_ms: The present.
            queue: Which queue the run waits in.
            priority: Greater is sooner; from -32768 to 32767.
            available_at_ms: Not claimable before; the present when absent. Not together with a claim.
            owner: Who claims.
            lease_ms: For how long.

        Contract:
            RUN-1: A new run is `queued` with the given facts, an empty log and an empty inbox, due at
                `available_at_ms` or `now_ms`; the answer is `created`.
            RUN-2: With `owner` and `lease_ms` the new run is `running` and the answer carries the claim; creation
                and claim are one unit.
            RUN-3: A known `run_id` changes nothing and claims nothing: the answer is `existing` with the stored run,
                and `differs` names each of `workflow_id` and `input` that is not the stored one (inputs compare as
                JSON values: order of keys does not matter, `1` and `1.0` and `true` differ).
            RUN-4: Of many simultaneous calls with one `run_id` exactly one answers `created`; the others answer
                `existing` with the run that was stored.
            RUN-5: Repeating the call with the same `operation_id` before any other write of a driver answers
                `created` again, with the same lease. If another worker has claimed the run meanwhile, that lease is
                the first one still, and worth nothing: so a store keeps it beside the current one.
        """
        ...

    async def fork_run(
        self,
        *,
        run_id: str,
        new_run_id: str,
        from_index: int,
        event: NewEvent,
        operation_id: str,
        now_ms: int,
        workflow_version: str | None = None,
    ) -> ForkResult:
        """Create a run that goes on from the first part of another run's log.

        Args:
            run_id: The run whose log it is, whatever its status; it stays as it is.
            new_run_id: The id of the new run, chosen by the caller.
            from_index: How many events are taken over; the new run's own log goes on there.
            event: Says where the new run comes from; it stands at `from_index`.
            operation_id: Random; a repeat of the same call after a lost answer carries the same.
            now_ms: The present.
            workflow_version: The version of the new run; by default that of the other one.

        Contract:
            FORK-1: The new run is `queued`, due now, with the other's workflow, input, queue, priority and tick, its
                first `from_index` events as they are, and then `event`. It has no inbox, no timers, no crashes and no
                request to end, and says in its record which run and index it comes from. All of it is one unit; the
                answer is `forked`. The other run does not change.
            FORK-2: What is taken over is the log as of one moment, also while a driver is writing it.
            FORK-3: A log that is shorter than `from_index` answers `not-forkable`, an unknown run `not-found`; nothing
                is written.
            FORK-4: A known `new_run_id` changes nothing and answers `existing`, with what differs, also when the other
                run is gone by then. Of many simultaneous calls exactly one answers `forked`. Repeating the call with
                the same `operation_id` before any write of a driver answers `forked` again.
        """
        ...

    async def load_run(self, *, run_id: str) -> RunRecord | None:
        """Read one run; `None` when there is none.

        Contract:
            RUN-6: Gives the run with its payloads as of the last committed unit; its `updated_at_ms` is the `now_ms` of
                the last call that changed it; heartbeats do not count. `None` for an unknown id.
        """
        ...

    async def load_execution(
        self,
        *,
        run_id: str,
        history_limit: int = DEFAULT_HISTORY_EVENTS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> Execution | None:
        """Read one run with the first pages of its history and its untaken inbox, and its timers, without claiming.

        Contract:
            RUN-7: Run, history, inbox and timers are of one moment. `None` for an unknown id.
        """
        ...

    async def mark_run_paused(
        self,
        *,
        run_id: str,
        lease_token: str,
        operation_id: str,
        expected_next_index: int,
        seen_inbox_seq: int,
        now_ms: int,
        events: Sequence[NewEvent] = (),
        taken_inbox: Sequence[int] = (),
        set_timers: Sequence[Timer] = (),
        removed_timers: Sequence[str] = (),
        awaited: Sequence[Awaited] = (),
    ) -> Paused:
        """End the lease because the handler waits.

        Args:
            run_id: Which run.
            lease_token: The fence.
            operation_id: See OP-1.
            expected_next_index: The length of the log as the driver knows it.
            seen_inbox_seq: The newest inbox number that the driver has seen.
            now_ms: The present.
            events: Appended as `append_events` does.
            taken_inbox: Inbox numbers that these events account for.
            set_timers: Added, or moved when the id is there.
            removed_timers: Ids; unknown ones are ignored.
            awaited: What the run waits for; replaces the former list.

        Raises:
            LeaseLostError: As FENCE-1 says.
            LogConflictError: As LOG-1 says.

        Contract:
            PAUSE-1: Events, timers, taken inbox entries, the awaited list and the end of the lease are one unit. The
                run is `paused` and due at its earliest timer (`None` without timers).
            PAUSE-2: When the inbox number is above `seen_inbox_seq` the run becomes `queued`, due now, instead of
                `paused`; the rest of the unit is written all the same.
            PAUSE-3: A delivery that commits while a pause is under way is never missed: afterwards the run is
                `queued`, or the delivery's own unit has queued it.
            PAUSE-4: `expected_next_index` is checked as by LOG-1.
            PAUSE-5: An awaited list of `MAX_AWAITED_BYTES`, as `awaited_bytes` counts, comes back as it went in; a
                longer one is refused with `InvalidArgumentError`, before anything is written.
        """
        ...

    async def mark_run_finished(
        self,
        *,
        run_id: str,
        lease_token: str,
        operation_id: str,
        expected_next_index: int,
        output: JsonText,
        now_ms: int,
        events: Sequence[NewEvent] = (),
        taken_inbox: Sequence[int] = (),
    ) -> None:
        """End the run with an output.

        Raises:
            LeaseLostError: As FENCE-1 says.
            LogConflictError: As LOG-1 says.

        Contract:
            FINISH-1: Last events, output, status `finished`, the end of the lease and the removal of all timers are
                one unit.
            FINISH-2: `expected_next_index` is checked as by LOG-1.
        """
        ...

    async def mark_run_errored(
        self,
        *,
        run_id: str,
        lease_token: str,
        operation_id: str,
        expected_next_index: int,
        error: JsonText,
        now_ms: int,
        events: Sequence[NewEvent] = (),
        taken_inbox: Sequence[int] = (),
        aborted: bool = False,
        parked: bool = False,
        reason: str | None = None,
    ) -> None:
        """End the run with an error, as `aborted` when its handler ended by cancellation, or park it.

        Args:
            run_id: Which run.
            lease_token: The fence.
            operation_id: See OP-1.
            expected_next_index: The length of the log as the driver knows it.
            error: What went wrong.
            now_ms: The present.
            events: Appended as `append_events` does.
            taken_inbox: Inbox numbers that these events account for.
            aborted: The handler ended by cancellation.
            parked: The handler has not ended; it cannot be driven before somebody has mended something. Not together
                with `aborted`.
            reason: Why it was aborted or parked, for a person to read; kept with one of these two.

        Raises:
            LeaseLostError: As FENCE-1 says.
            LogConflictError: As LOG-1 says.

        Contract:
            FINISH-3: As FINISH-1, with status `errored`, or `aborted` and the reason when `aborted` is true.
            FINISH-4: With `parked` the run is `dead`, with error and reason, and keeps its timers; else as FINISH-1.
        """
        ...

    async def cancel_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> CancelResult:
        """Ask a run to end.

        Contract:
            CANCEL-1: The request is one inbox entry of kind `cancel` and the head's cancel flag, one unit; the
                answer is `requested`. A terminal run, a `dead` one too, answers `finished`, also when it was asked
                before; any other run that was asked before answers `duplicate`. Both change nothing.
            CANCEL-2: A `paused` run becomes `queued`, due at once, whatever its timers were, and a `queued` one is due
                at once, whatever its time was, or since it was due if that was earlier: it ends by being claimed.
            CANCEL-3: The holder of a `running` run keeps its lease and learns of the request by the answers to
                append and heartbeat.
        """
        ...

    async def terminate_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> TerminateResult:
        """End a run at once, without its handler.

        Contract:
            CANCEL-4: The run is `aborted` with the reason, its lease is fenced off and its timers are gone, in one
                unit, from every status but `finished`, `errored` and `aborted` (which answer `finished`). The error
                of a run that was parked stays.
        """
        ...

    async def requeue_run(self, *, run_id: str, now_ms: int) -> RequeueResult:
        """Requeue a `dead` run.

        Contract:
            DEAD-1: Only a `dead` run: it is `queued`, due now, with a crash count of zero and without error, reason and
                end. Others answer `not-requeueable`.
        """
        ...

    async def retry_run(
        self,
        *,
        run_id: str,
        event: NewEvent,
        now_ms: int,
        statuses: Sequence[RunStatus] = (RunStatus.ERRORED, RunStatus.DEAD),
    ) -> RetryResult:
        """Requeue a run that ended wrongly, to go on from its log.

        Args:
            run_id: Which run.
            event: Appended to the log: it tells the engine that what comes after belongs to another life.
            now_ms: The present.
            statuses: The run must be in one of these, of `errored`, `dead` and `aborted`.

        Raises:
            InvalidArgumentError: A status is none that can be retried.

        Contract:
            RETRY-1: The event is appended and the run is `queued`, due now, with a crash count of zero and without
                error, reason and end, in one unit; the answer is `retried` with the event's index. It is the one write
                to a log that needs no lease: nobody else writes to that of a run that has ended.
            RETRY-2: Only a run in one of `statuses`; others answer `not-retryable` with their status, and nothing
                changes. Of many simultaneous calls exactly one answers `retried`.
            RETRY-3: Log, input, timers that are left, and inbox entries that nobody took are as before. A token of its
                former life is worth nothing.
            RETRY-4: A run that was `aborted` is no longer asked to end: its cancel flag is cleared, its request counts
                as taken, and a new request is `requested`. A run that was not keeps both.
        """
        ...

    async def delete_run(self, *, run_id: str, now_ms: int, force: bool = False) -> DeleteResult:
        """Remove a run.

        Contract:
            RETAIN-1: Every trace goes in one unit; afterwards each verb answers as for an unknown id.
            RETAIN-2: A run under a live lease answers `not-deletable` unless `force` is true, which fences the
                holder off.
        """
        ...

    async def prune_runs(
        self,
        *,
        finished_before_ms: int,
        limit: int,
        statuses: Sequence[RunStatus] | None = None,
        workflow_ids: Sequence[str] | None = None,
    ) -> int:
        """Delete terminal runs that ended before a time, oldest first; give the number deleted.

        Args:
            finished_before_ms: Only runs that reached their terminal status before.
            limit: At most so many in this call. Among runs that ended at the same moment the store chooses.
            statuses: Terminal statuses to prune; by default `finished`, `errored` and `aborted`.
            workflow_ids: Only these workflows.

        Raises:
            InvalidArgumentError: A status is not terminal.

        Contract:
            RETAIN-3: Deletes as RETAIN-1, only runs that are in a named status at that very moment, at most `limit`,
                oldest first. A status that is not terminal is refused.
        """
        ...


class BulkStore(Protocol):
    """Calls for many runs at once. `MAX_BULK_RUNS` ids, runs or signals fit into one call.

    Contract:
        BULK-1: Each run is dealt with as by the verb for one run, and its answer is that verb's; unknown ids answer
            `not-found`. The answer names each id once. Without ids nothing happens.
        BULK-2: Each run's own change, and each signal's, is one unit, whatever becomes of the others: it is atomic
            against whoever writes that run meanwhile. Calls that meet wait for each other, at worst, and never for
            ever.
        BULK-3: More than `MAX_BULK_RUNS` ids, runs or signals are refused, and so are bad ones, before anything is
            written; so too runs or signals that take more than `MAX_BULK_BYTES`, as the sum of their `bulk_bytes`,
            unless there is only one.
    """

    async def create_runs(self, *, runs: Sequence[RunToCreate], now_ms: int) -> tuple[CreateManyResult, ...]:
        """Create runs, each for itself.

        Args:
            runs: What to create, each with an operation id of its own.
            now_ms: The present.

        Returns:
            An answer for each run, in the order of `runs`.

        Contract:
            BULK-4: Each run is dealt with as by `create_run` without a claim, one after the other, whatever becomes of
                the others, also where a run id stands there twice and where a call is repeated with its operation ids.
                Its answer, in the order of `runs`, is `created`, or `existing` with what differs from that run: the
                `input` of one that cannot be read does. Without runs nothing happens.
        """
        ...

    async def deliver_signals(
        self, *, signals: Sequence[SignalToDeliver], now_ms: int
    ) -> tuple[DeliverSignalResult, ...]:
        """Put signals into the inboxes of runs, each for itself.

        Args:
            signals: What to deliver, to any runs; a run may get several.
            now_ms: The present.

        Returns:
            An answer for each signal, in the order of `signals`.

        Contract:
            BULK-5: Each signal is dealt with as by `deliver_signal`, one after the other, whatever becomes of the
                others, and its answer is that verb's, in the order of `signals`. So those for one run get their numbers
                in that order, the first that it waits for is `delivered`, and a `signal_id` that stands there twice
                for it is a `duplicate`. Without signals nothing happens.
        """
        ...

    async def cancel_runs(
        self, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
    ) -> Mapping[str, CancelResult]:
        """Ask runs to end: `cancel_run` for each."""
        ...

    async def terminate_runs(
        self, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
    ) -> Mapping[str, TerminateResult]:
        """End runs at once: `terminate_run` for each."""
        ...

    async def requeue_runs(self, *, run_ids: Sequence[str], now_ms: int) -> Mapping[str, RequeueResult]:
        """Requeue dead runs: `requeue_run` for each."""
        ...

    async def retry_runs(
        self,
        *,
        run_ids: Sequence[str],
        event: NewEvent,
        now_ms: int,
        statuses: Sequence[RunStatus] = (RunStatus.ERRORED, RunStatus.DEAD),
    ) -> Mapping[str, RetryResult]:
        """Requeue runs that ended wrongly: `retry_run` for each, with the same event.

        Raises:
            InvalidArgumentError: A status is none that can be retried.
        """
        ...


class EventLogStore(Protocol):
    """The append-only history of a run."""

    async def append_events(
        self,
        *,
        run_id: str,
        lease_token: str,
        operation_id: str,
        expected_next_index: int,
        events: Sequence[NewEvent],
        now_ms: int,
        lease_ms: int,
        taken_inbox: Sequence[int] = (),
        set_timers: Sequence[Timer] = (),
        removed_timers: Sequence[str] = (),
    ) -> Appended:
        """Append events and renew the lease.

        Args:
            run_id: Which run.
            lease_token: The fence.
            operation_id: See OP-1.
            expected_next_index: The length of the log as the driver knows it.
            events: What is appended; may be empty.
            now_ms: The present.
            lease_ms: For how long the lease is renewed.
            taken_inbox: Inbox numbers that these events account for.
            set_timers: Added, or moved when the id is there.
            removed_timers: Ids; unknown ones are ignored. No driver sets and removes one timer in one call: what
                becomes of it is left to the store.

        Raises:
            LeaseLostError: As FENCE-1 says.
            LogConflictError: As LOG-1 says.

        Contract:
            LOG-1: The events get the indexes from `expected_next_index` on, if that is the length of the log;
                otherwise `LogConflictError` and nothing is written.
            LOG-2: Several events are all there or none.
            LOG-3: Events, timers, taken inbox entries and the renewal of the lease (to `now_ms` + `lease_ms`, but
                never to an earlier time than it has) are one unit. The crash count is zero again when at least one
                event was appended.
            LOG-4: The answer carries the new length of the log, the run's inbox number and its cancel flag.
            LOG-5: Of many simultaneous appends at one index exactly one succeeds; indexes have no gaps.
            LOG-6: A taken inbox entry is never brought again by a claim or `read_inbox`.
            LOG-8: `MAX_TIMER_CHANGES` timers are set and as many removed in one call, whatever their ids; more of
                either are refused with `InvalidArgumentError`, before anything is written. So it is in a pause.
        """
        ...

    async def read_events(
        self, *, run_id: str, limit: int, from_index: int = 0, max_bytes: int = DEFAULT_HISTORY_BYTES
    ) -> tuple[Event, ...]:
        """Read a page of the log in order; empty past its end and for an unknown run.

        Contract:
            LOG-7: Gives the events from `from_index` on, in order, without gaps, at most `limit` of them and at most
                `max_bytes` of payload, but at least one when there is one and `limit` is not 0.
        """
        ...


class LeaseStore(Protocol):
    """Claiming runs and keeping the claim."""

    async def claim_run(
        self,
        *,
        run_id: str,
        owner: str,
        lease_ms: int,
        now_ms: int,
        max_crashes: int,
        history_limit: int = DEFAULT_HISTORY_EVENTS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> ClaimResult:
        """Claim one run by its id.

        Contract:
            CLAIM-1: Claimable are: `queued` and due; `running` with a lease that expired at or before `now_ms`;
                `paused` with a timer due. Everything else answers `not-claimable` and says when it may be.
            CLAIM-2: The claim carries the run, a new lease, the first page of history (bounded as by LOG-7), the
                untaken inbox (its first page, bounded as `ClaimedRun` says) and the due timers.
        """
        ...

    async def heartbeat_run_lease(self, *, run_id: str, lease_token: str, lease_ms: int, now_ms: int) -> LeaseRenewal:
        """Renew a lease to `now_ms` + `lease_ms`.

        Raises:
            LeaseLostError: As LEASE-1 says.

        Contract:
            LEASE-1: Fenced as by FENCE-1 and FENCE-2: a lost lease raises `LeaseLostError`. Renewal never shortens
                a lease.
            LEASE-2: The answer carries the inbox number, the cancel flag and the store's clock, as of the renewal or a
                later moment before the answer. Nothing but the end of the lease changes.
        """
        ...

    async def heartbeat_run_leases(
        self, *, leases: Sequence[tuple[str, str]], lease_ms: int, now_ms: int
    ) -> tuple[LeaseResult, ...]:
        """Renew many leases to `now_ms` + `lease_ms`, each for itself. `MAX_HEARTBEAT_LEASES` fit into one call.

        Args:
            leases: Ids of runs, each with the token of its lease.
            lease_ms: For how long.
            now_ms: The present.

        Returns:
            An answer for each lease, in the order of `leases`.

        Contract:
            LEASE-4: Each lease is dealt with as by `heartbeat_run_lease`, whatever becomes of the others. Its answer is
                that verb's; `lost` where that verb raises `LeaseLostError`; or `busy`. The answers are in the order of
                `leases`, also for a run or a lease that is named twice. Without leases nothing happens.
            LEASE-5: `busy` means that somebody is writing to the run at that moment, and that the store did not wait:
                the lease is as it was. A lease of a run that nobody else writes to is never `busy`.
            LEASE-6: More than `MAX_HEARTBEAT_LEASES` leases are refused, and so are bad ids, before anything is
                renewed.
        """
        ...

    async def release_run_lease(self, *, run_id: str, lease_token: str, operation_id: str, now_ms: int) -> None:
        """Hand a run over: `queued`, due now, for any worker.

        Raises:
            LeaseLostError: As FENCE-1 says.

        Contract:
            LEASE-3: The run is `queued` and due at once; no crash is counted; the token is worth nothing any more.
        """
        ...

    async def claim_stale_runs(
        self,
        *,
        owner: str,
        lease_ms: int,
        now_ms: int,
        limit: int,
        max_crashes: int,
        workflows: Sequence[WorkflowVersion] | None = None,
        queues: Sequence[str] | None = None,
        history_limit: int = DEFAULT_HISTORY_EVENTS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> ClaimBatch:
        """Claim `running` runs whose lease expired at or before `now_ms`.

        Args:
            owner: Who claims.
            lease_ms: For how long.
            now_ms: The present.
            limit: At most so many.
            max_crashes: A run whose crash count reaches this becomes `dead` instead of being claimed; at least 1.
            workflows: Only these workflow versions; `None` means any.
            queues: Only these queues; `None` means any.
            history_limit: Events in the first page of history of each run.
            history_bytes: Bytes of payload in it.

        Contract:
            DEAD-2: Claiming a run from an expired lease counts one crash if a heartbeat or a driver's write was
                accepted under that lease; when the count reaches `max_crashes` the run becomes `dead` in the same unit
                and is reported in `dead`, in any order. It has no lease then, and no reason, and keeps log, inbox and
                timers.
                A count that has reached a smaller `max_crashes` before is enough. Also by `claim_run`. Runs that become
                `dead` count towards `limit`.
            DEAD-4: A lease under which nothing was heard may be one whose claim's answer was lost: of such claims in a
                row only each `SILENT_CLAIMS_PER_CRASH`-th counts one crash. The row ends with a sign of life, and with
                a claim that is not from an expired lease.
            DEAD-3: A recovery with progress does not count: an event in any driver's write, or a pause, sets the count
                to zero.
        """
        ...

    async def list_pending_runs(
        self,
        *,
        now_ms: int,
        limit: int,
        workflows: Sequence[WorkflowVersion] | None = None,
        queues: Sequence[str] | None = None,
    ) -> tuple[RunSummary, ...]:
        """List the due queued runs in the order of `claim_pending_runs`, without claiming.

        Contract:
            CLAIM-3: Same runs, same order as a claim at that moment.
        """
        ...

    async def claim_pending_runs(
        self,
        *,
        owner: str,
        lease_ms: int,
        now_ms: int,
        limit: int,
        workflows: Sequence[WorkflowVersion] | None = None,
        queues: Sequence[str] | None = None,
        history_limit: int = DEFAULT_HISTORY_EVENTS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> ClaimBatch:
        """Claim due queued runs.

        Contract:
            CLAIM-4: No run is held twice in the same window, whatever the number of claimers and processes.
            CLAIM-5: Greater priority first, then the earliest due, then the run id; exact within one claim. A `running`
                run is due at the end of its lease, a `paused` one at its earliest timer.
            CLAIM-6: Only runs that match `workflows` and `queues`; an empty filter matches nothing.
            CLAIM-7: `next_due_ms` is when the next matching run can be claimed, `None` when none is known; it is
                not after `now_ms` while more are waiting. The runs of this answer do not count.
            CLAIM-8: A run that cannot be read, because its input is missing or is no JSON text, is reported in
                `corrupt` and does not keep the others back. Every verb that gives this one run raises
                `CorruptRecordError`: `claim_run`, which may leave it claimed, and `create_run` of its id too.
            CLAIM-9: Every run that is not terminal is reachable: queued here, running with an expired lease by
                `claim_stale_runs`, paused with a due timer by `claim_due_timers`; a delivery or cancel that may help
                a paused run queues it.
            CLAIM-10: A claim may pass over runs that another call is writing at that moment, all of them if it must:
                then `next_due_ms` is not after `now_ms`. It passes over none while no other call is under way.
        """
        ...


class TimerStore(Protocol):
    """Waking runs by time."""

    async def schedule_timer(
        self,
        *,
        run_id: str,
        lease_token: str,
        operation_id: str,
        timer_id: str,
        fire_at_ms: int,
        now_ms: int,
    ) -> None:
        """Add a timer to a run that the caller drives, or move it.

        Raises:
            LeaseLostError: As FENCE-1 says.

        Contract:
            TIMER-1: The timer is durable, and the run's next pause is due at its earliest timer.
        """
        ...

    async def claim_due_timers(
        self,
        *,
        owner: str,
        lease_ms: int,
        now_ms: int,
        limit: int,
        workflows: Sequence[WorkflowVersion] | None = None,
        queues: Sequence[str] | None = None,
        history_limit: int = DEFAULT_HISTORY_EVENTS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> ClaimBatch:
        """Claim paused runs that have a timer at or before `now_ms`.

        Contract:
            TIMER-2: Claims the run itself, once, with all its due timers, earliest first; filters, order, answer
                as CLAIM-4 to CLAIM-10. `next_due_ms` is the earliest timer of another paused run.
            TIMER-3: A timer stays until a driver's write removes it or the run ends: a crash after the claim loses
                nothing.
        """
        ...


class SignalStore(Protocol):
    """Delivering into a run's inbox."""

    async def deliver_signal(
        self,
        *,
        run_id: str,
        signal_id: str,
        name: str,
        payload: JsonText | None,
        now_ms: int,
        only_if_waiting: bool = False,
    ) -> DeliverSignalResult:
        """Put a signal into the run's inbox.

        Args:
            run_id: For which run.
            signal_id: Deduplicates: it acts once for the life of the run's record.
            name: What the handler waits for.
            payload: `None` is no payload, which is not the same as `null`.
            now_ms: The present.
            only_if_waiting: Refuse with `not-waiting` unless the run is paused waiting for this name.

        Contract:
            SIGNAL-1: Entry, inbox number and change of status are one unit, durable before the answer. A run paused
                waiting for `name` becomes `queued`, due now, and the answer is `delivered`; otherwise `buffered`.
            SIGNAL-2: A known `signal_id` answers `duplicate` and changes nothing, also when the run has ended.
            SIGNAL-3: `finished`, `errored` and `aborted` runs answer `finished`; unknown, deleted and pruned ones
                `not-found`. A `dead` run buffers.
            SIGNAL-4: Inbox numbers are 1, 2, 3 … in the order of the units, without gaps, and entries are brought in
                that order.
            SIGNAL-5: With `only_if_waiting` nothing is written unless the answer is `delivered`.
        """
        ...

    async def deliver_approval(
        self,
        *,
        run_id: str,
        approval_id: str,
        approved: bool,
        now_ms: int,
        decided_by: str | None = None,
        comment: str | None = None,
        only_if_waiting: bool = False,
    ) -> DeliverApprovalResult:
        """Put a decision into the run's inbox.

        Contract:
            APPROVAL-1: As SIGNAL-1 for a run paused waiting for `approval_id`; the entry's payload is the JSON
                object that `approval_payload` writes.
            APPROVAL-2: An approval is decided once: another decision answers `already-decided` with the one that
                stands and changes nothing, also when the run has ended. Signals and approvals with equal ids do not
                meet.
        """
        ...

    async def deliver_retry(self, *, run_id: str, retry_id: str, now_ms: int) -> DeliverRetryResult:
        """Put the wish into the run's inbox that what waits to be tried again is tried now.

        Contract:
            SIGNAL-7: As SIGNAL-1 to SIGNAL-4, with an entry of kind and name `retry`, without a payload, known by its
                `retry_id`. A paused run is queued whatever it waits for, and the answer is `delivered`: what the wish
                means to it is for its driver to say.
        """
        ...

    async def read_inbox(
        self, *, run_id: str, limit: int, after_seq: int = 0, max_bytes: int = DEFAULT_HISTORY_BYTES
    ) -> tuple[InboxEntry, ...]:
        """Read entries that are not taken yet, in order, from the one after `after_seq` on.

        Contract:
            SIGNAL-6: At most `limit` entries and `max_bytes` of payload, but at least one when there is one and
                `limit` is not 0; taken ones are left out; empty for an unknown run.
        """
        ...


class ScheduleStore(Protocol):
    """Schedules and their ticks.

    A tick is named by its schedule and the moment that it stands for. It comes from the schedule's own time
    (`due`), from a request (`requested`), or from being put back until its predecessor ended (`buffered`).
    A schedule's **previous run** is the last one that a tick of it started. It is live while it is not terminal.
    """

    async def upsert_schedule(
        self,
        *,
        schedule_id: str,
        workflow_id: str,
        workflow_version: str,
        spec: JsonText,
        input: JsonText,
        next_fire_at_ms: int | None,
        now_ms: int,
        overlap_policy: OverlapPolicy = "skip",
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        enabled: bool | None = None,
        expected_revision: int | None = None,
    ) -> ScheduleUpserted:
        """Create a schedule or change its definition.

        Args:
            schedule_id: Which schedule.
            workflow_id: What its ticks start.
            workflow_version: In which version.
            spec: When it fires and how; the runtime's business.
            input: What its runs get.
            next_fire_at_ms: The first tick by this definition; `None` when there is none.
            now_ms: The present.
            overlap_policy: What becomes of a tick whose predecessor's run is live.
            queue: Of its runs.
            priority: Of its runs.
            enabled: Whether it fires by itself; when absent, as it is, and a new one does.
            expected_revision: Only change a schedule of this revision.

        Contract:
            SCHEDULE-1: A new one has revision 1, no previous run, and fires first at `next_fire_at_ms`.
            SCHEDULE-2: One that changes nothing (everything but `next_fire_at_ms` equal, payloads as text) writes
                nothing; one that changes something takes the next revision, and its claimed tick is claimable again at
                once.
            SCHEDULE-3: The next fire time is taken over only when `spec` changes or `enabled` becomes true: any other
                change leaves a tick that is due due.
            SCHEDULE-4: With an `expected_revision` that is not the stored one, or for a schedule that is not there,
                the answer is `conflict` with what is stored, and nothing is written.
        """
        ...

    async def get_schedule(self, *, schedule_id: str) -> Schedule:
        """Read one schedule.

        Raises:
            ScheduleNotFoundError: There is no such schedule.

        Contract:
            SCHEDULE-5: Raises `ScheduleNotFoundError` for an unknown id.
        """
        ...

    async def list_schedules(self, *, limit: int, cursor: str | None = None) -> SchedulePage:
        """List schedules ordered by id.

        Raises:
            InvalidArgumentError: The cursor is none of this listing.

        Contract:
            SCHEDULE-6: Keyset pages: each schedule that is there throughout appears exactly once.
        """
        ...

    async def delete_schedule(self, *, schedule_id: str) -> DeleteScheduleResult:
        """Remove a schedule and its ticks; runs that it started stay.

        Contract:
            SCHEDULE-7: Afterwards nothing of it fires; a claimed tick answers `schedule-changed`.
        """
        ...

    async def request_schedule_buckets(
        self,
        *,
        schedule_id: str,
        fire_times_ms: Sequence[int],
        now_ms: int,
        overlap: RequestedOverlap | None = None,
    ) -> RequestBucketsResult:
        """Ask for ticks beside those of the schedule's own time: one for now, or those of a period.

        Args:
            schedule_id: Which schedule.
            fire_times_ms: The moments that they stand for, integers; at most 1,000.
            now_ms: The present.
            overlap: What holds for these ticks in place of the schedule's overlap policy; by default that one.

        Contract:
            SCHEDULE-8: Each is claimable at once, also when the schedule is disabled and when its moment lies before
                the high-water mark or in the future; all or none are written. One that was requested before and is not
                settled yet is not requested twice, and keeps its `overlap`; the answer counts the new ones. One that
                was settled waits again. An unknown schedule answers `not-found`.
            SCHEDULE-18: A tick that is requested with an `overlap` is claimed and settled by it, also when it is a due
                one besides. With `buffer-all` it is claimable only while the previous run is not live, unless it is a
                due one besides; it comes after the requested ticks without, and `buffer` leaves it requested: none of
                these ticks is ever dropped for another one. Among themselves, and beside the due tick, these ticks come
                by their moments. With every other policy `buffer` ends the request: when the buffered tick is claimed
                again, the schedule's own policy holds.
        """
        ...

    async def list_requested_buckets(
        self, *, schedule_id: str, limit: int, from_ms: int = 0
    ) -> tuple[RequestedBucket, ...]:
        """List the ticks that were requested and are not settled.

        Args:
            schedule_id: Which schedule.
            limit: At most so many.
            from_ms: Only moments at or after.

        Contract:
            SCHEDULE-19: Ordered by moment, a claimed one too; empty for an unknown schedule.
        """
        ...

    async def claim_due_schedule_buckets(
        self,
        *,
        owner: str,
        lease_ms: int,
        now_ms: int,
        limit: int,
        workflow_ids: Sequence[str] | None = None,
    ) -> BucketClaims:
        """Claim ticks: due ones of enabled schedules, requested ones, buffered ones whose predecessor has ended.

        Args:
            owner: Who claims.
            lease_ms: For how long.
            now_ms: The present.
            limit: At most so many. Among schedules whose ticks stand for the same moment the store chooses.
            workflow_ids: Only of schedules of these workflows.

        Contract:
            SCHEDULE-9: One tick of a schedule at a time: its buffered one first, if its previous run is not live,
                else the earliest of the due and the requested ones. Schedules whose tick is the earliest first. A
                moment that is both due and requested is one tick, and a due one; so settling it settles the request.
                A tick under a live lease is not claimed again, one whose lease expired is, with a new token.
            SCHEDULE-10: Each claim names the previous run if it is live. `next_due_ms` is the earliest moment at which
                another tick of these workflows may be claimable, as far as time alone decides it: when the next one
                that lies ahead is due (also of a schedule whose claimed tick would have to be settled first), when the
                claim of a tick that is not in this answer runs out, or the present if the limit left ticks behind. A
                tick that is due behind a claimed one is not told: its turn comes by settling that one.
            SCHEDULE-11: With `workflow_ids`, ticks of other workflows are left alone and hold nothing up;
                `unclaimable` names up to 10 schedules that have one waiting.
            SCHEDULE-12: A due tick at or before the high-water mark is never claimed again, whatever was pruned.
        """
        ...

    async def mark_schedule_bucket_started(
        self,
        *,
        schedule_id: str,
        fire_at_ms: int,
        lease_token: str,
        operation_id: str,
        expected_revision: int,
        action: BucketAction,
        now_ms: int,
        run_id: str | None = None,
        next_fire_at_ms: int | None = None,
        available_at_ms: int | None = None,
    ) -> BucketResult:
        """Settle a claimed tick: start its run, skip it, or put it back until the previous run has ended.

        Args:
            schedule_id: Which schedule.
            fire_at_ms: Which tick.
            lease_token: The fence of the tick's claim.
            operation_id: See OP-1; with `start` it becomes the created run's operation.
            expected_revision: The revision that the claim brought.
            action: What becomes of the tick.
            now_ms: The present.
            run_id: The run to start with the schedule's workflow, version, input, queue and priority; with `start`,
                and only then.
            next_fire_at_ms: For a due tick, when the schedule fires next; `None` when never again.
            available_at_ms: The run is not claimable before; the present when absent.

        Raises:
            LeaseLostError: As SCHEDULE-16 says.

        Contract:
            SCHEDULE-13: `start`: the run, the mark on the tick, the previous run, and for a due tick the next fire time
                and the high-water mark, are one unit. The run's record, also as a claim brings it, names the schedule
                and the tick's moment. A run id that exists already counts as started.
            SCHEDULE-14: Unless the overlap policy is `allow`, `start` does nothing while the previous run is live (and
                is not `run_id` itself), and answers `overlapping` with it: two runs of one schedule are never live at
                once. The tick stays claimed.
            SCHEDULE-15: `skip` marks the tick without a run. `buffer` puts it back: it is claimed again when the
                previous run is not live. One tick is buffered at most: of two, `buffer-one` keeps the one that was
                there, the other policies the one of the later moment, and the answer is `skipped` when that is not
                this one. For a due tick both actions move the schedule on.
            SCHEDULE-16: Another revision, or a deleted schedule, answers `schedule-changed`; a token that is not the
                tick's current one raises `LeaseLostError`; nothing is written. As FENCE-2 has it, a claim that has
                expired and that nobody replaced still settles its tick. Repeating the call that settled the tick gives
                its answer again, for as long as that tick is the last one that was settled.
            SCHEDULE-17: Unless the overlap policy is `allow`, a buffered tick goes first: `start` of another one does
                nothing, whether or not the previous run has ended meanwhile, and answers `behind` with the buffered
                one's moment if no run is in its way; the tick stays claimed. With `cancel-previous` and
                `terminate-previous` only a tick of a later moment starts; it takes the place of the buffered one, which
                then never starts. A request for the buffered one's own moment is the same tick: it is not behind
                itself, and once it is started or skipped, nothing is buffered any more.
        """
        ...


class QueryStore(Protocol):
    """Looking at many runs."""

    async def list_runs(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        statuses: Sequence[RunStatus] | None = None,
        workflow_ids: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
        run_id_prefix: str | None = None,
        created_from_ms: int | None = None,
        created_before_ms: int | None = None,
        descending: bool = False,
    ) -> RunPage:
        """List runs by creation.

        Args:
            limit: At most so many on this page.
            cursor: `next_cursor` of the page before, with the same filters.
            statuses: Any of these; an empty sequence matches nothing.
            workflow_ids: Any of these.
            queues: Any of these.
            run_id_prefix: Ids that begin with this plain text.
            created_from_ms: Created at or after.
            created_before_ms: Created before.
            descending: Newest first.

        Raises:
            InvalidArgumentError: The cursor is none of this listing.

        Contract:
            LIST-1: Ordered by `(created_at_ms, run_id)`, ids by code point; filters are ANDed.
            LIST-2: A run that is there from the first page to the last and matches throughout appears exactly once,
                whatever is created, changed or deleted in between.
            LIST-3: A cursor that is none is refused with `InvalidArgumentError`, whatever it is; `%`, `_`, `*` and case
                in a prefix are plain text.
            LIST-6: A paused run's summary names the first `AWAITED_SHOWN` things of its awaited list, in that order,
                and how many there are; every other run waits for nothing.
        """
        ...

    async def count_runs(
        self,
        *,
        statuses: Sequence[RunStatus] | None = None,
        workflow_ids: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
        run_id_prefix: str | None = None,
        created_from_ms: int | None = None,
        created_before_ms: int | None = None,
    ) -> RunCounts:
        """Count runs by status, with the filters of `list_runs`; statuses without a run are absent.

        Contract:
            LIST-4: Equals the counts of a full listing.
        """
        ...

    async def get_run_timeline(self, *, run_id: str, limit: int = 1_000) -> RunTimeline:
        """Return what happened to a run.

        Raises:
            RunNotFoundError: There is no such run.

        Contract:
            LIST-5: Creation, events (with payloads), inbox entries and pending timers, ordered by time; at most
                `limit` events and `limit` inbox entries, the first ones. Raises `RunNotFoundError` for an unknown id.
        """
        ...


class StoreAdmin(Protocol):
    """The store as a whole.

    Contract:
        PAYLOAD-1: A payload comes back as the very text that went in, from every verb that carries one.
        PAYLOAD-2: An absent payload and `null` stay different.
        PAYLOAD-3: A payload of more than `capabilities.max_payload_bytes` raises `PayloadTooLargeError` before
            anything is written; one of exactly that size is carried.
        PAYLOAD-4: Returned values share no state with the store.
        PAYLOAD-5: Text that is not one JSON document in ASCII (no `NaN`, nothing behind it), or is nested deeper than
            250 levels, is refused with `InvalidArgumentError` naming the argument, before anything is written.
        ARG-1: Ids that are no strings, empty, longer than 512 bytes in UTF-8, or hold a NUL or a lone surrogate are
            refused with `InvalidArgumentError` naming the argument, before anything is written.
        ARG-2: A negative limit is refused; a limit of 0 returns, claims and deletes nothing.
        ARG-3: Times and durations are integers from 0 to 2^53 - 1, and so is the end of a lease, `now_ms + lease_ms`; a
            lease lasts at least 1 ms, and `max_crashes` is at least 1; anything else is refused.
        ARG-4: An argument that is left out has the value that the verb's signature here gives it.
        DURABLE-1: A store that declares `durable` keeps all that it has answered when its last handle is closed.
            Handles that are opened later find it, in this process and in others: runs, schedules, leases, and what it
            knows of operations and of delivered ids.
        TIME-1: Time comes from the arguments: a store never compares with a clock of its own.
        STATUS-1: Each verb answers in each status as `STATUS_TABLE` says, never with an exception.
        ERROR-1: No driver's exception escapes: what goes wrong below raises a `StoreError`.
        ERROR-2: A call that is cancelled ends soon with `CancelledError`. Whoever gets no answer, because of that or
            because the process died, has made the call or not, never a part of it; and the handle serves the next one.
    """

    @property
    def capabilities(self) -> StoreCapabilities:
        """The store's own declaration."""
        ...

    async def ensure_schema(self) -> None:
        """Create or upgrade the tables, from tests, demos or an admin script, or as the first act of a runtime.

        Raises:
            SchemaAheadError: A newer release of the store has made the tables.
            ForeignTablesError: Tables of these names are not the store's.
            SchemaHalfAppliedError: They are the store's, and a migration stopped in the middle.

        Contract:
            SCHEMA-1: May be called again and by several processes at once; afterwards `check_schema` passes.
        """
        ...

    async def check_schema(self) -> None:
        """Raise `SchemaMissingError`, `SchemaBehindError` or `SchemaAheadError` unless the tables fit this code.

        Raises:
            SchemaMissingError: There are no tables.
            SchemaBehindError: The tables are older than this code.
            SchemaAheadError: They are newer.
            ForeignTablesError: Tables of these names are not the store's.
            SchemaHalfAppliedError: They are the store's, and a migration stopped in the middle.

        Contract:
            SCHEMA-2: Passes after `ensure_schema`.
        """
        ...

    async def read_clock(self) -> int:
        """Read the store's time.

        Contract:
            TIME-2: Milliseconds since the Unix epoch; does not run backwards between two calls by more than the
                machine's own clock does.
        """
        ...


class WorkflowExecutionStore(
    RunLifecycleStore,
    BulkStore,
    EventLogStore,
    LeaseStore,
    TimerStore,
    SignalStore,
    ScheduleStore,
    QueryStore,
    StoreAdmin,
    Protocol,
):
    """Everything that the runtime needs of a store.

    `STATUS_TABLE` in `workflow_runtime.store.status_table` says how each verb answers in each status.
    """


class SupportsSubscribe(Protocol):
    """A store that gives events as they are appended; declared by `capabilities.subscribe`."""

    def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        """Yield the run's events from an index on, waiting for new ones, until the run is terminal.

        Args:
            run_id: Which run.
            from_index: The first event to give; past the end of the log it waits for that one.

        Raises:
            RunNotFoundError: There is no such run, or not any more.

        Contract:
            SUBSCRIBE-1: Gives every event from `from_index` on, in order, exactly once, whatever the length of the
                log. It ends when the run is terminal (a `dead` one too) and its last event was given.
            SUBSCRIBE-2: Waits for events that are not there yet; those appended through other handles and by other
                processes come too.
            SUBSCRIBE-3: Raises `RunNotFoundError` for an unknown run, and when the run is deleted meanwhile, also when
                its id has another run by then.
            SUBSCRIBE-4: Closing it, or cancelling the task that waits for it, ends it at once; it holds nothing back:
                the run and the store go on as if nobody had followed.
        """
        ...


class Listening(Protocol):
    """The state of `SupportsNotify.listen` while it lasts."""

    @property
    def live(self) -> bool:
        """True if notices are coming at present, as far as is known."""
        ...


class LeaseRenewer(Protocol):
    """A connection that renews leases and does nothing else."""

    async def heartbeat_run_lease(self, *, run_id: str, lease_token: str, lease_ms: int, now_ms: int) -> LeaseRenewal:
        """See `LeaseStore`."""
        ...

    async def heartbeat_run_leases(
        self, *, leases: Sequence[tuple[str, str]], lease_ms: int, now_ms: int
    ) -> tuple[LeaseResult, ...]:
        """See `LeaseStore`."""
        ...


class SupportsHeartbeats(Protocol):
    """A store that can renew leases beside its own event loop; declared by `capabilities.heartbeats`."""

    def open_heartbeats(self) -> AbstractAsyncContextManager[LeaseRenewer]:
        """Open a connection for nothing but heartbeats, for as long as the block lasts.

        Contract:
            HEARTBEAT-1: May be called, entered and used on the event loop of any thread, while the store's own event
                loop is blocked and while all its connections are taken.
            HEARTBEAT-2: What it gives renews, and refuses, as `heartbeat_run_lease` and `heartbeat_run_leases` of the
                store do.
            HEARTBEAT-3: The store lives on when the block is left.
        """
        ...


class SupportsMetering(Protocol):
    """A store that counts its queries; declared by `capabilities.metered`, which says what calls cost.

    `spend_queries` and `note_rows` are what it counts with. What is counted while a thread renews leases
    (`SupportsHeartbeats`) is nobody's.

    Contract:
        METER-1: Before anything is sent it is spent with `spend_queries`, each statement as one query, each try
            anew: no call that asks the database takes less than one. So too what the function of a transaction sends.
        METER-2: A call for which the meter has not enough left raises `QueryLimitReachedError` and changes nothing; it
            may be made again later, a driver's write with the same `operation_id`.
        METER-3: The rows that the database says it has read and written are noted once, with `note_rows`. Where it says
            nothing, nothing is noted.
        METER-4: No call takes more queries than `capabilities.metered` says, whatever its arguments, unless it is tried
            again because the database was away.
    """


class SupportsNotify(Protocol):
    """A store that notifies waiting workers of work; declared by `capabilities.notify`.

    A notice is a hint. It may come twice or for nothing, and one that is lost costs a worker no more than the time to
    its next poll. So nothing is right or wrong because of a notice; workers only poll less often while they come.
    """

    def listen(self, on_notice: Callable[[WorkNotice], None]) -> AbstractAsyncContextManager[Listening]:
        """Call a function on each notice of work while the block lasts.

        Args:
            on_notice: Called in the listener's event loop; must neither wait nor raise.

        Contract:
            NOTIFY-1: While it is live, every listener of every handle and process gets a notice with the run's id, or
                with `None`, soon after a unit that may leave a worker something to do: a run is created without a
                claim, whenever it is due, or forked; a tick starts one; a delivery queues a run; a delivery reaches a
                `running` one; a request to cancel is accepted; a run is released, requeued or retried; a pause ends as
                `queued`, or with a timer that is due in less than `NOTICE_HORIZON_MS` from its `now_ms`. With `None`
                when a schedule is created or changed, or ticks of it are requested.
            NOTIFY-2: What a notice tells of can be read when it comes.
            NOTIFY-3: Listening begins at once, live or not, whatever the state of the store. Each change of `live` is
                followed by a notice with `None`: what happened meanwhile was not told.
            NOTIFY-4: Once the block is left no notice comes any more.
            NOTIFY-5: What no worker waits for is not told: appends, renewals, claims, ends, and deliveries that only
                lie in the inbox.
        """
        ...


class SupportsTransactions(Protocol):
    """A store that commits a business write and its record together; declared by `capabilities.transactions`."""

    async def append_in_transaction(
        self, *, run_id: str, lease_token: str, operation_id: str, work: TransactionWork
    ) -> Appended:
        """Run `work` in a transaction, append what it says, and commit both.

        Args:
            run_id: Which run.
            lease_token: The fence.
            operation_id: See OP-1; a repeat that finds nothing done runs `work` again.
            work: Gets whatever the store has for business writes in the transaction, and gives the arguments of
                `append_events`. It may be called again when the database asks for a repeat: what an earlier call
                wrote is undone by then.

        Raises:
            LeaseLostError: As TX-2 says.
            LogConflictError: As TX-3 says.
            TransactionEndedError: `work` has ended the transaction itself.

        Contract:
            TX-1: What `work` wrote, and the append as LOG-1 to LOG-6 have it, are one unit: nobody sees a part of
                it, and after the answer all of it is durable.
            TX-2: Fenced as by FENCE-1 and FENCE-2: a lease that was lost before or meanwhile raises `LeaseLostError`
                and nothing of `work` stays. When it was lost before, `work` is not called.
            TX-3: A log of another length than `work` says raises `LogConflictError`, and nothing of `work` stays.
            TX-4: What `work` raises is raised as it is, and nothing of it stays; so too when the call is cancelled
                while `work` is running. The run can be written as before.
            TX-5: Repeating the run's last driver's write with its `operation_id` gives the first answer again,
                without calling `work`. If the same call is made twice at once, `work` may be called for each: the
                writes of one of them stay, and both are answered.
            TX-6: Deliveries, heartbeats and transactions of other runs may come at any time, and `work` may await any
                other write of the store before its own first statement: every transaction ends, and the writes of
                exactly one call of its `work` stay. So where a database has one writer at a time, the transaction
                begins to write at that statement, not before, and looks at the lease again there.
        """
        ...
