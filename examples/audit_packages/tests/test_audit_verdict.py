from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from audit_packages.evidence import Evidence, Step
from audit_packages.journal import JournalLine, Mark
from audit_packages.planting import Change
from audit_packages.summary import choose_run, render_table
from audit_packages.verdict import find_problems

STEPS = 500
KILLS = 5
FINDINGS = [{"path": "a.py", "problem": "missing"}]


def _line(mark: Mark, step: int, pid: int) -> JournalLine:
    return JournalLine(mark=mark, run_id="audit:pip", step_id=f"hash-{step}", attempt=1, pid=pid)


def _good() -> Evidence:
    """500 steps by six workers, each of the first five killed in the middle of a step that the next one repeats."""
    journal: list[JournalLine] = []
    recorded: dict[Step, int] = {}
    kill_at: list[int] = []
    pid = 1
    for step in range(STEPS):
        journal.append(_line("begin", step, pid))
        if step % 90 == 89 and pid <= KILLS:
            kill_at.append(len(journal))
            pid += 1
            journal.append(_line("begin", step, pid))
        recorded["audit:pip", f"hash-{step}"] = len(journal)
        journal.append(_line("end", step, pid))
    return Evidence(
        statuses={"collect": "finished", "audit:pip": "finished"},
        recorded=recorded,
        journal=journal,
        kill_at=kill_at,
        killed=range(1, KILLS + 1),
        report={"pip": {"distribution": "pip", "files": 9, "findings": FINDINGS, "approved": True}},
        direct={"pip": {"files": 9, "findings": FINDINGS}},
        planted=frozenset({Change(label="pip", path="a.py", problem="missing")}),
    )


def _report(**facts: Any) -> dict[str, Any]:
    return {"pip": {**_good().report["pip"], **facts}}


def _again(evidence: Evidence, step: int, pid: int) -> Evidence:
    return replace(evidence, journal=[*evidence.journal, _line("begin", step, pid), _line("end", step, pid)])


def _without_record(evidence: Evidence) -> Evidence:
    return replace(evidence, recorded={step: line for step, line in evidence.recorded.items() if step[1] != "hash-7"})


def _repeated_unkilled(evidence: Evidence) -> Evidence:
    """The last worker, which nobody killed, executed a step twice before it was recorded."""
    step = ("audit:pip", f"hash-{STEPS}")
    journal = [*evidence.journal, _line("begin", STEPS, 6), _line("failed", STEPS, 6), _line("begin", STEPS, 6)]
    return replace(evidence, journal=journal, recorded={**evidence.recorded, step: len(journal)})


SPOILED: dict[str, tuple[Callable[[Evidence], Evidence], str]] = {
    "a run is paused": (lambda e: replace(e, statuses={"collect": "paused"}), "run collect is paused"),
    "a run errored": (lambda e: replace(e, statuses={"audit:pip": "errored"}), "run audit:pip is errored"),
    "too few steps": (_without_record, "only 499 steps were recorded"),
    "too few kills": (lambda e: replace(e, killed=[1, 2, 3, 4]), "only 4 workers were killed"),
    "a kill at another line": (lambda e: replace(e, kill_at=[*e.kill_at[1:], 3]), "but died after"),
    "a victim wrote on": (lambda e: replace(e, journal=[*e.journal, _line("end", 3, 1)]), "but died after"),
    "a record without a journal": (
        lambda e: replace(e, recorded={**e.recorded, ("audit:pip", "ghost"): 1}),
        "step ghost of run audit:pip is recorded, but the journal does not know it",
    ),
    "a journal without a record": (_without_record, "hash-7 of run audit:pip was executed, but its record is missing"),
    "a recorded step ran again": (lambda e: _again(e, 3, 6), "yet line"),
    "a recorded step ran again after a kill": (
        lambda e: replace(e, recorded={**e.recorded, ("audit:pip", "hash-89"): e.kill_at[0]}),
        "yet line",
    ),
    "a step was repeated without a kill": (_repeated_unkilled, "was executed again, though worker 6"),
    "the report misses a distribution": (lambda e: replace(e, report={}), "pip: only the direct audit knows it"),
    "the report invents a distribution": (lambda e: replace(e, direct={}), "pip: only the report knows it"),
    "the report counts wrongly": (lambda e: replace(e, report=_report(files=8)), "the direct audit differ"),
    "the report misses a finding": (lambda e: replace(e, report=_report(findings=[])), "the direct audit differ"),
    "the decision was lost": (lambda e: replace(e, report=_report(approved=None)), "the decision is reported as None"),
    "a planted change is missing": (
        lambda e: replace(e, planted=e.planted | {Change(label="pip", path="b.py", problem="changed")}),
        "b.py was planted as changed, the report does not name it",
    ),
    "a change that nobody planted": (lambda e: replace(e, planted=frozenset()), "nobody planted that"),
}


def test_good_evidence_passes() -> None:
    assert find_problems(_good()) == []


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_evidence_is_caught(name: str) -> None:
    spoil, problem = SPOILED[name]
    assert any(problem in found for found in find_problems(spoil(_good())))


def test_the_table_tells_repeated_steps_and_kills() -> None:
    table = render_table(_good(), 1.0)
    rows = dict(row.strip().split("  ", 1) for row in table.splitlines())
    assert {name: value.strip() for name, value in rows.items()} == {
        "runs finished": "2 of 2",
        "steps recorded": "500",
        "steps executed, by the journal": "505",
        "steps executed more than once": "5 (5 executions cut off by a kill)",
        "recorded steps that ran again": "0",
        "kills survived": "5 (after journal lines 179, 360, 541, 722, 903)",
        "planted changes reported": "1 of 1",
        "wall time": "1.0 s",
    }


def test_the_timeline_is_of_a_run_that_a_kill_cut_off() -> None:
    changes = {Change(label=label, path="a.py", problem="missing") for label in ("attrs", "pip")}
    assert choose_run(replace(_good(), planted=frozenset(changes))) == "audit:pip"
