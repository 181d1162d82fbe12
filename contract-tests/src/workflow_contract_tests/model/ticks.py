"""Schedules and their ticks."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.errors import LeaseLostError, ScheduleNotFoundError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    DEFAULT_QUEUE,
    BucketAction,
    BucketBehind,
    BucketBuffered,
    BucketClaims,
    BucketOverlapping,
    BucketResult,
    BucketSkipped,
    BucketSource,
    BucketsRequested,
    BucketStarted,
    ClaimedBucket,
    Deleted,
    DeleteScheduleResult,
    Lease,
    NotFound,
    OverlapPolicy,
    RequestBucketsResult,
    RequestedBucket,
    RequestedOverlap,
    Schedule,
    ScheduleChanged,
    SchedulePage,
    ScheduleUpserted,
)
from workflow_runtime.store.cursors import decode_schedule_cursor, encode_schedule_cursor

from .state import Request, Run, ScheduleState, State, TickClaim, Unsettled

__all__ = ["TickVerbs"]

REPLACING = frozenset({"cancel-previous", "terminate-previous"})
"""Policies by which a later tick takes the place of the buffered one (SCHEDULE-17)."""


NAMED = 10
"""The most schedules of other workflows that a claim names (SCHEDULE-11)."""


class TickVerbs:
    """The verbs about schedules, and those that claim and settle their ticks."""

    state: State

    def upsert_schedule(
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
        """Create a schedule or change its definition (SCHEDULE-1 to SCHEDULE-4)."""
        stored = self.state.schedules.get(schedule_id)
        if expected_revision is not None and (stored is None or stored.revision != expected_revision):
            return ScheduleUpserted(kind="conflict", schedule=None if stored is None else stored.record())
        definition = {
            "workflow_id": workflow_id,
            "workflow_version": workflow_version,
            "spec": spec,
            "input": input,
            "overlap_policy": overlap_policy,
            "queue": queue,
            "priority": priority,
        }
        if stored is None:
            made = ScheduleState(
                schedule_id=schedule_id,
                enabled=True if enabled is None else enabled,
                next_fire_at_ms=next_fire_at_ms,
                created_at_ms=now_ms,
                updated_at_ms=now_ms,
                **definition,  # type: ignore[arg-type]  # its own fields
            )
            self.state.schedules[schedule_id] = made
            return ScheduleUpserted(kind="created", schedule=made.record())
        definition["enabled"] = stored.enabled if enabled is None else enabled
        if all(getattr(stored, name) == value for name, value in definition.items()):
            return ScheduleUpserted(kind="unchanged", schedule=stored.record())
        if stored.spec != spec or (definition["enabled"] and not stored.enabled):
            stored.next_fire_at_ms = next_fire_at_ms
        for name, value in definition.items():
            setattr(stored, name, value)
        stored.revision += 1
        stored.claim = None
        stored.updated_at_ms = now_ms
        return ScheduleUpserted(kind="updated", schedule=stored.record())

    def get_schedule(self, *, schedule_id: str) -> Schedule:
        """Read one schedule (SCHEDULE-5)."""
        stored = self.state.schedules.get(schedule_id)
        if stored is None:
            raise ScheduleNotFoundError(schedule_id)
        return stored.record()

    def list_schedules(self, *, limit: int, cursor: str | None = None) -> SchedulePage:
        """List schedules by id (SCHEDULE-6)."""
        after = "" if cursor is None else decode_schedule_cursor(cursor)
        ids = [schedule_id for schedule_id in sorted(self.state.schedules) if schedule_id > after]
        shown = ids[:limit]
        return SchedulePage(
            schedules=tuple(self.state.schedules[schedule_id].record() for schedule_id in shown),
            next_cursor=encode_schedule_cursor(shown[-1]) if 0 < len(shown) < len(ids) else None,
        )

    def delete_schedule(self, *, schedule_id: str) -> DeleteScheduleResult:
        """Remove a schedule and its ticks (SCHEDULE-7)."""
        return NotFound() if self.state.schedules.pop(schedule_id, None) is None else Deleted()

    def request_schedule_buckets(
        self,
        *,
        schedule_id: str,
        fire_times_ms: Sequence[int],
        now_ms: int,
        overlap: RequestedOverlap | None = None,
    ) -> RequestBucketsResult:
        """Ask for ticks (SCHEDULE-8). One that waits already keeps its request."""
        stored = self.state.schedules.get(schedule_id)
        if stored is None:
            return NotFound()
        new = set(fire_times_ms) - set(stored.requests)
        stored.requests.update({moment: Request(overlap, now_ms) for moment in new})
        return BucketsRequested(count=len(new))

    def list_requested_buckets(self, *, schedule_id: str, limit: int, from_ms: int = 0) -> tuple[RequestedBucket, ...]:
        """List the ticks that were requested and are not settled (SCHEDULE-19)."""
        stored = self.state.schedules.get(schedule_id)
        waiting = [] if stored is None else sorted(stored.requests.items())
        return tuple(
            RequestedBucket(fire_at_ms=moment, overlap=request.overlap, requested_at_ms=request.requested_at_ms)
            for moment, request in waiting
            if moment >= from_ms
        )[:limit]

    def claim_due_schedule_buckets(
        self,
        *,
        owner: str,
        lease_ms: int,
        now_ms: int,
        limit: int,
        workflow_ids: Sequence[str] | None = None,
    ) -> BucketClaims:
        """Claim one tick of each schedule that has one, the earliest first (SCHEDULE-9 to SCHEDULE-12)."""
        ours = [s for s in self.state.schedules.values() if workflow_ids is None or s.workflow_id in workflow_ids]
        waiting = sorted(
            (tick[0], s.schedule_id, tick[1]) for s in ours if (tick := self._waiting_tick(s, now_ms)) is not None
        )
        if 0 < limit < len(waiting) and waiting[limit - 1][0] == waiting[limit][0]:
            raise Unsettled("SCHEDULE-9", "which of two schedules comes first when their ticks are for one moment")
        held = [s for s in ours if s.claim is not None and s.claim.expires_at_ms > now_ms]
        buckets = tuple(
            self._claim_tick(schedule_id, moment, source, owner, lease_ms, now_ms)
            for moment, schedule_id, source in waiting[:limit]
        )
        times = [s.claim.expires_at_ms for s in held if s.claim is not None]
        times += [at_ms for s in ours if (at_ms := _next_own_tick(s, now_ms)) is not None]
        times += [now_ms] if len(waiting) > limit else []
        others = [s for s in self.state.schedules.values() if s not in ours]
        return BucketClaims(
            buckets=buckets,
            next_due_ms=min(times, default=None),
            unclaimable=tuple(s.schedule_id for s in others if self._waiting_tick(s, now_ms) is not None)[:NAMED],
        )

    def mark_schedule_bucket_started(
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
        """Settle a claimed tick (SCHEDULE-13 to SCHEDULE-17)."""
        stored = self.state.schedules.get(schedule_id)
        if stored is None:
            return ScheduleChanged()
        if stored.settled is not None and stored.settled[:2] == (fire_at_ms, operation_id):
            return stored.settled[2]  # type: ignore[no-any-return]  # an answer of this verb
        if stored.revision != expected_revision:
            return ScheduleChanged()
        claim = stored.claim
        if claim is None or claim.token != lease_token or claim.fire_at_ms != fire_at_ms:
            raise LeaseLostError(schedule_id)
        answer: BucketResult
        if action == "start" and run_id is not None:
            if obstacle := self._obstacle(stored, claim, run_id):
                return obstacle
            self._start(stored, claim, run_id, operation_id, now_ms, available_at_ms)
            answer = BucketStarted(run_id=run_id)
        elif action == "buffer":
            answer = self._put_back(stored, claim)
        else:
            _forget(stored, claim)
            answer = BucketSkipped()
        if claim.source == "due":
            stored.last_fire_at_ms, stored.next_fire_at_ms = fire_at_ms, next_fire_at_ms
        stored.claim = None
        stored.updated_at_ms = now_ms
        stored.settled = fire_at_ms, operation_id, answer
        return answer

    def _waiting_tick(self, schedule: ScheduleState, now_ms: int) -> tuple[int, BucketSource] | None:
        """Return the one tick that can be claimed, unless it is claimed (SCHEDULE-9, SCHEDULE-18)."""
        if schedule.claim is not None and schedule.claim.expires_at_ms > now_ms:
            return None
        blocked = self.state.live_run(schedule.previous_run_id) is not None
        if schedule.buffered_fire_at_ms is not None and not blocked:
            return schedule.buffered_fire_at_ms, "buffered"
        at_once = {moment for moment in schedule.requests if schedule.policy_of(moment) != "buffer-all"}
        in_turn = set() if blocked else set(schedule.requests) - at_once
        ticks: dict[int, BucketSource] = {min(moments): "requested" for moments in (at_once or in_turn,) if moments}
        due = schedule.next_fire_at_ms
        if schedule.enabled and due is not None and _high_water(schedule) < due <= now_ms:
            ticks[due] = "due"
        return min(ticks.items(), default=None)

    def _claim_tick(
        self, schedule_id: str, moment: int, source: BucketSource, owner: str, lease_ms: int, now_ms: int
    ) -> ClaimedBucket:
        schedule = self.state.schedules[schedule_id]
        overlap = schedule.policy_of(moment)
        schedule.claims += 1
        schedule.claim = TickClaim(moment, source, overlap, self.state.new_token(), now_ms + lease_ms)
        return ClaimedBucket(
            schedule=schedule.record(),
            fire_at_ms=moment,
            source=source,
            overlap_policy=overlap,
            overlapping_run_id=self.state.live_run(schedule.previous_run_id),
            lease=Lease(
                owner=owner, token=schedule.claim.token, number=schedule.claims, expires_at_ms=now_ms + lease_ms
            ),
        )

    def _obstacle(
        self, schedule: ScheduleState, claim: TickClaim, run_id: str
    ) -> BucketOverlapping | BucketBehind | None:
        """Return why the tick must not start now (SCHEDULE-14, SCHEDULE-17)."""
        if claim.overlap == "allow":
            return None
        previous = self.state.live_run(schedule.previous_run_id)
        if previous is not None and previous != run_id:
            return BucketOverlapping(run_id=previous)
        first = schedule.buffered_fire_at_ms
        if first in {None, claim.fire_at_ms} or (claim.overlap in REPLACING and claim.fire_at_ms > first):
            return None
        return BucketBehind(fire_at_ms=first)

    def _start(
        self,
        schedule: ScheduleState,
        claim: TickClaim,
        run_id: str,
        operation_id: str,
        now_ms: int,
        available_at_ms: int | None,
    ) -> None:
        """Create the run of a tick, unless a run of that id is there (SCHEDULE-13)."""
        if run_id not in self.state.runs:
            run = Run(
                run_id=run_id,
                workflow_id=schedule.workflow_id,
                workflow_version=schedule.workflow_version,
                input=schedule.input,
                queue=schedule.queue,
                priority=schedule.priority,
                created_at_ms=now_ms,
                updated_at_ms=now_ms,
                due_at_ms=now_ms if available_at_ms is None else available_at_ms,
                schedule_id=schedule.schedule_id,
                scheduled_at_ms=claim.fire_at_ms,
            )
            run.last_operation = operation_id, None
            self.state.runs[run_id] = run
        if claim.overlap in REPLACING:
            schedule.buffered_fire_at_ms = None
        schedule.previous_run_id = run_id
        _forget(schedule, claim)

    def _put_back(self, schedule: ScheduleState, claim: TickClaim) -> BucketBuffered | BucketSkipped:
        """Put a tick back until the previous run has ended; one is buffered at most (SCHEDULE-15, SCHEDULE-18)."""
        moment, before = claim.fire_at_ms, schedule.buffered_fire_at_ms
        if claim.overlap == "buffer-all":
            return BucketBuffered()
        _forget(schedule, claim)
        if before is None or claim.source == "buffered":
            kept = moment
        else:
            kept = before if claim.overlap == "buffer-one" else max(before, moment)
        schedule.buffered_fire_at_ms = kept
        return BucketBuffered() if kept == moment else BucketSkipped()


def _high_water(schedule: ScheduleState) -> int:
    return -1 if schedule.last_fire_at_ms is None else schedule.last_fire_at_ms


def _forget(schedule: ScheduleState, claim: TickClaim) -> None:
    """Take a settled tick from where it waited."""
    if schedule.buffered_fire_at_ms == claim.fire_at_ms:
        schedule.buffered_fire_at_ms = None
    schedule.requests.pop(claim.fire_at_ms, None)


def _next_own_tick(schedule: ScheduleState, now_ms: int) -> int | None:
    """Return the schedule's next moment that is not due yet, and has not fired before the clock was set back."""
    at_ms = schedule.next_fire_at_ms
    if not schedule.enabled or at_ms is None or at_ms <= max(now_ms, _high_water(schedule)):
        return None
    return at_ms
