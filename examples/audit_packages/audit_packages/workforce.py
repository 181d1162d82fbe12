"""Worker processes as their parent sees them: started, found killed, replaced, stopped."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class WorkerFailedError(Exception):
    """A worker ended by itself, or did not end when it was asked to."""


@dataclass(frozen=True, slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    log: Path


class Workforce:
    """A fixed number of worker processes; one that was killed is replaced.

    Args:
        command: Starts one worker.
        size: How many work at a time.
        cwd: Where they are started.
        logs: The folder for what they write to their standard error.
    """

    def __init__(self, command: Sequence[str], *, size: int, cwd: Path, logs: Path) -> None:
        self._command = list(command)
        self._size = size
        self._cwd = cwd
        self._logs = logs
        self._started = 0
        self._workers: list[_Worker] = []
        self.killed: list[int] = []
        """Process ids of the workers that SIGKILL ended, in the order in which that was noticed."""

    def start(self) -> None:
        """Start as many workers as are missing."""
        while len(self._workers) < self._size:
            self._workers.append(self._start_one())

    def replace_killed(self) -> None:
        """Start a new worker for each one that was killed.

        Raises:
            WorkerFailedError: One ended in another way.
        """
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._workers.remove(worker)
            self._bury(worker)
        self.start()

    def stop(self, timeout_s: float = 20) -> None:
        """Ask all workers to end, and wait until they have.

        Raises:
            WorkerFailedError: One did not end in time, or with an error.
        """
        for worker in self._workers:
            worker.process.terminate()
        deadline = time.monotonic() + timeout_s
        try:
            for worker in self._workers:
                status = worker.process.wait(timeout=max(0, deadline - time.monotonic()))
                # One that has just been started may not listen to SIGTERM yet and simply die of it.
                if status not in {0, -signal.SIGTERM}:
                    self._bury(worker)
        except subprocess.TimeoutExpired as error:
            raise WorkerFailedError(f"a worker still runs {timeout_s:g} s after SIGTERM") from error
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Kill whatever still runs; these do not count as killed."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.wait()
            _close(worker)
        self._workers.clear()

    def _start_one(self) -> _Worker:
        self._started += 1
        log = self._logs / f"worker-{self._started}.log"
        with log.open("wb") as stderr:
            # A worker ends when its standard input does, so none outlives this process.
            process = subprocess.Popen(self._command, cwd=self._cwd, stdin=subprocess.PIPE, stderr=stderr)
        return _Worker(process, log)

    def _bury(self, worker: _Worker) -> None:
        _close(worker)
        status = worker.process.returncode
        if status != -signal.SIGKILL:
            last_words = worker.log.read_text(encoding="utf-8", errors="replace")[-2_000:]
            raise WorkerFailedError(f"worker {worker.process.pid} ended with status {status}:\n{last_words}")
        self.killed.append(worker.process.pid)


def _close(worker: _Worker) -> None:
    if worker.process.stdin is not None:
        worker.process.stdin.close()
