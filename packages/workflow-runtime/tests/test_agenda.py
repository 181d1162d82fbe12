"""When each source of work is asked, what wakes a worker, and when its free places are worth a claim."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from workflow_runtime import places as places_module
from workflow_runtime.agenda import Agenda, Polling
from workflow_runtime.engine.driver import Driver
from workflow_runtime.places import Places
from workflow_runtime.sources import SOURCES, Answer, Source
from workflow_runtime.store import ClaimBatch
from workflow_runtime.sweep import Claims
from workflow_runtime.wake_up import News, WakeUp

NOW = 1_000_000
LEASE_MS = 10_000
IDLE_MS, AGAIN_MS = 30_000, 1_000


class Listening:
    def __init__(self, live: bool) -> None:
        self.live = live


def agenda_of(*, live: bool = True, **answers: Answer) -> Agenda:
    """An agenda whose sources have been asked just now, and have nothing unless it says otherwise."""
    agenda = Agenda(Polling(None, Listening(live)), lease_ms=LEASE_MS)
    nothing: dict[Source, Answer] = {source: Answer(next_due_ms=None) for source in SOURCES}
    agenda.answered(nothing | cast("dict[Source, Answer]", answers), [], NOW)
    return agenda


def told_of(*run_ids: str) -> News:
    return News(run_ids=set(run_ids))


# The agenda.


def test_everybody_is_asked_first() -> None:
    assert Agenda(Polling(None, Listening(True)), lease_ms=LEASE_MS).due(0, room=True) == list(SOURCES)


@pytest.mark.parametrize(
    ("answer", "asked_again_ms"),
    [
        (Answer(next_due_ms=None), IDLE_MS),
        (Answer(next_due_ms=NOW + 5_000), 5_000),
        (Answer(next_due_ms=NOW + 90_000), IDLE_MS),
        (Answer(next_due_ms=NOW, found=True), 0),
        (Answer(next_due_ms=NOW - 9, found=False), AGAIN_MS),
        (Answer(next_due_ms=None, failed=True), AGAIN_MS),
        (Answer(next_due_ms=NOW + 5_000, found=True), 5_000),
    ],
)
@pytest.mark.parametrize("source", SOURCES)
def test_source_is_asked_again_when_it_may_have_something(source: Source, answer: Answer, asked_again_ms: int) -> None:
    """When its next item is due, when it had more, a little later when others hold it, and as an idle worker polls."""
    if source == "ticks" and answer.found:
        asked_again_ms = 0  # another tick of the same schedule may be behind the one that was fired
    agenda = agenda_of(**cast("dict[str, Any]", {source: answer}))
    assert agenda.next_ms(room=True) == NOW + asked_again_ms
    assert source not in agenda.due(NOW + asked_again_ms - 1, room=True)
    assert source in agenda.due(NOW + asked_again_ms, room=True)


def test_without_notices_everybody_is_asked_each_second() -> None:
    assert agenda_of(live=False).due(NOW + 1_000, room=True) == list(SOURCES)


def test_without_room_only_ticks_are_asked() -> None:
    agenda = agenda_of(pending=Answer(next_due_ms=NOW, found=True), ticks=Answer(next_due_ms=NOW + 7))
    assert agenda.due(NOW, room=False) == []
    assert agenda.next_ms(room=False) == NOW + 7
    assert agenda.due(NOW + 7, room=False) == ["ticks"]


def test_free_place_is_for_those_that_had_more() -> None:
    """Also for a source that others held a moment ago. What is due later keeps its time."""
    agenda = agenda_of(pending=Answer(next_due_ms=NOW), timers=Answer(next_due_ms=NOW + 50))
    agenda.heed_free_place()
    assert agenda.due(NOW, room=True) == ["pending"]
    assert agenda.due(NOW + 50, room=True) == ["timers", "pending"]


@pytest.mark.parametrize(("live", "asked"), [(True, []), (False, ["pending"])])
def test_free_place_is_a_look_at_the_queue_while_nobody_tells(live: bool, asked: list[str]) -> None:
    agenda = agenda_of(live=live)
    agenda.heed_free_place()
    assert agenda.due(NOW, room=True) == asked


def test_news_never_delay_a_look() -> None:
    agenda = agenda_of(timers=Answer(next_due_ms=NOW + 10))
    agenda.heed(News(due_ms={"timers": NOW + 20_000, "ticks": 0}))
    assert agenda.due(NOW + 10, room=True) == ["ticks", "timers"]


def test_notice_is_looked_for_among_the_queued_and_then_among_the_sleeping() -> None:
    agenda = agenda_of()
    agenda.heed(told_of("run"))
    assert agenda.due(NOW, room=True) == ["pending"]
    agenda.answered({"pending": Answer(next_due_ms=None)}, [], NOW)
    assert agenda.due(NOW, room=True) == ["timers"]
    agenda.answered({"timers": Answer(next_due_ms=None)}, [], NOW)
    assert agenda.due(NOW, room=True) == []


def test_notice_of_a_run_that_was_claimed_is_done_with() -> None:
    agenda = agenda_of()
    agenda.heed(told_of("run"))
    agenda.answered({"pending": Answer(next_due_ms=None, found=True)}, ["run"], NOW)
    assert agenda.due(NOW, room=True) == []


def test_notice_is_kept_until_there_is_room() -> None:
    """What was claimed from elsewhere meanwhile does not answer it."""
    agenda = agenda_of()
    agenda.heed(told_of("run"))
    agenda.answered({"ticks": Answer(next_due_ms=None)}, [], NOW)
    assert agenda.due(NOW, room=True) == ["pending"]
    agenda.answered({"pending": Answer(next_due_ms=None, found=True)}, ["other"], NOW)
    assert agenda.due(NOW, room=True) == ["timers"]


def test_notices_that_nobody_has_room_for_do_not_pile_up() -> None:
    agenda = agenda_of()
    for first in range(0, 1_000, 50):
        agenda.heed(told_of(*(f"run-{number}" for number in range(first, first + 50))))
        assert len(agenda._told) <= 100
    assert agenda.due(NOW, room=True) == ["timers", "pending"]


@pytest.mark.parametrize(("told", "claimed"), [("taken", []), (None, ["mine"])])
def test_where_there_is_work_the_leases_of_others_are_watched(told: str | None, claimed: list[str]) -> None:
    """Once within a lease: whoever takes a run now, and dies, is seen before its lease is over."""
    agenda = agenda_of()
    agenda.heed(told_of(told) if told else News(due_ms={"pending": 0}))
    agenda.answered({"pending": Answer(next_due_ms=None), "timers": Answer(next_due_ms=None)}, claimed, NOW)
    agenda.answered({"pending": Answer(next_due_ms=None)}, ["another"], NOW + 5_000)
    assert agenda.due(NOW + LEASE_MS - 1, room=True) == []
    assert agenda.due(NOW + LEASE_MS, room=True) == ["stale"]


def test_time_that_was_waited_for_has_come_whatever_the_clock_says() -> None:
    """After a step back of the store's clock it stands still, for hours perhaps."""
    agenda = agenda_of()
    agenda.heed_time(agenda.next_ms(room=True))
    assert agenda.due(NOW, room=True) == list(SOURCES)


