"""A durable audit of the packages in this very environment, by workers that are killed again and again.

Exit status 0 only if every run finished, the report equals an audit made directly and names exactly the planted
changes, and no recorded step ran again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

from audit_packages.conductor import conduct, start_runs
from audit_packages.direct import audit_directly
from audit_packages.evidence import Evidence
from audit_packages.journal import read_journal
from audit_packages.scene import Scene, prepare_scene
from audit_packages.store_queries import load_recorded_steps, load_statuses
from audit_packages.stores import StorePlace, clear_room, make_room, open_store
from audit_packages.summary import ProgressLine, choose_run, render_table, render_timeline
from audit_packages.verdict import MINIMUM_KILLS, find_problems
from audit_packages.workflows import audit_distribution, collect_reports
from audit_packages.workforce import WorkerFailedError, Workforce
from workflow_runtime import WorkflowError, WorkflowExecutionStore, WorkflowRuntime

HERE = Path(__file__).resolve().parent

_SHOWN_PROBLEMS = 20


def main() -> int:
    """Run the demo; give the exit status."""
    options = _parse_options()
    try:
        scene = _prepare(options)
        return asyncio.run(_perform(scene, options))
    except (ValueError, WorkerFailedError, WorkflowError) as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "demo-output", help="folder for everything that is written")
    parser.add_argument(
        "--store", help="path of a SQLite file, or postgres://… (default: audit.db in the output folder)"
    )
    parser.add_argument("--copies", type=_positive, help="copies of the environment (default: enough for 600 steps)")
    parser.add_argument("--changes", type=_positive, default=5, help="how many changes to plant (default: 5)")
    parser.add_argument(
        "--kills", type=_positive, default=8, help=f"how many kills, at least {MINIMUM_KILLS} (default: 8)"
    )
    parser.add_argument("--workers", type=_positive, default=2, help="worker processes (default: 2)")
    parser.add_argument("--lease", type=float, default=3.0, help="seconds that a lease lasts (default: 3)")
    parser.add_argument("--seed", type=int, default=2, help="chooses the files to change (default: 2)")
    parser.add_argument("--timeout", type=float, default=300.0, help="give up after so many seconds (default: 300)")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _prepare(options: argparse.Namespace) -> Scene:
    return prepare_scene(
        folder=options.out.resolve(),
        store=options.store,
        copies=options.copies,
        changes=options.changes,
        kills=options.kills,
        seed=options.seed,
    )


async def _perform(scene: Scene, options: argparse.Namespace) -> int:
    """Run the audit, then judge it."""
    print(
        f"auditing {sum(distribution.files for distribution in scene.distributions)} files of "
        f"{len(scene.distributions)} distributions (copies of {sys.prefix}: {scene.plan.copies}), "
        f"{scene.plan.chunk} files a step, {len(scene.planted)} planted changes"
    )
    place = await make_room(scene.store)
    if place.schema is not None:
        print(f"the tables are in the schema {place.schema}, until the audit has passed")
    workforce = _workforce(scene, place, options)
    async with open_store(place) as store:
        await store.ensure_schema()
        wall_s = await _audit(store, scene, workforce, options.timeout)
        evidence = await _gather(store, scene, workforce)
        timeline = await store.get_run_timeline(run_id=choose_run(evidence))
    print(f"\n{render_table(evidence, wall_s)}\n")
    print(f"  timeline of run {timeline.run.run_id}\n{render_timeline(timeline)}\n")
    status = _judge(evidence, scene.folder)
    if status == 0:
        await clear_room(place)
    return status


async def _audit(store: WorkflowExecutionStore, scene: Scene, workforce: Workforce, timeout_s: float) -> float:
    """Run everything to its end; give the time that it took, in seconds."""
    begun = time.monotonic()
    runtime = WorkflowRuntime(store=store, workflows=[audit_distribution, collect_reports])
    await start_runs(runtime, scene.distributions, scene.plan.chunk, scene.report)
    show = ProgressLine(scene.journal, len(scene.kill_at)).show
    try:
        workforce.start()
        await conduct(store=store, runtime=runtime, workforce=workforce, show=show, timeout_s=timeout_s)
        workforce.stop()
    finally:
        workforce.abandon()
    return time.monotonic() - begun


def _workforce(scene: Scene, place: StorePlace, options: argparse.Namespace) -> Workforce:
    command = [sys.executable, "-m", "audit_packages.worker", *place.arguments(), "--journal", str(scene.journal)]
    command += ["--kill-at", ",".join(map(str, scene.kill_at)), "--lease", str(options.lease)]
    # All kills may hit one run before it gets anywhere; that is bad luck here, not a run that kills its workers.
    command += ["--max-crashes", str(len(scene.kill_at) + 1)]
    return Workforce(command, size=options.workers, cwd=HERE, logs=scene.folder)


async def _gather(store: WorkflowExecutionStore, scene: Scene, workforce: Workforce) -> Evidence:
    statuses = await load_statuses(store)
    report = json.loads(scene.report.read_text(encoding="utf-8")) if scene.report.exists() else {}
    return Evidence(
        statuses=statuses,
        recorded=await load_recorded_steps(store, list(statuses)),
        journal=read_journal(scene.journal),
        kill_at=scene.kill_at,
        killed=tuple(workforce.killed),
        report=report,
        direct={distribution.label: audit_directly(distribution.dist_info) for distribution in scene.distributions},
        planted=scene.planted,
    )


def _judge(evidence: Evidence, folder: Path) -> int:
    problems = find_problems(evidence)
    for problem in problems[:_SHOWN_PROBLEMS]:
        print(f"FAILED: {problem}", file=sys.stderr)
    if len(problems) > _SHOWN_PROBLEMS:
        print(f"FAILED: and {len(problems) - _SHOWN_PROBLEMS} more", file=sys.stderr)
    if problems:
        print(f"journal, report and the workers' logs are in {folder}", file=sys.stderr)
        return 1
    print("passed: every run finished, the report is right, no recorded step ran again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
