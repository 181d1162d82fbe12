"""Small contention runs on Postgres and SQLite; the session `release` sets `WORKFLOW_CONTENTION_TICKS` to 10,000."""

import os
import re
import subprocess
import sys

import pytest

_TICKS = int(os.environ.get("WORKFLOW_CONTENTION_TICKS", "120"))
_SEED = os.environ.get("WORKFLOW_CONTENTION_SEED", "1")
_BIG = _TICKS >= 10_000
_POLICIES = 5

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(3_600)]


def run_contention(*options: str) -> tuple[int, ...]:
    """Run it; give its figures: ticks, runs, workers, kills, problems."""
    done = subprocess.run(
        [sys.executable, "-m", "workflow_test_support.torture.contention", "--seed", _SEED, *options],
        capture_output=True,
        text=True,
        timeout=3_500,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = re.search(
        r"contention runs: (\d+) ticks, (\d+) runs, (\d+) workers, (\d+) kills, (\d+) problems", done.stdout
    )
    assert figures is not None, done.stdout
    return tuple(map(int, figures.groups()))


def test_each_policy_holds_while_workers_contend_for_ticks_and_are_killed() -> None:
    """Each tick is settled once, and no two runs of a schedule are live at once unless they may be."""
    schedules, workers, kills = (20, 8, 5) if _BIG else (4, 4, 1)
    ticks, runs, *rest = run_contention(
        "--ticks", str(_TICKS), "--schedules", str(schedules), "--workers", str(workers), "--kills", str(kills),
        "--timeout", "600",
    )  # fmt: skip
    assert (ticks, *rest) == (_TICKS * _POLICIES, workers, _POLICIES * kills, 0)
    assert runs >= 2 * _TICKS


def test_each_policy_holds_on_a_file_that_several_processes_share() -> None:
    """On SQLite as well."""
    ticks, runs, *rest = run_contention("--sqlite", "--ticks", "60", "--schedules", "3", "--workers", "3")
    assert (ticks, *rest) == (60 * _POLICIES, 3, _POLICIES, 0)
    assert runs >= 120
