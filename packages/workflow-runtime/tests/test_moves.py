"""The next move of a driver: each case of `next_move`, and which of two cases goes first."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from workflow_runtime.engine.moves import Move, StepWork, next_move

RUNNING, STARTABLE = StepWork.RUNNING, StepWork.STARTABLE


class Facts(NamedTuple):
    """A `DriveState` in which nothing has happened, unless a test says so."""

    broken: bool = False
    lease_lost: bool = False
    called_from_thread: bool = False
    draft_full: bool = False
    draft_empty: bool = True
    transaction_open: bool = False
    handler_ended: bool = False
    step_ended: bool = False
    step_work: StepWork = StepWork.NONE
    budget_low: bool = False
    stopping: bool = False
    can_wake: bool = False


CASES: list[tuple[str, dict[str, Any], Move]] = [
    ("1 broken", {"broken": True}, Move.RAISE),
    ("2 lease lost", {"lease_lost": True}, Move.LEAVE),
    ("3 called from a thread", {"called_from_thread": True}, Move.REFUSE_THREAD),
    ("4 draft full", {"draft_full": True, "draft_empty": False}, Move.WRITE),
    ("5 handler ended", {"handler_ended": True}, Move.END_RUN),
    ("6 step ended", {"step_ended": True}, Move.SETTLE),
    ("7 step runs", {"step_work": RUNNING, "can_wake": True}, Move.WORK),
    ("8 budget low, draft to write", {"budget_low": True, "draft_empty": False}, Move.WORK),
    ("8 budget low, all written", {"budget_low": True}, Move.RELEASE),
    ("9 step startable", {"step_work": STARTABLE, "can_wake": True}, Move.WORK),
    ("9 step startable, stopping", {"step_work": STARTABLE, "can_wake": True, "stopping": True}, Move.RELEASE),
    ("10 something can wake it", {"can_wake": True}, Move.PAUSE),
    ("11 nothing can wake it", {}, Move.REFUSE_DEADLOCK),
]


@pytest.mark.parametrize(("facts", "move"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_case_alone_decides(facts: dict[str, Any], move: Move) -> None:
    """The facts of one case, and nothing else."""
    assert next_move(Facts(**facts)) is move


@pytest.mark.parametrize("first", range(7), ids=lambda index: CASES[index][0])
def test_an_earlier_case_goes_before_all_later_ones(first: int) -> None:
    """The facts of the first seven cases do not exclude each other: whatever comes later changes nothing."""
    _, facts, move = CASES[first]
    for _, later, _ in CASES[first + 1 :]:
        both = later | facts
        if first == 5 and both.get("draft_full"):
            continue
        assert next_move(Facts(**both)) is move, later


@pytest.mark.parametrize(
    ("facts", "move"),
    [
        # 4: an open transaction takes the draft along, and the driver waits for it.
        ({"draft_full": True, "transaction_open": True, "step_work": RUNNING}, Move.WORK),
        ({"draft_full": True, "transaction_open": True, "handler_ended": True}, Move.END_RUN),
        # 6: what has ended finds no room in a full draft. Settling again and again would never let go of the loop.
        ({"draft_full": True, "transaction_open": True, "step_ended": True, "step_work": RUNNING}, Move.WORK),
        # 7: a step that runs is waited for, whatever keeps new ones from starting.
        ({"budget_low": True, "step_work": RUNNING}, Move.WORK),
        ({"budget_low": True, "draft_empty": False, "step_work": RUNNING}, Move.WORK),
        ({"stopping": True, "step_work": RUNNING}, Move.WORK),
        # 8: with a low budget the run is handed over, not paused or ended, though a step waits to be started.
        ({"budget_low": True, "step_work": STARTABLE}, Move.RELEASE),
        ({"budget_low": True, "can_wake": True}, Move.RELEASE),
        ({"budget_low": True, "draft_empty": False, "can_wake": True}, Move.WORK),
        # 9: a step that could start keeps the run from being paused.
        ({"step_work": STARTABLE, "draft_empty": False}, Move.WORK),
        ({"step_work": STARTABLE, "draft_empty": False, "stopping": True}, Move.RELEASE),
        # 10 and 11: a driver that stops has nothing to hand over where there is nothing to do.
        ({"can_wake": True, "stopping": True}, Move.PAUSE),
        ({"can_wake": True, "draft_empty": False}, Move.PAUSE),
        ({"stopping": True}, Move.REFUSE_DEADLOCK),
    ],
)
def test_facts_together_decide(facts: dict[str, Any], move: Move) -> None:
    """Where facts of several cases are true, and the order alone does not tell."""
    assert next_move(Facts(**facts)) is move
