"""The values that go into a store and come out: frozen, with times in integer milliseconds since the Unix epoch."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from ..errors import CorruptRecordError
from ..frozen_value import Value, value
from ..ids import check_id
from ..payloads import JsonText, check_json_text

__all__ = [
    "AWAITED_SHOWN",
    "DEFAULT_HISTORY_BYTES",
    "DEFAULT_HISTORY_EVENTS",
    "DEFAULT_QUEUE",
    "MAX_AWAITED_BYTES",
    "MAX_BULK_BYTES",
    "MAX_BULK_RUNS",
    "MAX_HEARTBEAT_LEASES",
    "MAX_TIMER_CHANGES",
    "NOTICE_HORIZON_MS",
    "SILENT_CLAIMS_PER_CRASH",
    "TERMINAL_STATUSES",
    "Appended",
    "Awaited",
    "BucketAction",
    "BucketClaims",
    "BucketSource",
    "ClaimBatch",
    "ClaimedBucket",
    "ClaimedRun",
    "Event",
    "Execution",
    "InboxEntry",
    "InboxKind",
    "Lease",
    "LeaseRenewal",
    "NewEvent",
    "OverlapPolicy",
    "Paused",
    "QueryCosts",
    "RequestedBucket",
    "RequestedOverlap",
    "RunCounts",
    "RunPage",
    "RunRecord",
    "RunStatus",
    "RunSummary",
    "RunTimeline",
    "RunToCreate",
    "Schedule",
    "SchedulePage",
    "SignalToDeliver",
    "StoreCapabilities",
    "TimelineEntry",
    "Timer",
    "TransactionWork",
    "TransactionWrite",
    "WorkNotice",
    "WorkflowVersion",
    "awaited_bytes",
]

DEFAULT_QUEUE = "default"
MAX_AWAITED_BYTES = 1_000_000
"""The longest awaited list of a run, as `awaited_bytes` counts: it is one value, and D1 carries 2,000,000 bytes."""
MAX_TIMER_CHANGES = 500
"""The most timers that one call sets, and the most that it removes."""
DEFAULT_HISTORY_EVENTS = 1_000
"""Events in the first page of history that a claim brings along."""
DEFAULT_HISTORY_BYTES = 1_000_000
"""Bytes of payload in that page. The first event comes along whatever its size."""
SILENT_CLAIMS_PER_CRASH = 4
"""Number of claims in a row, expired without a sign of life, that count as one crash."""
AWAITED_SHOWN = 3
"""The most things that a run waits for in a listing."""
MAX_BULK_RUNS = 500
"""The most runs, or signals, that one call deals with: it must not keep others waiting for long."""
MAX_BULK_BYTES = 1_900_000
"""The most bytes that the runs or signals of one call take, as their `bulk_bytes` says, unless it is a single one: they
are one value, and D1 carries 2,000,000 bytes."""
MAX_HEARTBEAT_LEASES = 250
"""The most leases that one call renews: with the longest ids they still are one value for D1, of 2,000,000 bytes."""
_BESIDE_TEXTS = 80
"""The most bytes that a run or a signal takes in JSON beside its texts: two numbers, quotes, commas and brackets."""
NOTICE_HORIZON_MS = 60_000
"""Workers are notified of a paused run's timer when it is due in less time; their polls find the others in time."""


class RunStatus(StrEnum):
    """The state of a run."""

    QUEUED = "queued"
    """Ready for any worker, from its `due_at_ms` on."""
    RUNNING = "running"
    """Somebody has a lease (which may have expired)."""
    PAUSED = "paused"
    """Waits for its inbox or a timer."""
    FINISHED = "finished"
    """Ended with an output."""
    ERRORED = "errored"
    """Ended with an error."""
    ABORTED = "aborted"
    """Was cancelled or terminated."""
    DEAD = "dead"
    """Parked after repeated crashes without progress, or because it cannot be driven, until `requeue_run`."""

    @property
    def is_terminal(self) -> bool:
        """True if no worker gets a run in this status."""
        return self in TERMINAL_STATUSES


