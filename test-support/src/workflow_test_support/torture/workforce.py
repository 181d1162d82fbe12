"""The worker processes: started, killed, drained, frozen, replaced, stopped."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Freeze", "Workforce"]

_STOP_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Freeze:
    """A time in which a worker could do nothing, on the monotonic clock."""

    pid: int
    begun: float
    ended: float


class Workforce:
    """A fixed number of workers; whoever is killed or drained is replaced.

    Args:
        module: The module that each of them runs.
        arguments: For each worker's command line.
        size: How many work at a time.
        logs: The folder for what they write to their standard error.
        spared: So many of them are never replaced.
    """

    def __init__(self, module: str, arguments: list[str], size: int, logs: Path, *, spared: int = 0) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._size = size
        self._spared = spared
        self.log = logs / "workers.log"
        """Standard error of all of them."""
        self._workers: list[subprocess.Popen[bytes]] = []
        self.killed: dict[int, float] = {}
        """Process ids of those that were killed, and when on the monotonic clock."""
        self.drained = 0
        self.frozen: list[Freeze] = []

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def __enter__(self) -> Workforce:
        self._fill()
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.kill()
            _bury(worker)

    def kill_one(self, rng: random.Random) -> None:
        """Kill one of the workers, and start another one."""
        worker = self._take_one(rng)
        worker.kill()
        self.killed[worker.pid] = time.monotonic()
        _bury(worker)
        self._fill()

    async def drain_one(self, rng: random.Random) -> None:
        """Ask one of the workers to end, start another one at once, and wait until the first has ended."""
        worker = self._take_one(rng)
        worker.send_signal(signal.SIGTERM)
        self._fill()
        await asyncio.to_thread(self._see_off, worker)
        self.drained += 1

    async def freeze_one(self, rng: random.Random, seconds: float) -> None:
        """Stop one of the workers in whatever it does, and let it go on after a while."""
        worker = rng.choice(self._workers)
        begun = time.monotonic()
        worker.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            worker.send_signal(signal.SIGCONT)
            self.frozen.append(Freeze(worker.pid, begun, time.monotonic()))

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
            self._see_off(worker)

    def _take_one(self, rng: random.Random) -> subprocess.Popen[bytes]:
        worker = self._workers.pop(rng.randrange(self._spared, len(self._workers)))
        if worker.poll() is not None:
            self._complain(worker)
        return worker

    def _see_off(self, worker: subprocess.Popen[bytes]) -> None:
        # One that has just been started may not listen yet and simply die of it.
        if worker.wait(_STOP_TIMEOUT_S) not in {0, -signal.SIGTERM}:
            self._complain(worker)
        _bury(worker)

    def _fill(self) -> None:
        while len(self._workers) < self._size:
            with self.log.open("ab") as log:
                self._workers.append(subprocess.Popen(self._command, stdin=subprocess.PIPE, stderr=log))

    def _complain(self, worker: subprocess.Popen[bytes]) -> None:
        words = self.log.read_text(encoding="utf-8", errors="replace")[-4_000:]
        raise RuntimeError(f"worker {worker.pid} ended by itself with status {worker.returncode}:\n{words}")


def _bury(worker: subprocess.Popen[bytes]) -> None:
    worker.wait()
    if worker.stdin is not None:
        worker.stdin.close()
