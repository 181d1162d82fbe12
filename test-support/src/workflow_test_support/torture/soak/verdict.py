"""The verdict on the database after a soak. Pure, so that each rule can be tested."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import takewhile
from typing import Any

from workflow_runtime import Schedule
from workflow_test_support.torture.soak.chronicle import Entry
from workflow_test_support.torture.soak.customer import Ordered
from workflow_test_support.torture.soak.jobs import PAY, expected_order

__all__ = ["Deposition", "find_soak_problems"]

_CLOCKS_DIFFER_MS = 1_000
"""The client's clock may be so much ahead of the database's."""
_ENDED_BY = {"cancel-previous", "terminate-previous"}
_LEFT_TO_FINISH = 2
"""Number of runs that may finish under a policy that ends them, beside one in twenty: the last one, for instance."""
_TERMINAL = {"finished", "errored", "aborted"}


@dataclass(frozen=True, kw_only=True)
class Deposition:
    """Everything that the verdict needs, but for the errands, on which the chaos verdict speaks."""

    schedules: Sequence[Schedule]
    chronicle: Sequence[Entry]
    paused_at_ms: int
    """Time at which the schedules were paused, by the database's clock."""
    patience_ms: int
    """The most that a tick is late: its worker may have died, and the claim must run out."""
    heads: Mapping[str, Mapping[str, Any]]
    """Status, reason and output of each run, from the database."""
    logs: Mapping[str, Sequence[Mapping[str, Any]]]
    """The event log of each run, from the database."""
    ordered: Mapping[str, Ordered]
    payments: Sequence[str]
    """The run of each business row."""
    leftovers: Mapping[str, int]
    """Counts that should be zero once everything has ended."""

    @cached_property
    def ticks(self) -> Mapping[str, Sequence[Entry]]:
        """The settled ticks of each schedule, in the order of the database."""
        found: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in self.chronicle:
            if entry.what == "settled":
                found[entry.subject].append(entry)
        return found

    def due(self, schedule_id: str) -> Sequence[int]:
        """Return the ticks that a schedule settled by its own time."""
        return [e.tick_ms for e in self.ticks.get(schedule_id, ()) if e.source == "due" and e.tick_ms is not None]

    def started(self, schedule_id: str) -> Sequence[int]:
        """Return the ticks that started a run."""
        entries = self.ticks.get(schedule_id, ())
        return [e.tick_ms for e in entries if e.outcome == "started" and e.tick_ms is not None]


def find_soak_problems(deposition: Deposition) -> list[str]:
    """List what speaks against the library; empty means that it passed."""
    return [
        *_lost_or_doubled_ticks(deposition),
        *_wrong_runs_of_ticks(deposition),
        *_wrong_skips_and_buffers(deposition),
        *_wrong_overlaps(deposition),
        *_wrong_ends(deposition),
        *_left_to_finish(deposition),
        *_wrong_orders(deposition),
        *_wrong_logs(deposition),
        *_wrong_payments(deposition),
        *(f"{count} {what} left over" for what, count in deposition.leftovers.items() if count),
    ]


def split_tick(run_id: str) -> tuple[str, int] | None:
    """Take the schedule and the tick from the id of a run that a tick started."""
    schedule_id, at, moment = run_id.rpartition("@")
    return (schedule_id, int(datetime.fromisoformat(moment).timestamp() * 1000)) if at else None


