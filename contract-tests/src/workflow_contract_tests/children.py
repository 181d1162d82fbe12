"""Child processes that run tasks on one store at the same time."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from .harness import StoreHarness
from .settings import PROCESS_TIMEOUT_S, SEED

__all__ = ["ChildFailedError", "kill_child", "run_children"]


class ChildFailedError(AssertionError):
    """A child process that ended without a result. The message holds what it wrote to its standard error."""


async def run_children(h: StoreHarness, tasks: Sequence[dict[str, Any]]) -> list[Any]:
    """Run each task in a process of its own and return the results.

    The tasks begin when every child has opened the store.
    """
    async with AsyncExitStack() as stack, asyncio.timeout(PROCESS_TIMEOUT_S):
        children = [await stack.enter_async_context(_child()) for _ in tasks]
        for number, (child, task) in enumerate(zip(children, tasks, strict=True)):
            await _write(child, _order(h, task, number))
        for child in children:
            await _read(child, "ready")
        for child in children:
            await _write(child, "go")
        return [(await _read(child, "result"))["value"] for child in children]


async def kill_child(h: StoreHarness, task: dict[str, Any], *, after: int, delay_s: float) -> int:
    """Run a task in a process of its own, and kill it at work.

    Args:
        h: The harness.
        task: Reports each call that was answered.
        after: Kills the process after so many reports.
        delay_s: So many seconds after the last of them.

    Returns:
        The number of calls that it has reported.
    """
    async with asyncio.timeout(PROCESS_TIMEOUT_S), _child() as child:
        await _write(child, _order(h, task, 0))
        await _read(child, "ready")
        await _write(child, "go")
        for _ in range(after):
            await _read(child, "done")
        await asyncio.sleep(delay_s)
        child.kill()
        assert child.stdout is not None
        rest = await child.stdout.read()
        return after + sum(line == b'{"kind": "done", "value": null}' for line in rest.splitlines())


def _order(h: StoreHarness, task: dict[str, Any], number: int) -> dict[str, Any]:
    return {
        "factory": h.process_factory,
        "arguments": h.process_arguments,
        "now_ms": h.now_ms,
        "seed": SEED + number,
        "owner": f"process-{number}",
    } | task


@asynccontextmanager
async def _child() -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"{__package__}.racer",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # The child must be able to import all that the parent can, also from places that pytest has added.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def _write(child: asyncio.subprocess.Process, message: Any) -> None:
    assert child.stdin is not None
    child.stdin.write(json.dumps(message).encode() + b"\n")
    await child.stdin.drain()


async def _read(child: asyncio.subprocess.Process, kind: str) -> dict[str, Any]:
    assert child.stdout is not None
    line = await child.stdout.readline()
    message: dict[str, Any] = json.loads(line) if line else {}
    if message.get("kind") != kind:
        assert child.stderr is not None
        raise ChildFailedError(f"a child process gave no {kind}: {line!r}\n{(await child.stderr.read()).decode()}")
    return message