TERMINAL_STATUSES = frozenset({RunStatus.FINISHED, RunStatus.ERRORED, RunStatus.ABORTED, RunStatus.DEAD})
"""No worker gets a run in one of these."""

OverlapPolicy = Literal["skip", "allow", "buffer-one", "cancel-previous", "terminate-previous"]
"""Policies for a tick whose predecessor's run has not ended. A run that is `dead` has ended: requeued, it lives beside
the run that a later tick may have started, and no policy prevents that.
"""

RequestedOverlap = Literal[OverlapPolicy, "buffer-all"]
"""Policies for a requested tick whose predecessor's run has not ended. With `buffer-all` it waits for its turn, however
many others wait too.
"""

BucketAction = Literal["start", "skip", "buffer"]
"""Ways to settle a claimed tick."""

BucketSource = Literal["due", "requested", "buffered"]
"""Origins of a tick: the schedule's own time, a request, or having been put back."""

InboxKind = Literal["signal", "approval", "cancel", "retry"]


@value
class QueryCosts(Value):
    """The most queries that a call takes, by kinds of calls; a batch of statements is as many queries."""

    read: int
    """`load_run`, `read_events`, `read_inbox`, `read_clock`, `heartbeat_run_lease`, `heartbeat_run_leases` of however
    many, and `check_schema` where the tables fit."""
    claim: int
    """A claim of runs or of ticks, however many it takes."""
    tick: int
    """`mark_schedule_bucket_started`."""
    write: int
    """A driver's write, besides its events."""
    release: int
    """`release_run_lease`."""
    events_per_query: int
    """Events of one write that go into one query; what is left over takes another."""
    call: int
    """Every other call but `ensure_schema`. Also what `append_in_transaction` takes beyond a write, besides
    the statements of its function."""

    def write_of(self, events: int) -> int:
        """Return the most that a driver's write of so many events takes."""
        return self.write + -(-events // self.events_per_query)


@value
class StoreCapabilities(Value):
    """A store's declaration about itself. Declared, never sniffed."""

    max_payload_bytes: int
    """The largest payload, in bytes of JSON text, that it accepts."""
    durable: bool
    """True if what it acknowledged outlives the process."""
    subscribe: bool = False
    """It keeps `SupportsSubscribe`."""
    transactions: bool = False
    """It keeps `SupportsTransactions`: a step and a business write can commit together."""
    notify: bool = False
    """True if it keeps `SupportsNotify`: waiting workers are notified of work."""
    heartbeats: bool = False
    """It keeps `SupportsHeartbeats`: a blocked event loop need not lose its leases."""
    metered: QueryCosts | None = None
    """It keeps `SupportsMetering`: its queries are counted, and no call takes more of them than this says."""
    auto_schema: bool = False
    """True if a runtime is to call `ensure_schema` by itself when `check_schema` finds tables missing or behind: as it
    is sensible for a file on this machine, or in memory, and not for a server whose tables somebody owns."""


@value
class WorkNotice(Value):
    """A hint that there may be work."""

    run_id: str | None
    """Id of the run; `None` means that anything may have happened: look for everything."""


@value
class WorkflowVersion(Value):
    """One workflow in one version, as a worker's claims name what it can run."""

    workflow_id: str
    version: str

    def __post_init__(self) -> None:
        _check_ids(self, "workflows", "workflow_id", "version")


@value
class NewEvent(Value):
    """An event that a driver appends. A store keeps it and never looks inside."""

    kind: str
    step_id: str | None = None
    payload: JsonText | None = None

    def __post_init__(self) -> None:
        _check_ids(self, "events", "kind")
        if self.step_id is not None:
            _check_ids(self, "events", "step_id")
        if self.payload is not None:
            check_json_text("events.payload", self.payload)


class CheckedEvent(NewEvent):
    """An event whose ids and payload its maker has checked, as the engine does: a store need not do it once more."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Trust the maker."""


@value
class RunToCreate(Value):
    """A run that `create_runs` creates; see `create_run` for what each of it means."""

    run_id: str
    workflow_id: str
    workflow_version: str
    input: JsonText
    operation_id: str
    queue: str = DEFAULT_QUEUE
    priority: int = 0
    available_at_ms: int | None = None

    def __post_init__(self) -> None:
        _check_ids(self, "runs", "run_id", "workflow_id", "workflow_version", "operation_id", "queue")
        check_json_text("runs.input", self.input)

    @property
    def bulk_bytes(self) -> int:
        """The most bytes that it takes in JSON."""
        ids = (self.run_id, self.workflow_id, self.workflow_version, self.operation_id, self.queue)
        return _json_bytes(ids, self.input)


@value
class SignalToDeliver(Value):
    """A signal that `deliver_signals` delivers; see `deliver_signal` for what each of it means."""

    run_id: str
    signal_id: str
    name: str
    payload: JsonText | None = None

    def __post_init__(self) -> None:
        _check_ids(self, "signals", "run_id", "signal_id", "name")
        if self.payload is not None:
            check_json_text("signals.payload", self.payload)

    @property
    def bulk_bytes(self) -> int:
        """The most bytes that it takes in JSON."""
        return _json_bytes((self.run_id, self.signal_id, self.name), self.payload)


def _json_bytes(ids: Iterable[str], payload: JsonText | None) -> int:
    # Written as a text, a character of an id takes six bytes at most, and one of a payload, which is JSON itself, two.
    return 6 * sum(map(len, ids)) + 2 * len(payload or "") + _BESIDE_TEXTS


@value
class Event(Value):
    """One entry of a run's event log."""

    index: int
    kind: str
    step_id: str | None
    payload: JsonText | None
    created_at_ms: int


@value
class Timer(Value):
    """A point in time at which a paused run becomes claimable."""

    timer_id: str
    fire_at_ms: int

    def __post_init__(self) -> None:
        _check_ids(self, "", "timer_id")


@value
class Awaited(Value):
    """One thing from outside that a paused run waits for. Timers are not listed here."""

    kind: Literal["signal", "approval"]
    name: str
    """The signal's name, or the approval's id."""
    step_id: str
    until_ms: int | None = None
    """The deadline of the wait, if it has one."""

    def __post_init__(self) -> None:
        _check_ids(self, "awaited", "name", "step_id")


def awaited_bytes(name: str, step_id: str) -> int:
    """Count what one awaited entry takes in the list, at most: as JSON in ASCII, with its kind and deadline."""
    return len(json.dumps(name)) + len(json.dumps(step_id)) + 40


@value
class InboxEntry(Value):
    """Something from outside, in the order of its arrival."""

    inbox_seq: int
    """Its number in the run's inbox, from 1."""
    kind: InboxKind
    name: str
    """The signal's name, the approval's id, `cancel`, or `retry`."""
    delivery_id: str
    """Key that deduplicates it: the id of the signal, the approval or the request to retry, or `cancel`.

    Of one kind a run has each key once, but for `cancel`: a run that was retried may be asked to end again (RETRY-4).
    """
    payload: JsonText | None
    received_at_ms: int


@value
class Lease(Value):
    """A worker's time-limited, numbered right to drive a run."""

    owner: str
    token: str
    """The fence: goes with every write of the driver. Never used twice for one run id."""
    number: int
    """Counts the claims of this run's record, from 1."""
    expires_at_ms: int


@value
class RunSummary(Value):
    """A run without its payloads, as listings show it."""

    run_id: str
    workflow_id: str
    workflow_version: str
    status: RunStatus
    queue: str
    priority: int
    created_at_ms: int
    updated_at_ms: int
    """Time of the last change by a verb other than a heartbeat."""
    finished_at_ms: int | None
    """Time at which the run reached its terminal status."""
    due_at_ms: int | None
    """Queued: claimable from then on. Paused: its earliest timer. Otherwise `None`."""
    next_index: int
    """The length of the event log."""
    inbox_seq: int
    """The number of the newest inbox entry; 0 when nothing ever arrived."""
    cancel_requested: bool
    crashes: int
    """Number of workers in a row that lost this run by crashing without a new event, as DEAD-2 counts."""
    lease_owner: str | None
    lease_expires_at_ms: int | None
    first_awaited: tuple[Awaited, ...] = ()
    """The first of the things from outside that a paused run waits for, at most `AWAITED_SHOWN`. Of its timers
    `due_at_ms` tells."""
    awaited_count: int = 0
    """Number of such things."""


@value
class RunRecord(RunSummary):
    """A run with its payloads."""

    input: JsonText
    output: JsonText | None
    """Only when `finished`; absent when the handler's result was not recorded."""
    error: JsonText | None
    reason: str | None
    """Reason why it was aborted or parked."""
    awaited: tuple[Awaited, ...]
    """Things that a paused run waits for."""
    schedule_id: str | None = None
    """Id of the schedule whose tick started it. A fork takes it over, like `scheduled_at_ms`."""
    scheduled_at_ms: int | None = None
    """The moment that this tick stands for."""
    forked_from_run_id: str | None = None
    """The run whose log it began with."""
    forked_from_index: int | None = None
    """Number of events of that log that it took over. The event at this index says so too."""


@value
class ClaimedRun(Value):
    """A claimed run with everything that is needed to drive it."""

    run: RunRecord
    lease: Lease
    history: tuple[Event, ...]
    """The first page of the event log; `run.next_index` tells how long the whole is."""
    inbox: tuple[InboxEntry, ...]
    """The first entries that are not taken yet, in order: at most `DEFAULT_HISTORY_EVENTS`. A store may stop earlier,
    behind `DEFAULT_HISTORY_BYTES` of payload, but brings one if there is one. The driver reads the others by
    `read_inbox`."""
    due_timers: tuple[Timer, ...]
    """The timers whose time has come, earliest first."""


@value
class ClaimBatch(Value):
    """The answer of a claim for several runs."""

    claims: tuple[ClaimedRun, ...]
    next_due_ms: int | None
    """Time at which the next matching run can be claimed; not later than now when more are waiting. `None`: none known.
    """
    corrupt: tuple[CorruptRecordError, ...] = ()
    """Runs that were claimed but cannot be read. Their leases run out; in the end they become `dead`."""
    dead: tuple[str, ...] = ()
    """Runs that this call parked as `dead`."""


@value
class Execution(Value):
    """A run with its history, as `load_execution` shows it without claiming."""

    run: RunRecord
    history: tuple[Event, ...]
    """The first page of the event log."""
    inbox: tuple[InboxEntry, ...]
    """The first entries that are not taken yet, bounded as in `ClaimedRun`."""
    timers: tuple[Timer, ...]
    """All that are pending, earliest first."""


@value
class Appended(Value):
    """The answer to an append."""

    next_index: int
    lease_expires_at_ms: int
    inbox_seq: int
    cancel_requested: bool


@value
class TransactionWrite(Value):
    """The append at the end of a transaction; the fields are those of `append_events`."""

    expected_next_index: int
    events: tuple[NewEvent, ...]
    now_ms: int
    lease_ms: int
    taken_inbox: tuple[int, ...] = ()
    set_timers: tuple[Timer, ...] = ()
    removed_timers: tuple[str, ...] = ()


TransactionWork: TypeAlias = Callable[[Any], Awaitable[TransactionWrite]]
"""Writes business data by what the store hands it (a connection, say), and then says what the log gets."""


@value
class LeaseRenewal(Value):
    """The answer to a heartbeat."""

    kind: Literal["renewed"] = "renewed"
    lease_expires_at_ms: int
    inbox_seq: int
    cancel_requested: bool
    store_clock_ms: int
    """The store's own time, by which a runtime corrects its clock."""


@value
class Paused(Value):
    """The answer to a pause."""

    status: Literal[RunStatus.PAUSED, RunStatus.QUEUED]
    """`queued` when the inbox holds more than the driver had seen."""
    next_index: int


@value
class RunPage(Value):
    """One page of a listing."""

    runs: tuple[RunSummary, ...]
    next_cursor: str | None
    """Hand it to the next call; `None` at the end, and always with a limit of 0."""
    corrupt: tuple[CorruptRecordError, ...] = ()
    """Rows that have their place on this page and cannot be read: of an unknown status, say. They hide no others.

    No case damages a row in this way. A store that cannot meet such a row leaves this empty.
    """


class RunCounts(dict[RunStatus, int]):
    """Numbers of runs by status, those of statuses that this package does not know apart."""

    def __init__(self, known: Mapping[RunStatus, int] = {}, unknown: Mapping[str, int] = {}) -> None:  # read only
        super().__init__(known)
        self.unknown: dict[str, int] = dict(unknown)
        """Text that stands in the store where a status should be."""

    @classmethod
    def of(cls, counted: Iterable[tuple[str, int]]) -> RunCounts:
        """Sort what a store has counted.

        Args:
            counted: Pairs of a status, as the store holds it, and a number.
        """
        counts = cls()
        for status, number in counted:
            if status in RunStatus.__members__.values():
                counts[RunStatus(status)] = number
            else:
                counts.unknown[status] = number
        return counts


@value
class TimelineEntry(Value):
    """One line of a run's timeline."""

    at_ms: int
    source: Literal["run", "log", "inbox", "timer"]
    what: str
    """`created`, the event's kind, the inbox entry's kind and name, or `fires`."""
    step_id: str | None
    detail: JsonText | None


@value
class RunTimeline(Value):
    """The history of a run, in order of time; pending timers come last."""

    run: RunRecord
    entries: tuple[TimelineEntry, ...]
    truncated: bool
    """True if the log or the inbox holds more than the limit allowed."""


@value
class Schedule(Value):
    """A schedule. What `spec` means is the runtime's business."""

    schedule_id: str
    workflow_id: str
    workflow_version: str
    spec: JsonText
    input: JsonText
    overlap_policy: OverlapPolicy
    queue: str
    priority: int
    enabled: bool
    next_fire_at_ms: int | None
    last_fire_at_ms: int | None
    """The high-water mark: ticks up to here never fire again."""
    buffered_fire_at_ms: int | None
    """The tick that was put back until the previous run has ended."""
    previous_run_id: str | None
    """The last run that a tick started."""
    revision: int
    """Counts the changes of the definition, from 1."""
    created_at_ms: int
    updated_at_ms: int
    """Time of the last change of the definition or settling of a tick. Neither a request nor a claim changes it."""


@value
class SchedulePage(Value):
    """One page of schedules, ordered by id."""

    schedules: tuple[Schedule, ...]
    next_cursor: str | None


@value
class RequestedBucket(Value):
    """One tick that was requested and is not settled."""

    fire_at_ms: int
    overlap: RequestedOverlap | None
    """Policy requested with it; `None` leaves it to the schedule."""
    requested_at_ms: int


@value
class ClaimedBucket(Value):
    """One tick of a schedule, claimed."""

    schedule: Schedule
    fire_at_ms: int
    source: BucketSource
    overlap_policy: RequestedOverlap
    """Policy of this tick: the one requested with it, or else the schedule's."""
    overlapping_run_id: str | None
    """The previous run, if it was live at the claim."""
    lease: Lease


@value
class BucketClaims(Value):
    """The answer of a claim for due ticks."""

    buckets: tuple[ClaimedBucket, ...]
    next_due_ms: int | None
    unclaimable: tuple[str, ...] = ()
    """Schedules of other workflows that have a tick waiting; some of them."""


def _check_ids(checked: Value, argument: str, *names: str) -> None:
    """Refuse what is no id; keep a subclass of `str` as the string that it holds."""
    for name in names:
        given = getattr(checked, name)
        text = check_id(f"{argument}.{name}" if argument else name, given)
        if text is not given:
            object.__setattr__(checked, name, text)
