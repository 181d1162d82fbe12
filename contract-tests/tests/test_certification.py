"""Running cases without pytest: outcomes, reports, the command."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from workflow_contract_tests import Case, CaseResult, HarnessError, Report, StoreHarness, catalogue, certify
from workflow_contract_tests import __main__ as command
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore


def _case(name: str = "LOG-1-append_is_a_compare_and_swap") -> Case:
    return next(case for case in catalogue() if case.id == name)


def _with_body(body: Any, **changes: Any) -> Case:
    return Case(**({"name": "made_up", "clauses": ("LOG-1",), "rule": "A rule.", "body": body} | changes))


def _harness(**overrides: Any) -> StoreHarness:
    data = InMemoryData()
    arguments = {"contract_version": "0.1", "not_applicable": {"processes": "one", "corrupt": "none"}} | overrides
    return StoreHarness(lambda: InMemoryWorkflowStore(data=data), **arguments)


def test_part_of_the_catalogue_certifies_nothing() -> None:
    report = certify(_harness, [_case()])
    assert [result.outcome for result in report.results] == ["passed"]
    assert not report.certified


def test_empty_run_certifies_nothing() -> None:
    assert not certify(_harness, []).certified


def test_failure_is_reported_with_its_place() -> None:
    async def fails(harness: StoreHarness) -> None:
        raise AssertionError("one is not two")

    report = certify(_harness, [_with_body(fails)])
    (result,) = report.results
    assert result.outcome == "failed"
    assert "one is not two" in (result.problem or "")
    assert report.failed_clauses() == ("LOG-1",)
    assert "## Failed" in report.as_markdown()


def test_missing_need_is_not_run_and_not_certified() -> None:
    needy = _with_body(_case().body, needs=("processes",))
    report = certify(lambda: _harness(not_applicable={"corrupt": "none"}), [needy])
    assert [result.outcome for result in report.results] == ["not-run"]
    assert "gives no 'processes'" in (report.results[0].problem or "")
    assert report.failed_clauses() == ("LOG-1",)


def test_declared_need_is_not_applicable_and_shown() -> None:
    needy = _with_body(_case().body, needs=("processes",))
    report = certify(_harness, [needy])
    assert [result.outcome for result in report.results] == ["not-applicable"]
    assert "processes: one" in report.as_markdown()


def test_report_as_json() -> None:
    document = json.loads(certify(_harness, [_case()]).as_json())
    assert document["certified"] is False
    assert document["contract_version"] == "0.1"
    assert document["results"][0]["id"] == "LOG-1-append_is_a_compare_and_swap"


def test_store_that_hangs_fails() -> None:
    async def hangs(harness: StoreHarness) -> None:
        await asyncio.Event().wait()

    (result,) = certify(_harness, [_with_body(hangs)], timeout_s=0.05).results
    assert result.outcome == "failed"
    assert "no end after" in (result.problem or "")


def test_handles_are_closed_also_after_a_failure() -> None:
    closed: list[int] = []

    class Closing(InMemoryWorkflowStore):
        async def close(self) -> None:
            closed.append(1)

    async def fails(harness: StoreHarness) -> None:
        await harness.handles(3)
        raise AssertionError("no")

    data = InMemoryData()
    certify(lambda: StoreHarness(lambda: Closing(data=data), contract_version="0.1"), [_with_body(fails)])
    assert len(closed) == 3


async def test_reopening_closes_every_handle_before_it_opens_one() -> None:
    steps: list[str] = []

    class Noting(InMemoryWorkflowStore):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            steps.append("open")

        async def close(self) -> None:
            steps.append("close")

    data = InMemoryData()
    async with StoreHarness(lambda: Noting(data=data), contract_version="0.1") as harness:
        await harness.handles(3)
        before = harness.store
        await harness.reopen()
        assert harness.store is not before
    assert steps == [*["open"] * 3, *["close"] * 3, *["open"] * 3, *["close"] * 3]


@contextlib.contextmanager
def _plain_manager() -> Iterator[StoreHarness]:
    yield _harness()


@contextlib.asynccontextmanager
async def _async_manager() -> AsyncIterator[StoreHarness]:
    yield _harness()


async def _coroutine() -> StoreHarness:
    return _harness()


@pytest.mark.parametrize("factory", [_harness, _plain_manager, _async_manager, _coroutine])
def test_harness_factories_of_every_kind(factory: Any) -> None:
    assert certify(factory, [_case()]).of("passed")


def test_harness_factory_that_gives_something_else() -> None:
    with pytest.raises(HarnessError, match="gave int"):
        certify(lambda: 7, [_case()])


def test_one_object_for_all_handles_is_refused() -> None:
    store = InMemoryWorkflowStore()
    with pytest.raises(HarnessError, match="same object twice"):
        certify(lambda: StoreHarness(lambda: store, contract_version="0.1"), [_case()])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contract_version": "9.9"}, "keeps contract '9.9'"),
        ({"not_applicable": {"speed": "slow"}}, "names 'speed'"),
        ({"not_applicable": {"processes": " "}}, "must say why"),
        ({"process_factory": "a:b", "not_applicable": {"processes": "no"}}, "given and declared not applicable"),
    ],
)
def test_harness_put_together_wrongly(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        _harness(**arguments)


def _run_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workflow_contract_tests", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=folder)


_FACTORY = """
from workflow_contract_tests import StoreHarness
from workflow_runtime.store import StoreCapabilities
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore

