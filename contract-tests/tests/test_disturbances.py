"""Calls that are disturbed at their statements, where the harness lets the kit do it."""

import asyncio
import json
from typing import Any

import pytest
from memory_mutants_disturbances import Connected, connected_harness
from mutant_catalogue import NOT_APPLICABLE, memory_harness
from workflow_contract_tests import Statements, StoreHarness, catalogue, certify
from workflow_runtime.store import StoreUnavailableError
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore

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


def test_hook_that_no_statement_passes_is_refused() -> None:
    """A harness that gives `statements` and sends nothing through it would pass without a single point."""
    report = certify(_unwired, _DISTURBED[:1])
    assert [result.outcome for result in report.results] == ["failed"]
    assert "sends no statement through the harness's `statements`" in (report.results[0].problem or "")


def _unwired() -> StoreHarness:
    data = InMemoryData()
    return StoreHarness(
        lambda: InMemoryWorkflowStore(data=data),
        contract_version="0.1",
        not_applicable=NOT_APPLICABLE,
        statements=Statements(),
    )


def test_store_that_polls_is_not_refused_for_the_number_of_its_statements() -> None:
    class Polling(Connected):
        """Asks for a lock until it has it, which takes longer each time."""

        asked = 0

        async def deliver_signal(self, **arguments: Any) -> Any:
            type(self).asked += 2
            try:
                for _ in range(self.asked):
                    await self.statements.send(_free)
            except ConnectionResetError as error:
                raise StoreUnavailableError("the connection broke") from error
            return await super().deliver_signal(**arguments)

    [case] = [case for case in _DISTURBED if case.name == "run_call_disturbed-deliver_signal"]
    report = certify(lambda: connected_harness(Polling), [case])
    assert [result.problem for result in report.results] == [None]


async def _free() -> bool:
    return False
