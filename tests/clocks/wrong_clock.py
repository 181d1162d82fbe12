"""Makes this process's wall clock wrong, or forbids the library to read it, before the library is imported.

    python -c "import wrong_clock; wrong_clock.main()" fast|slow|steps-back|forbidden worker|client LOCATION SCHEMA

What is wrong is what Python tells: `time` and `datetime`. Compiled code that asks the operating system itself, such as
SQLite's own clock, keeps the machine's time: processes on one machine share that one anyway.
"""

from __future__ import annotations

import datetime
import importlib
import sys
import threading
import time
from typing import Any

MINUTES_10 = 600.0

_real_time = time.time
_stepped_back = threading.Event()


class WallClockReadError(BaseException):
    """The library has read the wall clock; no handler of exceptions may hide that."""


class _WrongClock:
    def __init__(self, kind: str) -> None:
        self._kind = kind

    def read(self) -> float:
        self._check_caller()
        return _real_time() + self._error_s()

    def _error_s(self) -> float:
        match self._kind:
            case "fast":
                return MINUTES_10
            case "slow":
                return -MINUTES_10
            case "steps-back":
                return -MINUTES_10 if _stepped_back.is_set() else 0
            case _:
                return 0

    def _check_caller(self) -> None:
        # This frame, `read`, the function that stands for the real one: above them is who called it.
        caller = str(sys._getframe(3).f_globals.get("__name__"))
        if self._kind == "forbidden" and caller.startswith("workflow_"):
            raise WallClockReadError(caller)


def install(kind: str) -> None:
    clock = _WrongClock(kind)
    real_localtime, real_gmtime = time.localtime, time.gmtime

    def wrong_time() -> float:
        return clock.read()

    def wrong_time_ns() -> int:
        return int(clock.read() * 1e9)

    def wrong_localtime(seconds: float | None = None) -> time.struct_time:
        return real_localtime(clock.read() if seconds is None else seconds)

    def wrong_gmtime(seconds: float | None = None) -> time.struct_time:
        return real_gmtime(clock.read() if seconds is None else seconds)

    class WrongDatetime(datetime.datetime):
        __slots__ = ()  # compiled code knows the size of the real one

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.fromtimestamp(clock.read(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.fromtimestamp(clock.read(), datetime.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Any:
            return cls.fromtimestamp(clock.read())

    replaced: dict[str, Any] = {
        "time": wrong_time,
        "time_ns": wrong_time_ns,
        "localtime": wrong_localtime,
        "gmtime": wrong_gmtime,
    }
    for name, function in replaced.items():
        setattr(time, name, function)
    setattr(datetime, "datetime", WrongDatetime)  # noqa: B010  # a type checker forbids the plain assignment


def step_back() -> None:
    """Let a clock that steps back do so now; others go on as they are."""
    _stepped_back.set()


def main() -> None:
    install(sys.argv[1])
    importlib.import_module("clock_process").main()
