"""Kills its own process at one of the calls that it counts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["MODES", "Killer"]

MODES = ("before-call", "lost-answer", "after-answer")

Answer = TypeVar("Answer")


class Killer:
    """Counts calls.

    Args:
        kill_at: Which of them kills, from 1; none when absent.
        mode: Whether it does so before the call is sent, before its answer is seen, or just after.
    """

    def __init__(self, kill_at: int | None = None, mode: str = "") -> None:
        self._kill_at = kill_at
        self._mode = mode
        self.calls: list[str] = []

    async def around(self, name: str, call: Awaitable[Answer]) -> Answer:
        """Make a call, or part of it."""
        self.calls.append(name)
        now = len(self.calls) == self._kill_at
        if now and self._mode == "before-call":
            _die()
        answer = await call
        if now and self._mode == "lost-answer":
            _die()
        if now:
            asyncio.get_running_loop().call_soon(_die)
        return answer


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