def _lost_or_doubled_ticks(deposition: Deposition) -> Iterator[str]:
    """Each tick from the first to the last was settled by the schedule's own time exactly once, in order."""
    created = {e.subject: e for e in deposition.chronicle if e.what == "scheduled"}
    for schedule in deposition.schedules:
        settled, first = deposition.due(schedule.id), created[schedule.id].tick_ms
        assert first is not None
        last = max(settled, default=first - 1)
        until = max(deposition.paused_at_ms, last)  # a tick may slip in while the schedules are being paused
        expected = list(takewhile(until.__ge__, schedule.when.ticks_after(first - 1)))
        if first > next(schedule.when.ticks_after(created[schedule.id].at_ms + _CLOCKS_DIFFER_MS)):
            yield f"{schedule.id}: the first tick is at {first}, created at {created[schedule.id].at_ms}"
        counts = Counter(settled)
        doubled = [at for at, count in counts.items() if count > 1]
        lost = [at for at in expected if at <= last and at not in counts]
        if doubled or lost or not set(settled) <= set(expected) or list(settled) != sorted(settled):
            yield (
                f"{schedule.id}: {len(settled)} ticks were settled, {len(lost)} lost {lost[:5]}, "
                f"{len(doubled)} doubled {doubled[:5]}"
            )
        if expected and expected[-1] - last > deposition.patience_ms:
            yield f"{schedule.id}: the last tick that was settled is {last}, it should be {expected[-1]}"


def _wrong_runs_of_ticks(deposition: Deposition) -> Iterator[str]:
    """Each tick that says so started one run, and nothing else did."""
    runs: defaultdict[str, list[int]] = defaultdict(list)
    for run_id in deposition.heads:
        tick = split_tick(run_id)
        if tick is not None:
            runs[tick[0]].append(tick[1])
    for schedule in deposition.schedules:
        started = deposition.started(schedule.id)
        if sorted(started) != sorted(runs[schedule.id]):
            differing = sorted(set(started) ^ set(runs[schedule.id]))[:5]
            yield f"{schedule.id}: {len(started)} ticks started {len(runs[schedule.id])} runs; {differing}"


def _wrong_skips_and_buffers(deposition: Deposition) -> Iterator[str]:
    """No tick is skipped without need, and one that was put back starts, or makes way for a newer one."""
    for schedule in deposition.schedules:
        lives = _Lives(deposition.patience_ms)
        waiting: int | None = None
        for entry in _about(deposition, schedule.id):
            lives.follow(entry)
            if entry.what != "settled" or entry.tick_ms is None:
                continue
            if entry.outcome == "skipped" and not _may_skip(schedule, entry, lives, waiting):
                yield f"{schedule.id}: tick {entry.tick_ms} was skipped without need"
            if entry.outcome == "buffered":
                if schedule.overlap == "buffer-one" and waiting not in {None, entry.tick_ms}:
                    yield f"{schedule.id}: tick {entry.tick_ms} took the place of {waiting}"
                waiting = entry.tick_ms
            elif entry.tick_ms == waiting:
                waiting = None
        if waiting is not None:
            yield f"{schedule.id}: tick {waiting} still waits"


def _may_skip(schedule: Schedule, entry: Entry, lives: _Lives, waiting: int | None) -> bool:
    match schedule.overlap:
        case "skip":
            return lives.any_lately(entry.at_ms)
        case "buffer-one":
            return waiting is not None
        case _:
            return False


def _wrong_overlaps(deposition: Deposition) -> Iterator[str]:
    for schedule in deposition.schedules:
        if schedule.overlap == "allow":
            continue
        lives = _Lives(deposition.patience_ms)
        for entry in _about(deposition, schedule.id):
            lives.follow(entry)
            if entry.what == "created" and len(lives.live) > 1:
                yield f"{schedule.id}: {sorted(lives.live)} were live at once"


class _Lives:
    """The runs of one schedule that are live, as the chronicle goes by."""

    def __init__(self, lately_ms: int) -> None:
        self._lately_ms = lately_ms
        self._ended_at_ms: int | None = None
        self.live: set[str] = set()

    def follow(self, entry: Entry) -> None:
        if entry.what == "created":
            self.live.add(entry.subject)
        elif entry.what == "ended":
            self.live.discard(entry.subject)
            self._ended_at_ms = entry.at_ms

    def any_lately(self, at_ms: int) -> bool:
        """Return True if one is live, or was when the one who skips may have looked."""
        return bool(self.live) or (self._ended_at_ms is not None and self._ended_at_ms >= at_ms - self._lately_ms)


