"""The engine leans on what asyncio does inside: its own tests, on Python 3.14, which Pyodide 314 brings."""

import os
import re
from pathlib import Path

import pytest
from workflow_test_support.pyodide.program import Setting
from workflow_test_support.pyodide.remote_pytest import run_pytest_in_pyodide

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "packages/workflow-runtime/tests"
SHORT = ["loop", "leftovers", "suspension", "concurrency", "replay_check"]
REST = ["replay", "cancel", "sleep_and_waits", "settling_races", "versions", "retry", "retry_run", "bad_input"]
"""What needs neither threads nor processes."""
FILES = SHORT + REST if os.environ.get("WORKFLOW_PYTHON_314") == "all" else SHORT


@pytest.mark.timeout(1_200)
def test_tests_of_the_engine_pass_on_python_314() -> None:
    """`WORKFLOW_PYTHON_314=all` takes all that need no threads, some hundreds; `release` does."""
    setting = Setting(version="314.0.6", path=[ROOT / "packages/workflow-store-memory/src"])
    outcome = run_pytest_in_pyodide(TESTS, [f"test_{name}.py" for name in FILES], setting, timeout_s=1_000)
    print(outcome.text)
    assert outcome.python == (3, 14)
    assert outcome.code == 0, outcome.text
    [passed] = re.findall(r"(\d+) passed", outcome.text)
    assert int(passed) > 100
