"""A small chaos run over a restart, one over a failover; the session `release` sets `WORKFLOW_CHAOS_RUNS` to 200."""

import os
import re
import subprocess
import sys

import pytest

_RUNS = int(os.environ.get("WORKFLOW_CHAOS_RUNS", "24"))
_SEED = os.environ.get("WORKFLOW_CHAOS_SEED", "1")
_BIG = _RUNS >= 200
_STEPS = 20

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(1_000)]


def run_chaos(*options: str) -> re.Match[str]:
    """Run it; give its figures: runs, recorded, executed, kills, terminated, outages, problems."""
    program = [sys.executable, "-m", "workflow_test_support.torture.chaos"]
    command = [*program, "--runs", str(_RUNS), "--seed", _SEED, *options]
    done = subprocess.run(
        [*command, "--workers", "4" if _BIG else "3"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = re.search(
        r"chaos runs: (\d+) runs, (\d+) steps recorded, (\d+) executed .*"
        r" (\d+) kills, (\d+) sessions terminated, (\d+) \w+ .* (\d+) problems",
        done.stdout,
    )
    assert figures is not None, done.stdout
    return figures


def check(figures: re.Match[str], outages: int) -> None:
    runs, recorded, executed, kills, terminated, away, problems = map(int, figures.groups())
    assert (runs, recorded, away, problems) == (_RUNS, _RUNS * _STEPS, outages, 0)
    assert executed >= recorded
    assert kills == _RUNS // 5
    assert terminated > 0


def test_restarts_kills_and_lost_sessions_lose_and_repeat_nothing() -> None:
    """Every run ends right; the log and the journal of what really ran agree.

    Of the big run's two restarts one takes longer than workers repeat a write: they give their runs up.
    """
    figures = run_chaos(*(("--restarts", "2", "--away", "6") if _BIG else ()))
    check(figures, 2 if _BIG else 1)


def test_failover_of_a_synchronous_pair_loses_nothing_acknowledged() -> None:
    """The standby heard nothing of the primary's last moments: nothing of these was acknowledged."""
    check(run_chaos("--failover"), 1)
