"""The races hold at every scale: none runs without a round, and no count is fixed beside one that is scaled."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from workflow_contract_tests import Case, catalogue, settings

_RUN = """
import sys
from mutant_catalogue import memory_harness
from test_scale import scaled_cases
from workflow_contract_tests import certify
from workflow_store_memory import InMemoryWorkflowStore

report = certify(lambda: memory_harness(InMemoryWorkflowStore), scaled_cases())
print(report.as_markdown())
sys.exit(1 if report.of("failed", "not-run") or not report.of("passed") else 0)
"""


_OF_A_KIND = 4
"""Cases of one function at most: its counts are the same in all of them."""


def scaled_cases() -> list[Case]:
    """Return a few cases of each function in the suites that scale their counts."""
    kinds: dict[object, list[Case]] = {}
    for case in catalogue():
        if _scales(sys.modules[_body(case).__module__]):
            kinds.setdefault(_body(case), []).append(case)
    return [case for cases in kinds.values() for case in cases[:: -(-len(cases) // _OF_A_KIND)]]


def _body(case: Case) -> Any:
    return case.body.args[0] if isinstance(case.body, functools.partial) else case.body


def _scales(suite: ModuleType) -> bool:
    return not {"scaled", "RACE_ROUNDS", "RACE_RUNS"}.isdisjoint(vars(suite))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scale", ["0.05", "0.2", "3"])
def test_races_hold_at_scale(scale: str) -> None:
    folder = str(Path(__file__).parent)
    path = os.pathsep.join([folder, *(entry for entry in sys.path if entry)])
    environment = {**os.environ, "WORKFLOW_CONTRACT_SCALE": scale, "PYTHONPATH": path}
    command = [sys.executable, "-c", _RUN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("count", [1, 2, 6, 60])
def test_scaled_count_is_a_race_at_least(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "SCALE", 0.001)
    assert settings.scaled(count) == 2
