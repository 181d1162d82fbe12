"""The stacks of all tasks at one moment, for a case that has no end."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from types import FrameType
from typing import Any

from workflow_runtime.store import protocol

__all__ = ["VERBS", "describe_tasks"]

VERBS = frozenset(
    name
    for role in vars(protocol).values()
    if inspect.isclass(role) and role.__module__ == protocol.__name__
    for name, member in vars(role).items()
    if inspect.isfunction(member) and not name.startswith("_")
)
"""Every verb of the contract, the optional ones too."""
_DEEPEST = 100


def describe_tasks() -> str:
    """Return the verbs of the store that are in flight and where every task waits."""
    stacks = {task.get_name(): list(_frames(task.get_coro())) for task in asyncio.all_tasks()}
    verbs = sorted({frame.f_code.co_name for frames in stacks.values() for frame in frames} & VERBS)
    lines = [f"in flight: {', '.join(verbs) or 'no verb of the store'}"]
    for name, frames in sorted(stacks.items()):
        lines += [f"{name}:", *(f"  {_place(frame)}" for frame in frames if not _is_machinery(frame))]
    return "\n".join(lines)


def _frames(waiting: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine and of all that it waits for, the innermost last."""
    for _ in range(_DEEPEST):
        for kind in ("cr", "gi", "ag"):
            frame = getattr(waiting, f"{kind}_frame", None)
            if frame is not None:
                yield frame
                waiting = getattr(waiting, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)
                break
        else:
            return


def _is_machinery(frame: FrameType) -> bool:
    return frame.f_code.co_filename.endswith("workflow_contract_tests/examination.py")


def _place(frame: FrameType) -> str:
    source = inspect.getframeinfo(frame, context=1)
    text = "".join(source.code_context or ()).strip()
    return f"{source.filename.rpartition('/')[2]}:{source.lineno} in {source.function}: {text}"
