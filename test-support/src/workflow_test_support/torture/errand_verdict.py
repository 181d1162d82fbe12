"""The verdict on a chaos run. Pure, so that each rule can be tested."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from workflow_test_support.torture.errand import SIGNALS, STEPS, expected_output
from workflow_test_support.torture.workforce import Freeze

__all__ = ["Evidence", "Execution", "find_problems"]

Step = tuple[str, str]
"""Run id and step id."""

PATIENCE_S = 5.0
"""The longest that a worker holds a result that it cannot write: its repeats take 3.2 s, then it gives the run up."""
THAWED_S = 1.0
"""The longest that a worker that was frozen takes to learn that its runs are in other hands."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One beginning of a step's body, as the journal tells it."""

    name: str
    pid: int
    at: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that the verdict needs."""

    inputs: Mapping[str, int]
    """The runs whose start was acknowledged."""
    signals: Mapping[str, int]
    """Number of acknowledged signals, by run."""
    heads: Mapping[str, Mapping[str, Any]]
    """Status, length of the log and output of each run, from the database."""
    logs: Mapping[str, Sequence[Mapping[str, Any]]]
    """The event log of each run, from the database."""
    journal: Sequence[Mapping[str, Any]]
    killed: Mapping[int, float]
    outages: Sequence[tuple[float, float]]
    frozen: Sequence[Freeze] = ()

    @cached_property
    def executions(self) -> Mapping[Step, Sequence[Execution]]:
        """The executions of each step, in the order in which they began."""
        found: defaultdict[Step, list[Execution]] = defaultdict(list)
        for line in self.journal:
            if line["what"] == "begun":
                found[line["run"], line["step"]].append(Execution(line["execution"], line["pid"], line["at"]))
        return found

    @cached_property
    def recorded(self) -> Mapping[Step, Sequence[str]]:
        """For each step in a log, the executions that are recorded there; there must be one."""
        found: defaultdict[Step, list[str]] = defaultdict(list)
        for run_id, log in self.logs.items():
            for event in log:
                if event["kind"] == "step-completed":
                    found[run_id, event["step_id"]].append(json.loads(event["payload"])["execution"])
        return found

    @cached_property
    def unrecorded(self) -> Sequence[tuple[Step, Execution, str | None]]:
        """The executions that are in no log, each with what cut it off: a kill, an outage, a freeze or nothing."""
        return [
            (step, execution, self._cause(execution))
            for step, executions in self.executions.items()
            for execution in executions
            if execution.name not in self.recorded.get(step, ())
        ]

    def _cause(self, execution: Execution) -> str | None:
        killed_at = self.killed.get(execution.pid)
        if killed_at is not None and execution.at <= killed_at <= execution.at + PATIENCE_S:
            return "kill"
        if any(execution.at <= end and begun <= execution.at + PATIENCE_S for begun, end in self.outages):
            return "outage"
        return "freeze" if self.is_frozen(execution) else None

    def is_frozen(self, execution: Execution) -> bool:
        """Return True if its worker was frozen at the time: then the run may have gone on without it.

        Also shortly after: the answer to a write of before may lie there already, and the next step begins.
        """
        return any(
            freeze.pid == execution.pid and freeze.begun - PATIENCE_S <= execution.at <= freeze.ended + THAWED_S
            for freeze in self.frozen
        )


def find_problems(evidence: Evidence) -> list[str]:
    """List what speaks against the library; empty means that it passed."""
    return [
        *_wrong_ends(evidence),
        *_wrong_signals(evidence),
        *_wrong_logs(evidence),
        *_wrong_records(evidence),
        *_lost_acknowledgements(evidence),
        *_executed_again_after_record(evidence),
        *_executed_again_without_cause(evidence),
    ]


def _wrong_ends(evidence: Evidence) -> Iterator[str]:
    for run_id, value in evidence.inputs.items():
        head = evidence.heads.get(run_id)
        if head is None:
            yield f"{run_id}: its start was acknowledged, but it is not there"
        elif head["status"] != "finished":
            yield f"{run_id} is {head['status']}"
        elif json.loads(head["output"]) != expected_output(value):
            yield f"{run_id} gave {head['output']}, not {expected_output(value)}"


def _wrong_signals(evidence: Evidence) -> Iterator[str]:
    """Each signal acts once, in the order of the acknowledgements."""
    for run_id, log in evidence.logs.items():
        acted = [json.loads(event["payload"]) for event in log if event["kind"] == "signal-received"]
        if acted != list(range(evidence.signals.get(run_id, 0))) or len(acted) != SIGNALS:
            yield f"{run_id}: {evidence.signals.get(run_id, 0)} signals were acknowledged, the log has {acted}"


def _wrong_logs(evidence: Evidence) -> Iterator[str]:
    for run_id, log in evidence.logs.items():
        indexes = [event["event_index"] for event in log]
        if indexes != list(range(evidence.heads[run_id]["next_index"])):
            yield f"{run_id}: the log has the indexes {indexes}, the head says {evidence.heads[run_id]['next_index']}"
        for (kind, step), count in Counter((event["kind"], event["step_id"]) for event in log).items():
            if count > 1:
                yield f"{run_id}: {count} events {kind} of {step}"


def _wrong_records(evidence: Evidence) -> Iterator[str]:
    steps = Counter(run_id for run_id, _ in evidence.recorded)
    for run_id in evidence.heads:
        if steps[run_id] != STEPS:
            yield f"{run_id}: {steps[run_id]} of {STEPS} steps are recorded"
    for step, names in evidence.recorded.items():
        known = {execution.name for execution in evidence.executions.get(step, ())}
        if not known.issuperset(names):
            yield f"{step}: recorded as {names}, the journal knows {known}"


def _lost_acknowledgements(evidence: Evidence) -> Iterator[str]:
    """Yield each record that a worker saw acknowledged and the log does not hold."""
    for line in evidence.journal:
        if line["what"] == "acknowledged":
            step = (line["run"], line["step"])
            if list(evidence.recorded.get(step, ())) != [line["execution"]]:
                yield f"{step}: {line['execution']} was acknowledged, the log has {evidence.recorded.get(step)}"


def _executed_again_after_record(evidence: Evidence) -> Iterator[str]:
    """The recorded execution is the last one that began, but for those of a worker that was frozen."""
    for step, names in evidence.recorded.items():
        executions = [
            execution
            for execution in evidence.executions.get(step, ())
            if execution.name in names or not evidence.is_frozen(execution)
        ]
        if executions and executions[-1].name != names[-1]:
            yield f"{step}: {names[-1]} is recorded, yet {executions[-1].name} began after it"


def _executed_again_without_cause(evidence: Evidence) -> Iterator[str]:
    for step, execution, cause in evidence.unrecorded:
        if cause is None:
            yield f"{step}: {execution.name} was done in vain, though neither a kill nor an outage cut it off"
