"""The command line: measure, and write docs/performance.md with its charts and results.

    python -m comparison [--rounds 5] [--seconds 0.8] [--rows steps-1 …] [--only ours absurd …] [--before COMMIT]
    python -m comparison --profiles [--seconds 3] [--rows steps-1 …] [--before COMMIT]
    python -m comparison --render

With `--profiles` a table is printed that says where the CPU time goes, and nothing is compared. With `--rows` or
`--only` the table is printed, and no page is written. Exits with 1 when something was not measured, and with 2 when
nothing could be.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from workflow_test_support.repository import ROOT

from comparison import machine, page
from comparison.environments import BEFORE, Environments, SetupError
from comparison.profiles import show_profiles
from comparison.report import tables
from comparison.results import Results, load, save
from comparison.rounds import Comparison, Plan
from comparison.rows import CONTENDERS, ROWS, chosen
from comparison.server import Server


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s bench --", description="Compare this project with other systems.")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--seconds", type=float, default=0.8, help="how long a contender works in a round (0.8)")
    parser.add_argument("--patience", type=float, default=300, help="seconds to wait, in all, while it is busy (300)")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help=", ".join(row.id for row in ROWS))
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=", ".join(CONTENDERS))
    parser.add_argument("--before", default=BEFORE, help="release or commit of ours to compare with (%(default)s)")
    parser.add_argument("--environments", type=Path, default=ROOT / ".nox" / "contenders", help="where they are kept")
    parser.add_argument("--output", type=Path, help="write results, charts and table into this folder, not the page")
    parser.add_argument("--profiles", action="store_true", help="print where our CPU time goes, before and now")
    parser.add_argument("--render", action="store_true", help="write the page anew from the results that are there")
    return parser.parse_args(words)


def measure(options: argparse.Namespace) -> Results:
    plan = Plan(chosen(set(options.rows), set(options.only)), options.rounds, options.seconds, options.patience)
    environments = Environments(options.environments, options.before)
    tempfile.tempdir = str(machine.folder_on_disk())
    with Server() as server:
        today = datetime.now().astimezone().date().isoformat()
        results = Results(today, plan.rounds, plan.seconds, machine.describe(server.version))
        Comparison(plan, environments, server, results, _say).run()
    return results


def profile(options: argparse.Namespace) -> None:
    environments = Environments(options.environments, options.before)
    tempfile.tempdir = str(machine.folder_on_disk())
    with Server() as server:
        show_profiles(chosen(set(options.rows), set()), environments, server, options.seconds, _say)


def _say(line: str) -> None:
    print(line, flush=True)


def main(options: argparse.Namespace) -> int:
    if options.render:
        page.write(load(page.RESULTS))
        return 0
    try:
        if options.profiles:
            profile(options)
            return 0
        results = measure(options)
    except (SetupError, ValueError) as error:
        print(error)
        return 2
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        save(results, options.output / "results.json")
    if options.rows or options.only or options.output:
        print(tables(results))
    else:
        page.write(results)
    print(*(f"FAILED: {failure}" for failure in results.failures), sep="\n", end="")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main(arguments()))
