"""The worker processes: started, killed, replaced, stopped."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["Workforce"]

_WORKER = Path(__file__).with_name("worker_process.py")
_STOP_TIMEOUT_S = 60


class Workforce:
    """A fixed number of workers; whoever is killed is replaced.

    Args:
        arguments: For each worker's command line.
        size: How many work at a time.
        logs: The folder for what they write to their standard error.
        program: What each of them runs.
    """

    def __init__(self, arguments: list[str], size: int, logs: Path, *, program: Path = _WORKER) -> None:
        self._command = [sys.executable, str(program), *arguments]
        self._size = size
        self._logs = logs
        self._workers: list[subprocess.Popen[bytes]] = []
        self.killed: dict[int, float] = {}
        """Process ids of those that were killed, and when on the monotonic clock."""

    def __enter__(self) -> Workforce:
        self._fill()
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.kill()
            _bury(worker)

    def kill_one(self, rng: random.Random) -> None:
        """Kill one of the workers, and start another one."""
        worker = self._workers.pop(rng.randrange(len(self._workers)))
        if worker.poll() is not None:
            self._complain(worker)
        worker.kill()
        self.killed[worker.pid] = time.monotonic()
        _bury(worker)
        self._fill()

    def check(self) -> None:
        """Raise if a worker ended by itself."""
        for worker in self._workers:
            if worker.poll() is not None:
                self._complain(worker)

    def stop(self) -> None:
        """Ask all workers to end, and wait until they have."""
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self._workers:
            # One that has just been started may not listen yet and simply die of it.
            if worker.wait(_STOP_TIMEOUT_S) not in {0, -signal.SIGTERM}:
                self._complain(worker)

    def _fill(self) -> None:
        while len(self._workers) < self._size:
            with (self._logs / "workers.log").open("ab") as log:
                self._workers.append(subprocess.Popen(self._command, stdin=subprocess.PIPE, stderr=log))

    def _complain(self, worker: subprocess.Popen[bytes]) -> None:
        words = (self._logs / "workers.log").read_text(encoding="utf-8", errors="replace")[-4_000:]
        raise RuntimeError(f"worker {worker.pid} ended by itself with status {worker.returncode}:\n{words}")


def _bury(worker: subprocess.Popen[bytes]) -> None:
    worker.wait()
    if worker.stdin is not None:
        worker.stdin.close()
