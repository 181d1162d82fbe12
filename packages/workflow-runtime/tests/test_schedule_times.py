"""Times at which schedules fire: fields, zones, the nights on which clocks change, intervals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from workflow_runtime import Cron, Every, InvalidArgumentError
from workflow_runtime.clock import from_ms, to_ms


def ms(moment: datetime) -> int:
    return to_ms("moment", moment)


def ticks(cron: Cron, after: str, count: int) -> list[str]:
    """Give the ticks after a local time as day, local time and offset."""
    zone = ZoneInfo(cron.timezone)
    start = ms(datetime.fromisoformat(after).replace(tzinfo=zone))
    return [from_ms(at).astimezone(zone).strftime("%d %H:%M %z") for at in islice(cron.ticks_after(start), count)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("*/20 9-10 * * *", ["02 09:00", "02 09:20", "02 09:40", "02 10:00", "02 10:20", "02 10:40", "03 09:00"]),
        ("15,45 8 * * mon-FRI", ["02 08:15", "02 08:45", "03 08:15"]),
        ("0 0 1 jan,Mar *", ["01 00:00", "01 00:00", "01 00:00"]),
        ("0 12 L * *", ["31 12:00", "28 12:00"]),
        ("0 12 * * MON#2", ["14 12:00", "11 12:00"]),
        ("0 12 13 * 5", ["04 12:00", "11 12:00", "13 12:00", "18 12:00"]),
        ("0 0 29 2 *", ["29 00:00"]),
    ],
)
def test_fields(expression: str, expected: list[str]) -> None:
    """Lists, ranges, steps, names, the last day, the nth weekday; two day fields mean one or the other."""
    found = ticks(Cron(expression), "2030-01-01T23:00", len(expected))
    assert [tick.removesuffix(" +0000") for tick in found] == expected


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("0 0 31 2 *", "day-of-month 31 never comes in month 2"),
        ("0 0 31 4,6,SEP,11 *", "day-of-month 31 never comes in month 4,6,SEP,11"),
        ("0 0 */5 2 MON#5", "no day ever matches"),
        ("60 * * * *", "the minute field cannot be '60'"),
        ("* 24 * * *", "the hour field cannot be '24'"),
        ("* * 0 * *", "the day-of-month field cannot be '0'"),
        ("* * * FOO *", "the month field cannot be 'FOO'"),
        ("* * * * 8", "the day-of-week field cannot be '8'"),
        ("*/0 * * * *", "the minute field cannot be '*/0'"),
        ("10-5 * * * *", "the minute field cannot be '10-5'"),
        (", * * * *", "the minute field cannot be ','"),
        ("9" * 400 + "9 * * * *", "the minute field"),
        ("* * * *", "must have 5 fields"),
        ("0 * * * * *", "must have 5 fields"),
        ("@daily", "must have 5 fields"),
        ("", "must have 5 fields"),
        ("* " * 300, "at most 500 characters"),
        (5, "must be a string"),
    ],
)
def test_wrong_expression_is_refused(expression: Any, problem: str) -> None:
    """When it is made, naming the field."""
    with pytest.raises(InvalidArgumentError, match=r"^expression: ") as caught:
        Cron(expression)
    assert problem in str(caught.value)


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "Europe", "../UTC", "/etc/localtime", "", "a\0b", 5, None])
def test_unknown_zone_is_refused(zone: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^timezone: there is no time zone"):
        Cron("0 0 * * *", zone)


@pytest.mark.parametrize(
    ("zone", "expression", "after", "expected"),
    [
        # A time that the clocks jump over is fired when they jump.
        ("Europe/Warsaw", "30 2 * * *", "2030-03-30T12:00", ["31 03:00 +0200", "01 02:30 +0200"]),
        ("America/New_York", "30 2 * * *", "2030-03-09T12:00", ["10 03:00 -0400", "11 02:30 -0400"]),
        ("Australia/Lord_Howe", "15 2 * * *", "2030-10-05T12:00", ["06 02:30 +1100", "07 02:15 +1100"]),
        ("Africa/Casablanca", "30 2 * * *", "2026-03-21T12:00", ["22 03:00 +0100", "23 02:30 +0100"]),
        ("America/Santiago", "30 0 * * *", "2030-09-07T12:00", ["08 01:00 -0300", "09 00:30 -0300"]),
        # A day that a zone has left out altogether.
        ("Pacific/Apia", "0 12 30 12 *", "2011-12-01T00:00", ["31 00:00 +1400", "30 12:00 +1400"]),
        # Several of them are one tick, and so is one that is due at that moment anyway.
        ("Europe/Warsaw", "0,30 2,3 * * *", "2030-03-30T12:00", ["31 03:00 +0200", "31 03:30 +0200", "01 02:00 +0200"]),
        # A time that comes twice is fired the first time.
        ("Europe/Warsaw", "30 2 * * *", "2030-10-26T12:00", ["27 02:30 +0200", "28 02:30 +0100"]),
        ("America/New_York", "30 1 * * *", "2030-11-02T12:00", ["03 01:30 -0400", "04 01:30 -0500"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2030-04-06T12:00", ["07 01:45 +1100", "08 01:45 +1030"]),
        ("Africa/Casablanca", "30 2 * * *", "2026-02-14T12:00", ["15 02:30 +0100", "16 02:30 +0000"]),
    ],
)
def test_fixed_times_keep_their_count(zone: str, expression: str, after: str, expected: list[str]) -> None:
    """One tick a day, whatever the clocks do."""
    assert ticks(Cron(expression, zone), after, len(expected)) == expected


@pytest.mark.parametrize(
    ("zone", "expression", "after", "expected"),
    [
        ("Europe/Warsaw", "0 * * * *", "2030-03-31T00:30", ["31 01:00 +0100", "31 03:00 +0200"]),
        ("Europe/Warsaw", "0 * * * *", "2030-10-27T01:30", ["27 02:00 +0200", "27 02:00 +0100", "27 03:00 +0100"]),
        ("America/New_York", "*/30 * * * *", "2030-03-10T01:00", ["10 01:30 -0500", "10 03:00 -0400"]),
        (
            "America/New_York",
            "*/30 * * * *",
            "2030-11-03T00:30",
            ["03 01:00 -0400", "03 01:30 -0400", "03 01:00 -0500", "03 01:30 -0500", "03 02:00 -0500"],
        ),
        ("Australia/Lord_Howe", "45 * * * *", "2030-10-06T00:50", ["06 01:45 +1030", "06 02:45 +1100"]),
        (
            "Australia/Lord_Howe",
            "45 * * * *",
            "2030-04-07T00:50",
            ["07 01:45 +1100", "07 01:45 +1030", "07 02:45 +1030"],
        ),
        (
            "Australia/Lord_Howe",
            "*/15 2 * * *",
            "2030-04-07T00:50",
            ["07 02:00 +1030", "07 02:15 +1030", "07 02:30 +1030", "07 02:45 +1030", "08 02:00 +1030"],
        ),
        ("Africa/Casablanca", "0 * * * *", "2026-02-15T01:30", ["15 02:00 +0100", "15 02:00 +0000", "15 03:00 +0000"]),
        ("Africa/Casablanca", "0 * * * *", "2026-03-22T00:30", ["22 01:00 +0000", "22 03:00 +0100"]),
        # A star in the minutes follows the clock too: no such hour, no such tick; twice the hour, twice the tick.
        ("Europe/Warsaw", "*/30 2 * * *", "2030-03-30T12:00", ["01 02:00 +0200", "01 02:30 +0200"]),
        (
            "Europe/Warsaw",
            "*/30 2 * * *",
            "2030-10-27T00:00",
            ["27 02:00 +0200", "27 02:30 +0200", "27 02:00 +0100", "27 02:30 +0100", "28 02:00 +0100"],
        ),
        # A change of the clocks in a long time without ticks.
        ("Europe/Warsaw", "*/30 2 27 10 *", "2030-01-01T00:00", ["27 02:00 +0200", "27 02:30 +0200", "27 02:00 +0100"]),
    ],
)
def test_the_others_follow_the_clock(zone: str, expression: str, after: str, expected: list[str]) -> None:
    """They fire whenever the clock shows a matching time, the second time as well."""
    assert ticks(Cron(expression, zone), after, len(expected)) == expected


def test_no_tick_twice_when_asked_from_within_the_repeated_hour() -> None:
    """After the second 02:10 the 02:30 of the first hour is over."""
    zone = ZoneInfo("Europe/Warsaw")
    after = ms(datetime(2030, 10, 27, 2, 10, tzinfo=zone, fold=1))
    [tick] = islice(Cron("30 2 * * *", "Europe/Warsaw").ticks_after(after), 1)
    assert from_ms(tick) == datetime(2030, 10, 28, 2, 30, tzinfo=zone)


ZONES = [
    "UTC",
    "Europe/Warsaw",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "America/Santiago",
    "Asia/Kathmandu",
]
FIELD = st.sampled_from(["*", "*/7", "*/15", "0", "30", "5,45", "10-20/3"])
HOUR = st.sampled_from(["*", "*/2", "0", "1", "2", "1-3", "23"])
DAY = st.sampled_from(["*", "1", "15,L", "*/9"])
WEEKDAY = st.sampled_from(["*", "MON-FRI", "SUN", "7"])
CRONS = st.builds(
    lambda minute, hour, day, weekday, zone: Cron(f"{minute} {hour} {day} * {weekday}", zone),
    FIELD,
    HOUR,
    DAY,
    WEEKDAY,
    st.sampled_from(ZONES),
)
# Around the nights on which clocks change, where things go wrong.
STARTS = st.one_of(
    st.integers(ms(datetime(2026, 1, 1, tzinfo=UTC)), ms(datetime(2031, 1, 1, tzinfo=UTC))),
    st.builds(
        lambda day, by: ms(day) + by,
        st.sampled_from(
            [
                datetime(2030, 3, 31, tzinfo=UTC),
                datetime(2030, 10, 27, tzinfo=UTC),
                datetime(2030, 11, 3, tzinfo=UTC),
                datetime(2030, 4, 6, 12, tzinfo=UTC),
                datetime(2030, 10, 5, 12, tzinfo=UTC),
                datetime(2026, 2, 15, tzinfo=UTC),
                datetime(2026, 3, 22, tzinfo=UTC),
                datetime(2030, 9, 8, tzinfo=UTC),
            ]
        ),
        st.integers(0, 8 * 3_600_000),
    ),
)


@given(cron=CRONS, start=STARTS)
@settings(max_examples=150, deadline=None)
@example(cron=Cron("45 * * * *", "Australia/Lord_Howe"), start=ms(datetime(2030, 4, 6, 14, 46, tzinfo=UTC)))
def test_ticks_increase_and_are_those_of_each_step(cron: Cron, start: int) -> None:
    """Strictly later each time, and asking again after each tick gives the same ticks as asking once."""
    found = list(islice(cron.ticks_after(start), 12))
    assert all(before < after for before, after in pairwise([start, *found]))
    stepwise = [start]
    for _ in found:
        stepwise.append(next(cron.ticks_after(stepwise[-1])))
    assert stepwise[1:] == found


def minutes_shown(cron: Cron, start: int, hours: int) -> list[int]:
    """Look at the clock every minute, and give the moments at which it shows a matching time."""
    zone = ZoneInfo(cron.timezone)
    fields = cron.expression.split()
    plain = Cron(" ".join(fields))
    first = start // 60_000 + 1
    shown = []
    for minute in range(first, first + hours * 60):
        label = from_ms(minute * 60_000).astimezone(zone).replace(tzinfo=UTC)
        if next(plain.ticks_after(ms(label) - 1)) == ms(label):
            shown.append(minute * 60_000)
    return shown


@given(hour=HOUR, zone=st.sampled_from(ZONES), start=STARTS)
@settings(max_examples=25, deadline=None)
def test_what_follows_the_clock_matches_it_minute_by_minute(hour: str, zone: str, start: int) -> None:
    """None too many and none too few, against a clock that is looked at every minute."""
    cron = Cron(f"*/15 {hour} * * *", zone)
    shown = minutes_shown(cron, start, 6)
    assert list(islice(cron.ticks_after(start), len(shown))) == shown


@given(zone=st.sampled_from(ZONES), start=STARTS)
@settings(max_examples=50, deadline=None)
def test_fixed_time_fires_once_on_every_day(zone: str, start: int) -> None:
    """On the very day in the zone, also on the days of 23, 24.5 and 25 hours."""
    found = list(islice(Cron("30 2 * * *", zone).ticks_after(start), 5))
    days = [from_ms(tick).astimezone(ZoneInfo(zone)).date() for tick in found]
    assert all(after - before == timedelta(days=1) for before, after in pairwise(days))


def test_equal_meaning_is_written_equally() -> None:
    """Blanks do not count; an offset counts within the interval."""
    assert Cron(" 0  0 * * * ").expression == "0 0 * * *"
    hour = timedelta(hours=1)
    assert Every(hour, offset=timedelta(minutes=125)) == Every(hour, offset=timedelta(minutes=5))


def test_cron_ends_with_the_calendar() -> None:
    """No overflow, no endless search."""
    assert list(Cron("0 0 1 1 *", "Pacific/Kiritimati").ticks_after(2**53)) == []
    assert len(list(Cron("0 0 1 1 *").ticks_after(ms(datetime(9990, 6, 1, tzinfo=UTC))))) == 8


@given(st.integers(1_000, 10**9), st.integers(0, 10**9), st.integers(0, 2 * 10**12))
def test_every_is_aligned_to_the_epoch(interval_ms: int, offset_ms: int, start: int) -> None:
    """All workers agree, whenever they began."""
    every = Every(timedelta(milliseconds=interval_ms), offset=timedelta(milliseconds=offset_ms))
    found = list(islice(every.ticks_after(start), 3))
    assert 0 < found[0] - start <= interval_ms
    assert all((tick - offset_ms) % interval_ms == 0 for tick in found)
    assert all(after - before == interval_ms for before, after in pairwise(found))


@pytest.mark.parametrize(
    ("interval", "offset", "argument"),
    [
        (timedelta(milliseconds=999), timedelta(0), "interval"),
        (timedelta(seconds=-5), timedelta(0), "interval"),
        (timedelta.max, timedelta(0), "interval"),
        (timedelta(seconds=1, microseconds=1), timedelta(0), "interval"),
        (60, timedelta(0), "interval"),
        (timedelta(seconds=5), timedelta(seconds=-1), "offset"),
    ],
)
def test_wrong_interval_is_refused(interval: Any, offset: timedelta, argument: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{argument}: "):
        Every(interval, offset=offset)
