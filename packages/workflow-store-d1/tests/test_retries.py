"""Pauses between the attempts of a call, and the errors that end them."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from workflow_runtime.errors import InvalidArgumentError
from workflow_store_d1 import D1DatabaseError
from workflow_store_d1.retries import Retries, is_unknown, was_not_done

OVERLOADED: dict[str, Any] = {"unavailable": True}
LOST: dict[str, Any] = {"unavailable": True, "outcome_unknown": True}


class Waits:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Call:
    """Fails as it is told, then answers."""

    def __init__(self, failures: Iterable[D1DatabaseError]) -> None:
        self._failures = list(failures)
        self.made = 0

    async def __call__(self) -> str:
        self.made += 1
        if self._failures:
            raise self._failures.pop(0)
        return "done"


def patient(waits: Waits, part: float = 1.0, attempts: int = 5) -> Retries:
    return Retries(
        attempts=attempts,
        first_wait=timedelta(seconds=1),
        longest_wait=timedelta(seconds=3),
        sleep=waits.sleep,
        random=lambda: part,
    )


@pytest.mark.parametrize(("part", "expected"), [(1.0, [1, 2, 3, 3]), (0.5, [0.5, 1, 1.5, 1.5]), (0.0, [0, 0, 0, 0])])
async def test_waits_are_a_random_part_of_a_bound_that_doubles(part: float, expected: list[float]) -> None:
    waits, call = Waits(), Call(D1DatabaseError("busy", **OVERLOADED) for _ in range(4))
    assert await patient(waits, part).run(call, was_not_done) == "done"
    assert (waits.seconds, call.made) == (expected, 5)


async def test_last_error_is_raised_without_a_wait() -> None:
    waits, call = Waits(), Call(D1DatabaseError(f"busy {number}", **OVERLOADED) for number in range(9))
    with pytest.raises(D1DatabaseError, match="busy 2"):
        await patient(waits, attempts=3).run(call, was_not_done)
    assert (waits.seconds, call.made) == ([1, 2], 3)


@pytest.mark.parametrize(("told", "waited"), [(7, 7.5), (3_600, 60.5)])
async def test_database_is_left_alone_as_it_asks(told: int, waited: float) -> None:
    """A told wait is kept, up to a minute, and the jitter goes on top."""
    waits = Waits()
    call = Call([D1DatabaseError("later", unavailable=True, retry_after=timedelta(seconds=told))])
    assert await patient(waits, 0.5).run(call, was_not_done) == "done"
    assert waits.seconds == [waited]


@pytest.mark.parametrize(
    ("error", "by_database", "by_store"),
    [
        (D1DatabaseError("no such table"), False, False),
        (D1DatabaseError("busy", **OVERLOADED), True, False),
        (D1DatabaseError("lost", **LOST), False, True),
    ],
)
async def test_who_repeats_what(error: D1DatabaseError, by_database: bool, by_store: bool) -> None:
    assert (was_not_done(error), is_unknown(error)) == (by_database, by_store)
    for may_repeat, repeated in ((was_not_done, by_database), (is_unknown, by_store)):
        waits, call = Waits(), Call([error])
        if repeated:
            assert await patient(waits).run(call, may_repeat) == "done"
        else:
            with pytest.raises(D1DatabaseError):
                await patient(waits).run(call, may_repeat)
        assert len(waits.seconds) == int(repeated)


async def test_one_unknown_outcome_makes_the_whole_unknown() -> None:
    call = Call([D1DatabaseError("lost", **LOST), D1DatabaseError("busy", **OVERLOADED)])
    with pytest.raises(D1DatabaseError, match="busy") as failed:
        await patient(Waits()).run(call, is_unknown)
    assert failed.value.outcome_unknown


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": -1},
        {"first_wait": timedelta(seconds=-1)},
        {"longest_wait": timedelta(seconds=-1)},
        {"longest_told_wait": timedelta(seconds=-1)},
    ],
)
def test_unusable_numbers(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        Retries(**wrong)
    assert refused.value.argument == next(iter(wrong))
