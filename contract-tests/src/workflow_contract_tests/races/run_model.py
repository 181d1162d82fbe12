"""One run as a small machine: its lease, the length of its log, its inbox numbers, and the answers to calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

__all__ = ["NEW_RUN", "Answer", "RunState", "answer_of"]

Answer: TypeAlias = tuple[Any, ...]
"""The kind of an answer, and the numbers in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """The state of the run, as far as the machine knows it."""

    status: str = "queued"
    lease_number: int = 0
    expires_at_ms: int = 0
    next_index: int = 0
    inbox: tuple[str, ...] = ()
    """Ids of what was delivered, in the order of the inbox; a request to end is `cancel`."""

    @property
    def cancel_requested(self) -> bool:
        """True if somebody asked the run to end."""
        return "cancel" in self.inbox


NEW_RUN = RunState()

Step: TypeAlias = tuple[RunState, Answer]


def answer_of(state: RunState, verb: str, arguments: Mapping[str, Any]) -> Step:
    """Return the state after a call, and the call's answer."""
    return _STEPS[verb](state, **arguments)


def _claim(state: RunState, *, now_ms: int, lease_ms: int) -> Step:
    expired = state.status == "running" and state.expires_at_ms <= now_ms
    if state.status != "queued" and not expired:
        return state, ("not-claimable", state.status)
    taken = replace(state, status="running", lease_number=state.lease_number + 1, expires_at_ms=now_ms + lease_ms)
    return taken, ("claimed", taken.lease_number, taken.next_index, len(taken.inbox))


def _append(state: RunState, *, lease: int, expected: int, now_ms: int, lease_ms: int) -> Step:
    if (refusal := _refusal(state, lease, expected)) is not None:
        return state, refusal
    expires_at_ms = max(state.expires_at_ms, now_ms + lease_ms)
    longer = replace(state, next_index=state.next_index + 1, expires_at_ms=expires_at_ms)
    return longer, ("appended", longer.next_index, len(longer.inbox), longer.cancel_requested)


def _pause(state: RunState, *, lease: int, expected: int, seen: int) -> Step:
    if (refusal := _refusal(state, lease, expected)) is not None:
        return state, refusal
    paused = replace(state, status="queued" if len(state.inbox) > seen else "paused", next_index=state.next_index + 1)
    return paused, (paused.status, paused.next_index)


def _release(state: RunState, *, lease: int) -> Step:
    if (refusal := _refusal(state, lease, state.next_index)) is not None:
        return state, refusal
    return replace(state, status="queued"), ("released",)


def _refusal(state: RunState, lease: int, expected: int) -> Answer | None:
    if state.status != "running" or lease != state.lease_number:
        return ("lease-lost",)
    return None if expected == state.next_index else ("conflict", state.next_index)


def _deliver(state: RunState, *, signal_id: str) -> Step:
    return _receive(state, signal_id, "delivered" if state.status == "paused" else "buffered")


def _cancel(state: RunState) -> Step:
    return _receive(state, "cancel", "requested")


def _receive(state: RunState, delivery_id: str, kind: str) -> Step:
    if delivery_id in state.inbox:
        return state, ("duplicate", state.inbox.index(delivery_id) + 1)
    received = replace(
        state,
        inbox=(*state.inbox, delivery_id),
        status="queued" if state.status == "paused" else state.status,
    )
    return received, (kind, len(received.inbox))


def _look(state: RunState) -> Step:
    return state, (state.status, state.next_index, len(state.inbox), state.cancel_requested)


_STEPS: Mapping[str, Callable[..., Step]] = {
    "claim": _claim,
    "append": _append,
    "pause": _pause,
    "release": _release,
    "deliver": _deliver,
    "cancel": _cancel,
    "look": _look,
}
