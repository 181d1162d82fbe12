"""Calls that are disturbed at their statements, where the harness lets the kit do it."""

import asyncio
import json

import pytest
from memory_mutants_disturbances import Connected, connected_harness
from mutant_catalogue import memory_harness
from workflow_contract_tests import Statements, catalogue, certify
from workflow_store_memory import InMemoryWorkflowStore

_DISTURBED = [case for case in catalogue() if "call_disturbed" in case.name]


def test_every_verb_is_disturbed_at_each_statement_in_each_way() -> None:
    """A store of one statement for each verb: four points for each case, and the report counts them."""
    report = certify(lambda: connected_harness(Connected), _DISTURBED)
    assert [result for result in report.results if result.outcome != "passed"] == []
    assert {result.fault_points for result in report.results} == {4}
    assert report.facts()["fault points"] == f"{4 * len(_DISTURBED)}"
    assert json.loads(report.as_json())["results"][0]["fault_points"] == 4


def test_cases_do_not_apply_without_statements_and_ask_for_no_reason() -> None:
    report = certify(lambda: memory_harness(InMemoryWorkflowStore), _DISTURBED[:2])
    assert [result.outcome for result in report.results] == ["not-applicable"] * 2
    assert report.results[0].problem == "statements: the harness gives none, and need not"


async def test_statements_pass_when_nobody_disturbs_them() -> None:
    statements, sent = Statements(), list[str]()

    async def statement() -> str:
        sent.append("sent")
        return "answer"

    assert await statements.send(statement) == "answer"
    with statements.disturbed(2, "not sent") as passage:
        assert await statements.send(statement) == "answer"
        assert not passage.reached
        with pytest.raises(ConnectionResetError):
            await statements.send(statement)
    with statements.disturbed(1, "not answered"), pytest.raises(ConnectionResetError):
        await statements.send(statement)
    assert sent == ["sent"] * 3


async def test_statement_of_nobody_cancels_nobody() -> None:
    """A store may send something for itself, such as a notice, when its caller has the answer."""
    statements = Statements()

    async def answered() -> None:
        return None

    caller = asyncio.ensure_future(answered())
    await caller
    with statements.disturbed(1, "cancelled after") as passage:
        passage.caller = caller
        await statements.send(answered)
    assert passage.reached
    assert not passage.cancelled
