"""The writes of a run's driver. Each begins with the operation (OP-1) and then the fence (FENCE-1, FENCE-2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from workflow_runtime.errors import LeaseLostError, LogConflictError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    Appended,
    Awaited,
    Event,
    LeaseLost,
    LeaseRenewal,
    LeaseResult,
    NewEvent,
    Paused,
    RunStatus,
    Timer,
)

from .state import Run, State, Unsettled

__all__ = ["DrivingVerbs", "append_to_log", "end_run"]

A = TypeVar("A")


class DrivingVerbs:
    """The verbs that carry the token of a lease."""

    state: State

    def append_events(
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
        """Append events and renew the lease (LOG-1 to LOG-4)."""
        _check_timers(set_timers, removed_timers)

        def append(run: Run) -> Appended:
            _write_log(run, expected_next_index, events, taken_inbox, now_ms)
            _change_timers(run, set_timers, removed_timers)
            _renew(run, now_ms + lease_ms)
            return Appended(
                next_index=len(run.log),
                lease_expires_at_ms=_lease_end(run),
                inbox_seq=len(run.inbox.entries),
                cancel_requested=run.cancel_requested,
            )

        return self._write(run_id, lease_token, operation_id, now_ms, append)

    def schedule_timer(
        self, *, run_id: str, lease_token: str, operation_id: str, timer_id: str, fire_at_ms: int, now_ms: int
    ) -> None:
        """Add a timer, or move it (TIMER-1)."""

        def set_timer(run: Run) -> None:
            run.timers[timer_id] = fire_at_ms

        self._write(run_id, lease_token, operation_id, now_ms, set_timer)

    def release_run_lease(self, *, run_id: str, lease_token: str, operation_id: str, now_ms: int) -> None:
        """Hand a run over (LEASE-3)."""

        def release(run: Run) -> None:
            run.lease = None
            run.status, run.due_at_ms = RunStatus.QUEUED, now_ms

        self._write(run_id, lease_token, operation_id, now_ms, release)

    def mark_run_paused(
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
        """End the lease because the handler waits (PAUSE-1, PAUSE-2, DEAD-3)."""
        _check_timers(set_timers, removed_timers)

        def pause(run: Run) -> Paused:
            _write_log(run, expected_next_index, events, taken_inbox, now_ms)
            _change_timers(run, set_timers, removed_timers)
            run.lease = None
            run.crashes = 0
            status: Literal[RunStatus.PAUSED, RunStatus.QUEUED]
            if len(run.inbox.entries) > seen_inbox_seq:
                status, run.due_at_ms = RunStatus.QUEUED, now_ms
            else:
                status, run.due_at_ms = RunStatus.PAUSED, run.first_timer_ms
                run.awaited = tuple(awaited)
            run.status = status
            return Paused(status=status, next_index=len(run.log))

        return self._write(run_id, lease_token, operation_id, now_ms, pause)

    def mark_run_finished(
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
        """End the run with an output (FINISH-1)."""

        def finish(run: Run) -> None:
            _write_log(run, expected_next_index, events, taken_inbox, now_ms)
            end_run(run, RunStatus.FINISHED, now_ms)
            run.output = output

        self._write(run_id, lease_token, operation_id, now_ms, finish)

    def mark_run_errored(
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
        """End the run with an error, or park it (FINISH-3, FINISH-4)."""
        status = RunStatus.ABORTED if aborted else RunStatus.DEAD if parked else RunStatus.ERRORED

        def fail(run: Run) -> None:
            _write_log(run, expected_next_index, events, taken_inbox, now_ms)
            end_run(run, status, now_ms)
            run.error = error
            run.reason = reason if aborted or parked else None

        self._write(run_id, lease_token, operation_id, now_ms, fail)

    def heartbeat_run_lease(self, *, run_id: str, lease_token: str, lease_ms: int, now_ms: int) -> LeaseRenewal:
        """Renew a lease (LEASE-1, LEASE-2). It is no operation, and changes nothing but the lease's end."""
        run = self._fenced(run_id, lease_token)
        assert run.lease is not None
        run.lease.heard = True
        _renew(run, now_ms + lease_ms)
        return LeaseRenewal(
            lease_expires_at_ms=_lease_end(run),
            inbox_seq=len(run.inbox.entries),
            cancel_requested=run.cancel_requested,
            store_clock_ms=now_ms,
        )

    def heartbeat_run_leases(
        self, *, leases: Sequence[tuple[str, str]], lease_ms: int, now_ms: int
    ) -> tuple[LeaseResult, ...]:
        """Renew leases (LEASE-4). Nobody else writes beside the model, so none is busy (LEASE-5)."""

        def renew(run_id: str, lease_token: str) -> LeaseResult:
            try:
                return self.heartbeat_run_lease(
                    run_id=run_id, lease_token=lease_token, lease_ms=lease_ms, now_ms=now_ms
                )
            except LeaseLostError:
                return LeaseLost()

        return tuple(renew(run_id, lease_token) for run_id, lease_token in leases)

    def _write(self, run_id: str, lease_token: str, operation_id: str, now_ms: int, change: Callable[[Run], A]) -> A:
        """Return the first answer to a repeated operation; else apply the change behind the fence."""
        known = self.state.runs.get(run_id)
        if known is not None and known.last_operation is not None and known.last_operation[0] == operation_id:
            return known.last_operation[1]  # type: ignore[no-any-return]  # what this verb answered
        run = self._fenced(run_id, lease_token)
        assert run.lease is not None
        lease = run.lease
        answer = change(run)
        lease.heard = True
        run.updated_at_ms = now_ms
        run.last_operation = operation_id, answer
        return answer

    def _fenced(self, run_id: str, lease_token: str) -> Run:
        """Return the run if the token is its current one; that the lease has expired does not matter."""
        run = self.state.runs.get(run_id)
        if run is None or run.status is not RunStatus.RUNNING or run.lease is None or run.lease.token != lease_token:
            raise LeaseLostError(run_id)
        return run