def test_what_is_known_is_told() -> None:
    agenda = agenda_of(ticks=Answer(next_due_ms=NOW + 1), stale=Answer(next_due_ms=NOW + 3))
    agenda.answered({"timers": Answer(next_due_ms=NOW + 2)}, [], NOW)
    assert (agenda.next_due_ms(), agenda.runs_due_ms()) == (NOW + 1, NOW + 2)
    assert (agenda_of().next_due_ms(), agenda_of().runs_due_ms()) == (None, None)


# The claims.


def batch(*run_ids: str, due_ms: int | None = NOW, dead: tuple[str, ...] = ()) -> ClaimBatch:
    return ClaimBatch(claims=cast("Any", run_ids), next_due_ms=due_ms, dead=dead)


def test_source_that_gave_its_share_and_then_nothing_has_given_something() -> None:
    """Others hold the rest at this moment, and the next look is at once."""
    claims = Claims()
    claims.add("pending", batch("run"))
    claims.add("pending", batch())
    claims.add("stale", batch(dead=("dead",)))
    claims.add("timers", batch(due_ms=NOW + 5))
    assert claims.runs == ["run"]
    assert claims.answers == {
        "pending": Answer(next_due_ms=NOW, found=True),
        "stale": Answer(next_due_ms=NOW, found=True),
        "timers": Answer(next_due_ms=NOW + 5),
    }


# The wake-up.


def test_only_notices_are_a_reason_to_let_others_go_first() -> None:
    wake_up = WakeUp()
    turns = (lambda: wake_up.look_for_run("run"), wake_up.take_a_turn, wake_up.take)
    assert [(turn(), wake_up.told) for turn in turns] == [(None, True), (None, False), (told_of("run"), False)]
    assert (wake_up.event.is_set(), wake_up.take()) == (False, News())


def test_earliest_time_that_was_told_of_counts() -> None:
    wake_up = WakeUp()
    for at_ms in (7, 5, 9):
        wake_up.look_for("timers", at_ms=at_ms)
    assert wake_up.take().due_ms == {"timers": 5}
    wake_up.look()
    assert wake_up.take().due_ms == dict.fromkeys(SOURCES, 0)


def test_of_very_many_notices_the_ids_are_not_kept() -> None:
    wake_up = WakeUp()
    for number in range(1_000):
        wake_up.look_for_run(f"run-{number}")
    news = wake_up.take()
    assert len(news.run_ids) == 100
    assert news.due_ms == {"pending": 0, "timers": 0}


# The places.


