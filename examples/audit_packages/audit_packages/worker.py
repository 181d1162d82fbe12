"""A worker process of the demo: `python -m audit_packages.worker`. It works until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import threading
from datetime import timedelta
from pathlib import Path

from workflow_runtime import WorkflowRuntime

from audit_packages.journal import Journal
from audit_packages.steps import Workbench, workbench
from audit_packages.stores import StorePlace, open_store
from audit_packages.workflows import audit_distribution, collect_reports


def main() -> None:
    """Work until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True, help="where the store is")
    parser.add_argument("--schema", help="in which schema of the database")
    parser.add_argument("--journal", required=True, type=Path, help="the journal's file")
    parser.add_argument("--kill-at", default="", help="journal lines after which their writer kills itself: 40,80,120")
    parser.add_argument("--max-crashes", required=True, type=int, help="crashes in a row that a run may live through")
    parser.add_argument("--lease", required=True, type=float, help="seconds that a lease lasts")
    options = parser.parse_args()
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    asyncio.run(_work(options))


async def _work(options: argparse.Namespace) -> None:
    journal = Journal(options.journal, frozenset(int(number) for number in options.kill_at.split(",") if number))
    async with open_store(StorePlace(location=options.store, schema=options.schema)) as store:
        runtime = WorkflowRuntime(
            store=store,
            workflows=[audit_distribution, collect_reports],
            lease=timedelta(seconds=options.lease),
            max_crashes=options.max_crashes,
        )
        workbench.set(Workbench(runtime=runtime, journal=journal))
        await runtime.work(concurrency=4, poll_interval=timedelta(milliseconds=50))
    journal.close()


def _stop_with_parent() -> None:
    # The parent holds the other end of standard input: it closes when the parent is gone, however it went.
    # A plain read: one that waits in a buffer of Python's would get in the way of the interpreter's end.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
