"""The tables of calls that meet in races are whole, and true."""

from typing import Any

import pytest
from mutant_catalogue import memory_harness
from workflow_contract_tests.calls import Call
from workflow_contract_tests.orders import Arena
from workflow_contract_tests.run_calls import RUN_CALLS, RUN_STATES
from workflow_contract_tests.run_states import run_arena
from workflow_contract_tests.schedule_calls import SCHEDULE_CALLS, SCHEDULE_STATES
from workflow_contract_tests.schedule_states import schedule_arena
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
