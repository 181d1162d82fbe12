"""The verbs that the bench measures, and the callers that make them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

from workflow_runtime.payloads import JsonText
from workflow_runtime.store import Awaited, Created, Timer, WorkflowExecutionStore

from ..samples import LEASE_MS, event

__all__ = ["BENCH_VERBS", "Act", "BenchVerb", "Caller"]

_PAYLOAD = '{"order":"%s"}' % ("x" * 100)
_LOG = 20
"""The length of the log that is loaded."""
_WAITS = (Awaited(kind="signal", name="go", step_id="wait-go"),)


class Caller:
    """A worker of the bench, with a queue of its own and the run that it holds."""

    def __init__(self, store: WorkflowExecutionStore, name: str, now_ms: int) -> None:
        self.store = store
        self.run_id = ""
        self._name = name
        self._now_ms = now_ms
        self._numbers = itertools.count(1)
        self._token = ""
        self._next_index = 0

    async def create(self, **more: Any) -> Any:
        """Create another run."""
        self.run_id = self._new_id()
        return await self.store.create_run(
            run_id=self.run_id,
            workflow_id="bench",
            workflow_version="1",
            queue=self._name,
            input=JsonText(_PAYLOAD),
            **self._write(),
            **more,
        )

    async def start(self) -> None:
        """Create another run and hold it."""
        answer = await self.create(owner=self._name, lease_ms=LEASE_MS)
        assert isinstance(answer, Created), f"create_run answered {answer}"
        assert answer.claim is not None, "create_run brought no claim"
        self._token, self._next_index = answer.claim.lease.token, 0

    async def append(self, count: int = 1) -> None:
        """Append events."""
        answer = await self.store.append_events(
            **self._fence(), **self._write(), **self._index(), events=[event(_PAYLOAD)] * count, lease_ms=LEASE_MS
        )
        self._next_index = answer.next_index

    async def heartbeat(self) -> None:
        """Renew the lease."""
        await self.store.heartbeat_run_lease(**self._fence(), lease_ms=LEASE_MS, now_ms=self._now_ms)

    async def set_timer(self) -> None:
        """Set the timer, or move it."""
        fire_at_ms = self._now_ms + 1_000 + next(self._numbers)
        await self.store.schedule_timer(**self._fence(), **self._write(), timer_id="alarm", fire_at_ms=fire_at_ms)

    async def pause(self) -> None:
        """Pause the run until a signal comes, with a timer that is due."""
        timer = Timer(timer_id="alarm", fire_at_ms=self._now_ms)
        await self.store.mark_run_paused(
            **self._fence(),
            **self._write(),
            **self._index(),
            events=[event(_PAYLOAD)],
            seen_inbox_seq=0,
            awaited=_WAITS,
            set_timers=[timer],
        )

    async def finish(self) -> None:
        """End the run."""
        output = JsonText(_PAYLOAD)
        await self.store.mark_run_finished(**self._fence(), **self._write(), **self._index(), output=output)

    async def claim_pending(self) -> None:
        """Claim the queued run."""
        self._check(await self.store.claim_pending_runs(**self._claim()))

    async def claim_due(self) -> None:
        """Claim the run whose timer is due."""
        self._check(await self.store.claim_due_timers(**self._claim()))

    async def signal(self) -> None:
        """Deliver what the run waits for."""
        payload = JsonText(_PAYLOAD)
        answer = await self.store.deliver_signal(
            run_id=self.run_id, signal_id=self._new_id(), name="go", payload=payload, now_ms=self._now_ms
        )
        assert answer.kind == "delivered", f"deliver_signal answered {answer}"

    async def load(self) -> None:
        """Load the run with its log."""
        execution = await self.store.load_execution(run_id=self.run_id, history_limit=_LOG)
        assert execution is not None
        assert len(execution.history) == _LOG, f"load_execution brought {len(execution.history)} of {_LOG} events"

    async def list(self) -> None:
        """List a page of runs."""
        assert (await self.store.list_runs(limit=20)).runs, "list_runs brought nothing"

    async def start_with_log(self) -> None:
        """Create a run with a log, and hold it."""
        await self.start()
        await self.append(_LOG)

    async def start_and_pause(self) -> None:
        """Leave another run waiting."""
        await self.start()
        await self.pause()

    def _check(self, batch: Any) -> None:
        found = [claimed.run.run_id for claimed in batch.claims]
        assert found == [self.run_id], f"a claim of {self.run_id!r} brought {found}"

    def _new_id(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    def _fence(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "lease_token": self._token}

    def _write(self) -> dict[str, Any]:
        return {"operation_id": self._new_id(), "now_ms": self._now_ms}

    def _index(self) -> dict[str, Any]:
        return {"expected_next_index": self._next_index}

    def _claim(self) -> dict[str, Any]:
        worker = {"owner": self._name, "lease_ms": LEASE_MS, "now_ms": self._now_ms}
        return worker | {"limit": 1, "queues": [self._name]}


Act: TypeAlias = Callable[[Caller], Coroutine[Any, Any, object]]


@dataclass(frozen=True, slots=True)
class BenchVerb:
    """A verb as the bench measures it."""

    name: str
    call: Act
    before: Act | None = None
    """Done before each call, and not measured."""
    begin: Act | None = None
    """Done once by each caller, before its first call."""


BENCH_VERBS: tuple[BenchVerb, ...] = (
    BenchVerb("list_runs", Caller.list),
    BenchVerb("load_execution", Caller.load, begin=Caller.start_with_log),
    BenchVerb("append_events", Caller.append, begin=Caller.start),
    BenchVerb("heartbeat_run_lease", Caller.heartbeat, begin=Caller.start),
    BenchVerb("schedule_timer", Caller.set_timer, begin=Caller.start),
    BenchVerb("create_run", Caller.create),
    BenchVerb("claim_pending_runs", Caller.claim_pending, before=Caller.create),
    BenchVerb("mark_run_paused", Caller.pause, before=Caller.start),
    BenchVerb("claim_due_timers", Caller.claim_due, before=Caller.start_and_pause),
    BenchVerb("deliver_signal", Caller.signal, before=Caller.start_and_pause),
    BenchVerb("mark_run_finished", Caller.finish, before=Caller.start),
)
"""Claims claim one run, `load_execution` brings 20 events. Those that leave more runs behind come last."""
