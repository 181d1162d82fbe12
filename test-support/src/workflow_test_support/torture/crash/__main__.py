"""Kill a process at every store call of the story, three times: before the call is sent, after its commit but
before the answer, and after the answer. Then let a new process recover, and compare the outcomes.

    python -m workflow_test_support.torture.crash --points 24 --seed 1       (a sample)
    python -m workflow_test_support.torture.crash --points all
    python -m workflow_test_support.torture.crash --story ticks --points all
    python -m workflow_test_support.torture.crash --story d1 --points all      (around every batch that real D1 gets)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from workflow_store_d1 import D1WorkflowStore, SQLiteWorkflowStore
from workflow_test_support.torture.crash import on_d1, scenario, ticking
from workflow_test_support.torture.crash.killing import MODES, Killer
from workflow_test_support.torture.journal import open_journal, read_journal


@dataclass(frozen=True, slots=True)
class Telling:
    """A story, and how the store of one process is opened: plainly, and so that its calls may kill."""

    story: ModuleType
    opened: Callable[[Path, Killer], AbstractAsyncContextManager[tuple[D1WorkflowStore, Any]]]


_VERBS = {
    "create_run", "append_events", "append_in_transaction", "mark_run_paused", "mark_run_finished",
    "mark_run_errored", "cancel_run", "deliver_signal", "deliver_approval", "claim_stale_runs", "claim_pending_runs",
    "claim_due_timers", "read_events", "read_inbox", "heartbeat_run_lease", "release_run_lease", "claim_run",
    "terminate_run", "load_run", "upsert_schedule", "request_schedule_buckets", "claim_due_schedule_buckets",
    "mark_schedule_bucket_started",
}  # fmt: skip


class KillingStore:
    """A store whose calls may kill the process."""

    def __init__(self, inner: SQLiteWorkflowStore, killer: Killer) -> None:
        self._inner = inner
        self._killer = killer

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        return self._counted(name, attribute) if name in _VERBS else attribute

    def _counted(self, name: str, verb: Callable[..., Any]) -> Callable[..., Any]:
        async def call(**arguments: Any) -> Any:
            return await self._killer.around(name, verb(**arguments))

        return call


@asynccontextmanager
async def _on_file(folder: Path, killer: Killer) -> AsyncIterator[tuple[SQLiteWorkflowStore, Any]]:
    async with SQLiteWorkflowStore.open(folder / "app.db") as inner:
        yield inner, KillingStore(inner, killer)


async def _process(telling: Telling, folder: Path, process: int, killer: Killer) -> None:
    story = telling.story
    open_journal(folder / "journal")
    async with telling.opened(folder, killer) as (inner, killing):
        await inner.ensure_schema()
        await story.prepare(folder / "app.db")
        await story.note_recorded_steps(inner)
        await story.play(killing, process)
        (folder / f"calls-{process}").write_text(json.dumps(killer.calls))
        ended = await story.outcome(inner, folder / "app.db")
        (folder / "outcome").write_text(json.dumps(ended))


def _fork(telling: Telling, folder: Path, process: int, kill_at: int | None = None, mode: str = "") -> int:
    """Run one process of the story; give its wait status."""
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(_process(telling, folder, process, Killer(kill_at, mode)))
        except BaseException as error:  # noqa: BLE001  # the child must never go on as its parent
            print(f"process {process}: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def _undisturbed(telling: Telling, folder: Path) -> tuple[list[str], Any]:
    folder.mkdir()
    assert _fork(telling, folder, 0) == 0, "the undisturbed story failed"
    calls: list[str] = json.loads((folder / "calls-0").read_text())
    return calls, json.loads((folder / "outcome").read_text())


def _disturbed(telling: Telling, folder: Path, kill_at: int, mode: str, expected: Any) -> list[str]:
    """Kill at one point, recover, and list what is wrong."""
    folder.mkdir()
    status = _fork(telling, folder, 0, kill_at, mode)
    if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        return [f"the process was not killed (wait status {status})"]
    if _fork(telling, folder, 1) != 0:
        return ["the recovering process failed"]
    journal = read_journal(folder / "journal")
    ended = json.loads((folder / "outcome").read_text())
    problems = [*telling.story.find_problems(ended, expected, journal), *_check_steps(journal)]
    shutil.rmtree(folder)
    return problems


def _check_steps(lines: list[dict[str, Any]]) -> list[str]:
    """No recorded step ran again, and each step had one key."""
    problems = []
    recorded = {(line["pid"], line["run"], line["step"]) for line in lines if line["what"] == "recorded"}
    steps = [line for line in lines if line["what"] == "step"]
    problems += [f"recorded step ran again: {s}" for s in steps if (s["pid"], s["run"], s["step"]) in recorded]
    keys = {(step["run"], step["step"], step["key"]) for step in steps}
    if len(keys) != len({(run, step) for run, step, _ in keys}):
        problems.append("a step had two idempotency keys")
    runs = Counter((step["run"], step["step"], step["attempt"]) for step in steps)
    problems += [f"ran {count} times: {step}" for step, count in runs.items() if count > 2]
    return problems


STORIES = {
    "everything": Telling(scenario, _on_file),
    "ticks": Telling(ticking, _on_file),
    "d1": Telling(on_d1, on_d1.opened),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--story", choices=STORIES, default="everything")
    parser.add_argument("--points", default="24", help="how many points to sample, or `all`")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started, telling = time.monotonic(), STORIES[options.story]
    place = on_d1.server() if telling.story is on_d1 else nullcontext()
    with place, tempfile.TemporaryDirectory(prefix="crash-runs-") as temporary:
        root = Path(temporary)
        calls, expected = _undisturbed(telling, root / "undisturbed")
        points = [(k, mode) for k in range(1, len(calls) + 1) for mode in MODES]
        chosen = points
        if options.points != "all":
            chosen = sorted(random.Random(options.seed).sample(points, min(int(options.points), len(points))))
        bad = 0
        for k, mode in chosen:
            problems = _disturbed(telling, root / f"{k}-{mode}", k, mode, expected)
            bad += bool(problems)
            for problem in problems:
                print(f"call {k} ({calls[k - 1]}), {mode}: {problem}")
    took = time.monotonic() - started
    print(
        f"crash runs of {options.story}: {len(chosen)} of {len(points)} points "
        f"({len(calls)} calls x {len(MODES)}), {bad} bad, {took:.1f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
