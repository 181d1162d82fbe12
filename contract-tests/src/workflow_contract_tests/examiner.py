"""The parent of the child processes that examine a store.

It knows the catalogue, and what it does not hear of did not pass: a child that ends early leaves the case in flight
failed, and a new child goes on with the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .cases import Case
from .examination import Examined
from .harness import HarnessError
from .report import CaseResult

__all__ = ["Examiner"]

_LOAD_TIMEOUT_S = 120.0
_GRACE_S = 8.0
"""Seconds from the timeout of a case to the end of its process. By then it should have failed the case by itself."""
_END_S = 5.0
"""Seconds for a child to end by itself. What a harness has started, such as a server, is stopped at that time."""
_LAST_OUTPUT = 2_000
"""The characters of a failed case's output that are shown."""


class Examiner:
    """The examination of a store in child processes.

    Args:
        factory: `module:function`, imported in the child.
        folder: Where the child imports from first.
        timeout_s: How long a case may take.
        environment: Variables for the child beside those of this process.
    """

    def __init__(self, factory: str, *, folder: Path, timeout_s: float, environment: Mapping[str, str]) -> None:
        self._factory = factory
        self._folder = folder
        self._timeout_s = timeout_s
        self._environment = {**os.environ, **environment}

    def examine(self, cases: Sequence[Case]) -> Generator[Examined]:
        """Examine the store by each case, and yield what is found as it comes.

        Raises:
            HarnessError: No verdict is possible: the factory cannot be loaded, or makes no proper harness.
        """
        if os.name != "posix":
            raise HarnessError("the command needs Linux or macOS, as its child processes inherit a pipe; use certify()")
        left = list(cases)
        while left:
            with _Child(self._order(left), self._environment, self._timeout_s) as child:
                for examined in child.examined():
                    yield _checked(examined, left.pop(0))

    def _order(self, cases: Sequence[Case]) -> dict[str, Any]:
        return {
            "factory": self._factory,
            "folder": str(self._folder),
            "cases": [case.id for case in cases],
            "timeout_s": self._timeout_s,
            "secret": secrets.token_hex(16),
        }


def _checked(examined: Examined, case: Case) -> Examined:
    """Refuse a result that is not that of the case. What a case cites comes from this side's catalogue."""
    result = replace(examined.result, id=case.id, clauses=case.clauses, rule=case.rule)
    if examined.result.id != case.id:
        result = replace(result, outcome="failed", problem=f"the process reported {examined.result.id} in its place")
    return replace(examined, result=result)


class _Child:
    """One child process, and the files that it leaves its output and its stacks in."""

    def __init__(self, order: dict[str, Any], environment: Mapping[str, str], timeout_s: float) -> None:
        self._order = order
        self._environment = environment
        self._timeout_s = timeout_s
        self._stack = contextlib.ExitStack()
        self._buffer = b""
        self._lines: list[bytes] = []
        self._closed = False
        self._finished = False
        self._shown = 0

    def __enter__(self) -> _Child:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="workflow-certify-")))
        self._stacks, self._output = folder / "stacks", folder / "output"
        self._fd, writing = os.pipe()
        output = self._stack.enter_context(self._output.open("wb"))
        self._process = subprocess.Popen(  # noqa: S603  # this Python, and a module of this package
            [sys.executable, "-m", f"{__package__}.examiner_process"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=[writing],
            env=self._environment,
            start_new_session=True,
        )
        self._stack.callback(self._end)
        os.close(writing)
        self._send(self._order | {"fd": writing, "stacks": str(self._stacks)})
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _send(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a process that ended is noticed when it says nothing
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.close()

    def _end(self) -> None:
        """End the child and the processes that it has left behind."""
        os.close(self._fd)  # a child that goes on is told by its next message that nobody listens
        if not self._finished:
            self._process.send_signal(signal.SIGINT)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_END_S)
        finally:  # also when somebody has no patience for that
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def examined(self) -> Iterator[Examined]:
        """Yield the result of each case of the order, the last one a failure if the process ends before its time."""
        self._expect("loaded", _LOAD_TIMEOUT_S)
        for case_id in self._order["cases"]:
            begun = self._receive(_LOAD_TIMEOUT_S)
            if begun is None or begun["kind"] != "begun":
                yield self._lost(case_id, 0.0, "before this case began")
                return
            since = time.monotonic()
            message = self._receive(self._timeout_s + _GRACE_S)
            if message is None or message["kind"] != "examined":
                yield self._lost(case_id, time.monotonic() - since, "during this case")
                return
            yield self._read(message)
        self._finished = True

    def _expect(self, kind: str, timeout_s: float) -> None:
        message = self._receive(timeout_s)
        if message is None or message["kind"] != kind:
            raise HarnessError(f"the process that examines the store could not load it\n{self._new_output()}")

    def _receive(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next message; `None` if the process has ended, or says nothing for so long."""
        deadline = time.monotonic() + timeout_s
        while True:
            while self._lines:
                message = self._parse(self._lines.pop(0))
                if message is not None:
                    return message
            if not self._read_more(deadline):
                return None

    def _read_more(self, deadline: float) -> bool:
        """Wait for more from the pipe. Return False if nothing can come any more."""
        while time.monotonic() < deadline:
            ended = self._process.poll() is not None
            if select.select([self._fd], [], [], 0 if ended else 0.2)[0]:
                chunk = os.read(self._fd, 65_536)
                *lines, self._buffer = (self._buffer + chunk).split(b"\n")
                self._lines += lines
                self._closed = not chunk
                return not self._closed
            if ended:
                return False
        return False

    def _parse(self, line: bytes) -> dict[str, Any] | None:
        """Return the message of a line; `None` if it is not the child's own."""
        try:
            message = json.loads(line)
        except ValueError:
            return None
        if not isinstance(message, dict) or message.get("secret") != self._order["secret"]:
            return None
        if message["kind"] == "unusable":
            raise HarnessError(message["problem"])
        return message

    def _read(self, message: dict[str, Any]) -> Examined:
        facts = message["result"]
        output = self._new_output()
        if facts["outcome"] == "failed" and output:
            facts["problem"] = f"{facts['problem']}\nit printed:\n{output}"
        capabilities = message["capabilities"]
        return Examined(
            result=CaseResult(**facts | {"clauses": tuple(facts["clauses"])}),
            store=message["store"],
            module=message["module"],
            capabilities=None if capabilities is None else tuple(capabilities),
            subject=message["subject"],
        )

    def _new_output(self) -> str:
        """Return the end of what the process printed since the last time."""
        with self._output.open("rb") as output:
            output.seek(self._shown)
            printed = output.read()
        self._shown += len(printed)
        return printed.decode("utf-8", "replace").strip()[-_LAST_OUTPUT:]

    def _lost(self, case_id: str, seconds: float, when: str) -> Examined:
        if self._closed:  # which a process does a moment before it ends
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
        status = self._process.poll()
        if status is None:
            said = f"no end {when} after {seconds:.0f} s: the event loop is blocked\n{self._blocked()}"
        else:
            said = f"the process ended {when} with exit status {status}{_meaning(status)}\n{self._new_output()}"
        result = CaseResult(id=case_id, clauses=(), rule="", outcome="failed", seconds=seconds, problem=said.rstrip())
        return Examined(result=result)

    def _blocked(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self._stacks.read_text(encoding="utf-8", errors="replace")
        return ""


def _meaning(status: int) -> str:
    if status >= 0:
        return ""
    try:
        return f" ({signal.Signals(-status).name})"
    except ValueError:
        return ""
