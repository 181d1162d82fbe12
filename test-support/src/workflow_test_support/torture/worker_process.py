"""A worker process: works until SIGTERM (then it drains), or until its parent is gone.

It notes each step whose record the store acknowledged: such a record must never be lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from workflow_runtime import StoreUnavailableError, Workflow, WorkflowRuntime
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.torture.journal import note, open_journal

_WITH_EVENTS = {"append_events", "mark_run_paused", "mark_run_finished", "mark_run_errored"}
_AWAY_S = 0.1


class NotingStore:
    """A store that notes which records it acknowledged."""

    def __init__(self, inner: PostgresWorkflowStore) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        return _noted(attribute) if name in _WITH_EVENTS else attribute


def _noted(verb: Callable[..., Any]) -> Callable[..., Any]:
    async def call(**arguments: Any) -> Any:
        answer = await verb(**arguments)
        for event in arguments.get("events", ()):
            if event.kind == "step-completed":
                done = json.loads(event.payload)
                if isinstance(done, dict) and "execution" in done:
                    note("acknowledged", run=arguments["run_id"], step=event.step_id, execution=done["execution"])
        return answer

    return call


async def _work(
    options: argparse.Namespace, workflows: Sequence[Workflow[Any, Any]], poll_interval: timedelta | None
) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    while not stop.is_set():
        try:
            await _work_while_it_lasts(options, workflows, poll_interval, stop)
        except StoreUnavailableError:
            await asyncio.sleep(_AWAY_S)  # a worker cannot begin without its store: whoever runs it starts it again


async def _work_while_it_lasts(
    options: argparse.Namespace,
    workflows: Sequence[Workflow[Any, Any]],
    poll_interval: timedelta | None,
    stop: asyncio.Event,
) -> None:
    async with PostgresWorkflowStore.connect(
        options.dsn, max_size=4, server_settings={"application_name": "chaos-worker"}
    ) as store:
        runtime = WorkflowRuntime(
            store=NotingStore(store),
            workflows=workflows,
            lease=timedelta(seconds=options.lease),
        )
        await runtime.work(concurrency=10, poll_interval=poll_interval, handle_signals=False, stop=stop)


def stop_with_parent() -> None:
    # The parent holds the other end of standard input: it closes when the parent is gone, however it went.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def main(workflows: Sequence[Workflow[Any, Any]], poll_interval: timedelta | None) -> None:
    """Work on these workflows, with what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--journal", required=True, type=Path)
    parser.add_argument("--lease", required=True, type=float)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(asctime)s %(process)d %(name)s: %(message)s")
    threading.Thread(target=stop_with_parent, daemon=True).start()
    open_journal(options.journal)
    asyncio.run(_work(options, workflows, poll_interval))
