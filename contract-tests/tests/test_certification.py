"""Running cases without pytest: outcomes, reports, the command."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from mutant_catalogue import memory_harness
from workflow_contract_tests import Case, HarnessError, Report, StoreHarness, catalogue, certify
from workflow_contract_tests import certification as runner
from workflow_runtime.store import StoreCapabilities
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore


def _case(name: str = "LOG-1-append_is_a_compare_and_swap") -> Case:
    return next(case for case in catalogue() if case.id == name)


def _with_body(body: Any, **changes: Any) -> Case:
    return Case(**({"name": "made_up", "clauses": ("LOG-1",), "rule": "A rule.", "body": body} | changes))


def _harness(**overrides: Any) -> StoreHarness:
    data = InMemoryData()
    arguments = {"contract_version": "0.1", "not_applicable": {"processes": "one", "corrupt": "none"}} | overrides
    return StoreHarness(lambda: InMemoryWorkflowStore(data=data), **arguments)


def test_whole_catalogue_certifies_and_one_missing_result_is_enough_to_refuse() -> None:
    whole = certify(lambda: memory_harness(InMemoryWorkflowStore))
    assert whole.certified
    assert whole.store == "InMemoryWorkflowStore"
    assert "InMemoryWorkflowStore: certified for contract 0.1" in whole.as_markdown()
    without = tuple(result for result in whole.results if "TIMER-3" not in result.clauses)
    part = Report(**{name: getattr(whole, name) for name in Report.__slots__} | {"results": without})
    assert not part.certified


class _Plain(InMemoryWorkflowStore):
    """A store that declares nothing optional."""

    @property
    def capabilities(self) -> StoreCapabilities:
        return StoreCapabilities(max_payload_bytes=2_000_000, durable=False)


def test_capability_that_is_not_declared_is_not_asked_for() -> None:
    report = certify(lambda: memory_harness(_Plain))
    assert report.certified
    reasons = {result.problem for result in report.of("not-applicable") if "SUBSCRIBE-1" in result.clauses}
    assert reasons == {"subscribe: the store does not declare it"}


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


def test_store_that_hangs_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(harness: StoreHarness) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(runner, "CASE_TIMEOUT_S", 0.05)
    (result,) = certify(_harness, [_with_body(hangs)]).results
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


_FACTORIES = """
from workflow_contract_tests import StoreHarness
from workflow_runtime.store import StoreCapabilities
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore

REASONS = {"processes": "one process", "corrupt": "nothing to damage"}

class Plain(InMemoryWorkflowStore):
    # What is optional takes most of the time.
    capabilities = StoreCapabilities(max_payload_bytes=2_000_000, durable=False)

def good():
    data = InMemoryData()
    return StoreHarness(lambda: Plain(data=data), contract_version="0.1", not_applicable=REASONS)

class Forgetful(Plain):
    async def schedule_timer(self, **arguments):
        return None

def bad():
    data = InMemoryData()
    return StoreHarness(lambda: Forgetful(data=data), contract_version="0.1", not_applicable=REASONS)

def silent():
    data = InMemoryData()
    return StoreHarness(lambda: Plain(data=data), contract_version="0.1")
"""


@pytest.mark.parametrize(("factory", "status"), [("good", 0), ("bad", 1), ("silent", 1)])
def test_command(tmp_path: Path, factory: str, status: int) -> None:
    (tmp_path / "mine.py").write_text(_FACTORIES)
    done = _run_command(tmp_path, f"mine:{factory}", "--json", "report.json", "--markdown", "report.md")
    assert done.returncode == status, done.stdout + done.stderr
    assert json.loads((tmp_path / "report.json").read_text())["certified"] is (status == 0)
    assert (tmp_path / "report.md").read_text().splitlines()[0][2:] in done.stdout


def test_command_that_cannot_load(tmp_path: Path) -> None:
    done = _run_command(tmp_path, "nowhere:harness")
    assert done.returncode != 0
    assert "cannot load 'nowhere:harness'" in done.stderr


def test_optimised_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(_FACTORIES)
    command = [sys.executable, "-O", "-m", "workflow_contract_tests", "mine:bad"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.returncode != 0
    assert "removes the assertions" in done.stderr
