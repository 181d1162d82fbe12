"""A printed script, run again by hand against one store."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from ..harness import StoreHarness
from .freedoms import normal
from .playing import Player

__all__ = ["Caller", "show"]


class Caller:
    """The verbs of a store, for a printed script: each call prints its answer."""

    def __init__(self, player: Player) -> None:
        self._player = player

    def __getattr__(self, verb: str) -> Callable[..., Awaitable[None]]:
        async def call(**arguments: Any) -> None:
            if "operation_id" in arguments:
                self._player.sent[arguments["operation_id"]] = {"": verb, **arguments}
            await self._call(verb, arguments)

        return call

    async def again(self, operation_id: str) -> None:
        """Repeat an operation, as after a lost answer."""
        arguments = dict(self._player.sent[operation_id])
        await self._call(arguments.pop(""), arguments)

    def token(self, run_id: str, back: int = 0) -> str:
        """Return the lease token of a run's newest claim, or of one before it."""
        return self._player.tokens.find("run", run_id, back)

    def tick_token(self, schedule_id: str, back: int = 0) -> str:
        """Return the lease token of a schedule's newest claimed tick, or of one before it."""
        return self._player.tokens.find("tick", schedule_id, back)

    async def _call(self, verb: str, arguments: dict[str, Any]) -> None:
        answer = await self._player.call(verb, arguments)
        normal(answer, self._player.tokens, now_ms=None, again=False)  # learns its tokens
        sys.stdout.write(f"{verb}: {answer!r}\n")


async def show(script: Callable[[Caller], Awaitable[None]], harness: StoreHarness) -> None:
    """Run a printed script against the store of a harness and print each answer."""
    async with harness:
        await harness.store.ensure_schema()
        await script(Caller(Player("the store", [harness.store, harness.second])))
