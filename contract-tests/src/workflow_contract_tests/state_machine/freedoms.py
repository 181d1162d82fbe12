"""The freedoms of a store: where two right answers may differ, and the clause that grants it.

- OP-1: of a repeated operation the inbox number, the cancel flag and the lease's end may be the first or the present
  ones. So may be the run that a repeated creation or fork shows (RUN-5, FORK-4).
- FENCE-3: tokens are any text that was never given before. They are compared by the claim that gave them.
- LEASE-2: the store's clock is its own.
- CLAIM-2, RUN-7: the order of timers that are due at one moment.
- CLAIM-7, SCHEDULE-10: `next_due_ms` is any moment up to the present while more are waiting.
- DEAD-2: the order in which `dead` names runs.
- LIST-5: the order of lines of one moment.
- SCHEDULE-9: the order of ticks of one moment, and the number in the lease of a tick.
- SCHEDULE-11: which ten schedules are named, when more have a tick waiting.
- ARG-1 to ARG-3 say which argument is named, not the words; the texts of errors are free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from workflow_runtime.errors import InvalidArgumentError
from workflow_runtime.frozen_value import Value
from workflow_runtime.store import (
    Appended,
    BucketClaims,
    ClaimBatch,
    ClaimedBucket,
    ClaimedRun,
    Created,
    Execution,
    Forked,
    LeaseRenewal,
    RunTimeline,
)

from .script import Tokens

__all__ = ["Raised", "normal"]


class Raised:
    """An error in place of an answer."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"{type(self.error).__name__}({str(self.error)!r})"


def normal(answer: Any, tokens: Tokens, *, now_ms: int | None, again: bool) -> Any:
    """Return an answer in a form that is equal for all right answers, and learn the tokens that it gives.

    Args:
        answer: What a store or the model answered.
        tokens: Those that it has given so far.
        now_ms: The present of the call.
        again: True if the call repeats an operation.
    """
    if isinstance(answer, Raised):
        argument = answer.error.argument if isinstance(answer.error, InvalidArgumentError) else None
        return {"raised": type(answer.error).__name__, "argument": argument}
    if isinstance(answer, Created | Forked) and again:
        claim = answer.claim if isinstance(answer, Created) else None
        return {
            "kind": answer.kind,
            "run_id": answer.run.run_id,
            "claim": None if claim is None else _claim_number(claim, tokens),
        }
    return _plain(answer, tokens, now_ms, again)


def _plain(answer: Any, tokens: Tokens, now_ms: int | None, again: bool) -> Any:
    if isinstance(answer, Value):
        fields = {name: getattr(answer, name) for name in type(answer).__dataclass_fields__}  # type: ignore[attr-defined]  # every value is a dataclass
        if (free := _FREEDOMS.get(type(answer))) is not None:
            fields |= free(answer, tokens, now_ms, again)
        shown = {name: _plain(value, tokens, now_ms, again) for name, value in fields.items()}
        return {"": type(answer).__name__, **shown}
    if isinstance(answer, Mapping):
        return {str(key): _plain(value, tokens, now_ms, again) for key, value in answer.items()}
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return [_plain(item, tokens, now_ms, again) for item in answer]
    return answer


def _claim_number(claim: ClaimedRun, tokens: Tokens) -> int:
    return tokens.learn("run", claim.run.run_id, claim.lease.token)


def _free_claim(claim: ClaimedRun, tokens: Tokens, now_ms: int | None, again: bool) -> dict[str, Any]:
    lease = claim.lease
    return {
        "lease": {
            "claim": _claim_number(claim, tokens),
            "owner": lease.owner,
            "number": lease.number,
            "expires_at_ms": lease.expires_at_ms,
        },
        "due_timers": _in_order(claim.due_timers, lambda timer: timer.fire_at_ms),
    }


def _free_tick(tick: ClaimedBucket, tokens: Tokens, now_ms: int | None, again: bool) -> dict[str, Any]:
    claim = tokens.learn("tick", tick.schedule.schedule_id, tick.lease.token)
    return {"lease": {"claim": claim, "owner": tick.lease.owner, "expires_at_ms": tick.lease.expires_at_ms}}


def _free_append(answer: Appended, tokens: Tokens, now_ms: int | None, again: bool) -> dict[str, Any]:
    return dict.fromkeys(("lease_expires_at_ms", "inbox_seq", "cancel_requested")) if again else {}


def _free_renewal(answer: LeaseRenewal, tokens: Tokens, now_ms: int | None, again: bool) -> dict[str, Any]:
    return {"store_clock_ms": type(answer.store_clock_ms).__name__}


def _free_batch(batch: ClaimBatch, tokens: Tokens, now_ms: int | None, again: bool) -> dict[str, Any]:
    return {"next_due_ms": _not_before(batch.next_due_ms, now_ms), "dead": sorted(batch.dead)}


def _free_ticks(ticks: BucketClaims, tokens: Tokens, now_ms: int | None, again: bool) -> dict[str, Any]:
    named = sorted(ticks.unclaimable)
    return {
        "buckets": _in_order(ticks.buckets, lambda tick: tick.fire_at_ms),
        "next_due_ms": _not_before(ticks.next_due_ms, now_ms),
        "unclaimable": named if len(named) < 10 else "ten or more",
    }


def _free_execution(execution: Execution, tokens: Tokens, now_ms: int | None, again: bool) -> dict[str, Any]:
    return {"timers": _in_order(execution.timers, lambda timer: timer.fire_at_ms)}


def _free_timeline(timeline: RunTimeline, tokens: Tokens, now_ms: int | None, again: bool) -> dict[str, Any]:
    return {"entries": _in_order(timeline.entries, lambda line: line.at_ms)}


_FREEDOMS: Mapping[type, Callable[..., dict[str, Any]]] = {
    ClaimedRun: _free_claim,
    ClaimedBucket: _free_tick,
    Appended: _free_append,
    LeaseRenewal: _free_renewal,
    ClaimBatch: _free_batch,
    BucketClaims: _free_ticks,
    Execution: _free_execution,
    RunTimeline: _free_timeline,
}


def _in_order(items: Iterable[Any], key: Callable[[Any], int]) -> list[Any]:
    """Sort what stands side by side with one key; what is out of order stays so."""
    groups: list[list[Any]] = []
    for item in items:
        if groups and key(groups[-1][0]) == key(item):
            groups[-1].append(item)
        else:
            groups.append([item])
    return [item for group in groups for item in sorted(group, key=repr)]


def _not_before(next_due_ms: int | None, now_ms: int | None) -> int | str | None:
    return "now" if next_due_ms is not None and now_ms is not None and next_due_ms <= now_ms else next_due_ms
