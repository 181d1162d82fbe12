from __future__ import annotations

import pytest
from audit_packages.planning import PAGE, make_plan, spread_kills, steps_of_audit


def test_the_steps_of_an_audit_are_counted() -> None:
    assert steps_of_audit(9, 4) == 1 + 3 + 2
    assert steps_of_audit(PAGE + 1, 1) == 2 + (PAGE + 1) + 2


@pytest.mark.parametrize("file_counts", [[1], [480, 20, 10], [5] * 40, [3000, 800], [200_000]])
def test_a_plan_makes_enough_steps_and_not_many_more(file_counts: list[int]) -> None:
    plan = make_plan(file_counts, 600)
    assert plan.steps == plan.copies * sum(steps_of_audit(files, plan.chunk) for files in file_counts) + 1
    assert plan.steps >= 600
    assert plan.copies == 1 or plan.steps < 1_250


def test_given_copies_are_kept_or_refused() -> None:
    assert make_plan([300], 600, copies=3).copies == 3
    with pytest.raises(ValueError, match="1 copies of these files make fewer than 600 steps"):
        make_plan([300], 600, copies=1)
    with pytest.raises(ValueError, match="no distribution"):
        make_plan([], 600)


def test_kills_are_spread_evenly_and_before_the_end() -> None:
    assert spread_kills(600, 5) == (200, 400, 600, 800, 1000)
