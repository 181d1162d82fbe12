"""The command `workflow-certify`: examine a store, write a report, verify one, or begin a store."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from workflow_runtime.store import CONTRACT_VERSION

from .bench import parent as bench
from .cases import Case
from .catalogue import catalogue
from .certification import report_on
from .clauses import CLAUSES
from .examination import Examined, refuse_optimised
from .examiner import Examiner
from .harness import HarnessError
from .last_results import LastResults
from .levels import LEVELS, Level, levels_of
from .measurements import Bench
from .outputs import write_outputs
from .progress import Progress
from .report import Report
from .settings import SCALE, SEED, case_timeout_s
from .skeleton import write_skeleton
from .verification import verify

__all__ = ["CERTIFIED", "NOT_CERTIFIED", "UNEXAMINED", "main"]

CERTIFIED, NOT_CERTIFIED, UNEXAMINED = 0, 1, 2
"""The exit statuses."""

_EXIT_STATUSES = "exit status: 0 certified, 1 not certified, 2 could not examine"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say and return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["new"]:
            return _new(given[1:])
        if given[:1] == ["verify"]:
            return _verify(given[1:])
        return _certify(given)
    except HarnessError as error:
        sys.stderr.write(f"could not examine: {error}\n")
        return UNEXAMINED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return UNEXAMINED


def _new(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="workflow-certify new", description="Write the skeleton of a store.")
    parser.add_argument("name", help="name of the package, such as my_store")
    parser.add_argument("--folder", type=Path, help="where to put it; a new folder of that name if it is not said")
    options = parser.parse_args(arguments)
    for path in write_skeleton(options.name, options.folder or Path.cwd() / options.name):
        sys.stdout.write(f"{path}\n")
    return 0


def _verify(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="workflow-certify verify",
        description="Recompute the hash and the verdict of a report.",
        epilog=_EXIT_STATUSES,
    )
    parser.add_argument("report", type=Path, help="what --json wrote")
    certified, lines = verify(parser.parse_args(arguments).report)
    sys.stdout.write("\n".join(lines) + "\n")
    return CERTIFIED if certified else NOT_CERTIFIED


def _certify(arguments: Sequence[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    last = LastResults(Path.cwd(), options.factory or "")
    cases = _chosen(options, last)
    if options.list:
        sys.stdout.write("".join(f"{', '.join(levels_of(case)):24} {case.id}: {case.rule}\n" for case in cases))
        return 0
    if options.factory is None:
        parser.error("say which store to examine: module:factory")
    if not cases:
        raise HarnessError("no case was chosen")
    refuse_optimised()
    report, interrupted = _examine(options, cases, last)
    if options.bench and not interrupted:
        report = replace(report, bench=_measure(options))
    write_outputs(report, markdown=options.markdown, json=options.json, junit=options.junit, badge=options.badge)
    _show(report)
    if interrupted:
        return UNEXAMINED
    return CERTIFIED if report.certified else NOT_CERTIFIED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workflow-certify",
        description="Certify a store: examine it by every case of the store contract.",
        epilog=f"{_EXIT_STATUSES}. Also: workflow-certify new NAME, workflow-certify verify REPORT.",
    )
    parser.add_argument("factory", nargs="?", help="module:function that returns a StoreHarness with fresh data")
    choice = parser.add_argument_group("which cases")
    choice.add_argument(
        "-k", dest="words", action="append", default=[], help="cases of this clause, or with this in their name"
    )
    choice.add_argument("--roles", type=_levels, default=LEVELS, help=f"levels, by commas: {','.join(LEVELS)}")
    choice.add_argument("--last-failed", action="store_true", help="cases that did not pass the last time")
    choice.add_argument("--list", action="store_true", help="list the cases and their levels, and examine nothing")
    choice.add_argument("--contract", choices=[CONTRACT_VERSION], default=CONTRACT_VERSION, help="version to examine")
    effort = parser.add_argument_group("how")
    effort.add_argument("-x", dest="stop_early", action="store_true", help="stop after the first failure")
    effort.add_argument("--scale", type=_scale, default=SCALE, help="factor of all counts; below 1 certifies nothing")
    effort.add_argument("--thorough", dest="scale", action="store_const", const=3.0, help="--scale 3: every pair meets")
    effort.add_argument("--seed", type=int, default=SEED, help="seed of every random choice")
    effort.add_argument("--timeout", type=float, help="seconds for a case; 60, or more with a larger scale")
    speed = parser.add_argument_group("speed, which no verdict depends on")
    speed.add_argument("--bench", action="store_true", help="measure the verbs too, beside stores that are installed")
    speed.add_argument("--bench-seconds", type=_seconds, default=40.0, metavar="S", help="time for all of it; 40")
    speed.add_argument("--bench-dsn", metavar="DSN", help="a PostgreSQL database to measure beside it")
    output = parser.add_argument_group("reports")
    output.add_argument("--json", type=Path, metavar="FILE", help="the whole report, with a hash")
    output.add_argument("--markdown", type=Path, metavar="FILE", help="a table for people")
    output.add_argument("--junit", type=Path, metavar="FILE", help="XML for a CI server")
    output.add_argument("--badge", type=Path, metavar="FILE", help="an SVG that names the certified levels")
    return parser


def _levels(text: str) -> tuple[Level, ...]:
    words = text.split(",")
    if unknown := sorted(set(words) - set(LEVELS)):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(LEVELS)}")
    return tuple(level for level in LEVELS if level in words)


def _scale(text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not 0 < scale < 1_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no factor above 0")
    return scale


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3_600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 1 to 3600")
    return seconds


def _chosen(options: argparse.Namespace, last: LastResults) -> list[Case]:
    cases = [case for case in catalogue() if set(options.roles) & set(levels_of(case))]
    if options.words:
        cases = [case for case in cases if any(_is_meant(case, word) for word in options.words)]
    if options.last_failed:
        wanted = last.not_passed()
        cases = [case for case in cases if case.id in wanted]
    return cases


def _is_meant(case: Case, word: str) -> bool:
    """Return True if the word is a clause that the case cites, or else a part of its name."""
    if word.upper() in CLAUSES:
        return word.upper() in case.clauses
    return word.lower() in case.id.lower()


def _examine(options: argparse.Namespace, cases: Sequence[Case], last: LastResults) -> tuple[Report, bool]:
    """Examine the store and return the report, and True if somebody interrupted it."""
    timeout_s = options.timeout or case_timeout_s(options.scale)
    environment = {"WORKFLOW_CONTRACT_SCALE": str(options.scale), "WORKFLOW_CONTRACT_SEED": str(options.seed)}
    examiner = Examiner(options.factory, folder=Path.cwd(), timeout_s=timeout_s, environment=environment)
    began, examined, interrupted = time.perf_counter(), list[Examined](), False
    progress = Progress(len(cases), sys.stdout)
    with last.recording(whole=len(cases) == len(catalogue())) as record, progress:
        try:
            for one in _until_failure(examiner.examine(cases), stop_early=options.stop_early):
                examined.append(one)
                record(one.result)
                progress.show(one.result)
        except KeyboardInterrupt:
            interrupted = True
    seconds = time.perf_counter() - began
    report = report_on(
        examined,
        seconds=seconds,
        scale=options.scale,
        seed=options.seed,
        way="in child processes",
        roles=options.roles,
    )
    return report, interrupted


def _measure(options: argparse.Namespace) -> Bench:
    sys.stdout.write(f"measuring, for about {options.bench_seconds:g} s\n")
    sys.stdout.flush()
    return bench.measure(options.factory, folder=Path.cwd(), seconds=options.bench_seconds, dsn=options.bench_dsn)


def _until_failure(found: Iterator[Examined], *, stop_early: bool) -> Iterator[Examined]:
    for one in found:
        yield one
        if stop_early and one.result.outcome in {"failed", "not-run"}:
            return


def _show(report: Report) -> None:
    for result in report.of("failed", "not-run"):
        sys.stdout.write(f"\n{result.id}: {result.rule}\n{result.problem or ''}\n")
    if report.bench is not None:
        sys.stdout.write("\n" + "\n".join(report.bench.lines()) + "\n")
    sys.stdout.write("\n" + "".join(f"{verdict}\n" for verdict in report.levels) + report.summary() + "\n")
