"""Making a failing script short: leave out operations, then optional arguments, as long as the answers still differ."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from ..model import Model
from .playing import Difference
from .script import Operation

__all__ = ["Replay", "shrink"]

Replay = Callable[[Sequence[Operation]], Awaitable[Difference | None]]
"""Plays a script on fresh data and returns how the answers differ."""


async def shrink(script: Sequence[Operation], replay: Replay, *, seconds: float) -> list[Operation]:
    """Return a shorter script of which the last operation still gives differing answers.

    Args:
        script: Ends with an operation whose answers differ.
        replay: Plays one on fresh data.
        seconds: How long it may take; what is reached by then is returned.
    """
    shrinking = _Shrinking(list(script), replay, time.monotonic() + seconds)
    await shrinking.leave_out_operations()
    await shrinking.leave_out_arguments()
    return shrinking.script


class _Shrinking:
    """A script that still fails, and the attempts to make it shorter."""

    def __init__(self, script: list[Operation], replay: Replay, deadline: float) -> None:
        self.script = script
        self._replay = replay
        self._deadline = deadline
        self._verb = script[-1].verb

    async def leave_out_operations(self) -> None:
        """Leave out ever smaller parts, until no single operation can go."""
        await self._try([op for op in self.script[:-1] if not op.reads] + self.script[-1:])
        size = max(1, len(self.script) // 2)
        while not self._late():
            place, shorter = 0, False
            while place < len(self.script) - 1:
                attempt = self.script[:place] + self.script[min(place + size, len(self.script) - 1) :]
                if await self._try(attempt):
                    shorter = True
                else:
                    place += size
            if size == 1 and not shorter:
                return
            size = max(1, size // 2)

    async def leave_out_arguments(self) -> None:
        """Leave out each argument that is not required."""
        for place, operation in enumerate(list(self.script)):
            for name in _optional(operation.verb):
                # A script that became shorter by this has its optional arguments where they were, or is shown as it is.
                if place < len(self.script) and name in self.script[place].arguments:
                    await self._without(place, name)

    async def _without(self, place: int, name: str) -> None:
        operation = self.script[place]
        arguments = {key: value for key, value in operation.arguments.items() if key != name}
        attempt = [*self.script[:place], replace(operation, arguments=arguments), *self.script[place + 1 :]]
        await self._try(attempt)

    async def _try(self, attempt: list[Operation]) -> bool:
        """Take the attempt if it fails by the same verb; what comes after that is left out."""
        if self._late() or len(attempt) > len(self.script):
            return False
        found = await self._replay(attempt)
        if found is None or found.operation.verb != self._verb:
            return False
        self.script = list(found.script)
        return True

    def _late(self) -> bool:
        return time.monotonic() > self._deadline


def _optional(verb: str) -> list[str]:
    parameters = inspect.signature(getattr(Model, verb)).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is not parameter.empty]
