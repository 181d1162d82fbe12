"""The time that an import takes beyond `import asyncio`: the best of several fresh interpreters."""

from __future__ import annotations

import subprocess
import sys

from comparison.contenders.stopwatch import answer, read_task, wait_for_go

TRIES = 7
PROGRAM = """
import time
began = time.perf_counter()
import asyncio
between = time.perf_counter()
import {module}
print(between - began, time.perf_counter() - between)
"""


def milliseconds(module: str) -> tuple[float, float]:
    """Return the time of `import asyncio`, and that of the module after it."""
    command = [sys.executable, "-c", PROGRAM.format(module=module)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    floor, value = (float(word) * 1e3 for word in done.stdout.split())
    return floor, value


def main() -> None:
    module = read_task().options["module"]
    milliseconds(module)  # compiles what is not compiled yet
    wait_for_go()
    tries = [milliseconds(module) for _ in range(TRIES)]
    answer(value=min(value for _, value in tries), floor=min(floor for floor, _ in tries))


if __name__ == "__main__":
    main()
