"""A worker process of the contention runs: fires ticks and drives their runs until SIGTERM, or its parent is gone."""

from __future__ import annotations

import argparse
import asyncio
import threading
from datetime import timedelta
from pathlib import Path

from workflow_runtime import WorkflowRuntime
from workflow_test_support.torture.contention.brief import brief
from workflow_test_support.torture.journal import open_journal
from workflow_test_support.torture.ledgers import database_at
from workflow_test_support.torture.worker_process import stop_with_parent

_POLL = timedelta(milliseconds=50)


async def _work(address: str, lease_s: float) -> None:
    async with database_at(address).open_store() as store:
        runtime = WorkflowRuntime(store=store, workflows=[brief], lease=timedelta(seconds=lease_s))
        await runtime.work(concurrency=10, poll_interval=_POLL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", required=True)
    parser.add_argument("--journal", required=True, type=Path)
    parser.add_argument("--lease", required=True, type=float)
    options = parser.parse_args()
    threading.Thread(target=stop_with_parent, daemon=True).start()
    open_journal(options.journal)
    asyncio.run(_work(options.database, options.lease))


if __name__ == "__main__":
    main()
