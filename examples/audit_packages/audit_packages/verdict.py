"""The judgement: a list of everything that is not as it must be. Pure, so that each rule has a test."""

from __future__ import annotations

from collections.abc import Iterator

from audit_packages.evidence import Evidence, Step
from audit_packages.planting import Change

MINIMUM_STEPS = 500
MINIMUM_KILLS = 5


def find_problems(evidence: Evidence) -> list[str]:
    """List what speaks against the audit; empty means that it passed."""
    return [
        *_unfinished_runs(evidence),
        *_too_little_work(evidence),
        *_wrong_kills(evidence),
        *_unjournaled_steps(evidence),
        *_steps_run_again_after_their_record(evidence),
        *_steps_repeated_without_a_kill(evidence),
        *_differences_from_direct_audit(evidence),
        *_differences_from_planted(evidence),
    ]


def _unfinished_runs(evidence: Evidence) -> Iterator[str]:
    for run_id, status in evidence.statuses.items():
        if status != "finished":
            yield f"run {run_id} is {status}, not finished"


def _too_little_work(evidence: Evidence) -> Iterator[str]:
    if len(evidence.recorded) < MINIMUM_STEPS:
        yield f"only {len(evidence.recorded)} steps were recorded, {MINIMUM_STEPS} are needed"
    if len(evidence.killed) < MINIMUM_KILLS:
        yield f"only {len(evidence.killed)} workers were killed, {MINIMUM_KILLS} are needed"


def _wrong_kills(evidence: Evidence) -> Iterator[str]:
    """Each killed worker must have died right after its line: the line is its last one."""
    last_line = {line.pid: number for number, line in enumerate(evidence.journal, start=1)}
    deaths = sorted(last_line.get(pid, 0) for pid in evidence.killed)
    if deaths != sorted(evidence.kill_at):
        yield f"workers were to die after the journal lines {sorted(evidence.kill_at)}, but died after {deaths}"


def _unjournaled_steps(evidence: Evidence) -> Iterator[str]:
    for step in evidence.recorded.keys() - evidence.executions.keys():
        yield f"{_name(step)} is recorded, but the journal does not know it"
    for step in evidence.executions.keys() - evidence.recorded.keys():
        yield f"{_name(step)} was executed, but its record is missing"


def _steps_run_again_after_their_record(evidence: Evidence) -> Iterator[str]:
    """The recorded execution must be the last one that began."""
    for step, line in evidence.recorded.items():
        for begun, _ in evidence.executions.get(step, ()):
            if begun > line:
                yield f"{_name(step)}: the execution of journal line {line} is recorded, yet line {begun} began another"


def _steps_repeated_without_a_kill(evidence: Evidence) -> Iterator[str]:
    """An execution that was followed by another one must have been in flight when its worker was killed."""
    killed = set(evidence.killed)
    for step in evidence.repeated:
        for begun, pid in evidence.executions[step][:-1]:
            if pid not in killed:
                yield f"{_name(step)} was executed again, though worker {pid} (journal line {begun}) was not killed"


def _differences_from_direct_audit(evidence: Evidence) -> Iterator[str]:
    for label in sorted(evidence.report.keys() | evidence.direct.keys()):
        reported, direct = evidence.report.get(label), evidence.direct.get(label)
        if reported is None or direct is None:
            yield f"{label}: only the {'direct audit' if reported is None else 'report'} knows it"
        elif any(reported[fact] != direct[fact] for fact in ("files", "findings")):
            yield f"{label}: the report and the direct audit differ"
        elif reported["approved"] is not (True if direct["findings"] else None):
            yield f"{label}: the decision is reported as {reported['approved']}"


def _differences_from_planted(evidence: Evidence) -> Iterator[str]:
    reported = {
        Change(label=label, path=finding["path"], problem=finding["problem"])
        for label, report in evidence.report.items()
        for finding in report["findings"]
    }
    for change in sorted(evidence.planted - reported):
        yield f"{change.label}: {change.path} was planted as {change.problem}, the report does not name it"
    for change in sorted(reported - evidence.planted):
        yield f"{change.label}: {change.path} is reported as {change.problem}, nobody planted that"


def _name(step: Step) -> str:
    return f"step {step[1]} of run {step[0]}"
