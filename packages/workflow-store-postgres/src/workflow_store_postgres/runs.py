"""Creating, ending and removing runs."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    DEFAULT_QUEUE,
    NOTICE_HORIZON_MS,
    Awaited,
    CancelResult,
    CreateResult,
    DeleteResult,
    Execution,
    JsonText,
    NewEvent,
    Paused,
    RequeueResult,
    RunRecord,
    RunStatus,
    StoreUnavailableError,
    TerminateResult,
    Timer,
    cancel_payload,
    checked,
)
from workflow_store_sql import (
    Fence,
    NewRun,
    answer_cancel,
    answer_delete,
    answer_requeue,
    answer_terminate,
    awaited_text,
    error_status,
    new_lease,
    prunable_statuses,
)

from .combined_writes import Unit, driver_unit
from .fenced_write import FencedWrite, Outcome, done, event_values, timer_values
from .rows import run_rows
from .statement_sender import MAX_TRIES, wait_a_little
from .store_role import StoreRole

__all__ = ["RunLifecycle"]

_FEW_TIMERS = 8
"""A pause that changes more of them is sent alone."""


class RunLifecycle(StoreRole):
    """The role `RunLifecycleStore`."""

    @checked
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
        lease = new_lease(self._sender.new_token, owner, lease_ms, now_ms)
        facts = (run_id, workflow_id, workflow_version, queue, priority, now_ms)
        new = NewRun(*facts, now_ms if available_at_ms is None else available_at_ms, input, operation_id, lease)
        page = (0, DEFAULT_HISTORY_EVENTS, DEFAULT_HISTORY_BYTES)
        for tries in range(1, MAX_TRIES + 1):
            if await self._create(new):
                return new.created()
            rows = await self._sender.rows("read_creation", run_id)
            if rows:
                return await new.taken(self._read, rows[0], lambda: self._sender.rows("read_inbox", run_id, *page))
            await wait_a_little(tries)  # it was deleted after all
        raise StoreUnavailableError(f"too many others create and delete run {run_id!r}")

    async def _create(self, new: NewRun) -> bool:
        """Create a run, and return False if its id is taken."""
        with self._notices.about(new.run_id if new.lease is None else None) as pending:
            values = (*new.facts, *new.head, new.input, pending.by_statement)
            rows = await self._combined.starts.commit(
                lambda: Unit(run_id=new.run_id, values=values),
                lambda: self._sender.rows("create_run", *values),
                lambda row: [row],
            )
            pending.read_answer(rows)
        return bool(rows)

    @checked
    async def load_run(self, *, run_id: str) -> RunRecord | None:
        rows = await self._sender.rows("load_run", run_id)
        return self._read.record(rows[0]) if rows else None

    @checked
    async def load_execution(
        self,
        *,
        run_id: str,
        history_limit: int = DEFAULT_HISTORY_EVENTS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> Execution | None:
        rows = await self._sender.rows(
            "load_execution",
            run_id,
            history_limit,
            history_bytes,
            DEFAULT_HISTORY_EVENTS,
            DEFAULT_HISTORY_BYTES,
            False,
        )
        return self._read.execution(run_rows(rows[0]), history_limit) if rows else None

    @checked
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
        fence = Fence("mark_run_paused", run_id, lease_token, operation_id, expected_next_index)
        write = FencedWrite(self._sender, fence)
        with self._notices.about(run_id) as pending:
            horizon_ms = now_ms + NOTICE_HORIZON_MS
            facts = (seen_inbox_seq, awaited_text(awaited), now_ms, horizon_ms, pending.by_statement)

            def alone() -> Awaitable[Outcome]:
                changes = (*event_values(events, taken_inbox), *timer_values(set_timers, removed_timers))
                return write.commit("mark_run_paused", *changes, *facts)

            def unit() -> Unit:
                timers = (
                    [(timer.timer_id, timer.fire_at_ms) for timer in set_timers],
                    [(timer_id,) for timer_id in removed_timers],
                )
                return driver_unit(fence, events, *facts, lists=timers)

            if taken_inbox or len(set_timers) + len(removed_timers) > _FEW_TIMERS:
                outcome = await alone()
            else:
                outcome = await self._combined.pauses.commit(unit, alone, done)
            pending.wakes = outcome.wakes
        first = outcome.repeated or outcome.row
        queued = first["status"] == RunStatus.QUEUED
        return Paused(status=RunStatus.QUEUED if queued else RunStatus.PAUSED, next_index=first["next_index"])

    @checked
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
        fence = Fence("mark_run_finished", run_id, lease_token, operation_id, expected_next_index)
        await self._end(fence, events, taken_inbox, (RunStatus.FINISHED.value, output, None, None, now_ms))

    @checked
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
        fence = Fence("mark_run_errored", run_id, lease_token, operation_id, expected_next_index)
        status = error_status(aborted=aborted, parked=parked)
        end = (status.value, None, error, reason if aborted or parked else None, now_ms)
        await self._end(fence, events, taken_inbox, end)

    async def _end(
        self,
        fence: Fence,
        events: Sequence[NewEvent],
        taken_inbox: Sequence[int],
        end: tuple[str | int | None, ...],
    ) -> None:
        def alone() -> Awaitable[Outcome]:
            return FencedWrite(self._sender, fence).commit("mark_run_ended", *event_values(events, taken_inbox), *end)

        if taken_inbox:
            await alone()
        else:
            await self._combined.ends.commit(lambda: driver_unit(fence, events, *end), alone, done)

    @checked
    async def cancel_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> CancelResult:
        with self._notices.about(run_id) as pending:
            rows = await self._sender.settled(
                "cancel_run", run_id, now_ms, cancel_payload(reason), pending.by_statement
            )
            pending.read_answer(rows)
        return answer_cancel(self._read, run_id, rows[0] if rows else None)

    @checked
    async def terminate_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> TerminateResult:
        rows = await self._sender.settled("terminate_run", run_id, now_ms, reason)
        return answer_terminate(self._read, run_id, rows[0] if rows else None)

    @checked
    async def requeue_run(self, *, run_id: str, now_ms: int) -> RequeueResult:
        with self._notices.about(run_id) as pending:
            rows = await self._sender.settled("requeue_run", run_id, now_ms, pending.by_statement)
            pending.read_answer(rows)
        return answer_requeue(self._read, run_id, rows[0] if rows else None)

    @checked
    async def delete_run(self, *, run_id: str, now_ms: int, force: bool = False) -> DeleteResult:
        rows = await self._sender.settled("delete_run", run_id, now_ms, bool(force))
        return answer_delete(self._read, run_id, rows[0] if rows else None)

    @checked
    async def prune_runs(
        self,
        *,
        finished_before_ms: int,
        limit: int,
        statuses: Sequence[RunStatus] | None = None,
        workflow_ids: Sequence[str] | None = None,
    ) -> int:
        wanted = (list(prunable_statuses(statuses)), None if workflow_ids is None else list(workflow_ids))
        rows = await self._sender.rows("prune_runs", finished_before_ms, *wanted, limit)
        pruned: int = rows[0]["pruned"]
        return pruned
