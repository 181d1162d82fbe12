from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_packages.workforce import WorkerFailedError, Workforce

pytestmark = pytest.mark.real_time

PREAMBLE = """
import os, signal, sys, time
from pathlib import Path

def announce():
    draft = Path(f"draft-{os.getpid()}")
    draft.write_text(str(os.getpid()))
    draft.rename("announced")
"""


def _workforce(tmp_path: Path, code: str, size: int = 1) -> Workforce:
    return Workforce([sys.executable, "-c", PREAMBLE + code], size=size, cwd=tmp_path, logs=tmp_path)


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _announced_pid(tmp_path: Path) -> int:
    _wait_for((tmp_path / "announced").exists)
    return int((tmp_path / "announced").read_text())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    """Each new worker kills itself, so four deaths of two workers need at least two replacements."""
    workforce = _workforce(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", size=2)
    workforce.start()

    def four_are_dead() -> bool:
        workforce.replace_killed()
        return len(workforce.killed) >= 4

    _wait_for(four_are_dead)
    workforce.abandon()
    assert len(set(workforce.killed)) == len(workforce.killed) >= 4


def test_a_worker_that_ends_otherwise_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    workforce = _workforce(tmp_path, "sys.exit('no store here')")
    workforce.start()

    def never() -> bool:
        workforce.replace_killed()
        return False

    with pytest.raises(WorkerFailedError, match=r"(?s)status 1.*no store here"):
        _wait_for(never)
    workforce.abandon()
    assert workforce.killed == []


def test_stopping_asks_and_waits(tmp_path: Path) -> None:
    workforce = _workforce(
        tmp_path,
        "signal.signal(signal.SIGTERM, lambda *_: (Path('asked').touch(), sys.exit(0))); announce(); time.sleep(60)",
    )
    workforce.start()
    pid = _announced_pid(tmp_path)
    workforce.stop()
    assert (tmp_path / "asked").exists()
    assert not _is_alive(pid)


def test_stopping_a_worker_that_has_barely_begun_is_no_error(tmp_path: Path) -> None:
    workforce = _workforce(tmp_path, "announce(); time.sleep(60)")
    workforce.start()
    pid = _announced_pid(tmp_path)
    workforce.stop()
    assert not _is_alive(pid)


def test_a_kill_that_stopping_notices_counts(tmp_path: Path) -> None:
    workforce = _workforce(tmp_path, "announce(); os.kill(os.getpid(), signal.SIGKILL)")
    workforce.start()
    pid = _announced_pid(tmp_path)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    workforce.stop()
    assert workforce.killed == [pid]


def test_a_worker_that_does_not_stop_is_an_error_and_gone(tmp_path: Path) -> None:
    workforce = _workforce(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN); announce(); time.sleep(60)")
    workforce.start()
    pid = _announced_pid(tmp_path)
    with pytest.raises(WorkerFailedError, match=r"still runs 0\.2 s after SIGTERM"):
        workforce.stop(timeout_s=0.2)
    assert not _is_alive(pid)


def test_the_parents_end_closes_a_workers_standard_input(tmp_path: Path) -> None:
    """What a worker without a parent sees: the end of its input."""
    workforce = _workforce(tmp_path, "announce(); sys.stdin.read(); Path('orphaned').touch(); time.sleep(60)")
    workforce.start()
    pid = _announced_pid(tmp_path)
    assert not (tmp_path / "orphaned").exists()
    for worker in workforce._workers:
        assert worker.process.stdin is not None
        worker.process.stdin.close()
    _wait_for((tmp_path / "orphaned").exists)
    workforce.abandon()
    assert not _is_alive(pid)
