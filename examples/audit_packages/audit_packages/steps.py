"""The steps of the audit. Each is an ordinary function that may be cut off anywhere and run again.

Each result carries the number of the journal line that began the execution: afterwards the event log says which
execution of a step was recorded, and the journal says whether another one began after it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow_runtime import WorkflowRuntime, step_info

from audit_packages import records
from audit_packages.journal import Journal
from audit_packages.planning import PAGE

COLLECT_RUN_ID = "collect"
"""The run that waits for every report."""

REPORT_SIGNAL = "report"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """What the steps of one worker process share."""

    runtime: WorkflowRuntime
    journal: Journal


workbench: ContextVar[Workbench] = ContextVar("workbench")
"""Set once by the worker process, before it begins to work."""


@contextmanager
def journaled() -> Iterator[int]:
    """Write the journal lines of the running step; give the number of the first."""
    info = step_info()
    with workbench.get().journal.execution(info.run_id, info.step_id, info.attempt) as line:
        yield line


def read_record(dist_info: str, first: int) -> dict[str, Any]:
    """Read one page of a RECORD, from entry `first` on."""
    with journaled() as line:
        entries = records.read_record(Path(dist_info))
        page = entries[first : first + PAGE]
        return {"journal_line": line, "entries": page, "more": first + PAGE < len(entries)}


def hash_files(site: str, entries: list[records.Entry]) -> dict[str, Any]:
    """Hash one chunk of files."""
    with journaled() as line:
        return {"journal_line": line, "digests": records.hash_entries(Path(site), entries)}


def compare(entries: list[records.Entry], digests: dict[str, records.Digest | None]) -> dict[str, Any]:
    """Find the files that are not as recorded."""
    with journaled() as line:
        return {"journal_line": line, "findings": records.compare_entries(entries, digests)}


async def send_report(report: dict[str, Any]) -> dict[str, Any]:
    """Signal the report to the collecting run; the signal's id makes a second delivery harmless."""
    with journaled() as line:
        result = await workbench.get().runtime.deliver_signal(
            COLLECT_RUN_ID, REPORT_SIGNAL, report, signal_id=step_info().run_id
        )
        if result.kind not in {"delivered", "buffered", "duplicate"}:
            raise RuntimeError(f"the collecting run did not take the report: {result.kind}")
        return {"journal_line": line, "answer": result.kind}


def write_report(file: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Write all reports to one file, which is there completely or not at all."""
    with journaled() as line:
        by_label = {report["distribution"]: report for report in reports}
        draft = Path(f"{file}.{os.getpid()}.tmp")
        with draft.open("w", encoding="utf-8") as stream:
            json.dump(by_label, stream, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
        return {"journal_line": line, "distributions": len(by_label)}
