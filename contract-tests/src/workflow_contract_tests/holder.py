"""The holder of a lease: a worker in a case, who calls the verbs that a claim permits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    Appended,
    Awaited,
    ClaimedRun,
    LeaseRenewal,
    Paused,
    Timer,
    WorkflowExecutionStore,
)

from .harness import StoreHarness
from .samples import LEASE_MS, events

__all__ = ["LeaseHolder"]


@dataclass
class LeaseHolder:
    """A worker that holds the lease of one run: it knows the token, the length of the log and the inbox number.

    For each of its verbs there is a method, and one that returns the arguments, for cases that repeat a call.
    """

    harness: StoreHarness = field(repr=False)
    store: WorkflowExecutionStore = field(repr=False)
    run_id: str
    token: str
    next_index: int
    seen: int
    claim: ClaimedRun = field(repr=False)

    @classmethod
    def of(cls, h: StoreHarness, claim: ClaimedRun, store: WorkflowExecutionStore | None = None) -> LeaseHolder:
        """Take over a claim."""
        return cls(
            harness=h,
            store=store or h.store,
            run_id=claim.run.run_id,
            token=claim.lease.token,
            next_index=claim.run.next_index,
            seen=claim.run.inbox_seq,
            claim=claim,
        )

    async def append(self, *payloads: str, **overrides: Any) -> Appended:
        """Append one event for each payload."""
        arguments = self.append_arguments(**({"events": events(*payloads)} | overrides))
        answer = await self.store.append_events(**arguments)
        self.next_index, self.seen = answer.next_index, answer.inbox_seq
        return answer

    def append_arguments(self, **overrides: Any) -> dict[str, Any]:
        """Return arguments with which `append_events` works."""
        own = {"expected_next_index": self.next_index, "events": events("1"), "lease_ms": LEASE_MS}
        return self._write_arguments() | own | overrides

    async def heartbeat(self, **overrides: Any) -> LeaseRenewal:
        """Renew the lease."""
        return await self.store.heartbeat_run_lease(**self.heartbeat_arguments(**overrides))

    def heartbeat_arguments(self, **overrides: Any) -> dict[str, Any]:
        """Return arguments with which `heartbeat_run_lease` works."""
        return self._fence() | {"lease_ms": LEASE_MS} | overrides

    async def release(self, **overrides: Any) -> None:
        """Hand the run over."""
        await self.store.release_run_lease(**self.release_arguments(**overrides))

    def release_arguments(self, **overrides: Any) -> dict[str, Any]:
        """Return arguments with which `release_run_lease` works."""
        return self._write_arguments() | overrides

    async def set_timer(self, timer_id: str, fire_at_ms: int, **overrides: Any) -> None:
        """Set a timer by a write of its own."""
        arguments = self.set_timer_arguments(**({"timer_id": timer_id, "fire_at_ms": fire_at_ms} | overrides))
        await self.store.schedule_timer(**arguments)

    def set_timer_arguments(self, **overrides: Any) -> dict[str, Any]:
        """Return arguments with which `schedule_timer` works."""
        own = {"timer_id": "alarm", "fire_at_ms": self.harness.now_ms + 1_000}
        return self._write_arguments() | own | overrides

    async def pause(
        self,
        *,
        signals: Iterable[str] = (),
        approvals: Iterable[str] = (),
        timers: Mapping[str, int] | None = None,
        **overrides: Any,
    ) -> Paused:
        """End the lease, waiting for signals, approvals and timers (id to time)."""
        awaited = [Awaited(kind="signal", name=name, step_id=f"wait-{name}") for name in signals]
        awaited += [Awaited(kind="approval", name=name, step_id=f"ask-{name}") for name in approvals]
        set_timers = [Timer(timer_id=name, fire_at_ms=at) for name, at in (timers or {}).items()]
        arguments = self.pause_arguments(**({"awaited": awaited, "set_timers": set_timers} | overrides))
        answer = await self.store.mark_run_paused(**arguments)
        self.next_index = answer.next_index
        return answer

    def pause_arguments(self, **overrides: Any) -> dict[str, Any]:
        """Return arguments with which `mark_run_paused` works."""
        own = {"expected_next_index": self.next_index, "seen_inbox_seq": self.seen}
        return self._write_arguments() | own | overrides

    async def finish(self, output: str = '"done"', **overrides: Any) -> None:
        """End the run with an output."""
        await self.store.mark_run_finished(**self.finish_arguments(**({"output": output} | overrides)))

    def finish_arguments(self, **overrides: Any) -> dict[str, Any]:
        """Return arguments with which `mark_run_finished` works."""
        own = {"expected_next_index": self.next_index, "output": '"done"'}
        return self._write_arguments() | own | overrides

    async def fail(self, error: str = '{"type":"Boom"}', **overrides: Any) -> None:
        """End the run with an error."""
        await self.store.mark_run_errored(**self.fail_arguments(**({"error": error} | overrides)))

    def fail_arguments(self, **overrides: Any) -> dict[str, Any]:
        """Return arguments with which `mark_run_errored` works."""
        own = {"expected_next_index": self.next_index, "error": '{"type":"Boom"}'}
        return self._write_arguments() | own | overrides

    def _fence(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "lease_token": self.token, "now_ms": self.harness.now_ms}

    def _write_arguments(self) -> dict[str, Any]:
        return self._fence() | {"operation_id": self.harness.new_id("op")}

    async def signal(self, name: str = "go", signal_id: str | None = None, payload: str | None = "null") -> Any:
        """Deliver a signal to the run, as somebody outside."""
        return await self.harness.second.deliver_signal(
            run_id=self.run_id,
            signal_id=signal_id or self.harness.new_id("signal"),
            name=name,
            payload=None if payload is None else JsonText(payload),
            now_ms=self.harness.now_ms,
        )