REASONS = {"processes": "one process", "corrupt": "nothing to damage"}

class Plain(InMemoryWorkflowStore):
    # What is optional takes most of the time.
    capabilities = StoreCapabilities(max_payload_bytes=2_000_000, durable=False)

def harness():
    data = InMemoryData()
    return StoreHarness(lambda: Plain(data=data), contract_version="0.1", not_applicable=REASONS)
"""


@dataclass(frozen=True)
class Commanded:
    """Reports of the command for a store without anything optional."""

    process: subprocess.CompletedProcess[str]
    document: dict[str, Any]
    markdown: str

    @property
    def report(self) -> Report:
        facts = {name: self.document[name] for name in Report.__slots__}
        results = [CaseResult(**result | {"clauses": tuple(result["clauses"])}) for result in facts["results"]]
        return Report(**facts | {"results": tuple(results)})


@pytest.fixture(scope="module")
def commanded(tmp_path_factory: pytest.TempPathFactory) -> Commanded:
    """The command goes through the whole catalogue once, for all tests that need this."""
    folder = tmp_path_factory.mktemp("commanded")
    (folder / "mine.py").write_text(_FACTORY)
    process = _run_command(folder, "mine:harness", "--json", "report.json", "--markdown", "report.md")
    assert (folder / "report.json").exists(), process.stdout + process.stderr
    document = json.loads((folder / "report.json").read_text())
    return Commanded(process, document, (folder / "report.md").read_text())


def test_command_certifies(commanded: Commanded) -> None:
    assert commanded.process.returncode == 0, commanded.process.stdout + commanded.process.stderr
    assert commanded.document["certified"] is True
    assert commanded.markdown.startswith("# Plain: certified for contract 0.1")
    assert commanded.markdown.splitlines()[0][2:] in commanded.process.stdout


def test_capability_that_is_not_declared_is_not_asked_for(commanded: Commanded) -> None:
    reasons = {result.problem for result in commanded.report.of("not-applicable") if "SUBSCRIBE-1" in result.clauses}
    assert reasons == {"subscribe: the store does not declare it"}


def test_one_missing_result_is_enough_to_refuse(commanded: Commanded) -> None:
    whole = commanded.report
    assert whole.certified
    without = tuple(result for result in whole.results if "TIMER-3" not in result.clauses)
    assert not replace(whole, results=without).certified


@pytest.mark.parametrize("outcome", ["failed", "not-run"])
def test_command_fails_for_one_case(commanded: Commanded, outcome: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status is 0 for a certified store alone."""
    whole = commanded.report
    first = next(result for result in whole.results if result.outcome == "passed")
    worse = replace(whole, results=tuple(replace(r, outcome=outcome) if r is first else r for r in whole.results))
    reports = iter([whole, worse])
    monkeypatch.setattr(command, "certify", lambda factory: next(reports))
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds to it
    assert [command.main(["mutant_catalogue:memory_harness"]) for _ in range(2)] == [0, 1]


def test_command_that_cannot_load(tmp_path: Path) -> None:
    done = _run_command(tmp_path, "nowhere:harness")
    assert done.returncode != 0
    assert "cannot load 'nowhere:harness'" in done.stderr


def test_optimised_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(_FACTORY)
    command = [sys.executable, "-O", "-m", "workflow_contract_tests", "mine:harness"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.returncode != 0
    assert "removes the assertions" in done.stderr
