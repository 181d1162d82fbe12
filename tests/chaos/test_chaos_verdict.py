"""The verdict on a chaos run catches what it is there to catch: good evidence is spoilt in one way at a time."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from workflow_test_support.torture.errand import SIGNALS, STEPS, expected_output
from workflow_test_support.torture.errand_verdict import Evidence, find_problems
from workflow_test_support.torture.workforce import Freeze

Facts = dict[str, Any]
KILLED, LIVING = 7, 8


def good() -> Facts:
    """One run: each step was executed once and acknowledged, and one was cut off before by a kill."""
    log: list[Facts] = []
    journal: list[Facts] = [begun("step-3", "7-1", KILLED, at=9.0)]
    for number in range(STEPS):
        step, execution = f"step-{number}", f"8-{number}"
        journal.append(begun(step, execution, LIVING, at=10.0 + number))
        journal.append({"what": "acknowledged", "pid": LIVING, "run": "a", "step": step, "execution": execution})
        log.append(event(len(log), "step-completed", step, {"value": 1, "execution": execution}))
    for number in range(SIGNALS):
        log.append(event(len(log), "signal-received", f"wait-{number}", number))
    head = {"status": "finished", "next_index": len(log), "output": json.dumps(expected_output(5))}
    return {
        "inputs": {"a": 5},
        "signals": {"a": SIGNALS},
        "heads": {"a": head},
        "logs": {"a": log},
        "journal": journal,
        "killed": {KILLED: 9.5},
        "outages": [],
    }


def begun(step: str, execution: str, pid: int, at: float) -> Facts:
    return {"what": "begun", "pid": pid, "at": at, "run": "a", "step": step, "execution": execution}


def event(index: int, kind: str, step: str, payload: Any) -> Facts:
    return {"event_index": index, "kind": kind, "step_id": step, "payload": json.dumps(payload)}


def dead(facts: Facts) -> None:
    facts["heads"]["a"]["status"] = "dead"


def start_lost(facts: Facts) -> None:
    facts["inputs"]["b"] = 6


def wrong_output(facts: Facts) -> None:
    facts["heads"]["a"]["output"] = json.dumps(expected_output(6))


def signal_lost(facts: Facts) -> None:
    facts["logs"]["a"].pop()
    facts["heads"]["a"]["next_index"] -= 1


def signal_acted_twice(facts: Facts) -> None:
    facts["logs"]["a"][-1]["payload"] = "0"


def gap_in_the_log(facts: Facts) -> None:
    facts["logs"]["a"][-1]["event_index"] += 1


def step_recorded_twice(facts: Facts) -> None:
    twice = facts["logs"]["a"][4] | {"event_index": len(facts["logs"]["a"])}
    facts["logs"]["a"].append(twice)
    facts["heads"]["a"]["next_index"] += 1


def record_out_of_thin_air(facts: Facts) -> None:
    facts["journal"] = [line for line in facts["journal"] if line.get("execution") != "8-4"]


def acknowledged_record_replaced(facts: Facts) -> None:
    facts["logs"]["a"][4]["payload"] = json.dumps({"value": 1, "execution": "8-99"})
    facts["journal"].append(begun("step-4", "8-99", LIVING, at=50.0))
    facts["killed"][LIVING] = 14.5


def recorded_step_ran_again(facts: Facts) -> None:
    facts["journal"].append(begun("step-4", "7-9", KILLED, at=9.4))


def executed_in_vain(facts: Facts) -> None:
    facts["journal"].insert(0, begun("step-4", "8-77", LIVING, at=9.0))


def executed_in_vain_long_before_the_kill(facts: Facts) -> None:
    facts["journal"].insert(0, begun("step-4", "7-0", KILLED, at=1.0))


def test_good_evidence_passes() -> None:
    assert find_problems(Evidence(**good())) == []


def test_what_an_outage_cut_off_is_excused() -> None:
    facts = good()
    executed_in_vain(facts)
    facts["outages"].append((9.2, 9.9))
    evidence = Evidence(**facts)
    assert find_problems(evidence) == []
    assert sorted(str(cause) for _, _, cause in evidence.unrecorded) == ["kill", "outage"]


def test_what_a_freeze_cut_off_is_excused() -> None:
    facts = good()
    executed_in_vain(facts)
    facts["journal"].append(begun("step-4", "8-78", LIVING, at=20.5))
    assert len(find_problems(Evidence(**facts))) == 3
    facts["frozen"] = [Freeze(LIVING, 9.5, 20.0)]
    assert find_problems(Evidence(**facts)) == []
    facts["frozen"] = [Freeze(KILLED, 9.5, 20.0)]
    assert len(find_problems(Evidence(**facts))) == 3


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (dead, "is dead"),
        (start_lost, "its start was acknowledged, but it is not there"),
        (wrong_output, "gave"),
        (signal_lost, "3 signals were acknowledged"),
        (signal_acted_twice, "3 signals were acknowledged"),
        (gap_in_the_log, "the log has the indexes"),
        (step_recorded_twice, "2 events step-completed of step-4"),
        (record_out_of_thin_air, "the journal knows"),
        (acknowledged_record_replaced, "8-4 was acknowledged"),
        (recorded_step_ran_again, "7-9 began after it"),
        (executed_in_vain, "8-77 was done in vain"),
        (executed_in_vain_long_before_the_kill, "7-0 was done in vain"),
    ],
)
def test_spoilt_evidence_is_noticed(spoil: Callable[[Facts], None], words: str) -> None:
    facts = good()
    spoil(facts)
    assert words in "\n".join(find_problems(Evidence(**facts)))
