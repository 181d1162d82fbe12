"""The command: what it examines, what it writes, and its exit statuses."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from workflow_contract_tests import CaseResult, catalogue, command
from workflow_contract_tests.progress import Progress

_STORES = """
from workflow_contract_tests import StoreHarness
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore

REASONS = {"processes": "one process", "corrupt": "nothing to damage"}

def harness(store=InMemoryWorkflowStore):
    data = InMemoryData()
    return StoreHarness(lambda: store(data=data), contract_version="0.1", not_applicable=REASONS,
                        subject={"database": "memory"})

class Forgetful(InMemoryWorkflowStore):
    async def schedule_timer(self, **arguments): return None

def forgetful(): return harness(Forgetful)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(_STORES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_failures_are_shown_with_both_values_and_run_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["mine:forgetful", "-k", "timer_moves", "-k", "log-1-append", "--json", "report.json"]) == 1
    said = capsys.readouterr().out
    assert "[1/2] ok             LOG-1-append_is_a_compare_and_swap" in said
    assert "FAILED         TIMER-1-timer_moves" in said
    assert "left  = []\n    right = [('t'," in said
    assert "Forgetful: NOT certified for contract 0.1" in said
    report = json.loads((folder / "report.json").read_text())
    assert (report["store"], report["way"], report["subject"]) == (
        "Forgetful",
        "in child processes",
        {"database": "memory"},
    )
    assert command.main(["mine:forgetful", "--last-failed", "-x"]) == 1
    assert "[1/1] FAILED         TIMER-1-timer_moves" in capsys.readouterr().out


def test_level_that_is_asked_for_must_be_certified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["mine:harness", "--roles", "transactional"]) == 1
    assert "transactional: not declared (transactions)" in capsys.readouterr().out


def test_only_the_levels_that_are_asked_for_are_judged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["mine:harness", "--roles", "live", "--json", "live.json"]) == 0
    said = capsys.readouterr().out
    assert "core: not examined\nschedules: not examined\nlive: certified" in said
    assert "InMemoryWorkflowStore: certified for live of contract 0.1" in said
    assert command.main(["verify", "live.json"]) == 0


def test_small_scale_reaches_the_cases_and_certifies_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["mine:harness", "--scale", "0.05", "--seed", "3", "-k", "one_id_is_created_once"]
    assert command.main([*arguments, "--markdown", "report.md"]) == 1
    assert "| scale, seed | 0.05, 3 |" in (folder / "report.md").read_text()


def test_clause_id_chooses_the_cases_that_cite_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Part of a name is looked for anywhere: an id is a clause."""
    assert command.main(["--list", "-k", "run-1"]) == 0
    listed = capsys.readouterr().out
    assert all((case.id in listed) == ("RUN-1" in case.clauses) for case in catalogue())
    assert command.main(["--list", "-k", "FORKS"]) == 0
    assert "forks" in capsys.readouterr().out


def test_cases_are_listed_with_their_levels(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list", "--roles", "live,core"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("live, schedules") and "NOTIFY-1-" in line for line in lines)
    assert not any(line.startswith("transactional") for line in lines)
    assert len(lines) < len(catalogue())


def test_store_that_cannot_be_loaded_is_not_examined(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["nowhere:harness"]) == 2
    assert "could not examine: cannot load 'nowhere:harness'" in capsys.readouterr().err


def test_nothing_chosen_is_not_examined(folder: Path) -> None:
    assert command.main(["mine:harness", "-k", "no case has this name"]) == 2
    assert command.main(["mine:harness", "--last-failed"]) == 2


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_shows_a_bar_and_the_failures() -> None:
    first, second, *_ = catalogue()
    terminal = _Terminal()
    with Progress(2, terminal) as progress:
        for case, outcome in ((first, "passed"), (second, "failed")):
            facts: dict[str, Any] = {"outcome": outcome, "seconds": 0.01}
            progress.show(CaseResult(id=case.id, clauses=case.clauses, rule=case.rule, **facts))
    lines = terminal.getvalue().replace("\r\x1b[K", "\n").splitlines()
    assert "[############............] 1/2 1 ok" in lines[1]
    assert f"[2/2] FAILED         {second.id} (10 ms)" in lines
    assert "[########################] 2/2 1 ok, 1 FAILED" in lines[-1]


@pytest.mark.parametrize(
    "arguments",
    [[], ["m:f", "--roles", "speed"], ["m:f", "--scale", "0"], ["m:f", "--scale", "x"], ["m:f", "--contract", "9.9"]],
)
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2


def test_optimised_python_is_refused(folder: Path) -> None:
    arguments = [sys.executable, "-O", "-m", "workflow_contract_tests", "mine:harness"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 2
    assert "removes the assertions" in done.stderr


def test_interrupted_examination_certifies_nothing(folder: Path) -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    program = (
        "from workflow_contract_tests import command, progress\n"
        "def interrupt(self, result): raise KeyboardInterrupt\n"
        "progress.Progress.show = interrupt\n"
        "raise SystemExit(command.main(['mine:harness', '-k', 'LOG-1', '--json', 'report.json']))"
    )
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=False, timeout=100
    )
    assert done.returncode == 2, done.stderr
    assert len(json.loads((folder / "report.json").read_text())["results"]) == 1
