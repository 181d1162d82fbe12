"""The tables of calls that meet in races are whole, and true."""

from typing import Any

import pytest
from mutant_catalogue import memory_harness
from workflow_contract_tests.races.calls import Call
from workflow_contract_tests.races.meetings import all_meetings, sample_meetings
from workflow_contract_tests.races.orders import Allowed, Arena, Outcome
from workflow_contract_tests.races.run_calls import RUN_CALLS, RUN_STATES
from workflow_contract_tests.races.run_states import run_arena
from workflow_contract_tests.races.schedule_calls import SCHEDULE_CALLS, SCHEDULE_STATES
from workflow_contract_tests.races.schedule_states import schedule_arena
from workflow_contract_tests.settings import SCALE
from workflow_runtime.store import STATES, WorkflowExecutionStore
from workflow_store_memory import InMemoryWorkflowStore

READS = ("load_", "list_", "read_", "get_", "count_", "ensure_", "check_", "capabilities", "_")


def test_every_verb_that_changes_something_is_in_the_tables() -> None:
    verbs = {name for role in WorkflowExecutionStore.__mro__ for name in vars(role) if not name.startswith(READS)}
    assert {call.verb for call in RUN_CALLS} | {call.verb for call in SCHEDULE_CALLS} == verbs


@pytest.mark.parametrize("calls", [RUN_CALLS, SCHEDULE_CALLS], ids=["runs", "schedules"])
def test_calls_are_named_after_their_verbs(calls: tuple[Call[Any], ...]) -> None:
    assert all(call.name.partition("-")[0] == call.verb for call in calls)
    assert len({call.name for call in calls}) == len(calls)


def test_runs_meet_in_every_status() -> None:
    assert set(STATES) < set(RUN_STATES)


async def changes(arena: Arena[Any], call: Call[Any]) -> bool:
    alone = await arena.in_order([call], [0])
    return alone.left != (await arena.in_order([call], [])).left


@pytest.mark.parametrize("state", RUN_STATES)
async def test_calls_change_a_run_in_the_states_that_the_table_says(state: str) -> None:
    async with memory_harness(InMemoryWorkflowStore) as h:
        found = {call.name for call in RUN_CALLS if await changes(run_arena(h, state), call)}
    assert found == {call.name for call in RUN_CALLS if state in call.next_states}


@pytest.mark.parametrize("state", SCHEDULE_STATES)
async def test_calls_change_a_schedule_in_the_states_that_the_table_says(state: str) -> None:
    async with memory_harness(InMemoryWorkflowStore) as h:
        found = {call.name for call in SCHEDULE_CALLS if await changes(schedule_arena(h, state), call)}
    assert found == {call.name for call in SCHEDULE_CALLS if state in call.next_states}


async def test_claim_of_several_may_pass_over_what_is_being_written() -> None:
    named = {call.name: call for call in RUN_CALLS}
    calls = [named["claim_pending_runs"], named["deliver_signal"]]
    nothing = "ClaimBatch(claims=(), next_due_ms=None, corrupt=(), dead=())"
    async with memory_harness(InMemoryWorkflowStore) as h:
        arena = run_arena(h, "queued")
        allowed = Allowed(arena, calls)
        await allowed.try_orders()
        delivered = await arena.in_order(calls, [1])
        await allowed.check(Outcome(answers=(nothing, delivered.answers[1]), left=delivered.left))
        claimed = await arena.in_order(calls, [0, 1])
        with pytest.raises(AssertionError, match="claim_pending_runs and deliver_signal at once"):
            await allowed.check(Outcome(answers=(nothing, claimed.answers[1]), left=claimed.left))


def test_sample_takes_some_meeting_of_each_call_and_every_one_that_only_one_wins() -> None:
    meetings = all_meetings(RUN_CALLS, RUN_STATES)
    taken = sample_meetings(meetings)
    assert list(taken) == [call.name for call in RUN_CALLS]
    assert all(taken.values())
    if SCALE >= 1:
        won = {str(meeting) for meeting in meetings if meeting.kind == "one wins"}
        assert won <= {str(meeting) for own in taken.values() for meeting in own}
