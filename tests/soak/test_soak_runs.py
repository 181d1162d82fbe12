"""A soak of a few seconds: it works, and its verdict is a good one."""

import re
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(200)]


def test_small_soak() -> None:
    options = ["--minutes", "0.3", "--workers", "3", "--lease", "2", "--errands", "1", "--orders", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "workflow_test_support.torture.soak", *options],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kills, 1 drains, 1 freezes (6.0 s), 1 sessions terminated" in done.stdout
    every_second = re.findall(r"^(?:allow|jitter|skip|buffer|cancel|terminate) +(\d+) ", done.stdout, re.MULTILINE)
    assert len(every_second) == 6
    assert min(map(int, every_second)) >= 15
    assert done.stdout.endswith("0 problems\n")
