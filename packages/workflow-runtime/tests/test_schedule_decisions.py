"""The pure parts of schedules: what is stored of them, and what becomes of a tick."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workflow_runtime import CorruptRecordError, Cron, Every, InvalidArgumentError, JsonText, Schedule
from workflow_runtime.clock import from_ms
from workflow_runtime.ids import MAX_ID_BYTES, check_id
from workflow_runtime.schedules.conversions import encode_spec, spec_in, spec_of
from workflow_runtime.schedules.decisions import Decision, decide, tick_run_id
from workflow_runtime.schedules.spec import Spec
from workflow_runtime.store import Schedule as StoredSchedule

MINUTE = 60_000
HOUR = 60 * MINUTE
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def schedule(**changes: Any) -> Schedule:
    options: dict[str, Any] = {"id": "s", "workflow": "w", "when": Every(timedelta(hours=1))}
    return Schedule(**(options | changes))


def stored(schedule_id: str, spec: JsonText) -> StoredSchedule:
    return StoredSchedule(
        schedule_id=schedule_id,
        workflow_id="w",
        workflow_version="1",
        spec=spec,
        input=JsonText("null"),
        overlap_policy="skip",
        queue="default",
        priority=0,
        enabled=True,
        next_fire_at_ms=None,
        last_fire_at_ms=None,
        buffered_fire_at_ms=None,
        previous_run_id=None,
        revision=1,
        created_at_ms=0,
        updated_at_ms=0,
    )


def decided(fire_at_ms: int, now_ms: int, source: Any = "due", **changes: Any) -> Decision:
    return decide(
        spec=spec_of(schedule(**changes)), schedule_id="s", fire_at_ms=fire_at_ms, source=source, now_ms=now_ms
    )


@pytest.mark.parametrize(
    "declared",
    [
        schedule(),
        schedule(when=Cron("0 2 * * MON", "Europe/Warsaw"), missed="all", missed_limit=7, jitter=timedelta(minutes=3)),
        schedule(starts_at=NOW, ends_at=NOW + timedelta(days=1), grace=timedelta(0), missed="one"),
        schedule(when=Every(timedelta(seconds=90), offset=timedelta(milliseconds=1))),
    ],
)
def test_spec_comes_back(declared: Schedule) -> None:
    spec = spec_of(declared)
    assert spec_in(stored("s", encode_spec(spec))) == spec


GOOD = json.loads(encode_spec(spec_of(schedule())))


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ("[1", "spec: "),
        ([], "not what this package writes"),
        ({}, "not what this package writes"),
        (GOOD | {"version": 2}, "version 2 was written by a newer workflow-runtime; this one reads 1"),
        (GOOD | {"version": 0}, "not what this package writes"),
        (GOOD | {"version": True}, "not what this package writes"),
        (GOOD | {"more": 1}, "not what this package writes"),
        (GOOD | {"missed": "none"}, "missed is 'none'"),
        (GOOD | {"missed_limit": 0}, "missed_limit is 0"),
        (GOOD | {"missed_limit": 10**9}, "missed_limit is"),
        (GOOD | {"grace_ms": "5"}, "grace_ms is '5'"),
        (GOOD | {"jitter_ms": -1}, "jitter_ms is -1"),
        (GOOD | {"grace_ms": True}, "grace_ms is True"),
        (GOOD | {"starts_at_ms": 2**60}, "spec: "),
        (GOOD | {"when": None}, "when is None"),
        (GOOD | {"when": {"kind": "moon"}}, "when is {'kind': 'moon'}"),
        (GOOD | {"when": {"kind": "every", "interval_ms": 5, "offset_ms": 0}}, "at least 1 second"),
        (GOOD | {"when": {"kind": "every", "interval_ms": 10**30, "offset_ms": 0}}, "spec: "),
        (GOOD | {"when": {"kind": "every", "interval_ms": 5_000, "offset_ms": 0, "x": 1}}, "when is"),
        (GOOD | {"when": {"kind": "cron", "expression": "0 0 31 2 *", "timezone": "UTC"}}, "never comes"),
        (GOOD | {"when": {"kind": "cron", "expression": "0 0 1 2 *", "timezone": "Moon/Sea"}}, "no time zone"),
    ],
)
def test_spec_is_read_strictly(facts: Any, problem: str) -> None:
    """What another version wrote is not guessed at; the error names the schedule."""
    text = facts if isinstance(facts, str) else json.dumps(facts)
    with pytest.raises(CorruptRecordError) as caught:
        spec_in(stored("nightly", JsonText(text)))
    assert problem in str(caught.value)
    assert (caught.value.table, caught.value.key) == ("schedules", "nightly")


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"id": ""}, "id"),
        ({"when": "0 0 * * *"}, "when"),
        ({"overlap": "both"}, "overlap"),
        ({"missed": "some"}, "missed"),
        ({"missed_limit": 0}, "missed_limit"),
        ({"missed_limit": 1_001}, "missed_limit"),
        ({"missed_limit": True}, "missed_limit"),
        ({"grace": timedelta(seconds=-1)}, "grace"),
        ({"jitter": 5}, "jitter"),
        ({"starts_at": datetime(2030, 1, 1)}, "starts_at"),  # noqa: DTZ001
        ({"starts_at": NOW, "ends_at": NOW}, "ends_at"),
    ],
)
def test_wrong_schedule_is_refused(changes: dict[str, Any], argument: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{argument}: "):
        schedule(**changes)


def test_a_tick_in_time_starts_and_the_next_one_follows() -> None:
    """Up to the grace, and at its very end."""
    for late_ms in (0, 59_999, MINUTE):
        assert decided(10 * HOUR, 10 * HOUR + late_ms) == Decision(
            start=True, next_fire_at_ms=11 * HOUR, available_at_ms=None
        )


def test_missed_ticks_are_skipped_up_to_those_in_time() -> None:
    """`skip` starts none of them; a tick within the grace is none of them."""
    late = decided(10 * HOUR, 13 * HOUR + MINUTE + 1)
    assert late == Decision(start=False, next_fire_at_ms=14 * HOUR, available_at_ms=None)
    late = decided(10 * HOUR, 13 * HOUR + MINUTE)
    assert late == Decision(start=False, next_fire_at_ms=13 * HOUR, available_at_ms=None)


def test_one_run_for_all_missed_ticks() -> None:
    late = decided(10 * HOUR, 13 * HOUR + MINUTE + 1, missed="one")
    assert late == Decision(start=True, next_fire_at_ms=14 * HOUR, available_at_ms=None)


def test_every_missed_tick_up_to_the_cap() -> None:
    """The oldest are left out; those within the cap come one after the other."""
    kept = {"missed": "all", "missed_limit": 3}
    assert decided(10 * HOUR, 12 * HOUR + 2 * MINUTE, **kept) == Decision(
        start=True, next_fire_at_ms=11 * HOUR, available_at_ms=None
    )
    assert decided(10 * HOUR, 15 * HOUR + 2 * MINUTE, **kept) == Decision(
        start=False, next_fire_at_ms=13 * HOUR, available_at_ms=None
    )


WHENS = st.sampled_from(
    [
        Every(timedelta(seconds=1)),
        Every(timedelta(minutes=7)),
        Cron("*/10 * * * *", "Europe/Warsaw"),
        Cron("0 2 * * *", "Europe/Warsaw"),
        Cron("* 0 1 * *"),
    ]
)


@given(when=WHENS, limit=st.integers(1, 30), first=st.integers(0, 40 * 24 * HOUR), span=st.integers(0, 3 * HOUR))
@settings(max_examples=60, deadline=None)
def test_catching_up_takes_exactly_the_newest(when: Cron | Every, limit: int, first: int, span: int) -> None:
    """Followed from decision to decision: every missed tick within the cap is started, and none of the older ones."""
    spec = spec_of(schedule(when=when, missed="all", missed_limit=limit))
    fire_at_ms = spec.next_after(first)
    assert fire_at_ms is not None
    now_ms = fire_at_ms + MINUTE + span
    missed = list(takewhile(lambda tick: tick < now_ms - MINUTE, spec.ticks_after(fire_at_ms - 1)))
    started = []
    tick: int | None = fire_at_ms
    while tick is not None and tick < now_ms - MINUTE:
        decision = decide(spec=spec, schedule_id="s", fire_at_ms=tick, source="due", now_ms=now_ms)
        started += [tick] if decision.start else []
        tick = decision.next_fire_at_ms
    assert started == missed[-limit:]


def test_years_of_missed_ticks_are_not_walked_through() -> None:
    """A schedule of every second that was left alone for ten years."""
    spec = spec_of(schedule(when=Every(timedelta(seconds=1)), missed="all", missed_limit=2))
    now_ms = 10 * 366 * 24 * HOUR
    decision = decide(spec=spec, schedule_id="s", fire_at_ms=1_000, source="due", now_ms=now_ms)
    assert decision == Decision(start=False, next_fire_at_ms=now_ms - MINUTE - 2_000, available_at_ms=None)


def test_requested_and_buffered_ticks_are_never_late() -> None:
    assert decided(HOUR, 99 * HOUR, "requested").start
    assert decided(HOUR, 99 * HOUR, "buffered").start


def test_start_and_end() -> None:
    """The first tick is at the start or after it, the last one before the end."""
    first, last = NOW, NOW + timedelta(hours=2)
    spec = spec_of(schedule(starts_at=first, ends_at=last))
    assert [from_ms(tick) for tick in spec.ticks_after(0)] == [first, first + timedelta(hours=1)]
    before_end_ms = (last - timedelta(hours=1) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert spec.next_after(before_end_ms) is None


def test_jitter_delays_the_run_by_the_tick_alone() -> None:
    """Within its bound, the same every time, another for another tick; none for what was asked for."""
    jitter = timedelta(minutes=10)
    delays = {}
    for hour in range(50):
        decision = decided(hour * HOUR, hour * HOUR, jitter=jitter)
        assert decision == decided(hour * HOUR, hour * HOUR, jitter=jitter)
        delays[hour] = (decision.available_at_ms or hour * HOUR) - hour * HOUR
    assert all(0 <= delay <= 10 * MINUTE for delay in delays.values())
    assert len(set(delays.values())) > 40
    assert decided(HOUR, HOUR, "requested", jitter=jitter).available_at_ms is None
    assert decided(HOUR, HOUR + 10 * MINUTE, jitter=jitter, grace=timedelta(hours=1)).available_at_ms is None


def test_run_id_tells_schedule_and_moment() -> None:
    assert tick_run_id("nightly", 0) == "nightly@1970-01-01T00:00:00Z"
    assert tick_run_id("nightly", 1_500) == "nightly@1970-01-01T00:00:01.500Z"


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=512))
def test_run_id_fits(schedule_id: str) -> None:
    """An id that would be too long is cut, and stays another one than that of its neighbour."""
    if len(schedule_id.encode()) > MAX_ID_BYTES - 1:
        return
    check_id("run_id", tick_run_id(schedule_id, 1_500))
    assert tick_run_id(schedule_id, 0) != tick_run_id(schedule_id + "x", 0)


def test_long_ids_are_hashed() -> None:
    one, other = ("é" * 255 + end for end in "ab")
    ids = {tick_run_id(schedule_id, at) for schedule_id in (one, other) for at in (0, HOUR)}
    assert len(ids) == 4
    assert all(len(run_id.encode()) <= MAX_ID_BYTES for run_id in ids)


def test_spec_is_a_value() -> None:
    assert spec_of(schedule()) == spec_of(schedule(input=5))
    assert isinstance(spec_of(schedule()), Spec)
