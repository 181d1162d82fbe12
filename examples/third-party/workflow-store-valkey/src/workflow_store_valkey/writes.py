"""A driver's writes: what the holder of a lease does to its run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

from workflow_runtime.store import (
    AWAITED_SHOWN,
    DEFAULT_HISTORY_BYTES,
    Appended,
    Awaited,
    Event,
    JsonText,
    LeaseLost,
    LeaseLostError,
    LeaseRenewal,
    LeaseResult,
    LogConflictError,
    NewEvent,
    Paused,
    RunStatus,
    Timer,
    checked,
)

from . import codec
from .server import Reply, Server


class Writes:
    """The methods that need the token of the run's lease, and reading what they wrote."""

    _server: Server

    @checked
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
        next_index, expires_at_ms, inbox_seq, cancel_requested, _ = await self._write(
            "append_events",
            run_id,
            lease_token,
            operation_id,
            now_ms,
            expected_next_index=expected_next_index,
            events=events,
            lease_ms=lease_ms,
            taken_inbox=taken_inbox,
            set_timers=set_timers,
            removed_timers=removed_timers,
        )
        return Appended(
            next_index=int(next_index),
            lease_expires_at_ms=int(expires_at_ms),
            inbox_seq=int(inbox_seq),
            cancel_requested=cancel_requested == "1",
        )

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
        next_index, *_, status = await self._write(
            "mark_run_paused",
            run_id,
            lease_token,
            operation_id,
            now_ms,
            expected_next_index=expected_next_index,
            seen_inbox_seq=seen_inbox_seq,
            events=events,
            taken_inbox=taken_inbox,
            set_timers=set_timers,
            removed_timers=removed_timers,
            awaited=codec.awaited_text(awaited),
            first_awaited=codec.awaited_text(awaited[:AWAITED_SHOWN]),
            awaited_count=len(awaited),
        )
        ended_as = cast("Literal[RunStatus.PAUSED, RunStatus.QUEUED]", RunStatus(status))
        return Paused(status=ended_as, next_index=int(next_index))

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
        await self._write(
            "mark_run_finished",
            run_id,
            lease_token,
            operation_id,
            now_ms,
            expected_next_index=expected_next_index,
            output=output,
            events=events,
            taken_inbox=taken_inbox,
        )

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
        await self._write(
            "mark_run_errored",
            run_id,
            lease_token,
            operation_id,
            now_ms,
            expected_next_index=expected_next_index,
            error=error,
            events=events,
            taken_inbox=taken_inbox,
            aborted=aborted,
            parked=parked,
            reason=reason,
        )

    @checked
    async def schedule_timer(
        self, *, run_id: str, lease_token: str, operation_id: str, timer_id: str, fire_at_ms: int, now_ms: int
    ) -> None:
        timer = Timer(timer_id=timer_id, fire_at_ms=fire_at_ms)
        await self._write("schedule_timer", run_id, lease_token, operation_id, now_ms, set_timers=(timer,))

    @checked
    async def release_run_lease(self, *, run_id: str, lease_token: str, operation_id: str, now_ms: int) -> None:
        await self._write("release_run_lease", run_id, lease_token, operation_id, now_ms)

    @checked
    async def heartbeat_run_lease(self, *, run_id: str, lease_token: str, lease_ms: int, now_ms: int) -> LeaseRenewal:
        reply = await self._server.call(
            "heartbeat_run_lease", run_id=run_id, lease_token=lease_token, lease_ms=lease_ms, now_ms=now_ms
        )
        answer = _renewed(reply)
        if isinstance(answer, LeaseLost):
            raise LeaseLostError(f"run {run_id!r}")
        return answer

    @checked
    async def heartbeat_run_leases(
        self, *, leases: Sequence[tuple[str, str]], lease_ms: int, now_ms: int
    ) -> tuple[LeaseResult, ...]:
        if not leases:
            return ()
        replies = await self._server.call("heartbeat_run_leases", leases=leases, lease_ms=lease_ms, now_ms=now_ms)
        return tuple(map(_renewed, replies))

    @checked
    async def read_events(
        self, *, run_id: str, limit: int, from_index: int = 0, max_bytes: int = DEFAULT_HISTORY_BYTES
    ) -> tuple[Event, ...]:
        texts = await self._server.call(
            "read_events", run_id=run_id, limit=limit, from_index=from_index, max_bytes=max_bytes
        )
        return codec.read_events(texts, run_id)

    async def _write(
        self,
        verb: str,
        run_id: str,
        lease_token: str,
        operation_id: str,
        now_ms: int,
        *,
        events: Sequence[NewEvent] = (),
        taken_inbox: Sequence[int] = (),
        set_timers: Sequence[Timer] = (),
        removed_timers: Sequence[str] = (),
        **special: Any,
    ) -> list[str]:
        """Return the five facts of a write's answer, or raise because the fence or the log refused it."""
        match await self._server.call(
            verb,
            run_id=run_id,
            lease_token=lease_token,
            operation_id=operation_id,
            now_ms=now_ms,
            events=[codec.encode_event(event, now_ms) for event in events],
            taken_inbox=taken_inbox,
            set_timers=set_timers,
            removed_timers=removed_timers,
            **special,
        ):
            case ["ok", str(answer)]:
                return answer.split()
            case ["log-conflict", int(actual)]:
                raise LogConflictError(run_id, special["expected_next_index"], actual)
        raise LeaseLostError(f"run {run_id!r}")


def _renewed(reply: Reply) -> LeaseRenewal | LeaseLost:
    kind, *facts = reply
    if kind == "lease-lost":
        return LeaseLost()
    expires_at_ms, inbox_seq, cancel_requested, clock_ms = facts
    return LeaseRenewal(
        lease_expires_at_ms=expires_at_ms,
        inbox_seq=inbox_seq,
        cancel_requested=cancel_requested == 1,
        store_clock_ms=clock_ms,
    )
