"""The store's data: runs and schedules, and the small moves that every verb is made of.

A move here changes one run and checks nothing; the verbs check first and move afterwards, which is
what makes each of them all or none.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

from workflow_runtime.store import (
    TERMINAL_STATUSES,
    Awaited,
    BucketBuffered,
    BucketResult,
    BucketSource,
    ConfigurationError,
    Event,
    InboxEntry,
    InboxKind,
    JsonText,
    Lease,
    NewEvent,
    RequestedBucket,
    RequestedOverlap,
    RunStatus,
    Schedule,
    Timer,
    WorkNotice,
)

__all__ = ["InMemoryData", "NoAnswer", "Run", "ScheduleRow", "SettledTick", "Tick", "WorkListener", "new_generation"]

A = TypeVar("A")


def new_generation() -> str:
    """Make the part of a lease token that no earlier record of the same id can have had."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The answer of a driver's write that answers nothing."""


@dataclass(slots=True, kw_only=True)
class Run:
    """One run: its head, its payloads, its log, its inbox and its timers."""

    run_id: str
    workflow_id: str
    workflow_version: str
    input: JsonText
    queue: str
    priority: int
    created_at_ms: int

    status: RunStatus = RunStatus.QUEUED
    schedule_id: str | None = None
    scheduled_at_ms: int | None = None
    forked_from_run_id: str | None = None
    forked_from_index: int | None = None

    available_at_ms: int
    """Time from which the run may be claimed. Meaningful only while it is queued."""
    updated_at_ms: int
    finished_at_ms: int | None = None
    lease: Lease | None = None
    """Present exactly while the run is `running`."""
    generation: str
    lease_number: int = 0
    crashes: int = 0
    silent_claims: int = 1
    """Claims in a row, up to the last one, under which no driver gave a sign of life; 0 when one did."""
    cancel_requested: bool = False
    operation_id: str | None = None
    """Id of the last write of a driver; `answer` has what it returned."""
    answer: object = None

    output: JsonText | None = None
    error: JsonText | None = None
    reason: str | None = None
    awaited: tuple[Awaited, ...] = ()

    events: list[Event] = field(default_factory=list)
    inbox: list[InboxEntry] = field(default_factory=list)
    """Everything that ever arrived."""
    untaken: dict[int, InboxEntry] = field(default_factory=dict)
    """The part of the inbox that no event accounts for yet, in order."""
    deliveries: dict[tuple[InboxKind, str], InboxEntry] = field(default_factory=dict)
    """The inbox by what deduplicates it."""
    timers: dict[str, Timer] = field(default_factory=dict)

    @property
    def next_index(self) -> int:
        """The length of the log."""
        return len(self.events)

    @property
    def inbox_seq(self) -> int:
        """The number of the newest inbox entry."""
        return len(self.inbox)

    @property
    def due_at_ms(self) -> int | None:
        """Time at which a queued or paused run can be claimed."""
        if self.status is RunStatus.QUEUED:
            return self.available_at_ms
        if self.status is RunStatus.PAUSED:
            return min((timer.fire_at_ms for timer in self.timers.values()), default=None)
        return None

    @property
    def claimable_at_ms(self) -> int | None:
        """Time at which the run can be claimed unless something happens before."""
        return self.due_at_ms if self.lease is None else self.lease.expires_at_ms

    @property
    def pending_timers(self) -> tuple[Timer, ...]:
        """All timers, earliest first."""
        return tuple(sorted(self.timers.values(), key=lambda timer: (timer.fire_at_ms, timer.timer_id)))

    def events_from(self, index: int) -> Iterator[Event]:
        """Return the log from an index on, without walking over what lies before."""
        return (self.events[number] for number in range(index, len(self.events)))

    def untaken_after(self, inbox_seq: int) -> Iterator[InboxEntry]:
        """Return what no event accounts for yet and arrived later than this number, in order."""
        newer = (self.inbox[number] for number in range(inbox_seq, len(self.inbox)))  # numbers begin with 1
        return (entry for entry in newer if entry.inbox_seq in self.untaken)

    def waits_for(self, kind: InboxKind, name: str) -> bool:
        """Return True if the run is paused until this arrives."""
        return self.status is RunStatus.PAUSED and (
            kind == "retry" or any(awaited.kind == kind and awaited.name == name for awaited in self.awaited)
        )

    def begin_lease(self, *, owner: str, expires_at_ms: int, now_ms: int) -> Lease:
        """Lease the run to a worker."""
        self.lease_number += 1
        token = f"{self.generation}.{self.lease_number}"
        self.lease = Lease(owner=owner, token=token, number=self.lease_number, expires_at_ms=expires_at_ms)
        self.status = RunStatus.RUNNING
        self.updated_at_ms = now_ms
        return self.lease

    def renew_lease(self, expires_at_ms: int) -> Lease:
        """Move the end of the lease, never to an earlier time: its driver is alive."""
        held = self.lease
        assert held is not None
        self.silent_claims = 0
        expires_at_ms = max(held.expires_at_ms, expires_at_ms)
        self.lease = Lease(owner=held.owner, token=held.token, number=held.number, expires_at_ms=expires_at_ms)
        return self.lease

    def make_queued(self, now_ms: int) -> None:
        """Queue the run, for any worker, from now on."""
        self.status = RunStatus.QUEUED
        self.available_at_ms = now_ms
        self.finished_at_ms = None
        self.lease = None
        self.updated_at_ms = now_ms

    def make_paused(self, now_ms: int) -> None:
        """Leave the run to its inbox and its timers."""
        self.status = RunStatus.PAUSED
        self.lease = None
        self.updated_at_ms = now_ms

    def make_dead(self, now_ms: int) -> None:
        """Park the run; its timers stay, because a requeued handler still counts on them."""
        self.status = RunStatus.DEAD
        self.finished_at_ms = now_ms
        self.lease = None
        self.updated_at_ms = now_ms

    def make_ended(self, status: RunStatus, now_ms: int) -> None:
        """End the run for good."""
        self.status = status
        self.finished_at_ms = now_ms
        self.lease = None
        self.timers.clear()
        self.awaited = ()
        self.updated_at_ms = now_ms

    def append(self, events: Sequence[NewEvent], taken_inbox: Sequence[int], now_ms: int) -> None:
        """Lengthen the log and take the inbox entries that the new events account for."""
        for event in events:
            self.events.append(
                Event(
                    index=len(self.events),
                    kind=event.kind,
                    step_id=event.step_id,
                    payload=event.payload,
                    created_at_ms=now_ms,
                )
            )
        for inbox_seq in taken_inbox:
            self.untaken.pop(inbox_seq, None)
        if events:
            self.crashes = 0
        self.updated_at_ms = now_ms

    def change_timers(self, set_timers: Sequence[Timer], removed_timers: Sequence[str]) -> None:
        """Remove timers, then add or move others."""
        for timer_id in removed_timers:
            self.timers.pop(timer_id, None)
        for timer in set_timers:
            self.timers[timer.timer_id] = timer

    def receive(
        self, *, kind: InboxKind, name: str, delivery_id: str, payload: JsonText | None, now_ms: int
    ) -> InboxEntry:
        """Put something from outside at the end of the inbox."""
        entry = InboxEntry(
            inbox_seq=len(self.inbox) + 1,
            kind=kind,
            name=name,
            delivery_id=delivery_id,
            payload=payload,
            received_at_ms=now_ms,
        )
        self.inbox.append(entry)
        self.untaken[entry.inbox_seq] = entry
        self.deliveries[kind, delivery_id] = entry
        self.updated_at_ms = now_ms
        return entry

    def withdraw_cancel(self) -> None:
        """Take a request to end back; under another delivery id its entry stays, and a new one is no duplicate."""
        self.cancel_requested = False
        known = self.deliveries.pop(("cancel", "cancel"), None)
        if known is not None:
            self.inbox[known.inbox_seq - 1] = replace(known, delivery_id=f"cancel:{known.inbox_seq}")
            self.untaken.pop(known.inbox_seq, None)

    def record(self, operation_id: str, answer: A) -> A:
        """Remember a driver's write and its answer, for a repeat after a lost answer."""
        self.operation_id = operation_id
        self.answer = answer
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One tick of a schedule."""

    fire_at_ms: int
    source: BucketSource
    overlap: RequestedOverlap | None = None
    """Overlap policy that was requested with the tick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledTick:
    """The tick that was settled last, for a repeat after a lost answer."""

    fire_at_ms: int
    operation_id: str
    answer: BucketResult


