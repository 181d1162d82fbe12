"""The processes of contenders: started, told to go, read and ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from comparison.contenders.stopwatch import Task
from comparison.environments import Environment

__all__ = ["FOLDER", "Conversation", "FailedContenderError", "converse"]

FOLDER = Path(__file__).parents[1]
"""The folder that `comparison` is imported from."""
CONTENDERS = Path(__file__).parent / "contenders"


class FailedContenderError(Exception):
    """A contender ended, or did not answer in time; the text has the end of what it wrote."""


class Conversation:
    """Lines of JSON with one process."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self._errors = errors
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # with the processes that it has started
        self.process.wait()
        self._reader.join()

    def say(self, line: str) -> None:
        """Send one line."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: `hear` says why
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def hear(self, limit_s: float) -> dict[str, Any]:
        """Return the next thing that it says.

        Raises:
            FailedContenderError: It says nothing, within that time or at all.
        """
        try:
            line = self._lines.get(timeout=limit_s)
        except queue.Empty:
            raise FailedContenderError(f"no answer in {limit_s:.0f} seconds; {self._last_words()}") from None
        if not line:
            raise FailedContenderError(f"it ended with {self.process.wait()}; {self._last_words()}")
        said: dict[str, Any] = json.loads(line)
        return said

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # a system may print what it likes besides
                self._lines.put(line)
        self._lines.put("")

    def _last_words(self) -> str:
        return self._errors.read_text(errors="replace")[-600:].strip() or "it wrote nothing"


@contextlib.contextmanager
def converse(environment: Environment, program: str, task: Task) -> Iterator[Conversation]:
    """Start a contender, and end it with the block."""
    is_module = not program.endswith(".mjs")
    name = ["-m", f"comparison.contenders.{program}"] if is_module else [str(CONTENDERS / program)]
    with tempfile.NamedTemporaryFile(prefix="contender-") as errors:
        process = subprocess.Popen(
            [*environment.command, *name, json.dumps(asdict(task))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=FOLDER,
            env=_variables(environment.variables),
            start_new_session=True,
        )
        with process, Conversation(process, Path(errors.name)) as conversation:
            yield conversation


def _variables(added: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without what would reach into a contender's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, **added}