def _about(deposition: Deposition, schedule_id: str) -> Iterator[Entry]:
    """Return the entries about a schedule's ticks and about their runs."""
    for entry in deposition.chronicle:
        if entry.what == "settled":
            if entry.subject == schedule_id:
                yield entry
        elif entry.what != "scheduled" and entry.subject.rpartition("@")[0] == schedule_id:
            yield entry


def _wrong_ends(deposition: Deposition) -> Iterator[str]:
    """Every run has ended once; those of ticks give what they must, unless their successor ended them."""
    ends = Counter(entry.subject for entry in deposition.chronicle if entry.what == "ended")
    policies = {schedule.id: schedule.overlap for schedule in deposition.schedules}
    for run_id, head in deposition.heads.items():
        if head["status"] not in _TERMINAL:
            yield f"{run_id} is {head['status']}"
        elif ends[run_id] != 1:
            yield f"{run_id} has ended {ends[run_id]} times"
        tick = split_tick(run_id)
        if tick is not None:
            yield from _wrong_end_of_tick(run_id, head, policies[tick[0]])


def _wrong_end_of_tick(run_id: str, head: Mapping[str, Any], policy: str) -> Iterator[str]:
    if head["status"] == "aborted" and policy in _ENDED_BY and str(head["reason"]).startswith(f"{policy}: "):
        return
    expected = {"attempt": 1, "receipt": f"paid {run_id}"}
    if head["status"] != "finished" or json.loads(head["output"]) != expected:
        yield f"{run_id} is {head['status']} ({head['reason']}) and gave {head['output']}"


def _left_to_finish(deposition: Deposition) -> Iterator[str]:
    """Under a policy that ends the run before, runs that take longer than from tick to tick do not finish."""
    for schedule in deposition.schedules:
        if schedule.overlap in _ENDED_BY:
            own = [head for run_id, head in deposition.heads.items() if run_id.rpartition("@")[0] == schedule.id]
            finished = sum(head["status"] == "finished" for head in own)
            if finished > _LEFT_TO_FINISH + len(own) / 20:
                yield f"{schedule.id}: {finished} of {len(own)} runs were left to finish"


def _wrong_orders(deposition: Deposition) -> Iterator[str]:
    """Every order that was acknowledged ends as its first decision says."""
    for run_id, ordered in deposition.ordered.items():
        head = deposition.heads.get(run_id)
        expected = expected_order(run_id, ordered.number, approved=ordered.approved, decided_by=ordered.decided_by)
        if head is None:
            yield f"{run_id}: its start was acknowledged, but it is not there"
        elif head["status"] != "finished" or json.loads(head["output"]) != expected:
            yield f"{run_id} is {head['status']} and gave {head['output']}, not {expected}"


def _wrong_logs(deposition: Deposition) -> Iterator[str]:
    for run_id, head in deposition.heads.items():
        log = deposition.logs.get(run_id, ())
        if [event["event_index"] for event in log] != list(range(head["next_index"])):
            yield f"{run_id}: the log has {len(log)} events, the head says {head['next_index']}"
        completed = Counter(event["step_id"] for event in log if event["kind"] == "step-completed")
        for step, count in completed.items():
            if count > 1:
                yield f"{run_id}: step {step} is recorded {count} times"


def _wrong_payments(deposition: Deposition) -> Iterator[str]:
    """There is a business row for each recorded transaction, and for nothing else."""
    paid = Counter(deposition.payments)
    recorded = Counter(
        run_id
        for run_id, log in deposition.logs.items()
        for event in log
        if event["kind"] == "step-completed" and event["step_id"] == PAY
    )
    for run_id in sorted(paid.keys() | recorded.keys()):
        if paid[run_id] != recorded[run_id]:
            yield f"{run_id}: {paid[run_id]} payments, {recorded[run_id]} are recorded"