@dataclass(slots=True, kw_only=True)
class ScheduleRow:
    """One schedule, the ticks that were asked for, and the claimed one."""

    value: Schedule
    generation: str
    lease_number: int = 0
    requested: dict[int, RequestedBucket] = field(default_factory=dict)
    """Requested ticks by moment."""
    claimed: Tick | None = None
    lease: Lease | None = None
    """Present exactly while a tick is claimed."""
    settled: SettledTick | None = None

    @property
    def due_tick_ms(self) -> int | None:
        """The next tick by the schedule's own time; none when disabled, over, or not above the high-water mark."""
        tick = self.value.next_fire_at_ms
        if not self.value.enabled or tick is None:
            return None
        last = self.value.last_fire_at_ms
        return tick if last is None or tick > last else None

    def first_tick(self, *, now_ms: int, previous_is_live: bool) -> Tick | None:
        """Return the tick that is claimable now, though another worker may have claimed it already."""
        buffered, due = self.value.buffered_fire_at_ms, self.due_tick_ms
        if buffered is not None and not previous_is_live:
            return self._tick(buffered, "buffered")
        ticks = [self._tick(due, "due")] if due is not None and due <= now_ms else []
        requested = self._first_requested()
        if requested is not None and not (requested.overlap == "buffer-all" and previous_is_live):
            ticks.append(self._tick(requested.fire_at_ms, "requested"))
        # The due tick comes first, so it wins when both stand for one moment.
        return min(ticks, key=lambda tick: tick.fire_at_ms, default=None)

    def _first_requested(self) -> RequestedBucket | None:
        """Choose the earliest of those that wait for no run, or else of those that do."""
        return min(self.requested.values(), key=lambda one: (one.overlap == "buffer-all", one.fire_at_ms), default=None)

    def _tick(self, fire_at_ms: int, source: BucketSource) -> Tick:
        requested = self.requested.get(fire_at_ms)
        return Tick(fire_at_ms=fire_at_ms, source=source, overlap=None if requested is None else requested.overlap)

    def policy_of(self, tick: Tick) -> RequestedOverlap:
        """Return what holds for a tick whose predecessor's run is live."""
        return tick.overlap or self.value.overlap_policy

    def is_leased(self, now_ms: int) -> bool:
        """Return True if a tick is under a live lease."""
        return self.lease is not None and self.lease.expires_at_ms > now_ms

    def begin_lease(self, tick: Tick, *, owner: str, expires_at_ms: int) -> Lease:
        """Lease a tick to a worker."""
        self.lease_number += 1
        token = f"{self.generation}.{self.lease_number}"
        self.lease = Lease(owner=owner, token=token, number=self.lease_number, expires_at_ms=expires_at_ms)
        self.claimed = tick
        return self.lease

    def held_tick(self, fire_at_ms: int, lease_token: str) -> Tick | None:
        """Find the claimed tick, if it is this one and the token is its own; its expiry only lets others claim."""
        if self.claimed is None or self.lease is None or self.lease.token != lease_token:
            return None
        return self.claimed if self.claimed.fire_at_ms == fire_at_ms else None

    def end_lease(self) -> None:
        """Take the claimed tick from its worker."""
        self.claimed = self.lease = None

    def settle(self, tick: Tick, operation_id: str, answer: BucketResult) -> BucketResult:
        """End the claim of a tick for good; the answer stays for a repeat."""
        if not (isinstance(answer, BucketBuffered) and tick.overlap == "buffer-all"):
            self.requested.pop(tick.fire_at_ms, None)
        self.end_lease()
        self.settled = SettledTick(fire_at_ms=tick.fire_at_ms, operation_id=operation_id, answer=answer)
        return answer


