"""Firing: claim the ticks that are due and settle each of them.

Every call may be the last one before a crash. A tick that is claimed and not settled is claimed again when its claim
has run out, and nothing that was done for it by then does harm when it is done again: a run is started under the
tick's own id, a run is cancelled or terminated once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..clock import Clock
from ..errors import CapabilityNotSupportedError, LeaseLostError
from ..frozen_value import Value, value
from ..ids import new_id
from ..logs import get_logger, one_line
from ..store import BucketAction, BucketClaims, BucketResult, ClaimedBucket, WorkflowExecutionStore
from ..store_retry import failure_level, until_answered
from .conversions import spec_in
from .decisions import Decision, decide, tick_run_id
from .verbs import schedule_verbs

__all__ = ["TickFailure", "TickFirer", "TickOutcome", "TickRound"]

logger = get_logger("workflow_runtime")

TickOutcome = Literal["started", "skipped", "missed", "buffered", "changed", "lost"]
"""`skipped` for its predecessor's sake, `missed` because it was too late; `changed` when the schedule was, meanwhile;
`lost` when another worker took it over."""

_AT_ONCE = 20
"""Ticks in one claim: they are settled side by side, each with a call or a few."""
_TERMINATIONS = 3
"""Number of times that a tick may find another live run of its schedule before it waits for its turn."""


@value
class TickFailure(Value):
    """A tick that could not be settled this time. Its claim runs out, and it is tried again."""

    schedule_id: str
    fire_at_ms: int
    error: Exception


@dataclass(slots=True, kw_only=True)
class TickRound:
    """The outcome of firing once."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[TickFailure] = field(default_factory=list)
    missed: Counter[str] = field(default_factory=Counter)
    """Number of missed ticks, by schedule."""
    unclaimable: set[str] = field(default_factory=set)
    """Schedules with a tick waiting whose workflow this process does not know; some of them."""
    next_due_ms: int | None = None


class TickFirer:
    """The part of a sweep that fires the ticks of schedules whose workflows this process knows."""

    def __init__(
        self,
        *,
        store: WorkflowExecutionStore,
        clock: Clock,
        owner: str,
        lease_ms: int,
        workflow_ids: Sequence[str],
        on_delivery: Callable[[str], None],
    ) -> None:
        self._store = store
        self._schedules = schedule_verbs(store)
        self._told_of_none = False
        self._clock = clock
        self._owner = owner
        self._lease_ms = lease_ms
        self._workflow_ids = tuple(workflow_ids)
        self._on_delivery = on_delivery
        self._told: set[str] = set()

    async def fire(self, limit: int, *, once: bool = False) -> TickRound:
        """Claim and settle up to `limit` ticks.

        Two ticks of one schedule are fired in one go only if their runs may overlap. Otherwise the first one's run gets
        its chance to be driven before the second one asks whether it has ended.

        Args:
            limit: At most so many.
            once: Claim only once.

        Raises:
            StoreError: The store is away.
        """
        done = TickRound()
        while limit > 0:
            claims = await self._claim(min(limit, _AT_ONCE))
            await asyncio.gather(*(self._fire(claimed, done) for claimed in claims.buckets))
            self._note(claims, done)
            limit -= len(claims.buckets)
            if once or not claims.buckets or any(c.schedule.overlap_policy != "allow" for c in claims.buckets):
                break
        for schedule_id, count in done.missed.items():
            logger.warning("schedule %r: %d ticks were missed, nobody was there to fire them", schedule_id, count)
        return done

    async def _claim(self, limit: int) -> BucketClaims:
        try:
            return await self._schedules.claim_due_schedule_buckets(
                owner=self._owner,
                lease_ms=self._lease_ms,
                now_ms=self._clock.now_ms(),
                limit=limit,
                workflow_ids=self._workflow_ids,
            )
        except CapabilityNotSupportedError as error:
            if not self._told_of_none:
                self._told_of_none = True
                logger.info("no tick fires: %s", one_line(error))
            return BucketClaims(buckets=(), next_due_ms=None)  # the next claim asks again

    def _note(self, claims: BucketClaims, done: TickRound) -> None:
        done.next_due_ms = claims.next_due_ms
        done.unclaimable.update(claims.unclaimable)
        for schedule_id in claims.unclaimable:
            if schedule_id not in self._told:
                self._told.add(schedule_id)
                logger.warning("schedule %r waits for a worker that knows its workflow", schedule_id)

    async def _fire(self, claimed: ClaimedBucket, done: TickRound) -> None:
        tick = _ClaimedTick(store=self._store, clock=self._clock, claimed=claimed, on_delivery=self._on_delivery)
        try:
            outcome = await tick.settle()
        except LeaseLostError:
            outcome = "lost"
        except Exception as error:  # reported, with the tick, instead of holding up the others
            schedule_id, fire_at_ms = claimed.schedule.schedule_id, claimed.fire_at_ms
            logger.log(
                failure_level(error),
                "tick %d of schedule %r could not be settled: %s",
                fire_at_ms,
                schedule_id,
                one_line(error),
                exc_info=error,
            )
            done.failures.append(TickFailure(schedule_id=schedule_id, fire_at_ms=fire_at_ms, error=error))
            return
        done.outcomes[outcome] += 1
        if outcome == "missed":
            done.missed[claimed.schedule.schedule_id] += 1


