"""Histories: what workers did to a few runs, at random, with the time of each call's beginning and end."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from workflow_runtime.errors import LeaseLostError, LogConflictError
from workflow_runtime.store import Awaited, Claimed, NotClaimable, WorkflowExecutionStore

from ..samples import MANY, events
from .linearizability import Operation
from .run_model import Answer

__all__ = ["Wanderer"]

_LEASE_MS = 1_000
_CHOICES = ("claim", "claim", "steal", "append", "append", "pause", "pause", "release", "deliver", "deliver", "look")


@dataclass(slots=True)
class _Held:
    """A claimed run as its worker believes it to be. The lease may have been lost long ago."""

    token: str
    lease: int
    next_index: int
    seen: int


_Act: TypeAlias = Callable[[], Awaitable[Answer]]


class Wanderer:
    """A worker that calls verbs at random, also with leases that it may have lost, and notes what it was told."""

    def __init__(self, name: str, store: WorkflowExecutionStore, now_ms: int, chosen: random.Random) -> None:
        self._name = name
        self._store = store
        self._now_ms = now_ms
        self._chosen = chosen
        self._held: dict[str, _Held] = {}
        self._calls = 0
        self.history: dict[str, list[Operation]] = defaultdict(list)
        """The calls by the ids of the runs."""

    async def wander(self, run_ids: Sequence[str], calls: int) -> None:
        """Make so many calls to some of these runs."""
        for _ in range(calls):
            run_id = self._chosen.choice(run_ids)
            verb = self._chosen.choice(_CHOICES) if self._chosen.random() < 0.97 else "cancel"
            if verb not in {"append", "pause", "release"} or run_id in self._held:
                await getattr(self, f"_{verb}")(run_id)

    async def _note(self, run_id: str, verb: str, arguments: Mapping[str, Any], act: _Act) -> Answer:
        """Make a call and note it."""
        self._calls += 1
        began = time.monotonic_ns()
        try:
            answer = await act()
        except LeaseLostError:
            answer = ("lease-lost",)
        except LogConflictError as conflict:
            answer = ("conflict", conflict.actual_next_index)
        ended = time.monotonic_ns()
        self.history[run_id].append(
            Operation(worker=self._name, verb=verb, arguments=arguments, answer=answer, began=began, ended=ended)
        )
        return answer

    async def _claim(self, run_id: str, *, late_ms: int = 0) -> None:
        arguments = {"now_ms": self._now_ms + late_ms, "lease_ms": _LEASE_MS}

        async def act() -> Answer:
            told = await self._store.claim_run(run_id=run_id, owner=self._name, max_crashes=MANY, **arguments)
            if isinstance(told, Claimed):
                run, lease = told.claim.run, told.claim.lease
                self._held[run_id] = _Held(lease.token, lease.number, run.next_index, run.inbox_seq)
                return ("claimed", lease.number, run.next_index, run.inbox_seq)
            assert isinstance(told, NotClaimable), f"a claim of a run that is there answered {told}"
            return (told.kind, str(told.status))

        await self._note(run_id, "claim", arguments, act)

    async def _steal(self, run_id: str) -> None:
        await self._claim(run_id, late_ms=_LEASE_MS)

    async def _append(self, run_id: str) -> None:
        held = self._held[run_id]
        expected = held.next_index + (self._chosen.random() < 0.1)  # sometimes it is mistaken
        arguments = {"lease": held.lease, "expected": expected, "now_ms": self._now_ms, "lease_ms": _LEASE_MS}

        async def act() -> Answer:
            own: dict[str, Any] = {"expected_next_index": expected, "events": events("1"), "lease_ms": _LEASE_MS}
            write = self._write(run_id, held) | own
            told = await self._store.append_events(**write)
            return ("appended", told.next_index, told.inbox_seq, told.cancel_requested)

        kind, *numbers = await self._note(run_id, "append", arguments, act)
        if kind == "appended":
            held.next_index, held.seen, _ = numbers
        elif kind == "conflict":
            (held.next_index,) = numbers

    async def _pause(self, run_id: str) -> None:
        held = self._held[run_id]

        async def act() -> Answer:
            told = await self._store.mark_run_paused(
                **self._write(run_id, held),
                events=events("2"),
                seen_inbox_seq=held.seen,
                awaited=[Awaited(kind="signal", name="go", step_id="wait")],
            )
            return (str(told.status), told.next_index)

        await self._note(run_id, "pause", {"lease": held.lease, "expected": held.next_index, "seen": held.seen}, act)

    async def _release(self, run_id: str) -> None:
        held = self._held[run_id]

        async def act() -> Answer:
            write = self._write(run_id, held)
            del write["expected_next_index"]
            await self._store.release_run_lease(**write)
            return ("released",)

        await self._note(run_id, "release", {"lease": held.lease}, act)

    def _write(self, run_id: str, held: _Held) -> dict[str, Any]:
        return {
            "run_id": run_id,
            "lease_token": held.token,
            "operation_id": f"{self._name}:{self._calls}",
            "expected_next_index": held.next_index,
            "now_ms": self._now_ms,
        }

    async def _deliver(self, run_id: str) -> None:
        # Many are delivered more than once, and there are always some that are new and wake a paused run.
        signal_id = f"s{self._chosen.randrange(self._calls // 4 + 3)}"

        async def act() -> Answer:
            told = await self._store.deliver_signal(
                run_id=run_id, signal_id=signal_id, name="go", payload=None, now_ms=self._now_ms
            )
            return (told.kind, getattr(told, "inbox_seq", None))

        await self._note(run_id, "deliver", {"signal_id": signal_id}, act)

    async def _cancel(self, run_id: str) -> None:
        async def act() -> Answer:
            told = await self._store.cancel_run(run_id=run_id, now_ms=self._now_ms)
            return (told.kind, getattr(told, "inbox_seq", None))

        await self._note(run_id, "cancel", {}, act)

    async def _look(self, run_id: str) -> None:
        async def act() -> Answer:
            run = await self._store.load_run(run_id=run_id)
            assert run is not None, f"{run_id} is gone"
            return (str(run.status), run.next_index, run.inbox_seq, run.cancel_requested)

        await self._note(run_id, "look", {}, act)
