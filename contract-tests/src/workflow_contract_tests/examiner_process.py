"""A child process that examines a store case by case, and says what it finds over a pipe of its own.

It reads its order, one line of JSON, from standard input. `examiner` is the other side: it owns the verdict, so that
nothing that a store does to this process can reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .cases import Case
from .catalogue import catalogue
from .examination import Examined, HarnessFactory, examine
from .explaining import describe
from .harness import HarnessError
from .loading import load_object
from .report import CaseResult

_GRACE_S = 2.0
"""Seconds from the timeout of a case to the stacks of all threads, which are written if the event loop is blocked."""


class _Pipe:
    """The way to the parent. Each line carries the secret of the order, which a stray write of a store lacks."""

    def __init__(self, fd: int, secret: str) -> None:
        os.set_inheritable(fd, False)
        self._file = os.fdopen(fd, "w", encoding="utf-8")
        self._secret = secret

    def send(self, kind: str, **facts: Any) -> None:
        self._file.write(json.dumps({"secret": self._secret, "kind": kind, **facts}) + "\n")
        self._file.flush()


class _Loop:
    """The event loop that all cases share, and a new one after a case that broke it."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def examine(self, case: Case, factory: HarnessFactory, timeout_s: float) -> Examined:
        try:
            return self._runner.run(examine(case, factory, timeout_s=timeout_s))
        except HarnessError:
            raise
        except BaseException as error:  # noqa: BLE001  # SystemExit in a task of the store's, for one
            self._renew()
            return Examined(result=_failed(case, f"the store ended the event loop: {describe(error)}"))

    def _renew(self) -> None:
        with contextlib.suppress(BaseException):  # what is left of the broken loop is of no interest
            self._runner.close()
        self._runner = asyncio.Runner()


def _failed(case: Case, problem: str) -> CaseResult:
    return CaseResult(id=case.id, clauses=case.clauses, rule=case.rule, outcome="failed", seconds=0.0, problem=problem)


def main() -> None:
    """Examine the cases of the order."""
    order = json.loads(sys.stdin.readline())
    pipe = _Pipe(order["fd"], order["secret"])
    sys.path.insert(0, order["folder"])
    try:
        factory = load_object(order["factory"])
    except BaseException as error:  # noqa: BLE001  # an import may raise anything
        pipe.send("unusable", problem=str(error) if isinstance(error, HarnessError) else describe(error))
        return
    pipe.send("loaded")
    _examine_all(pipe, factory, order)


def _examine_all(pipe: _Pipe, factory: HarnessFactory, order: dict[str, Any]) -> None:
    cases = {case.id: case for case in catalogue()}
    loop, timeout_s = _Loop(), order["timeout_s"]
    with Path(order["stacks"]).open("w", encoding="utf-8") as stacks:
        for case_id in order["cases"]:
            pipe.send("begun", id=case_id)
            faulthandler.dump_traceback_later(timeout_s + _GRACE_S, file=stacks)
            try:
                examined = loop.examine(cases[case_id], factory, timeout_s)
            except HarnessError as error:
                pipe.send("unusable", problem=str(error))
                return
            finally:
                faulthandler.cancel_dump_traceback_later()
            _flush()
            pipe.send("examined", **asdict(examined))


def _flush() -> None:
    """Write out what the store has printed, so that it shows with its own case."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # the store may have closed or replaced it
            stream.flush()


if __name__ == "__main__":
    main()
