"""Kill a process at every store call of the story, three times: before the call is sent, after its commit but
before the answer, and after the answer. Then let a new process recover, and compare the outcomes.

    python tests/crash/run.py --points 24 --seed 1       (a sample)
    python tests/crash/run.py --points all
    python tests/crash/run.py --story ticks --points all
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
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "contention"))
import scenario
import ticking
from workflow_store_d1 import SQLiteWorkflowStore

STORIES: dict[str, ModuleType] = {"everything": scenario, "ticks": ticking}
MODES = ("before-call", "lost-answer", "after-answer")
_VERBS = {
    "create_run", "append_events", "append_in_transaction", "mark_run_paused", "mark_run_finished",
    "mark_run_errored", "cancel_run", "deliver_signal", "deliver_approval", "claim_stale_runs", "claim_pending_runs",
    "claim_due_timers", "read_events", "read_inbox", "heartbeat_run_lease", "release_run_lease", "claim_run",
    "terminate_run", "load_run", "upsert_schedule", "request_schedule_buckets", "claim_due_schedule_buckets",
    "mark_schedule_bucket_started",
}  # fmt: skip


class KillingStore:
    """A store that counts its calls and kills its own process at one of them."""

    def __init__(self, inner: SQLiteWorkflowStore, kill_at: int | None, mode: str) -> None:
        self._inner = inner
        self._kill_at = kill_at
        self._mode = mode
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        return self._counted(name, attribute) if name in _VERBS else attribute

    def _counted(self, name: str, verb: Callable[..., Any]) -> Callable[..., Any]:
        async def call(**arguments: Any) -> Any:
            self.calls.append(name)
            now = len(self.calls) == self._kill_at
            if now and self._mode == "before-call":
                _die()
            answer = await verb(**arguments)
            if now and self._mode == "lost-answer":
                _die()
            if now:
                asyncio.get_running_loop().call_soon(_die)
            return answer

        return call


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def _process(story: ModuleType, folder: Path, process: int, kill_at: int | None, mode: str) -> None:
    scenario.open_journal(folder / "journal")
    async with SQLiteWorkflowStore.open(folder / "app.db") as inner:
        await inner.ensure_schema()
        await story.prepare(folder / "app.db")
        await story.note_recorded_steps(inner)
        store = KillingStore(inner, kill_at, mode)
        await story.play(store, process)
        (folder / f"calls-{process}").write_text(json.dumps(store.calls))
        ended = await story.outcome(inner, folder / "app.db")
        (folder / "outcome").write_text(json.dumps(ended))


def _fork(story: ModuleType, folder: Path, process: int, kill_at: int | None = None, mode: str = "") -> int:
    """Run one process of the story; give its wait status."""
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(_process(story, folder, process, kill_at, mode))
        except BaseException as error:  # noqa: BLE001  # the child must never go on as its parent
            print(f"process {process}: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def _undisturbed(story: ModuleType, folder: Path) -> tuple[list[str], Any]:
    folder.mkdir()
    assert _fork(story, folder, 0) == 0, "the undisturbed story failed"
    calls: list[str] = json.loads((folder / "calls-0").read_text())
    return calls, json.loads((folder / "outcome").read_text())


def _disturbed(story: ModuleType, folder: Path, kill_at: int, mode: str, expected: Any) -> list[str]:
    """Kill at one point, recover, and list what is wrong."""
    folder.mkdir()
    status = _fork(story, folder, 0, kill_at, mode)
    if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        return [f"the process was not killed (wait status {status})"]
    if _fork(story, folder, 1) != 0:
        return ["the recovering process failed"]
    journal = [json.loads(line) for line in (folder / "journal").read_text().splitlines()]
    ended = json.loads((folder / "outcome").read_text())
    problems = [*story.find_problems(ended, expected, journal), *_check_steps(journal)]
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--story", choices=STORIES, default="everything")
    parser.add_argument("--points", default="24", help="how many points to sample, or `all`")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started, story = time.monotonic(), STORIES[options.story]
    with tempfile.TemporaryDirectory(prefix="crash-runs-") as temporary:
        root = Path(temporary)
        calls, expected = _undisturbed(story, root / "undisturbed")
        points = [(k, mode) for k in range(1, len(calls) + 1) for mode in MODES]
        chosen = points
        if options.points != "all":
            chosen = sorted(random.Random(options.seed).sample(points, min(int(options.points), len(points))))
        bad = 0
        for k, mode in chosen:
            problems = _disturbed(story, root / f"{k}-{mode}", k, mode, expected)
            bad += bool(problems)
            for problem in problems:
                print(f"call {k} ({calls[k - 1]}), {mode}: {problem}")
    took = time.monotonic() - started
    print(
        f"crash runs of {options.story}: {len(chosen)} of {len(points)} points "
        f"({len(calls)} store calls x {len(MODES)}), {bad} bad, {took:.1f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
