"""The bench: it measures, in a process of its own, and decides nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from workflow_contract_tests import command
from workflow_contract_tests.bench import parent
from workflow_contract_tests.bench.callers import BENCH_VERBS
from workflow_contract_tests.measurements import Bench, Measurement, timing_of
from workflow_contract_tests.report import hash_of
from workflow_contract_tests.verification import verify

_STORES = """
import os
from workflow_contract_tests import StoreHarness
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore

REASONS = {"processes": "one process", "corrupt": "nothing to damage"}

def harness(store=InMemoryWorkflowStore):
    data = InMemoryData()
    return StoreHarness(lambda: store(data=data), contract_version="0.1", not_applicable=REASONS)

class Half(InMemoryWorkflowStore):
    async def list_runs(self, **arguments): raise NotImplementedError("not yet")

class Leaving(InMemoryWorkflowStore):
    async def claim_due_timers(self, **arguments):
        print("good bye", flush=True)
        os._exit(7)

def half(): return harness(Half)
def leaving(): return harness(Leaving)
"""
_FEW_CASES = ["-k", "log-1-append", "--roles", "core"]
_BENCH = ["--bench", "--bench-seconds", "2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(_STORES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _measure(folder: Path, factory: str) -> Bench:
    return parent.measure(f"mine:{factory}", folder=folder, seconds=1, dsn=None)


def test_bench_is_in_the_report_and_leaves_the_verdict_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = ["--json", "report.json", "--markdown", "report.md"]
    status = command.main(["mine:harness", *_FEW_CASES])
    assert command.main(["mine:harness", *_FEW_CASES, *_BENCH, *reports]) == status
    said = capsys.readouterr().out
    document = json.loads((folder / "report.json").read_text())
    verbs = [one["verb"] for one in document["bench"]["measurements"] if one["store"] == "InMemoryWorkflowStore"]
    assert verbs == [verb.name for verb in BENCH_VERBS] * 2
    assert "| list_runs |" in said
    assert "## Bench" in (folder / "report.md").read_text()
    assert verify(folder / "report.json")[1][0].startswith("core: not certified (of ")


def test_hash_covers_the_bench_and_a_report_may_lack_it(folder: Path) -> None:
    assert command.main(["mine:harness", *_FEW_CASES, "--json", "report.json"]) == 1
    document: dict[str, Any] = json.loads((folder / "report.json").read_text())
    del document["bench"]
    (folder / "report.json").write_text(json.dumps(document | {"hash": hash_of(document)}))
    lines = verify(folder / "report.json")[1]
    (folder / "report.json").write_text(
        json.dumps(document | {"bench": {"problem": "none"}, "hash": hash_of(document)})
    )
    assert lines[0].startswith("core: not certified (of ")
    assert verify(folder / "report.json")[1] == ["the report was changed after it was written: its hash does not fit"]


def test_others_are_measured_beside_it_where_they_are_installed(folder: Path) -> None:
    bench = _measure(folder, "harness")
    assert {one.store for one in bench.measurements} >= {"InMemoryWorkflowStore", "memory"}
    assert bench.left_out["PostgreSQL"] == "--bench-dsn names no database"
    first = [one for one in bench.measurements if one.verb == BENCH_VERBS[0].name]
    assert all(one.alone is not None for one in first)


def test_verb_that_is_not_written_is_left_out(folder: Path) -> None:
    problems = {one.verb: one.problem for one in _measure(folder, "half").measurements if one.store == "Half"}
    assert problems.pop("list_runs") == "NotImplementedError: not yet"
    assert set(problems.values()) == {None}


def test_process_that_ends_costs_the_bench_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["mine:leaving", *_FEW_CASES, *_BENCH]) == 1
    said = capsys.readouterr().out
    assert "not measured: the process that measures ended without a result: good bye" in said
    assert "1 cases (1 passed)" in said


def test_timing_counts_calls_that_overlap_once() -> None:
    timing = timing_of([0.001 * number for number in range(1, 101)], busy_s=2.0)
    assert (timing.calls, timing.per_second) == (100, 50.0)
    assert (round(timing.p50_ms), round(timing.p99_ms)) == (51, 100)


def test_table_has_ratios_of_times() -> None:
    def measured(store: str, stored: int, seconds: float) -> Measurement:
        timing = timing_of([seconds], busy_s=seconds)
        return Measurement(store=store, verb="list_runs", stored=stored, alone=timing, at_once=timing)

    bench = Bench(
        store="Mine",
        measurements=(measured("Mine", 100, 0.002), measured("Mine", 10_000, 0.003), measured("memory", 100, 0.001)),
    )
    lines = bench.lines()
    assert "| verb | one after another | 16 at once | / memory | 10,000 runs / 100 |" in lines
    assert "| list_runs | 500/s, 2.00, 2.00 | 500/s, 2.00, 2.00 | 2.0 | 1.5 |" in lines


@pytest.mark.parametrize("seconds", ["0", "x", "4000"])
def test_wrong_time_is_refused(seconds: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["m:f", "--bench", "--bench-seconds", seconds])
    assert stopped.value.code == 2