class Crowd:
    """Drives that a test begins, brings to their last write, and ends."""

    def __init__(self) -> None:
        self.overdue = asyncio.Event()
        self.places = Places(self.overdue.set)
        self.drivers: list[Any] = []
        self.tasks: list[asyncio.Task[None]] = []

    def begin(self, count: int) -> None:
        for _ in range(count):
            self.drivers.append(Driver.__new__(Driver))
            self.tasks.append(asyncio.create_task(asyncio.sleep(3_600)))
            self.places.take(self.drivers[-1], self.tasks[-1])
            self.drivers[-1].on_waiting(True)

    def bring_to_the_end(self, *numbers: int) -> None:
        for number in numbers:
            self.drivers[number].on_waiting(False)

    def end(self, *numbers: int) -> None:
        for number in numbers:
            self.places.leave(self.tasks[number])


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    crowd = Crowd()
    crowd.begin(16)
    yield crowd
    for task in crowd.tasks:
        task.cancel()


async def test_places_are_filled_together_while_more_waits(crowd: Crowd) -> None:
    """When the last of those that were about to end has ended."""
    crowd.places.looked(more_waits=True)
    crowd.bring_to_the_end(0, 1, 2)
    for number in (0, 1):
        crowd.end(number)
        assert crowd.places.to_fill(16) == 0
    crowd.end(2)
    assert crowd.places.to_fill(16) == 3


async def test_half_of_the_places_is_enough(crowd: Crowd) -> None:
    crowd.places.looked(more_waits=True)
    crowd.bring_to_the_end(*range(16))
    crowd.end(*range(7))
    assert crowd.places.to_fill(16) == 0
    crowd.end(7)
    assert crowd.places.to_fill(16) == 8


async def test_of_many_places_a_part_is_enough(crowd: Crowd) -> None:
    """The worker is to have something to do while the store looks for more."""
    crowd.begin(84)
    crowd.places.looked(more_waits=True)
    crowd.bring_to_the_end(*range(100))
    crowd.end(*range(15))
    assert crowd.places.to_fill(100) == 0
    crowd.end(15)
    assert crowd.places.to_fill(100) == 16


async def test_free_place_waits_for_those_that_have_just_begun(crowd: Crowd) -> None:
    """They may be at their ends in a moment. Once they are at a step nobody waits for them."""
    crowd.places.looked(more_waits=True)
    task = asyncio.create_task(asyncio.sleep(3_600))
    crowd.tasks.append(task)
    driver: Any = Driver.__new__(Driver)
    crowd.places.take(driver, task)
    crowd.end(0, 1)
    assert crowd.places.to_fill(16) == 0
    driver.on_waiting(True)
    assert crowd.places.to_fill(16) == 1


async def test_free_place_waits_for_nothing_that_takes_long(crowd: Crowd) -> None:
    """Nobody knows when a step ends."""
    crowd.places.looked(more_waits=True)
    crowd.end(0)
    assert crowd.places.to_fill(16) == 1


async def test_free_place_waits_for_nobody_where_nothing_more_is_known(crowd: Crowd) -> None:
    """What comes then is news, and somebody may wait for it."""
    crowd.places.looked(more_waits=False)
    crowd.bring_to_the_end(0, 1)
    crowd.end(0)
    assert crowd.places.to_fill(16) == 1


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_few_places_are_filled_one_by_one(most: int) -> None:
    crowd = Crowd()
    crowd.begin(most)
    crowd.places.looked(more_waits=True)
    crowd.bring_to_the_end(*range(most))
    assert crowd.places.to_fill(most) == 0
    crowd.end(0)
    assert crowd.places.to_fill(most) == 1
    for task in crowd.tasks:
        task.cancel()


async def test_free_place_does_not_wait_for_a_write_that_hangs(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is silent for seconds costs the other places none. After the next look they may gather again."""
    monkeypatch.setattr(places_module, "_LONGEST_GATHERING_S", 0.001)
    crowd.places.looked(more_waits=True)
    crowd.bring_to_the_end(0, 1)
    crowd.end(0)
    assert crowd.places.to_fill(16) == 0
    await asyncio.wait_for(crowd.overdue.wait(), 5)
    assert crowd.places.to_fill(16) == 1
    crowd.places.looked(more_waits=True)
    assert crowd.places.to_fill(16) == 0


async def test_while_writes_fail_no_more_than_one_is_driven(crowd: Crowd) -> None:
    crowd.places.looked(more_waits=True)
    crowd.bring_to_the_end(0)
    assert crowd.places.to_fill(1) == 0
    crowd.end(*range(16))
    assert crowd.places.to_fill(1) == 1


async def test_nothing_is_called_when_all_is_over(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places_module, "_LONGEST_GATHERING_S", 0.001)
    crowd.places.looked(more_waits=True)
    crowd.bring_to_the_end(0, 1)
    crowd.end(0)
    assert crowd.places.to_fill(16) == 0
    crowd.places.looked(more_waits=False)
    await asyncio.sleep(0.01)
    assert not crowd.overdue.is_set()
