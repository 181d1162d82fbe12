"""A soak of a few seconds: it works, and its verdict is a good one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_HERE = Path(__file__).parent

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(200)]


def test_small_soak() -> None:
    options = ["--minutes", "0.3", "--workers", "3", "--lease", "2", "--errands", "1", "--orders", "2"]
    paths = [str(_HERE.parents[1] / "test-support"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, str(_HERE / "run_soak.py"), *options],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kills, 1 drains, 1 freezes (6.0 s), 1 sessions terminated" in done.stdout
    every_second = re.findall(r"^(?:allow|jitter|skip|buffer|cancel|terminate) +(\d+) ", done.stdout, re.MULTILINE)
    assert len(every_second) == 6
    assert min(map(int, every_second)) >= 15
    assert done.stdout.endswith("0 problems\n")
