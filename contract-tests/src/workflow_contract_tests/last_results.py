"""The outcomes of the last examination, kept in the current folder for `--last-failed`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from .report import CaseResult

__all__ = ["LastResults"]

_FOLDER = ".workflow-certify"


class LastResults:
    """The file of the last outcomes of one store. It is written case by case, so that an interrupted run counts too."""

    def __init__(self, folder: Path, factory: str) -> None:
        name = "".join(letter if letter.isalnum() else "-" for letter in factory)
        self._path = folder / _FOLDER / f"{name}.jsonl"

    def not_passed(self) -> set[str]:
        """Return the ids of the cases whose last outcome was a failure, or that did not run."""
        outcomes: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self._path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                outcomes[entry["id"]] = entry["outcome"]
        return {case_id for case_id, outcome in outcomes.items() if outcome not in {"passed", "not-applicable"}}

    @contextlib.contextmanager
    def recording(self, *, whole: bool) -> Iterator[Callable[[CaseResult], None]]:
        """Return a function that records a result. A run of the whole catalogue forgets the earlier ones."""
        self._path.parent.mkdir(exist_ok=True)
        (self._path.parent / ".gitignore").write_text("*\n", encoding="utf-8")
        with self._path.open("w" if whole else "a", encoding="utf-8") as file:

            def record(result: CaseResult) -> None:
                file.write(json.dumps({"id": result.id, "outcome": result.outcome, "problem": result.problem}) + "\n")
                file.flush()

            yield record
