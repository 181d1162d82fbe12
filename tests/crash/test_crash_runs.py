"""A sample of the crash runs; `WORKFLOW_CRASH_POINTS=all` (the session `release`) runs every point."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_POINTS = os.environ.get("WORKFLOW_CRASH_POINTS", "24")
_SEED = os.environ.get("WORKFLOW_CRASH_SEED", "1")


@pytest.mark.timeout(1_800)
def test_killed_at_store_calls_the_story_ends_the_same() -> None:
    """A process killed before a store call, after its commit, or after its answer changes nothing in the end."""
    command = [sys.executable, str(Path(__file__).with_name("run.py")), "--points", _POINTS, "--seed", _SEED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1_700, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"crash runs: (\d+) of (\d+) points", done.stdout)
    assert counts is not None
    assert int(counts[1]) == (int(counts[2]) if _POINTS == "all" else int(_POINTS))
