"""The verdict on a contention run catches what it is there to catch: good evidence is spoilt in one way at a time."""

from collections.abc import Callable
from typing import Any

import pytest
from workflow_runtime.schedules.decisions import tick_run_id
from workflow_test_support.torture.tick_verdict import Evidence, find_problems

Facts = dict[str, Any]


def run(schedule: str, fire_at: int) -> str:
    return tick_run_id(schedule, fire_at * 1_000)


def born(schedule: str, fire_at: int) -> Facts:
    return {"what": "born", "subject": run(schedule, fire_at), "fire_at": None, "outcome": None}


def ended(schedule: str, fire_at: int, status: str = "finished") -> Facts:
    return {"what": "ended", "subject": run(schedule, fire_at), "fire_at": None, "outcome": status}


def settled(schedule: str, fire_at: int, outcome: str) -> Facts:
    return {"what": "settled", "subject": schedule, "fire_at": fire_at * 1_000, "outcome": outcome}


def life(schedule: str, fire_at: int) -> list[Facts]:
    return [born(schedule, fire_at), settled(schedule, fire_at, "started"), ended(schedule, fire_at)]


def at_work(schedule: str, fire_at: int, begun_at: float, ended_at: float | None, pid: int = 7) -> list[Facts]:
    execution = f"{schedule}-{fire_at}-{begun_at}"
    lines = [{"what": "begun", "pid": pid, "at": begun_at, "run": run(schedule, fire_at), "execution": execution}]
    if ended_at is not None:
        lines.append({"what": "ended", "pid": pid, "at": ended_at, "execution": execution})
    return lines


def good() -> Facts:
    """Four schedules of three or four ticks; of the one that skips, a worker was killed at the third tick's run."""
    ledger = [
        born("skip", 1), settled("skip", 1, "started"), settled("skip", 2, "skipped"), ended("skip", 1),
        *life("skip", 3),
        born("allow", 1), settled("allow", 1, "started"), *life("allow", 2), ended("allow", 1), *life("allow", 3),
        born("one", 1), settled("one", 1, "started"), settled("one", 2, "buffered"), settled("one", 3, "skipped"),
        ended("one", 1), *life("one", 2),
        born("cancel", 1), settled("cancel", 1, "started"), settled("cancel", 2, "buffered"),
        settled("cancel", 2, "buffered"), settled("cancel", 3, "buffered"), ended("cancel", 1, "aborted"),
        *life("cancel", 3),
    ]  # fmt: skip
    runs = [entry["subject"] for entry in ledger if entry["what"] == "born"]
    return {
        "policies": {"skip": "skip", "allow": "allow", "one": "buffer-one", "cancel": "cancel-previous"},
        "expected": {name: {1_000, 2_000, 3_000} for name in ("skip", "allow", "one", "cancel")},
        "ledger": ledger,
        "heads": {name: {"status": "aborted" if name == run("cancel", 1) else "finished"} for name in runs},
        "leftovers": [],
        "journal": [
            *at_work("skip", 1, 1.0, 1.1), *at_work("skip", 3, 2.0, None, pid=8), *at_work("skip", 3, 4.0, 4.1),
            *at_work("allow", 1, 1.0, 1.2), *at_work("allow", 2, 1.1, 1.3),
        ],
        "killed": {8: 2.5},
    }  # fmt: skip


def entry_at(facts: Facts, entry: Facts) -> int:
    return int(facts["ledger"].index(entry))


def two_live(facts: Facts) -> None:
    facts["ledger"].remove(ended("skip", 1))
    facts["ledger"].append(ended("skip", 1))


def started_twice(facts: Facts) -> None:
    facts["ledger"] += [born("skip", 3), settled("skip", 3, "started"), ended("skip", 3)]


def tick_lost(facts: Facts) -> None:
    facts["ledger"].remove(settled("skip", 2, "skipped"))


def tick_out_of_thin_air(facts: Facts) -> None:
    facts["ledger"].append(settled("cancel", 9, "started"))


def settled_without_its_run(facts: Facts) -> None:
    facts["ledger"].remove(born("allow", 2))


def run_without_a_tick(facts: Facts) -> None:
    facts["heads"]["stray"] = {"status": "finished"}


def skipped_while_nothing_was_live(facts: Facts) -> None:
    facts["expected"]["skip"] |= {4_000, 5_000, 6_000}
    facts["ledger"] += [settled("skip", number, "skipped") for number in (4, 5, 6)]


def skipped_by_one_that_replaces(facts: Facts) -> None:
    facts["expected"]["cancel"].add(4_000)
    facts["ledger"].append(settled("cancel", 4, "skipped"))


def skipped_though_nothing_waited(facts: Facts) -> None:
    facts["ledger"].remove(settled("one", 3, "skipped"))
    facts["ledger"].append(settled("one", 3, "skipped"))


def put_back_by_one_that_skips(facts: Facts) -> None:
    facts["ledger"].insert(entry_at(facts, born("skip", 3)), settled("skip", 3, "buffered"))


def buffered_one_replaced(facts: Facts) -> None:
    facts["ledger"][entry_at(facts, settled("one", 3, "skipped"))] = settled("one", 3, "buffered")


def still_waiting(facts: Facts) -> None:
    facts["leftovers"].append("one")


def dead(facts: Facts) -> None:
    facts["heads"][run("cancel", 3)]["status"] = "dead"


def aborted_by_one_that_skips(facts: Facts) -> None:
    facts["heads"][run("skip", 3)]["status"] = "aborted"


def at_work_at_once(facts: Facts) -> None:
    facts["journal"] += at_work("skip", 1, 2.4, 2.45)


def test_good_evidence_passes() -> None:
    assert find_problems(Evidence(**good())) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (two_live, "was born while"),
        (started_twice, "tick 3000 was started, then started"),
        (tick_lost, "1 ticks were never settled"),
        (tick_out_of_thin_air, "that nobody asked for"),
        (settled_without_its_run, "3 ticks were started, 2 runs were born"),
        (run_without_a_tick, "belong to no tick"),
        (skipped_while_nothing_was_live, "tick 6000 was skipped without a reason"),
        (skipped_by_one_that_replaces, "tick 4000 was skipped without a reason"),
        (skipped_though_nothing_waited, "tick 3000 was skipped without a reason"),
        (put_back_by_one_that_skips, "tick 3000 was put back"),
        (buffered_one_replaced, "tick 2000 had to make way for 3000"),
        (still_waiting, "something still waits"),
        (dead, "is dead"),
        (aborted_by_one_that_skips, "is aborted"),
        (at_work_at_once, "began to work"),
    ],
)
def test_spoilt_evidence_is_noticed(spoil: Callable[[Facts], None], words: str) -> None:
    facts = good()
    spoil(facts)
    assert words in "\n".join(find_problems(Evidence(**facts)))
