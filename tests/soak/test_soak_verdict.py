"""The verdict on a soak catches what it is there to catch: good evidence is spoilt in one way at a time."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from workflow_runtime import Every, Schedule
from workflow_test_support.torture.soak.chronicle import Entry
from workflow_test_support.torture.soak.customer import Ordered
from workflow_test_support.torture.soak.health import Course, errors_in, find_health_problems, read_levels
from workflow_test_support.torture.soak.jobs import PAY, expected_order
from workflow_test_support.torture.soak.sampling import Sample, TableSize
from workflow_test_support.torture.soak.verdict import Deposition, find_soak_problems, split_tick

Facts = dict[str, Any]

SECOND = Every(timedelta(seconds=1))
OFTEN = Schedule(id="often", workflow="job", when=SECOND, overlap="allow")
SKIPS = Schedule(id="skips", workflow="job", when=SECOND, overlap="skip")
BUFFERS = Schedule(id="buffers", workflow="job", when=SECOND, overlap="buffer-one")
CANCELS = Schedule(id="cancels", workflow="job", when=SECOND, overlap="cancel-previous")


def run_id(schedule: Schedule, second: int) -> str:
    return f"{schedule.id}@1970-01-01T00:00:{second:02}Z"


def settled(schedule: Schedule, second: int, outcome: str, source: str = "due", at_s: float | None = None) -> Entry:
    at_ms = int(1000 * (second + 0.1 if at_s is None else at_s))
    return Entry(
        at_ms=at_ms, what="settled", subject=schedule.id, tick_ms=second * 1000, outcome=outcome, source=source
    )


def created(schedule: Schedule, second: int, at_s: float | None = None) -> Entry:
    at_ms = int(1000 * (second + 0.1 if at_s is None else at_s))
    return Entry(at_ms=at_ms, what="created", subject=run_id(schedule, second), outcome="queued")


def ended(schedule: Schedule, second: int, at_s: float) -> Entry:
    return Entry(at_ms=int(1000 * at_s), what="ended", subject=run_id(schedule, second), outcome="finished")


def good() -> Facts:
    """Four schedules: often 1 2 3 4, skips 1 (2) 3 4, buffers 1 2 (3) 4, cancels 1 and 3 for 2; one order."""
    schedules = [OFTEN, SKIPS, BUFFERS, CANCELS]
    chronicle = [Entry(at_ms=500, what="scheduled", subject=s.id, tick_ms=1_000) for s in schedules]
    for second in range(1, 5):
        chronicle += [
            settled(OFTEN, second, "started"),
            created(OFTEN, second),
            ended(OFTEN, second, second + 0.9),
        ]
    chronicle += [
        *(settled(SKIPS, 1, "started"), created(SKIPS, 1), settled(SKIPS, 2, "skipped"), ended(SKIPS, 1, 2.5)),
        *(settled(SKIPS, 3, "started"), created(SKIPS, 3), ended(SKIPS, 3, 3.5)),
        *(settled(SKIPS, 4, "started"), created(SKIPS, 4), ended(SKIPS, 4, 4.5)),
        *(settled(BUFFERS, 1, "started"), created(BUFFERS, 1), settled(BUFFERS, 2, "buffered")),
        *(settled(BUFFERS, 3, "skipped"), ended(BUFFERS, 1, 3.5)),
        *(settled(BUFFERS, 2, "started", "buffered", 3.6), created(BUFFERS, 2, 3.6), settled(BUFFERS, 4, "buffered")),
        *(ended(BUFFERS, 2, 4.5), settled(BUFFERS, 4, "started", "buffered", 4.6), created(BUFFERS, 4, 4.6)),
        ended(BUFFERS, 4, 4.9),
        *(settled(CANCELS, 1, "started"), created(CANCELS, 1), settled(CANCELS, 2, "buffered")),
        *(settled(CANCELS, 3, "buffered"), ended(CANCELS, 1, 3.5)),
        *(settled(CANCELS, 3, "started", "buffered", 3.6), created(CANCELS, 3, 3.6), ended(CANCELS, 3, 3.9)),
        *(settled(CANCELS, 4, "started"), created(CANCELS, 4), ended(CANCELS, 4, 4.5)),
        Entry(at_ms=900, what="ended", subject="order-7", outcome="finished"),
    ]
    heads: Facts = {}
    logs: Facts = {}
    for run in [entry.subject for entry in chronicle if entry.what == "created"]:
        heads[run] = head({"attempt": 1, "receipt": f"paid {run}"})
        logs[run] = log_of_payment()
    heads["order-7"] = head(expected_order("order-7", 7, approved=True, decided_by="me"))
    logs["order-7"] = log_of_payment()
    cancelled = run_id(CANCELS, 1)
    heads[cancelled] = head(None) | {"status": "aborted", "reason": "cancel-previous: cancels@later", "next_index": 0}
    logs[cancelled] = []
    return {
        "schedules": schedules,
        "chronicle": chronicle,
        "paused_at_ms": 4_500,
        "patience_ms": 1_000,
        "heads": heads,
        "logs": logs,
        "ordered": {"order-7": Ordered(number=7, approved=True, decided_by="me")},
        "payments": [run for run in heads if run != cancelled],
        "leftovers": {"timers": 0},
    }


def head(output: Any) -> Facts:
    return {"status": "finished", "reason": None, "output": json.dumps(output), "next_index": 2}


def log_of_payment() -> list[Facts]:
    return [
        {"event_index": 0, "kind": "step-completed", "step_id": PAY, "payload": '"paid"'},
        {"event_index": 1, "kind": "run-finished", "step_id": None, "payload": None},
    ]


def change(facts: Facts, found: Entry, **changes: Any) -> None:
    facts["chronicle"] = [replace(entry, **changes) if entry == found else entry for entry in facts["chronicle"]]


def remove(facts: Facts, *found: Entry) -> None:
    facts["chronicle"] = [entry for entry in facts["chronicle"] if entry not in found]


def forget_run(facts: Facts, run: str) -> None:
    del facts["heads"][run]
    del facts["logs"][run]
    facts["payments"].remove(run)
    facts["chronicle"] = [entry for entry in facts["chronicle"] if entry.subject != run]


def tick_lost(facts: Facts) -> None:
    remove(facts, settled(OFTEN, 2, "started"))
    forget_run(facts, run_id(OFTEN, 2))


def tick_settled_twice(facts: Facts) -> None:
    facts["chronicle"].append(settled(SKIPS, 2, "skipped", at_s=2.2))


def tick_that_is_none(facts: Facts) -> None:
    change(facts, settled(SKIPS, 2, "skipped"), tick_ms=2_500)


def ticks_out_of_order(facts: Facts) -> None:
    change(facts, settled(SKIPS, 3, "started"), tick_ms=4_000)
    change(facts, settled(SKIPS, 4, "started"), tick_ms=3_000)


def first_tick_late(facts: Facts) -> None:
    first = Entry(at_ms=500, what="scheduled", subject="often", tick_ms=1_000)
    change(facts, first, at_ms=-5_000)


def firing_stopped(facts: Facts) -> None:
    facts["paused_at_ms"] = 9_000


def firing_never_began(facts: Facts) -> None:
    facts["schedules"].append(replace(OFTEN, id="idle"))
    facts["chronicle"].insert(0, Entry(at_ms=500, what="scheduled", subject="idle", tick_ms=1_000))


def run_of_tick_is_gone(facts: Facts) -> None:
    forget_run(facts, run_id(OFTEN, 2))


def run_of_no_tick(facts: Facts) -> None:
    run = run_id(OFTEN, 5)
    facts["heads"][run] = head({"attempt": 1, "receipt": f"paid {run}"})
    facts["logs"][run] = log_of_payment()


def tick_started_twice(facts: Facts) -> None:
    facts["chronicle"].append(settled(OFTEN, 2, "started", "buffered", at_s=2.2))


def skipped_though_it_may_overlap(facts: Facts) -> None:
    change(facts, settled(OFTEN, 2, "started"), outcome="skipped")
    forget_run(facts, run_id(OFTEN, 2))


def skipped_though_nothing_was_live(facts: Facts) -> None:
    change(facts, settled(SKIPS, 4, "started"), outcome="skipped", at_ms=4_900)
    forget_run(facts, run_id(SKIPS, 4))


def skipped_though_none_was_buffered(facts: Facts) -> None:
    change(facts, settled(BUFFERS, 2, "buffered"), outcome="skipped")
    remove(facts, settled(BUFFERS, 2, "started", "buffered", 3.6))
    forget_run(facts, run_id(BUFFERS, 2))


def cancelling_tick_skipped(facts: Facts) -> None:
    change(facts, settled(CANCELS, 2, "buffered"), outcome="skipped")


def first_buffered_displaced(facts: Facts) -> None:
    change(facts, settled(BUFFERS, 3, "skipped"), outcome="buffered")


def buffered_forgotten(facts: Facts) -> None:
    remove(facts, settled(BUFFERS, 4, "started", "buffered", 4.6))
    forget_run(facts, run_id(BUFFERS, 4))


def overlapping(facts: Facts) -> None:
    late = ended(SKIPS, 1, 2.5)
    remove(facts, late)
    facts["chronicle"].append(replace(late, at_ms=3_400))


def not_ended(facts: Facts) -> None:
    facts["heads"][run_id(OFTEN, 1)]["status"] = "paused"


def dead(facts: Facts) -> None:
    facts["heads"]["order-7"]["status"] = "dead"


def ended_twice(facts: Facts) -> None:
    facts["chronicle"].append(ended(OFTEN, 1, 4.95))


def wrong_output(facts: Facts) -> None:
    facts["heads"][run_id(OFTEN, 1)]["output"] = json.dumps({"attempt": 2, "receipt": "paid"})


def aborted_for_another_reason(facts: Facts) -> None:
    facts["heads"][run_id(CANCELS, 1)]["reason"] = "somebody wanted it"


def aborted_under_a_policy_that_never_aborts(facts: Facts) -> None:
    facts["heads"][run_id(SKIPS, 1)] |= {"status": "aborted", "reason": "cancel-previous: skips@later"}


def nothing_cancelled(facts: Facts) -> None:
    for second in range(10, 15):
        facts["heads"][run_id(CANCELS, second)] = head(None)


def order_lost(facts: Facts) -> None:
    facts["ordered"]["order-8"] = Ordered(number=8, approved=True, decided_by="me")


def second_decision_won(facts: Facts) -> None:
    facts["heads"]["order-7"] = head(expected_order("order-7", 7, approved=False, decided_by="too late"))


def gap_in_the_log(facts: Facts) -> None:
    facts["heads"]["order-7"]["next_index"] += 1


def step_recorded_twice(facts: Facts) -> None:
    log = facts["logs"]["order-7"]
    log.append(log[0] | {"event_index": 2, "step_id": "reserve"})
    log.append(log[0] | {"event_index": 3, "step_id": "reserve"})
    facts["heads"]["order-7"]["next_index"] = 4


def paid_twice(facts: Facts) -> None:
    facts["payments"].append("order-7")


def paid_in_vain(facts: Facts) -> None:
    facts["payments"].append(run_id(CANCELS, 1))


def payment_lost(facts: Facts) -> None:
    facts["payments"].remove("order-7")


def timer_left(facts: Facts) -> None:
    facts["leftovers"]["timers"] = 3


def test_good_evidence_passes() -> None:
    assert find_soak_problems(Deposition(**good())) == []


def test_schedule_whose_first_tick_is_yet_to_come_passes() -> None:
    facts = good()
    hourly = replace(OFTEN, id="hourly", when=Every(timedelta(hours=1)))
    facts["schedules"].append(hourly)
    facts["chronicle"].insert(0, Entry(at_ms=500, what="scheduled", subject="hourly", tick_ms=3_600_000))
    assert find_soak_problems(Deposition(**facts)) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (tick_lost, "often: 3 ticks were settled, 1 lost [2000], 0 doubled"),
        (tick_settled_twice, "skips: 5 ticks were settled, 0 lost [], 1 doubled [2000]"),
        (tick_that_is_none, "skips: 4 ticks were settled, 1 lost [2000]"),
        (ticks_out_of_order, "skips: 4 ticks were settled, 0 lost"),
        (first_tick_late, "often: the first tick is at 1000"),
        (firing_stopped, "often: the last tick that was settled is 4000, it should be 9000"),
        (firing_never_began, "idle: the last tick that was settled is 999, it should be 4000"),
        (run_of_tick_is_gone, "often: 4 ticks started 3 runs; [2000]"),
        (run_of_no_tick, "often: 4 ticks started 5 runs; [5000]"),
        (tick_started_twice, "often: 5 ticks started 4 runs"),
        (skipped_though_it_may_overlap, "often: tick 2000 was skipped without need"),
        (skipped_though_nothing_was_live, "skips: tick 4000 was skipped without need"),
        (skipped_though_none_was_buffered, "buffers: tick 2000 was skipped without need"),
        (cancelling_tick_skipped, "cancels: tick 2000 was skipped without need"),
        (first_buffered_displaced, "buffers: tick 3000 took the place of 2000"),
        (buffered_forgotten, "buffers: tick 4000 still waits"),
        (overlapping, "were live at once"),
        (not_ended, "is paused"),
        (dead, "order-7 is dead"),
        (ended_twice, "has ended 2 times"),
        (wrong_output, "often@1970-01-01T00:00:01Z is finished (None) and gave"),
        (aborted_for_another_reason, "is aborted (somebody wanted it)"),
        (aborted_under_a_policy_that_never_aborts, "skips@1970-01-01T00:00:01Z is aborted"),
        (nothing_cancelled, "cancels: 7 of 8 runs were left to finish"),
        (order_lost, "order-8: its start was acknowledged, but it is not there"),
        (second_decision_won, "order-7 is finished and gave"),
        (gap_in_the_log, "order-7: the log has 2 events, the head says 3"),
        (step_recorded_twice, "order-7: step reserve is recorded 2 times"),
        (paid_twice, "order-7: 2 payments, 1 are recorded"),
        (paid_in_vain, "1 payments, 0 are recorded"),
        (payment_lost, "order-7: 0 payments, 1 are recorded"),
        (timer_left, "3 timers left over"),
    ],
)
def test_spoilt_evidence_is_noticed(spoil: Callable[[Facts], None], words: str) -> None:
    facts = good()
    spoil(facts)
    assert words in "\n".join(find_soak_problems(Deposition(**facts)))


def test_tick_is_read_from_the_id_of_its_run() -> None:
    assert split_tick("a@b@1970-01-01T00:00:02Z") == ("a@b", 2_000)
    assert split_tick("order-7") is None


def sample(minute: int, **facts: Any) -> Sample:
    table = TableSize(
        name="workflow_events",
        table_bytes=0,
        index_bytes=0,
        total_bytes=facts.pop("bytes", minute * 1_000_000),
        dead=0,
        updated=0,
        hot_updated=0,
    )
    usual: Facts = {"memory": {1: 40_000 + 10 * minute}, "sessions": 20, "runs": 1_000 * minute}
    return Sample(at_s=60.0 * minute, tables=[table], **(usual | facts))


def course(**facts: Any) -> Course:
    usual: Facts = {
        "samples": [sample(minute) for minute in range(16)],
        "max_sessions": 25,
        "latencies_ms": {minute: [20.0] * 59 + [4_000.0] for minute in range(16)},
        "log": ["WARNING 2030-01-01 00:00:00,000 12 workflow_runtime: cannot claim", "Traceback", "ERROR is no level"],
    }
    return Course(**(usual | facts))


def test_healthy_course_passes() -> None:
    assert find_health_problems(course()) == []
    assert find_health_problems(course(samples=[sample(0)], latencies_ms={0: [20.0]})) == []


@pytest.mark.parametrize(
    ("sick", "words"),
    [
        ({"samples": [sample(n, memory={1: 40_000 + 2_000 * n}) for n in range(16)]}, "worker 1 grew from 44000 KiB"),
        ({"samples": [sample(n, bytes=100_000 * n * n) for n in range(16)]}, "workflow_events grew from 200 to 1500"),
        ({"samples": [sample(n, sessions=20 + n) for n in range(16)]}, "35 sessions were open at once"),
        ({"latencies_ms": {n: [20.0 + 10 * n] * 60 for n in range(16)}}, "half of the runs took"),
        ({"log": ["ERROR 2030-01-01 00:00:00,000 12 asyncio: Task exception"]}, "logged: ERROR 2030"),
    ],
)
def test_sick_course_is_noticed(sick: Facts, words: str) -> None:
    assert words in "\n".join(find_health_problems(course(**sick)))


def test_worker_that_came_late_is_measured_from_its_own_beginning() -> None:
    young = [sample(n, memory={2: 20_000 if n < 12 else 90_000}) for n in range(11, 16)]
    assert find_health_problems(course(samples=young)) == []


def test_levels_are_counted() -> None:
    log = course().log
    assert dict(read_levels(log)) == {"WARNING": 1}
    assert errors_in(log) == []
