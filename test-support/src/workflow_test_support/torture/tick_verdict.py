"""The verdict on a contention run. Pure, so that each rule can be tested."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from workflow_runtime.schedules.decisions import tick_run_id
from workflow_runtime.store import OverlapPolicy

__all__ = ["Evidence", "History", "find_problems"]

_MAY_ABORT = {"cancel-previous", "terminate-previous"}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that the verdict needs."""

    policies: Mapping[str, OverlapPolicy]
    """By schedule."""
    expected: Mapping[str, Set[int]]
    """The moments of the ticks that each schedule must have settled: its own and the requested ones."""
    ledger: Sequence[Mapping[str, Any]]
    """Rows that the database wrote down, in its order."""
    heads: Mapping[str, Mapping[str, Any]]
    """The status of each run, and when it was created and ended by the clocks of those who did it."""
    leftovers: Sequence[str]
    """The schedules for which something still waits."""
    journal: Sequence[Mapping[str, Any]]
    killed: Mapping[int, float]

    @cached_property
    def histories(self) -> Mapping[str, History]:
        """The history of each schedule, told from the ledger."""
        owners = {
            tick_run_id(schedule, fire_at): schedule for schedule, ticks in self.expected.items() for fire_at in ticks
        }
        histories = {schedule: History(schedule, policy) for schedule, policy in self.policies.items()}
        for entry in self.ledger:
            schedule = entry["subject"] if entry["what"] == "settled" else owners.get(entry["subject"], "")
            if schedule in histories:
                histories[schedule].tell(entry)
        return histories


@dataclass(slots=True)
class History:
    """One schedule, as its entries tell of it one after the other."""

    schedule: str
    policy: OverlapPolicy
    outcomes: dict[int, str] = field(default_factory=dict)
    """Outcome of each tick in the end: `started`, `skipped`, or `replaced` by a later one while it waited."""
    put_back: set[int] = field(default_factory=set)
    """The ticks that had to wait for the end of a run."""
    buffered: int | None = None
    born: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _live: set[str] = field(default_factory=set)
    _lived: list[bool] = field(default_factory=lambda: [False, False])
    """True if a run was live at some time since the last settlement but one. The commit of a run's end may come so much
    later than its number was drawn."""

    def tell(self, entry: Mapping[str, Any]) -> None:
        """Take the next entry."""
        match entry["what"]:
            case "born":
                if self.policy != "allow" and self._live:
                    self._complain(f"{entry['subject']} was born while {self._live} was live")
                self.born.append(entry["subject"])
                self._live.add(entry["subject"])
                self._lived[-1] = True
            case "ended":
                self._live.discard(entry["subject"])
            case "settled":
                self._settle(entry["fire_at"], entry["outcome"])
                self._lived = [self._lived[-1], bool(self._live)]

    def _settle(self, fire_at: int, outcome: str) -> None:
        if fire_at in self.outcomes:
            self._complain(f"tick {fire_at} was {self.outcomes[fire_at]}, then {outcome}")
        if outcome == "buffered":
            self._put_back(fire_at)
            return
        if outcome == "skipped" and not self._may_skip(fire_at):
            self._complain(f"tick {fire_at} was skipped without a reason")
        if outcome == "started":
            self._go_before_the_buffered(fire_at)
        self.outcomes[fire_at] = outcome
        if self.buffered == fire_at:
            self.buffered = None

    def _may_skip(self, fire_at: int) -> bool:
        match self.policy:
            case "skip":
                return any(self._lived)
            case "buffer-one":
                return self.buffered is not None and self.buffered != fire_at
            case "cancel-previous" | "terminate-previous":
                return self.buffered is not None and self.buffered > fire_at
            case _:
                return False

    def _go_before_the_buffered(self, fire_at: int) -> None:
        if self.policy == "allow" or self.buffered in {None, fire_at}:
            return
        if self.policy in _MAY_ABORT and fire_at > self.buffered:
            self.outcomes[self.buffered] = "replaced"
            self.buffered = None
        else:
            self._complain(f"tick {fire_at} overtook {self.buffered}, which was waiting")

    def _put_back(self, fire_at: int) -> None:
        if self.policy in {"skip", "allow"}:
            self._complain(f"tick {fire_at} was put back")
        if self.buffered is not None and self.buffered != fire_at:
            if self.policy == "buffer-one":
                self._complain(f"tick {self.buffered} had to make way for {fire_at}")
            if fire_at < self.buffered:
                self._complain(f"tick {self.buffered} had to make way for the older {fire_at}")
            self.outcomes[self.buffered] = "replaced"
        self.put_back.add(fire_at)
        self.buffered = fire_at

    def _complain(self, problem: str) -> None:
        self.problems.append(f"{self.schedule}: {problem}")


