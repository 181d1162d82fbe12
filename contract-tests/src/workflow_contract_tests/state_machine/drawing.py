"""Random operations, drawn so that interesting states are reached: what is chosen depends on the model's state."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, get_args

from workflow_runtime.store import (
    DRIVER_VERBS,
    Awaited,
    NewEvent,
    OverlapPolicy,
    RunStatus,
    RunToCreate,
    SignalToDeliver,
    Timer,
    WorkflowVersion,
)

from ..model import Model
from .script import (
    InboxSeen,
    Leases,
    LogEnd,
    Operation,
    Revision,
    TickMoment,
    TickToken,
    Token,
    Untaken,
)

__all__ = ["Part", "Sequence"]

Part: TypeAlias = Literal["runs", "schedules"]
"""The verbs of a sequence: those about runs alone, or schedules and what happens to their runs."""

LONG_ID = "x" * 509 + "é"
RUN_IDS = ("a", "A", "a%", "a_", "ab", "b", "é", "z\U0001f600", "\uffee", "a b'\"\\", LONG_ID, "0")
SCHEDULE_IDS = ("s", "S", "s_", "é", "\U0001f600", "\uffee", LONG_ID)
WORKFLOWS = ("orders", "Orders", "reports")
VERSIONS = ("1", "2")
QUEUES = ("default", "slow")
NAMES = ("go", "stop", "gö")
PAYLOADS = (None, "null", "1", "1.0", '"text"', '{"b":1,"a":[2]}', '{"a":[2],"b":1}', '"\\ud83d\\u0000"')
INPUTS = ("null", "1", "1.0", "true", '{"b":1,"a":[2]}', '{"a":[2],"b":1}')
SPECS = ('{"cron":"* * * * *"}', '{"every":60}')
PREFIXES = ("", "a", "A", "%", "_", "a_", "a%", "*", "?", "[a]", "é", "x" * 500)
BAD_IDS = ("", "nul\0", "x" * 513, "\ud800", 7)
BAD_NUMBERS = (-1, 2**53, True, 0.5, "1")
ALL = 1_000

Weights: TypeAlias = Mapping[str, float]

RUN_WEIGHTS: Weights = {
    "create_run": 9,
    "fork_run": 4,
    "load_run": 1,
    "mark_run_paused": 11,
    "mark_run_finished": 3,
    "mark_run_errored": 5,
    "cancel_run": 4,
    "terminate_run": 2,
    "requeue_run": 3,
    "retry_run": 5,
    "delete_run": 3,
    "prune_runs": 1,
    "create_runs": 2,
    "deliver_signals": 3,
    "cancel_runs": 1,
    "terminate_runs": 1,
    "requeue_runs": 1,
    "retry_runs": 2,
    "append_events": 13,
    "read_events": 2,
    "claim_run": 8,
    "heartbeat_run_lease": 6,
    "heartbeat_run_leases": 2,
    "release_run_lease": 3,
    "claim_stale_runs": 8,
    "list_pending_runs": 2,
    "claim_pending_runs": 7,
    "schedule_timer": 3,
    "claim_due_timers": 6,
    "deliver_signal": 9,
    "deliver_approval": 4,
    "deliver_retry": 3,
    "read_inbox": 2,
    "list_runs": 2,
    "count_runs": 1,
    "get_run_timeline": 1,
}
SCHEDULE_WEIGHTS: Weights = {
    "upsert_schedule": 8,
    "delete_schedule": 1,
    "get_schedule": 1,
    "list_schedules": 1,
    "request_schedule_buckets": 8,
    "list_requested_buckets": 2,
    "claim_due_schedule_buckets": 16,
    "mark_schedule_bucket_started": 24,
    "create_run": 1,
    "claim_run": 2,
    "mark_run_finished": 2,
    "mark_run_errored": 1,
    "terminate_run": 5,
    "cancel_run": 1,
    "retry_run": 2,
    "delete_run": 2,
    "fork_run": 1,
}


ENDED = frozenset({RunStatus.ERRORED, RunStatus.DEAD, RunStatus.ABORTED})
LIVE = frozenset({RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.PAUSED})
STATUSES_FOR: Mapping[str, frozenset[RunStatus]] = {
    **dict.fromkeys(DRIVER_VERBS, frozenset({RunStatus.RUNNING})),
    **dict.fromkeys(("deliver_signal", "deliver_approval", "deliver_retry"), LIVE),
    **dict.fromkeys(("cancel_run", "terminate_run", "claim_run"), LIVE),
    **dict.fromkeys(("retry_run", "retry_runs"), ENDED),
    **dict.fromkeys(("requeue_run", "requeue_runs"), frozenset({RunStatus.DEAD})),
    **dict.fromkeys(("fork_run", "delete_run", "read_events", "read_inbox", "get_run_timeline"), frozenset(RunStatus)),
    "claim_pending_runs": frozenset({RunStatus.QUEUED}),
    "claim_stale_runs": frozenset({RunStatus.RUNNING}),
    "claim_due_timers": frozenset({RunStatus.PAUSED}),
}
"""The runs for which a verb has something to do."""


class Sequence:
    """A source of operations for one match. One seed and one state of the model give one operation."""

    def __init__(self, seed: int, part: Part, model: Model, start_ms: int) -> None:
        self._random = random.Random(seed)
        self._model = model
        weights = RUN_WEIGHTS if part == "runs" else SCHEDULE_WEIGHTS
        # Half of the sequences have likings of their own: they go deep where a mixture of everything never gets.
        likings = (1, 1, 1, 6) if self._random.random() < 0.5 else (1,)
        self._weights = {verb: weight * self._random.choice(likings) for verb, weight in weights.items()}
        self._now_ms = start_ms
        self._number = 0
        self._operations: list[Operation] = []
        self.run_ids: list[str] = self._random.sample(RUN_IDS, 4)
        self.schedule_ids: list[str] = self._random.sample(SCHEDULE_IDS, 2) if part == "schedules" else []

    def draw(self) -> Operation:
        """Return the next operation."""
        self._move_clock()
        if self._operations and self._chance(0.07):
            return self._once_more()
        verb = self._verb()
        arguments: dict[str, Any] = getattr(self, f"_{verb}")()
        if self._chance(0.02):
            arguments = self._spoilt(arguments)
        operation = Operation(verb, arguments)
        if "operation_id" in arguments:
            self._operations.append(operation)
        return operation

    def read_everything(self, *, all_timelines: bool = False) -> list[Operation]:
        """Return the reads that show all there is."""
        shown = self.run_ids if all_timelines else [self._run_id()]
        reads = [("load_execution", {"run_id": run_id, "history_limit": ALL}) for run_id in self.run_ids]
        reads += [("get_run_timeline", {"run_id": run_id}) for run_id in shown]
        reads += [("get_schedule", {"schedule_id": schedule_id}) for schedule_id in self.schedule_ids]
        reads += [
            ("list_requested_buckets", {"schedule_id": schedule_id, "limit": ALL}) for schedule_id in self.schedule_ids
        ]
        reads += [("list_schedules", {"limit": 2})] if self.schedule_ids else []
        reads += [("list_runs", {"limit": 3}), ("list_pending_runs", self._list_pending_runs())]
        reads += [("list_runs", self._list_runs()), ("count_runs", self._count_runs())]
        return [Operation(verb, arguments, reads=True) for verb, arguments in reads]

    def _once_more(self) -> Operation:
        """Repeat an operation of late, as after a lost answer."""
        late = self._operations[-4:]
        operation = late[-1] if self._chance(0.6) else self._random.choice(late)
        return Operation(operation.verb, {"operation_id": operation.arguments["operation_id"]}, again=True)

    def _spoilt(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Put what is none in place of one argument."""
        many = {"fire_times_ms"}  # a sequence
        numbers = [n for n in arguments if n not in many and (n.endswith("_ms") or n in {"limit", "max_crashes"})]
        ids = [name for name in arguments if name.endswith("_id") or name in {"owner", "queue", "name"}]
        name = self._random.choice(numbers + ids or [""])
        if not name:
            return arguments
        return arguments | {name: self._random.choice(BAD_NUMBERS if name in numbers else BAD_IDS)}

    def _verb(self) -> str:
        """Return a verb, mostly one for which there is something to do."""
        if self._chance(0.4) and (verb := self._verb_of_a_race()):
            return verb
        verbs = self._random.choices(list(self._weights), weights=list(self._weights.values()), k=6)
        return next((verb for verb in verbs if self._has_work(verb) or self._chance(0.03)), verbs[-1])

    def _verb_of_a_race(self) -> str | None:
        """Return what ends the previous run between the claim of a tick and its start, with another tick buffered.

        SCHEDULE-17 is about that, and chance alone hardly ever gets there.
        """
        for schedule in self._model.state.schedules.values():
            waits = schedule.buffered_fire_at_ms
            if schedule.claim is not None and waits not in {None, schedule.claim.fire_at_ms}:
                live = self._model.state.live_run(schedule.previous_run_id) is not None
                return "terminate_run" if live else "mark_schedule_bucket_started"
            if waits is not None and schedule.claim is None:
                return self._random.choice(("request_schedule_buckets", "claim_due_schedule_buckets"))
        return None

    def _has_work(self, verb: str) -> bool:
        """Return False if the verb needs a run, a schedule or a claimed tick, and there is none."""
        runs, schedules = self._model.state.runs.values(), self._model.state.schedules.values()
        if verb == "mark_schedule_bucket_started":
            return any(schedule.claim is not None for schedule in schedules)
        if verb.endswith("_buckets"):
            return bool(schedules)
        wanted = STATUSES_FOR.get(verb)
        return wanted is None or any(run.status in wanted for run in runs)

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _move_clock(self) -> None:
        """Leave the clock, move it on, set it to where something becomes due, or set it back."""
        kind = self._random.random()
        if kind < 0.3:
            return
        if kind < 0.6:
            self._now_ms += self._random.randint(1, 30)
        elif kind < 0.85 and (moments := self._moments()):
            self._now_ms = self._random.choice(moments) - self._random.choice((0, 0, 0, 1))
        elif kind < 0.95:
            self._now_ms += 1_000
        else:
            self._now_ms -= self._random.choice((1, 40, 700))

    def _moments(self) -> list[int]:
        """Return the moments of the near future at which something becomes due or ends."""
        state = self._model.state
        moments = [run.lease.expires_at_ms for run in state.runs.values() if run.lease is not None]
        moments += [run.due_at_ms for run in state.runs.values() if run.due_at_ms is not None]
        moments += [s.next_fire_at_ms for s in state.schedules.values() if s.next_fire_at_ms is not None]
        moments += [s.claim.expires_at_ms for s in state.schedules.values() if s.claim is not None]
        return sorted(moment for moment in moments if self._now_ms < moment < self._now_ms + 5_000)

    def _later(self) -> int:
        return self._now_ms + self._random.choice((-20, 0, 1, 15, 60, 400))

    def _new(self, what: str) -> str:
        self._number += 1
        return f"{what}-{self._number}"

    def _run_id(self, wanted: Callable[[RunStatus], bool] | None = None) -> str:
        """Return an id, mostly of a run in a wanted status."""
        if wanted is not None and self._chance(0.5):
            previous = {schedule.previous_run_id for schedule in self._model.state.schedules.values()}
            live = [run_id for run_id in self.run_ids if run_id in previous and self._live(run_id)]
            if live:  # what becomes of ticks is decided by it
                return self._random.choice(live)
        if wanted is not None and self._chance(0.9):
            fitting = [run_id for run_id in self.run_ids if (s := self._status(run_id)) is not None and wanted(s)]
            if fitting:
                return self._random.choice(fitting)
        return self._random.choice(self.run_ids)

    def _status(self, run_id: str) -> RunStatus | None:
        run = self._model.state.runs.get(run_id)
        return None if run is None else run.status

    def _live(self, run_id: str) -> bool:
        return (status := self._status(run_id)) is not None and not status.is_terminal

    def _some(self, pool: tuple[Any, ...] | list[Any], most: int = 2) -> list[Any]:
        return self._random.sample(pool, self._random.randint(0, min(most, len(pool))))

    def _maybe(self, share: float, **arguments: Callable[[], Any]) -> dict[str, Any]:
        """Draw optional arguments, each of them or not."""
        return {name: draw() for name, draw in arguments.items() if self._chance(share)}

    def _event(self) -> NewEvent:
        kind = self._random.choice(("note", "step", "é"))
        return NewEvent(kind=kind, step_id=self._random.choice((None, "s1")), payload=self._payload())

    def _payload(self) -> Any:
        return self._random.choice(PAYLOADS)

    def _text(self) -> str:
        return self._random.choice(("", "because", "wéil"))

    def _lease_ms(self) -> int:
        return self._random.choice((1, 20, 20, 100, 1_000))

    def _claiming(self) -> dict[str, Any]:
        owner = self._random.choice(("worker-1", "worker-2"))
        pages = self._maybe(
            0.1,
            history_limit=lambda: self._random.choice((0, 1, 2)),
            history_bytes=lambda: self._random.choice((0, 1, 8)),
        )
        return {"owner": owner, "lease_ms": self._lease_ms(), "now_ms": self._now_ms, **pages}

    def _filtered(self) -> dict[str, Any]:
        every = [WorkflowVersion(workflow_id=one, version=v) for one in WORKFLOWS for v in VERSIONS]
        filters = self._maybe(0.3, workflows=lambda: self._some(every, 4), queues=lambda: self._some(QUEUES))
        return {"limit": self._random.choice((0, 1, 1, 2, ALL, ALL)), **filters}

    def _max_crashes(self) -> int:
        return self._random.choice((1, 2, 2, 3, 1_000))

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _create_run(self) -> dict[str, Any]:
        unknown = [run_id for run_id in self.run_ids if self._status(run_id) is None]
        arguments: dict[str, Any] = {
            "run_id": self._random.choice(unknown) if unknown and self._chance(0.8) else self._run_id(),
            "workflow_id": self._random.choice(WORKFLOWS),
            "workflow_version": self._random.choice(VERSIONS),
            "input": self._random.choice(INPUTS),
            "operation_id": self._new("op"),
            "now_ms": self._now_ms,
            **self._maybe(
                0.4, queue=lambda: self._random.choice(QUEUES), priority=lambda: self._random.choice((-1, 0, 1, 32_767))
            ),
        }
        if self._chance(0.5):
            return arguments | {"owner": "worker-1", "lease_ms": self._lease_ms()}
        return arguments | self._maybe(0.4, available_at_ms=self._later)

    def _fork_run(self) -> dict[str, Any]:
        run_id = self._run_id(lambda status: True)
        unknown = [other for other in self.run_ids if self._status(other) is None]
        return {
            "run_id": run_id,
            "new_run_id": self._random.choice(unknown) if unknown and self._chance(0.8) else self._run_id(),
            "from_index": LogEnd(run_id, self._random.choice((0, 0, -1, -2, 1))),
            "event": self._event(),
            "operation_id": self._new("op"),
            "now_ms": self._now_ms,
            **self._maybe(0.3, workflow_version=lambda: self._random.choice(VERSIONS)),
        }

    def _load_run(self) -> dict[str, Any]:
        return {"run_id": self._run_id()}

    def _driving(self) -> dict[str, Any]:
        """Draw what each driver's write begins with; some are stale."""
        run_id = self._run_id(lambda status: status is RunStatus.RUNNING)
        token = Token(run_id, 0 if self._chance(0.93) else self._random.randint(1, 2))
        return {"run_id": run_id, "lease_token": token, "operation_id": self._new("op"), "now_ms": self._now_ms}

    def _writing(self) -> dict[str, Any]:
        """Draw what each write with events begins with; some know another log."""
        driving = self._driving()
        run_id = driving["run_id"]
        optional = self._maybe(
            0.4,
            events=lambda: [self._event() for _ in range(self._random.randint(0, 2))],
            taken_inbox=lambda: Untaken(run_id, self._random.randint(1, 2)),
        )
        end = LogEnd(run_id, 0 if self._chance(0.95) else self._random.choice((-1, 1)))
        return driving | {"expected_next_index": end} | optional

    def _timers(self) -> dict[str, Any]:
        ids = ["t1", "t2", "é"]
        self._random.shuffle(ids)
        split = self._random.randint(0, 2)
        timers = [Timer(timer_id=timer_id, fire_at_ms=self._later()) for timer_id in ids[:split]]
        return self._maybe(0.4, set_timers=lambda: timers, removed_timers=lambda: ids[split:])

    def _append_events(self) -> dict[str, Any]:
        return {"events": [], "lease_ms": self._lease_ms()} | self._writing() | self._timers()

    def _mark_run_paused(self) -> dict[str, Any]:
        writing = self._writing()
        seen = InboxSeen(writing["run_id"], 0 if self._chance(0.85) else 1)
        awaited = [
            Awaited(kind=self._random.choice(("signal", "approval")), name=self._random.choice(NAMES), step_id=f"w{n}")
            for n in range(self._random.choice((0, 1, 1, 2, 5)))
        ]
        return writing | {"seen_inbox_seq": seen} | self._maybe(0.8, awaited=lambda: awaited) | self._timers()

    def _mark_run_finished(self) -> dict[str, Any]:
        return self._writing() | {"output": self._random.choice(INPUTS)}

    def _mark_run_errored(self) -> dict[str, Any]:
        writing = self._writing()
        run = self._model.state.runs.get(writing["run_id"])
        asked = run is not None and run.cancel_requested and self._chance(0.7)
        kind = {"aborted": True} if asked else self._random.choice(({}, {"aborted": True}, {"parked": True}))
        reason = self._maybe(0.5, reason=self._text)
        return writing | {"error": self._random.choice(INPUTS)} | kind | reason

    def _release_run_lease(self) -> dict[str, Any]:
        return self._driving()

    def _schedule_timer(self) -> dict[str, Any]:
        timer_id = self._random.choice(("t1", "t2", "é"))
        return self._driving() | {"timer_id": timer_id, "fire_at_ms": self._later()}

    def _heartbeat_run_lease(self) -> dict[str, Any]:
        arguments = self._driving() | {"lease_ms": self._lease_ms()}
        del arguments["operation_id"]
        return arguments

    def _heartbeat_run_leases(self) -> dict[str, Any]:
        leases = Leases(tuple(self._driving()["lease_token"] for _ in range(self._random.randint(0, 3))))
        return {"leases": leases, "lease_ms": self._lease_ms(), "now_ms": self._now_ms}

    def _cancel_run(self) -> dict[str, Any]:
        run_id = self._run_id(lambda status: not status.is_terminal)
        return {"run_id": run_id, "now_ms": self._now_ms, **self._maybe(0.5, reason=self._text)}

    def _terminate_run(self) -> dict[str, Any]:
        run_id = self._run_id(lambda status: status not in {RunStatus.FINISHED, RunStatus.ERRORED})
        return {"run_id": run_id, "now_ms": self._now_ms, **self._maybe(0.5, reason=self._text)}

    def _requeue_run(self) -> dict[str, Any]:
        return {"run_id": self._run_id(lambda status: status is RunStatus.DEAD), "now_ms": self._now_ms}

    def _retry_run(self) -> dict[str, Any]:
        return {"run_id": self._run_id(lambda status: status in ENDED), **self._retrying()}

    def _retrying(self) -> dict[str, Any]:
        ends = sorted(ENDED)
        statuses = self._maybe(0.6, statuses=lambda: self._some(ends, 3) if self._chance(0.4) else list(ends))
        return {"event": self._event(), "now_ms": self._now_ms, **statuses}

    def _delete_run(self) -> dict[str, Any]:
        return {"run_id": self._run_id(), "now_ms": self._now_ms, **self._maybe(0.4, force=lambda: True)}

    def _prune_runs(self) -> dict[str, Any]:
        before = self._now_ms + self._random.choice((-100, 0, 1))
        optional = self._maybe(
            0.4,
            statuses=lambda: self._some(list(RunStatus)[3:], 3),
            workflow_ids=lambda: self._some(WORKFLOWS),
        )
        return {"finished_before_ms": before, "limit": self._random.choice((0, 1, 2, ALL)), **optional}

    def _many(self) -> dict[str, Any]:
        run_ids = [self._run_id() for _ in range(self._random.randint(0, 4))]
        return {"run_ids": run_ids, "now_ms": self._now_ms}

    def _create_runs(self) -> dict[str, Any]:
        runs = [self._run_to_create() for _ in range(self._random.randint(0, 3))]
        if runs and self._chance(0.2):
            runs.append(runs[0])
        return {"runs": runs, "now_ms": self._now_ms}

    def _run_to_create(self) -> RunToCreate:
        arguments = self._create_run()
        names = RunToCreate.__dataclass_fields__.keys() & arguments.keys()
        return RunToCreate(**{name: arguments[name] for name in names})

    def _deliver_signals(self) -> dict[str, Any]:
        signals = [self._signal_to_deliver() for _ in range(self._random.randint(0, 4))]
        return {"signals": signals, "now_ms": self._now_ms}

    def _signal_to_deliver(self) -> SignalToDeliver:
        arguments = self._deliver_signal()
        return SignalToDeliver(**{name: arguments[name] for name in SignalToDeliver.__dataclass_fields__})

    def _cancel_runs(self) -> dict[str, Any]:
        return self._many() | self._maybe(0.5, reason=self._text)

    def _terminate_runs(self) -> dict[str, Any]:
        return self._many() | self._maybe(0.5, reason=self._text)

    def _requeue_runs(self) -> dict[str, Any]:
        return self._many()

    def _retry_runs(self) -> dict[str, Any]:
        return self._many() | self._retrying()

    def _read_events(self) -> dict[str, Any]:
        run_id = self._run_id(lambda status: True)
        optional = self._maybe(
            0.6,
            from_index=lambda: LogEnd(run_id, -self._random.randint(0, 3)),
            max_bytes=lambda: self._random.choice((0, 1, 8)),
        )
        return {"run_id": run_id, "limit": self._random.choice((0, 1, 2, ALL)), **optional}

    def _claim_run(self) -> dict[str, Any]:
        run_id = self._run_id(lambda status: not status.is_terminal or self._chance(0.3))
        return {"run_id": run_id, "max_crashes": self._max_crashes(), **self._claiming()}

    def _claim_pending_runs(self) -> dict[str, Any]:
        return self._claiming() | self._filtered()

    def _claim_due_timers(self) -> dict[str, Any]:
        return self._claiming() | self._filtered()

    def _claim_stale_runs(self) -> dict[str, Any]:
        return self._claiming() | self._filtered() | {"max_crashes": self._max_crashes()}

    def _list_pending_runs(self) -> dict[str, Any]:
        return {"now_ms": self._now_ms, **self._filtered()}

    def _receiver(self) -> str:
        """Return a run to deliver to: mostly one that waits."""
        anyone = self._chance(0.4)
        return self._run_id(lambda status: anyone or status is RunStatus.PAUSED)

    def _awaited_name(self, run_id: str, kind: str) -> str:
        """Return a name, mostly one that the run waits for."""
        run = self._model.state.runs.get(run_id)
        names = [] if run is None else [item.name for item in run.awaited if item.kind == kind]
        return self._random.choice(names if names and self._chance(0.6) else NAMES)

    def _deliver_signal(self) -> dict[str, Any]:
        run_id = self._receiver()
        return {
            "run_id": run_id,
            "signal_id": self._random.choice(("d1", "d2", "é")) if self._chance(0.4) else self._new("d"),
            "name": self._awaited_name(run_id, "signal"),
            "payload": self._payload(),
            "now_ms": self._now_ms,
            **self._maybe(0.15, only_if_waiting=lambda: True),
        }

    def _deliver_approval(self) -> dict[str, Any]:
        run_id = self._receiver()
        return {
            "run_id": run_id,
            "approval_id": self._awaited_name(run_id, "approval"),
            "approved": self._chance(0.5),
            "now_ms": self._now_ms,
            **self._maybe(0.3, decided_by=self._text, comment=self._text, only_if_waiting=lambda: True),
        }

    def _deliver_retry(self) -> dict[str, Any]:
        run_id = self._receiver()
        retry_id = "d1" if self._chance(0.4) else self._new("retry")
        return {"run_id": run_id, "retry_id": retry_id, "now_ms": self._now_ms}

    def _read_inbox(self) -> dict[str, Any]:
        run_id = self._run_id(lambda status: True)
        optional = self._maybe(
            0.6,
            after_seq=lambda: InboxSeen(run_id, self._random.randint(0, 3)),
            max_bytes=lambda: self._random.choice((0, 1, 8)),
        )
        return {"run_id": run_id, "limit": self._random.choice((0, 1, 2, ALL)), **optional}

    def _matching(self) -> dict[str, Any]:
        created = [run.created_at_ms for run in self._model.state.runs.values()] or [self._now_ms]
        return self._maybe(
            0.3,
            statuses=lambda: self._some(list(RunStatus), 4),
            workflow_ids=lambda: self._some(WORKFLOWS),
            queues=lambda: self._some(QUEUES),
            run_id_prefix=lambda: self._random.choice(PREFIXES),
            created_from_ms=lambda: self._random.choice(created),
            created_before_ms=lambda: self._random.choice(created) + self._random.choice((0, 1)),
        )

    def _list_runs(self) -> dict[str, Any]:
        limit = self._random.choice((0, 1, 2, ALL))
        return {"limit": limit, **self._matching(), **self._maybe(0.5, descending=lambda: True)}

    def _count_runs(self) -> dict[str, Any]:
        return self._matching()

    def _get_run_timeline(self) -> dict[str, Any]:
        return {"run_id": self._run_id(), **self._maybe(0.7, limit=lambda: self._random.choice((0, 1, 2)))}

    # -- schedules -----------------------------------------------------------------------------------------------------

    def _schedule_id(self) -> str:
        return self._random.choice(self.schedule_ids)

    def _upsert_schedule(self) -> dict[str, Any]:
        schedule_id = self._schedule_id()
        stored = self._model.state.schedules.get(schedule_id)
        keeps = stored is not None and self._chance(0.5)
        spec, policy = (stored.spec, stored.overlap_policy) if keeps and stored is not None else (None, None)
        return {
            "schedule_id": schedule_id,
            "workflow_id": self._random.choice(WORKFLOWS[:1] if keeps else WORKFLOWS),
            "workflow_version": VERSIONS[0],
            "spec": spec or self._random.choice(SPECS),
            "input": INPUTS[0],
            "next_fire_at_ms": self._random.choice((self._now_ms, self._later(), None)),
            "now_ms": self._now_ms,
            "overlap_policy": policy or self._random.choice(get_args(OverlapPolicy)),
            **self._maybe(
                0.2,
                queue=lambda: self._random.choice(QUEUES),
                priority=lambda: self._random.choice((0, 1)),
                enabled=lambda: self._chance(0.6),
                expected_revision=lambda: Revision(schedule_id, self._random.choice((0, 0, 1))),
            ),
        }

    def _get_schedule(self) -> dict[str, Any]:
        return {"schedule_id": self._schedule_id()}

    def _list_schedules(self) -> dict[str, Any]:
        return {"limit": self._random.choice((0, 1, 2))}

    def _delete_schedule(self) -> dict[str, Any]:
        return {"schedule_id": self._schedule_id()}

    def _request_schedule_buckets(self) -> dict[str, Any]:
        schedule_id = self._schedule_id()
        schedule = self._model.state.schedules.get(schedule_id)
        known = [] if schedule is None else [schedule.next_fire_at_ms, schedule.buffered_fire_at_ms]
        moments = [moment for moment in known if moment is not None] + [self._later(), self._now_ms - 50]
        policies = (*get_args(OverlapPolicy), "buffer-all", "buffer-all", "buffer-all")
        return {
            "schedule_id": schedule_id,
            "fire_times_ms": self._some(moments),
            "now_ms": self._now_ms,
            **self._maybe(0.5, overlap=lambda: self._random.choice(policies)),
        }

    def _list_requested_buckets(self) -> dict[str, Any]:
        limit = self._random.choice((0, 1, 2))
        return {"schedule_id": self._schedule_id(), "limit": limit, **self._maybe(0.5, from_ms=self._later)}

    def _claim_due_schedule_buckets(self) -> dict[str, Any]:
        return {
            "owner": self._random.choice(("worker-1", "worker-2")),
            "lease_ms": self._lease_ms(),
            "now_ms": self._now_ms,
            "limit": self._random.choice((0, 1, 2, ALL)),
            **self._maybe(0.2, workflow_ids=lambda: self._some(WORKFLOWS)),
        }

    def _action(self, schedule_id: str) -> str:
        """Return what becomes of a tick: mostly one is buffered while the previous run is live, and another started."""
        schedule = self._model.state.schedules.get(schedule_id)
        if schedule is not None and self._chance(0.5):
            if schedule.buffered_fire_at_ms is not None:
                return "start"
            if schedule.previous_run_id is not None and self._live(schedule.previous_run_id):
                return "buffer"
        return self._random.choice(("start", "start", "start", "skip", "buffer", "buffer"))

    def _mark_schedule_bucket_started(self) -> dict[str, Any]:
        claimed = [sid for sid in self.schedule_ids if (s := self._model.state.schedules.get(sid)) and s.claim]
        schedule_id = self._random.choice(claimed) if claimed and self._chance(0.95) else self._schedule_id()
        action = self._action(schedule_id)
        moment = TickMoment(schedule_id, self._now_ms)
        idle = [run_id for run_id in self.run_ids if not self._live(run_id)]
        run_id = self._random.choice(idle) if idle and self._chance(0.8) else self._run_id()
        return {
            "schedule_id": schedule_id,
            "fire_at_ms": moment if self._chance(0.97) else TickMoment(schedule_id, self._now_ms, 1),
            "lease_token": TickToken(schedule_id, 0 if self._chance(0.95) else 1),
            "operation_id": self._new("op"),
            "expected_revision": Revision(schedule_id, 0 if self._chance(0.93) else 1),
            "action": action,
            "now_ms": self._now_ms,
            "next_fire_at_ms": TickMoment(schedule_id, self._now_ms, self._random.choice((1, 10, 60, 400))),
            **({"run_id": run_id} if action == "start" else {}),
            **self._maybe(0.1, next_fire_at_ms=lambda: None, available_at_ms=self._later),
        }
