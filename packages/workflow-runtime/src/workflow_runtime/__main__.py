"""`python -m workflow_runtime`: sweep once, or work until asked to stop, from the command line."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import operator
import os
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from .errors import ConfigurationError, WorkflowError
from .hosting import RuntimeSource, open_runtime, render_summary, sweep_problems, sweep_summary
from .runtime import DRAIN_TIMEOUT, WorkflowRuntime
from .sweep import SweepReport

_FAILED = 1
_MISUSED = 2
_CLOSE_S = 4.0
"""The longest that the program takes to close what it has opened, after the drain."""


def main(arguments: list[str] | None = None) -> int:
    """Sweep once, or work.

    Exits with 0 when all went well, with 1 when the store is away or a sweep's report names a problem, with 2 when the
    runtime cannot be opened as asked. What a worker meets in its long life is in the log and does not count.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    sys.path.insert(0, str(Path.cwd()))
    try:
        with asyncio.Runner(loop_factory=_loop_factory(getattr(options, "loop", "asyncio"))) as runner:
            return runner.run(_run(load(options.runtime), options))
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return _MISUSED
    except WorkflowError as error:
        sys.stderr.write(f"{error}\n")
        return _FAILED


def _loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop == "asyncio":
        return None  # whatever is this platform's default
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(loop).new_event_loop
    except ImportError as error:
        raise ConfigurationError(f"--loop {loop}: {error}; pip install 'workflow-runtime[{loop}]'") from error
    return factory


async def _run(source: RuntimeSource, options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    async with open_runtime(source) as runtime:
        if options.command == "sweep":
            report = await _sweep(runtime, options, stop)
            problems = sweep_problems(report)
        else:
            drain_timeout = timedelta(seconds=options.drain_timeout)
            report = await runtime.work(concurrency=options.concurrency, drain_timeout=drain_timeout, stop=stop)
            problems = []
        sys.stdout.write(render_summary(sweep_summary(report)) + "\n")
        sys.stderr.write("".join(f"{problem}\n" for problem in problems))
        code = _FAILED if problems else 0
        if stop.is_set():
            _end_within(_CLOSE_S, code)
    return code


async def _sweep(runtime: WorkflowRuntime, options: argparse.Namespace, stop: asyncio.Event) -> SweepReport:
    return await runtime.sweep(
        limit=options.limit,
        deadline=None if options.budget is None else timedelta(seconds=options.budget),
        concurrency=options.concurrency,
        max_queries=options.max_queries,
        stop=stop,
        drain_timeout=timedelta(seconds=options.drain_timeout),
        handle_signals=True,
    )


def _end_within(seconds: float, code: int) -> None:
    """Whatever does not end (a step that swallows its cancellation, a pool that does not close): the process does."""
    sys.stdout.flush()
    timer = threading.Timer(seconds, os._exit, [code])
    timer.daemon = True
    timer.start()


def load(path: str) -> Any:
    """Import `module:name`.

    Raises:
        ConfigurationError: There is no such thing.
    """
    module_name, colon, name = path.partition(":")
    if not colon or not name:
        raise ConfigurationError(f"{path!r} is not of the form module:name")
    try:
        return operator.attrgetter(name)(importlib.import_module(module_name))
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"cannot load {path!r}: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workflow_runtime", description="Drive workflows.")
    commands = parser.add_subparsers(dest="command", required=True)
    sweep = commands.add_parser("sweep", help="do one bounded pass over due work, print what was done, and exit")
    work = commands.add_parser("work", help="work until SIGTERM or SIGINT, then drain")
    sweep.add_argument("--budget", type=float, metavar="SECONDS", help="stop claiming after this time")
    sweep.add_argument("--limit", type=int, default=100, help="claim at most so many runs (default: 100)")
    sweep.add_argument("--max-queries", type=int, metavar="N", help="send at most so many queries to the database")
    work.add_argument(
        "--loop",
        choices=("asyncio", "uvloop"),
        default="asyncio",
        help="event loop to work on (default: %(default)s); uvloop is the extra workflow-runtime[uvloop]",
    )
    for command in (sweep, work):
        command.add_argument("--concurrency", type=int, default=10, help="drive at most so many at once (default: 10)")
        command.add_argument(
            "--drain-timeout",
            type=float,
            default=DRAIN_TIMEOUT.total_seconds(),
            metavar="SECONDS",
            help="after SIGTERM or SIGINT, have everything handed over within this time (default: %(default)s)",
        )
        command.add_argument(
            "runtime", metavar="module:name", help="a WorkflowRuntime, or an @asynccontextmanager that yields one"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