def find_problems(evidence: Evidence) -> list[str]:
    """List what speaks against the library; empty means that it passed."""
    return [
        *(problem for history in evidence.histories.values() for problem in history.problems),
        *_lost_and_unasked_ticks(evidence),
        *_wrong_runs(evidence),
        *(f"{schedule}: something still waits" for schedule in evidence.leftovers),
        *_at_work_at_once(evidence),
    ]


def _lost_and_unasked_ticks(evidence: Evidence) -> Iterator[str]:
    for schedule, history in evidence.histories.items():
        if lost := evidence.expected[schedule] - history.outcomes.keys():
            yield f"{schedule}: {len(lost)} ticks were never settled, {min(lost)} among them"
        if unasked := history.outcomes.keys() - evidence.expected[schedule]:
            yield f"{schedule}: {len(unasked)} ticks were settled that nobody asked for, {min(unasked)} among them"


def _wrong_runs(evidence: Evidence) -> Iterator[str]:
    """One run for each started tick and none for any other; each has come to an end that its policy allows."""
    for schedule, history in evidence.histories.items():
        started = {tick_run_id(schedule, at) for at, outcome in history.outcomes.items() if outcome == "started"}
        if Counter(history.born) != Counter(started):
            yield f"{schedule}: {len(started)} ticks were started, {len(history.born)} runs were born"
        ends = {"finished", "aborted"} if history.policy in _MAY_ABORT else {"finished"}
        for run_id in history.born:
            status = evidence.heads.get(run_id, {}).get("status")
            if status not in ends:
                yield f"{run_id} is {status}"
    born = {run_id for history in evidence.histories.values() for run_id in history.born}
    if unknown := evidence.heads.keys() - born:
        yield f"{len(unknown)} runs belong to no tick, {min(unknown)} among them"


def _at_work_at_once(evidence: Evidence) -> Iterator[str]:
    """Yield each two runs of a schedule whose steps noted that they were at work at once.

    A terminated run hears of its end only at its next call, so its policy promises nothing about that.
    """
    for schedule, spans in _spans(evidence).items():
        if evidence.policies[schedule] in {"allow", "terminate-previous"}:
            continue
        for (_, ended_at, run), (begun_at, _, next_run) in pairwise(sorted(spans)):
            if run != next_run and begun_at < ended_at:
                yield f"{next_run} began to work {(ended_at - begun_at) * 1e3:.1f} ms before {run} had ended"


def _spans(evidence: Evidence) -> Mapping[str, Sequence[tuple[float, float, str]]]:
    owners = {run_id: history.schedule for history in evidence.histories.values() for run_id in history.born}
    ends = {line["execution"]: line["at"] for line in evidence.journal if line["what"] == "ended"}
    spans: defaultdict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for line in evidence.journal:
        if line["what"] == "begun" and line["run"] in owners:
            end = ends.get(line["execution"], evidence.killed.get(line["pid"], float("inf")))
            spans[owners[line["run"]]].append((line["at"], end, line["run"]))
    return spans
