"""The journal: what really ran, told by the steps themselves in a file that the library knows nothing of.

Every line is one `write` to a file opened with O_APPEND, so lines of several processes neither mix nor tear, and a
line that was written stays written when its process is killed.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Mark = Literal["begin", "end", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLine:
    """One line of the journal."""

    mark: Mark
    run_id: str
    step_id: str
    attempt: int
    pid: int


def kill_this_process() -> None:
    """End the process as a power cut would: nothing is flushed, no handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)


class Journal:
    """One process's way into the journal. Threads may share it.

    Args:
        path: The file, shared by all processes.
        kill_at: Numbers of lines; the process that writes one of them is killed right after it.
        kill: What kills.
    """

    def __init__(self, path: Path, kill_at: Set[int] = frozenset(), kill: Callable[[], None] = kill_this_process):
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._kill_at = kill_at
        self._kill = kill
        self._lock = threading.Lock()
        self._seen_bytes = 0
        self._seen_lines = 0

    def write(self, line: JournalLine) -> int:
        """Append a line and give its number, counted from 1 over all processes."""
        text = json.dumps(asdict(line)).encode("ascii") + b"\n"
        # The position after the write belongs to the descriptor, which the threads of this process share.
        with self._lock:
            os.write(self._descriptor, text)
            number = self._count_lines(os.lseek(self._descriptor, 0, os.SEEK_CUR))
            if number in self._kill_at:
                self._kill()
        return number

    @contextmanager
    def execution(self, run_id: str, step_id: str, attempt: int) -> Iterator[int]:
        """Frame one execution of a step by its lines; give the number of the first."""

        def note(mark: Mark) -> int:
            return self.write(JournalLine(mark=mark, run_id=run_id, step_id=step_id, attempt=attempt, pid=os.getpid()))

        number = note("begin")
        try:
            yield number
        except BaseException:
            note("failed")
            raise
        note("end")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _count_lines(self, end: int) -> int:
        # With O_APPEND the position after a write is the end of what was written, whatever others appended before it.
        self._seen_lines += os.pread(self._descriptor, end - self._seen_bytes, self._seen_bytes).count(b"\n")
        self._seen_bytes = end
        return self._seen_lines


def read_journal(path: Path) -> list[JournalLine]:
    """Read the whole journal; line n is at index n - 1."""
    if not path.exists():
        return []
    return [JournalLine(**json.loads(line)) for line in path.read_text(encoding="ascii").splitlines()]