def end_run(run: Run, status: RunStatus, now_ms: int) -> None:
    """Put a run into a terminal status; only a dead one keeps its timers."""
    run.status, run.finished_at_ms = status, now_ms
    run.lease, run.due_at_ms, run.awaited = None, None, ()
    if status is not RunStatus.DEAD:
        run.timers.clear()


def append_to_log(run: Run, event: NewEvent, now_ms: int) -> int:
    """Add one event and return its index."""
    index = len(run.log)
    run.log.append(
        Event(index=index, kind=event.kind, step_id=event.step_id, payload=event.payload, created_at_ms=now_ms)
    )
    return index


def _write_log(
    run: Run, expected_next_index: int, events: Sequence[NewEvent], taken_inbox: Sequence[int], now_ms: int
) -> None:
    if expected_next_index != len(run.log):
        raise LogConflictError(run.run_id, expected_next_index, len(run.log))
    for event in events:
        append_to_log(run, event, now_ms)
    if events:
        run.crashes = 0
    run.inbox.taken.update(taken_inbox)


def _change_timers(run: Run, set_timers: Sequence[Timer], removed_timers: Sequence[str]) -> None:
    for timer_id in removed_timers:
        run.timers.pop(timer_id, None)
    for timer in set_timers:
        run.timers[timer.timer_id] = timer.fire_at_ms


def _check_timers(set_timers: Sequence[Timer], removed_timers: Sequence[str]) -> None:
    if {timer.timer_id for timer in set_timers} & set(removed_timers):
        raise Unsettled("LOG-3", "a timer that is set and removed by one call")


def _renew(run: Run, expires_at_ms: int) -> None:
    assert run.lease is not None
    run.lease.expires_at_ms = max(run.lease.expires_at_ms, expires_at_ms)


def _lease_end(run: Run) -> int:
    assert run.lease is not None
    return run.lease.expires_at_ms
