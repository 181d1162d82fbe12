"""The progress of an examination: a line for each case, or a bar on a terminal."""

from __future__ import annotations

import shutil
from collections import Counter
from types import TracebackType
from typing import Self, TextIO

from .report import CaseResult

__all__ = ["Progress"]

_WORDS = {
    "passed": "ok",
    "failed": "FAILED",
    "not-run": "NOT RUN",
    "not-written": "not written",
    "not-applicable": "not applicable",
}


class Progress:
    """The display of an examination that is under way."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total = total
        self._stream = stream
        self._done: Counter[str] = Counter()
        self._on_terminal = stream.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the line of the bar."""
        if self._on_terminal:
            self._stream.write("\n")

    def show(self, result: CaseResult) -> None:
        """Show the result of one more case."""
        self._done[result.outcome] += 1
        if not self._on_terminal:
            self._line(result, "\n")
        else:
            if result.outcome in {"failed", "not-run"}:
                self._stream.write("\r\x1b[K")
                self._line(result, "\n")
            self._bar(result.id)
        self._stream.flush()

    def _line(self, result: CaseResult, end: str) -> None:
        number = f"[{self._done.total():{len(str(self._total))}}/{self._total}]"
        self._stream.write(f"{number} {_WORDS[result.outcome]:14} {result.id} ({result.seconds * 1000:.0f} ms){end}")

    def _bar(self, latest: str) -> None:
        counts = ", ".join(f"{count} {_WORDS[outcome]}" for outcome, count in self._done.items())
        filled = 24 * self._done.total() // self._total
        text = f"[{'#' * filled}{'.' * (24 - filled)}] {self._done.total()}/{self._total} {counts}  {latest}"
        self._stream.write(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}")