class WorkListener:
    """Somebody who listens for notices of work, in an event loop which may be another thread's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_notice: Callable[[WorkNotice], None]) -> None:
        self._loop = loop
        self._on_notice = on_notice
        self.left = False

    def notify(self, run_id: str | None) -> None:
        """Have the callback called soon: when the verb that is under way is done."""
        # A closed event loop has no listeners. It may belong to another thread, and close at this moment.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._call, WorkNotice(run_id=run_id))

    def _call(self, notice: WorkNotice) -> None:
        if not self.left:
            self._on_notice(notice)


class InMemoryData:
    """The data behind one or several handles; it lives as long as somebody refers to it.

    Args:
        new_generation: Makes the part of a lease token that no earlier record of the same id can have had. The only
            thing that is random here: with one of your own the same calls give the same data again.
    """

    def __init__(self, *, new_generation: Callable[[], str] = new_generation) -> None:
        self.new_generation = new_generation
        self.lock: threading.Lock = threading.Lock()
        self._pid = os.getpid()
        self.runs: dict[str, Run] = {}
        self.schedules: dict[str, ScheduleRow] = {}
        self.listeners: set[WorkListener] = set()

    def check_process(self) -> None:
        """Refuse a forked child, whose copy nobody else would ever see.

        Raises:
            ConfigurationError: This is one.
        """
        if self._pid != os.getpid():
            raise ConfigurationError(
                f"this memory store belongs to process {self._pid}, from which this one ({os.getpid()}) was forked: "
                "what it has is a copy that nobody else sees. Make a store of its own there, or take one that lives "
                "in a file"
            )

    def notify(self, run_id: str | None) -> None:
        """Notify all who listen that there may be work for this run."""
        for listener in self.listeners:
            listener.notify(run_id)

    def is_live(self, run_id: str | None) -> bool:
        """Return True if there is such a run and it is not terminal."""
        run = None if run_id is None else self.runs.get(run_id)
        return run is not None and run.status not in TERMINAL_STATUSES