class _ClaimedTick:
    """One claimed tick on its way to being settled."""

    def __init__(
        self,
        *,
        store: WorkflowExecutionStore,
        clock: Clock,
        claimed: ClaimedBucket,
        on_delivery: Callable[[str], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._claimed = claimed
        self._policy = claimed.overlap_policy
        self._run_id = tick_run_id(claimed.schedule.schedule_id, claimed.fire_at_ms)
        self._on_delivery = on_delivery

    async def settle(self) -> TickOutcome:
        schedule = self._claimed.schedule
        decision = decide(
            spec=spec_in(schedule),
            schedule_id=schedule.schedule_id,
            fire_at_ms=self._claimed.fire_at_ms,
            source=self._claimed.source,
            now_ms=self._clock.now_ms(),
        )
        if not decision.start:
            return _outcome(await self._mark("skip", decision), skipped="missed")
        for _ in range(_TERMINATIONS):
            answer = await self._mark("start", decision)
            if answer.kind == "behind":
                break
            if answer.kind != "overlapping":
                return _outcome(answer)
            # A buffered tick is never late: it keeps waiting.
            if (self._policy == "skip" and self._claimed.source != "buffered") or await self._has_run():
                return _outcome(await self._mark("skip", decision))
            if self._policy != "terminate-previous":
                return await self._put_back(decision, answer.run_id)
            await self._terminate(answer.run_id)
        return _outcome(await self._mark("skip" if self._policy == "skip" else "buffer", decision))

    async def _has_run(self) -> bool:
        """Return True if the tick was fired before, by itself or by a backfill: then nobody has to make way for it."""
        return await self._store.load_run(run_id=self._run_id) is not None

    async def _put_back(self, decision: Decision, previous_run_id: str) -> TickOutcome:
        if self._policy == "cancel-previous":
            await until_answered(
                lambda: self._store.cancel_run(
                    run_id=previous_run_id, now_ms=self._clock.now_ms(), reason=self._reason()
                )
            )
            self._on_delivery(previous_run_id)
        return _outcome(await self._mark("buffer", decision))

    async def _terminate(self, previous_run_id: str) -> None:
        await until_answered(
            lambda: self._store.terminate_run(
                run_id=previous_run_id, now_ms=self._clock.now_ms(), reason=self._reason()
            )
        )
        self._on_delivery(previous_run_id)

    def _reason(self) -> str:
        return f"{self._policy}: {self._run_id}"[:1_000]

    async def _mark(self, action: BucketAction, decision: Decision) -> BucketResult:
        claimed = self._claimed
        run: dict[str, Any] = {}
        if action == "start":
            run = {"run_id": self._run_id, "available_at_ms": decision.available_at_ms}
        # One operation id for all tries: a try whose answer was lost after the commit is not done twice.
        operation_id = new_id()
        return await until_answered(
            lambda: self._store.mark_schedule_bucket_started(
                schedule_id=claimed.schedule.schedule_id,
                fire_at_ms=claimed.fire_at_ms,
                lease_token=claimed.lease.token,
                operation_id=operation_id,
                expected_revision=claimed.schedule.revision,
                action=action,
                next_fire_at_ms=decision.next_fire_at_ms,
                now_ms=self._clock.now_ms(),
                **run,
            )
        )


def _outcome(answer: BucketResult, *, skipped: TickOutcome = "skipped") -> TickOutcome:
    match answer.kind:
        case "started" | "buffered":
            return answer.kind
        case "schedule-changed":
            return "changed"
        case "skipped" | "overlapping" | "behind":
            return skipped
