"""A sample of the crash runs; `WORKFLOW_CRASH_POINTS=all` (the session `release`) runs every point."""

import os
import re
import subprocess
import sys

import pytest

_POINTS = os.environ.get("WORKFLOW_CRASH_POINTS", "24")
_SEED = os.environ.get("WORKFLOW_CRASH_SEED", "1")


def run_story(story: str) -> None:
    program = [sys.executable, "-m", "workflow_test_support.torture.crash"]
    command = [*program, "--story", story, "--points", _POINTS, "--seed", _SEED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3_500, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"crash runs of \w+: (\d+) of (\d+) points", done.stdout)
    assert counts is not None
    assert int(counts[1]) == (int(counts[2]) if _POINTS == "all" else int(_POINTS))


@pytest.mark.timeout(3_600)
def test_killed_at_store_calls_the_story_ends_the_same() -> None:
    """A process killed before a store call, after its commit, or after its answer changes nothing in the end."""
    run_story("everything")


@pytest.mark.timeout(3_600)
def test_killed_while_it_fires_or_drains_no_tick_is_lost_or_doubled() -> None:
    """Nor do two runs of a schedule live at once, and a drained run needs no lease to run out."""
    run_story("ticks")


@pytest.mark.timeout(3_600)
def test_killed_around_batches_on_real_d1_the_story_ends_the_same() -> None:
    """D1 commits a batch as a whole, and only then answers: a process killed before or behind it changes nothing."""
    run_story("d1")
