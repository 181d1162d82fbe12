"""The programs in Pyodide that other tests start leave nothing behind, however those tests end."""

import os
import signal
import subprocess
import sys
import time

STARTS = """
from workflow_test_support.pyodide.program import open_pyodide
with open_pyodide("emit(1)\\nwhile True: pass") as running:
    for _ in running.emitted(timeout_s=60):
        print(running.group, flush=True)
"""


def test_killed_test_takes_its_pyodide_along() -> None:
    """Even a program that leaves Node no time to hear of anything."""
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        assert alive(group)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20  # real time: processes end
    while alive(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(group)


def alive(group: int) -> bool:
    """Tell whether any process of a group is there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
