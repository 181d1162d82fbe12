"""The checker of histories: which it explains, which it does not, and what it says of these."""

import random
from typing import Any

import pytest
from mutant_catalogue import memory_harness
from workflow_contract_tests.races import linearizability
from workflow_contract_tests.races.histories import Wanderer
from workflow_contract_tests.races.linearizability import Operation, SearchTooWideError, unexplained
from workflow_contract_tests.scenarios import create
from workflow_contract_tests.tasks import all_of
from workflow_store_memory import InMemoryWorkflowStore


def call(began: int, ended: int, verb: str, *answer: Any, **arguments: Any) -> Operation:
    return Operation(worker="w", verb=verb, arguments=arguments, answer=answer, began=began, ended=ended)


def claim(began: int, ended: int, *answer: Any, now_ms: int = 0) -> Operation:
    return call(began, ended, "claim", *answer, now_ms=now_ms, lease_ms=10)


def append(began: int, ended: int, *answer: Any, lease: int = 1, expected: int = 0) -> Operation:
    return call(began, ended, "append", *answer, lease=lease, expected=expected, now_ms=0, lease_ms=10)


def deliver(began: int, ended: int, *answer: Any, signal_id: str = "s") -> Operation:
    return call(began, ended, "deliver", *answer, signal_id=signal_id)


GOOD = {
    "nothing": [],
    "one after the other": [claim(1, 2, "claimed", 1, 0, 0), append(3, 4, "appended", 1, 0, False)],
    "the later call was the first": [claim(1, 9, "not-claimable", "running"), claim(2, 3, "claimed", 1, 0, 0)],
    "a delivery seen before it was answered": [
        deliver(1, 9, "buffered", 1),
        call(2, 3, "look", "queued", 0, 1, False),
    ],
    "two signals in the order of their numbers": [
        deliver(1, 9, "buffered", 2, signal_id="a"),
        deliver(2, 8, "buffered", 1, signal_id="b"),
        deliver(10, 11, "duplicate", 2, signal_id="a"),
    ],
    "a thief fences the holder off": [
        claim(1, 2, "claimed", 1, 0, 0),
        append(3, 9, "lease-lost"),
        claim(4, 8, "claimed", 2, 0, 0, now_ms=10),
    ],
    "a pause and a delivery at once": [
        claim(1, 2, "claimed", 1, 0, 0),
        call(3, 9, "pause", "queued", 1, lease=1, expected=0, seen=0),
        deliver(4, 8, "buffered", 1),
    ],
}

BAD = {
    "two hold one lease": [claim(1, 9, "claimed", 1, 0, 0), claim(2, 8, "claimed", 1, 0, 0)],
    "two hold one run": [claim(1, 9, "claimed", 1, 0, 0), claim(2, 8, "claimed", 2, 0, 0)],
    "an answered delivery is not seen": [deliver(1, 2, "buffered", 1), call(3, 4, "look", "queued", 0, 0, False)],
    "a signal counts twice": [deliver(1, 9, "buffered", 1), deliver(2, 8, "buffered", 2)],
    "a number is left out": [deliver(1, 2, "buffered", 2)],
    "one index is written twice": [
        claim(1, 2, "claimed", 1, 0, 0),
        append(3, 9, "appended", 1, 0, False),
        append(4, 8, "appended", 1, 0, False),
    ],
    "a look goes back in time": [
        deliver(1, 20, "buffered", 1),
        call(2, 3, "look", "queued", 0, 1, False),
        call(4, 5, "look", "queued", 0, 0, False),
    ],
    "a pause misses a delivery": [
        claim(1, 2, "claimed", 1, 0, 0),
        call(3, 9, "pause", "paused", 1, lease=1, expected=0, seen=0),
        deliver(4, 8, "buffered", 1),
    ],
    "the thief and the holder both write": [
        claim(1, 2, "claimed", 1, 0, 0),
        claim(3, 4, "claimed", 2, 0, 0, now_ms=10),
        append(5, 6, "appended", 1, 0, False),
    ],
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_history_with_an_order_is_explained(history: list[Operation]) -> None:
    assert unexplained(history) is None
    assert unexplained(history[::-1]) is None


@pytest.mark.parametrize("history", BAD.values(), ids=BAD)
def test_history_without_an_order_is_not_explained(history: list[Operation]) -> None:
    assert unexplained(history) is not None


def test_complaint_shows_the_end_only() -> None:
    start = [deliver(n, n, "buffered", n, signal_id=f"s{n}") for n in range(1, 100)]
    problem = unexplained(
        [*start, call(200, 202, "look", "queued", 0, 98, False), claim(201, 202, "claimed", 1, 0, 99)]
    )
    assert problem is not None
    assert [line.strip() for line in problem.splitlines() if "->" in line] == [
        "w: claim(now_ms=0, lease_ms=10) -> ('claimed', 1, 0, 99)",
        "w: look() -> ('queued', 0, 98, False)",
    ]


def test_search_that_is_too_wide_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linearizability, "_MAX_PLACES", 1_000)
    with pytest.raises(SearchTooWideError, match="20 calls"):
        unexplained([call(0, 9, "look", "queued", 0, 0, False) for _ in range(20)])


async def test_wanderers_do_everything_that_can_go_wrong() -> None:
    async with memory_harness(InMemoryWorkflowStore) as h:
        run_ids = [(await create(h)).run_id for _ in range(3)]
        handles = await h.handles(4)
        workers = [Wanderer(f"w{n}", handle, h.now_ms, random.Random(n)) for n, handle in enumerate(handles)]
        await all_of(*(worker.wander(run_ids, 200) for worker in workers))
    told = {(one.verb, one.answer[0]) for worker in workers for calls in worker.history.values() for one in calls}
    assert told >= {
        ("claim", "claimed"), ("claim", "not-claimable"), ("append", "appended"), ("append", "lease-lost"),
        ("append", "conflict"), ("pause", "paused"), ("pause", "queued"), ("pause", "lease-lost"),
        ("release", "released"), ("release", "lease-lost"), ("deliver", "delivered"), ("deliver", "buffered"),
        ("deliver", "duplicate"), ("cancel", "requested"), ("cancel", "duplicate"),
    }  # fmt: skip
