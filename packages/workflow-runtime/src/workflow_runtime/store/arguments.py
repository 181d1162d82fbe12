"""Checks of arguments, the same for every store: an argument's name says what it must be.

A store decorates each verb with `checked`. The names are those of the contract, so the table below is
complete; an argument that it does not name (a flag, a sequence of events) checks itself or needs no check.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import fields
from typing import Any, Protocol, TypeVar, cast, get_args, get_type_hints

from ..errors import InvalidArgumentError, PayloadTooLargeError
from ..ids import MAX_ID_BYTES, check_id, plain_text
from ..isolation import refuse_in_handler
from ..payloads import JsonText, check_is_json, check_json_text, encode_json
from .protocol import (
    BulkStore,
    EventLogStore,
    LeaseStore,
    QueryStore,
    RunLifecycleStore,
    ScheduleStore,
    SignalStore,
    SupportsTransactions,
    TimerStore,
)
from .values import (
    MAX_AWAITED_BYTES,
    MAX_BULK_BYTES,
    MAX_BULK_RUNS,
    MAX_HEARTBEAT_LEASES,
    MAX_TIMER_CHANGES,
    TERMINAL_STATUSES,
    Awaited,
    BucketAction,
    CheckedEvent,
    NewEvent,
    OverlapPolicy,
    RequestedOverlap,
    RunStatus,
    RunToCreate,
    SignalToDeliver,
    StoreCapabilities,
    Timer,
    TransactionWrite,
    awaited_bytes,
)

__all__ = [
    "MAX_TIME_MS",
    "approval_payload",
    "cancel_payload",
    "check_prunable",
    "check_retryable",
    "check_transaction_write",
    "checked",
]

MAX_TIME_MS = 2**53 - 1
"""The greatest time or duration: what a JavaScript number carries exactly."""

_ROLES = (
    RunLifecycleStore,
    BulkStore,
    EventLogStore,
    LeaseStore,
    TimerStore,
    SignalStore,
    ScheduleStore,
    QueryStore,
    SupportsTransactions,
)
VerbT = TypeVar("VerbT", bound=Callable[..., Coroutine[Any, Any, Any]])
ItemT = TypeVar("ItemT", RunToCreate, SignalToDeliver)
Check = Callable[[str, Any, StoreCapabilities], None]


class _HasCapabilities(Protocol):
    @property
    def capabilities(self) -> StoreCapabilities: ...


def checked(verb: VerbT) -> VerbT:
    """Make a store's verb refuse bad arguments, and the handlers of workflows, before anything else happens.

    Whether an argument may be `None` is the contract's word, not the store's: how a store annotates it does not matter.
    The first parameter is the store, whatever its name. Behind a decorator that uses `functools.wraps` the parameters
    are those of the function inside.

    Raises:
        TypeError: When decorating a verb that takes something else than keyword arguments.
    """
    parameters = list(inspect.signature(verb).parameters.values())[1:]
    if any(parameter.kind is not parameter.KEYWORD_ONLY for parameter in parameters):
        raise TypeError(f"{verb.__name__} must take keyword-only arguments")
    look = _look_of(verb.__name__, parameters)
    names = {p.name for p in parameters}
    ids, numbers = _IDS_SET & names, _NUMBERS & names
    together = [check for needed, check in _CHECKS_TOGETHER.items() if needed <= names]
    what = f"a store ({verb.__name__})"

    @functools.wraps(verb)
    async def checked_verb(*args: Any, **kwargs: Any) -> Any:
        refuse_in_handler(what)
        for name, value in kwargs.items():
            kind = type(value)
            # The common cases, without a call: each step of each run comes through here.
            if (
                (
                    kind is str
                    and name in ids
                    and 0 < len(value) <= MAX_ID_BYTES
                    and value.isascii()
                    and "\0" not in value
                )
                or (kind is int and name in numbers and 0 < value <= MAX_TIME_MS)
                or (kind is tuple and not value and name in _SEQUENCES)
            ):
                continue
            look(args[0], name, kwargs)
        for check_together in together:
            check_together(kwargs)
        return await verb(*args, **kwargs)

    return cast("VerbT", checked_verb)


def _look_of(verb_name: str, parameters: Sequence[inspect.Parameter]) -> Callable[[_HasCapabilities, str, Any], None]:
    """Return what checks one of a verb's arguments, and makes it plain."""
    checks = {p.name: _CHECKS[p.name] for p in parameters if p.name in _CHECKS}
    by_default = frozenset(p.name for p in parameters if p.default is None)

    def look(store: _HasCapabilities, name: str, arguments: dict[str, Any]) -> None:
        check, value = checks.get(name), arguments[name]
        if check is None or (value is None and name in (_optional_by_contract(verb_name) or by_default)):
            return
        check(name, value, store.capabilities)
        if name in _TEXTS and type(value) is not str:
            arguments[name] = _plain(name, value)

    return look


@functools.cache
def _optional_by_contract(verb_name: str) -> frozenset[str] | None:
    """Name the arguments of a verb that may be `None`; `None` for a verb that the contract does not have.

    Resolved when the first `None` comes, because evaluating annotations would make importing a store slow.
    """
    verb = next((found for role in _ROLES if (found := vars(role).get(verb_name)) is not None), None)
    if verb is None:
        return None
    hints = get_type_hints(verb)
    return frozenset(name for name, hint in hints.items() if name != "return" and type(None) in get_args(hint))


def _plain(name: str, value: Any) -> Any:
    """Return arguments that hold nothing but `str`, where a caller's strings are members of an enum, say."""
    if isinstance(value, str):
        return plain_text(name, value)
    if name == "leases":
        return [(plain_text(name, run_id), plain_text(name, token)) for run_id, token in value]
    return [plain_text(name, item) for item in value]


def _check_claim(arguments: dict[str, Any]) -> None:
    claiming = [arguments.get(name) is not None for name in ("owner", "lease_ms")]
    if any(claiming) and not all(claiming):
        raise InvalidArgumentError("lease_ms" if claiming[0] else "owner", "owner and lease_ms go together")
    if all(claiming) and arguments.get("available_at_ms") is not None:
        raise InvalidArgumentError("available_at_ms", "a run that is claimed at once is available at once")


def _check_lease_end(arguments: dict[str, Any]) -> None:
    now_ms, lease_ms = arguments.get("now_ms"), arguments.get("lease_ms")
    # Python itself refuses a missing argument.
    if now_ms is not None and lease_ms is not None and now_ms + lease_ms > MAX_TIME_MS:
        raise InvalidArgumentError("lease_ms", f"ends after {MAX_TIME_MS}, the last moment of time")


def _check_ending(arguments: dict[str, Any]) -> None:
    if arguments.get("aborted") and arguments.get("parked"):
        raise InvalidArgumentError("parked", "a run is aborted or parked, not both")


def _check_settling(arguments: dict[str, Any]) -> None:
    if (arguments.get("run_id") is not None) != (arguments.get("action") == "start"):
        raise InvalidArgumentError("run_id", "goes with the action `start`, and only with it")


def _check_id(name: str, value: Any, capabilities: StoreCapabilities) -> None:
    check_id(name, value)


def _check_int(name: str, value: Any, low: int, high: int) -> None:
    if type(value) is not int:
        raise InvalidArgumentError(name, f"must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise InvalidArgumentError(name, f"must be from {low} to {high}, not {value}")


def _check_count(name: str, value: Any, capabilities: StoreCapabilities) -> None:
    _check_int(name, value, 0, MAX_TIME_MS)


def _check_positive(name: str, value: Any, capabilities: StoreCapabilities) -> None:
    _check_int(name, value, 1, MAX_TIME_MS)


def _check_priority(name: str, value: Any, capabilities: StoreCapabilities) -> None:
    _check_int(name, value, -32_768, 32_767)


def _check_payload(name: str, value: Any, capabilities: StoreCapabilities) -> None:
    check_json_text(name, value)
    if len(value) > capabilities.max_payload_bytes:
        raise PayloadTooLargeError(name, len(value), capabilities.max_payload_bytes)
    check_is_json(name, value)


def _check_events(name: str, value: Sequence[NewEvent], capabilities: StoreCapabilities) -> None:
    for event in value:
        if event.payload is None:
            continue
        if type(event) is not CheckedEvent:
            _check_payload(f"{name}.payload", event.payload, capabilities)
        elif len(event.payload) > capabilities.max_payload_bytes:
            raise PayloadTooLargeError(f"{name}.payload", len(event.payload), capabilities.max_payload_bytes)


def _check_event(name: str, value: Any, capabilities: StoreCapabilities) -> None:
    if not isinstance(value, NewEvent):
        raise InvalidArgumentError(name, f"must be a NewEvent, not {type(value).__name__}")
    _check_events(name, (value,), capabilities)


def _check_ids(name: str, value: Sequence[str], capabilities: StoreCapabilities) -> None:
    if isinstance(value, str):
        raise InvalidArgumentError(name, "must be a sequence of ids, not one string")
    for item in value:
        check_id(name, item)


def _check_run_ids(name: str, value: Sequence[str], capabilities: StoreCapabilities) -> None:
    if len(value) > MAX_BULK_RUNS:
        raise InvalidArgumentError(name, f"holds {len(value)} ids, at most {MAX_BULK_RUNS} are allowed")
    _check_ids(name, value, capabilities)


def _check_runs(name: str, value: Sequence[object], capabilities: StoreCapabilities) -> None:
    for run in _checked_items(name, value, RunToCreate):
        _check_priority(f"{name}.priority", run.priority, capabilities)
        if run.available_at_ms is not None:
            _check_int(f"{name}.available_at_ms", run.available_at_ms, 0, MAX_TIME_MS)
        _check_payload(f"{name}.input", run.input, capabilities)


def _check_signals(name: str, value: Sequence[object], capabilities: StoreCapabilities) -> None:
    for signal in _checked_items(name, value, SignalToDeliver):
        if signal.payload is not None:
            _check_payload(f"{name}.payload", signal.payload, capabilities)


def _checked_items(name: str, value: Sequence[object], kind: type[ItemT]) -> Sequence[ItemT]:
    """Refuse what is too much for one call, or of another type."""
    if len(value) > MAX_BULK_RUNS:
        raise InvalidArgumentError(name, f"holds {len(value)} items, at most {MAX_BULK_RUNS} are allowed")
    for item in value:
        if type(item) is not kind:
            raise InvalidArgumentError(name, f"must hold {kind.__name__}, not {type(item).__name__}")
    items = cast("Sequence[ItemT]", value)
    size = sum(item.bulk_bytes for item in items)
    if size > MAX_BULK_BYTES and len(items) > 1:
        raise InvalidArgumentError(name, f"takes {size} bytes, at most {MAX_BULK_BYTES} are allowed together")
    return items


def _check_leases(name: str, value: Sequence[object], capabilities: StoreCapabilities) -> None:
    if len(value) > MAX_HEARTBEAT_LEASES:
        raise InvalidArgumentError(name, f"holds {len(value)} leases, at most {MAX_HEARTBEAT_LEASES} are allowed")
    for lease in value:
        if not isinstance(lease, tuple | list) or len(lease) != _PAIR:
            raise InvalidArgumentError(name, "must be pairs of a run id and a lease token")
    texts = [text for pair in value for text in cast("Sequence[object]", pair)]
    if not _are_plain_ids(texts):
        for text in texts:
            check_id(name, text)


def _are_plain_ids(texts: Sequence[Any]) -> bool:
    """Return whether all are ids beyond doubt. What `check_id` takes besides is longer, or of another class."""
    if set(map(type, texts)) - {str} or not all(texts) or max(map(len, texts), default=0) > MAX_ID_BYTES // 4:
        return False
    together = "".join(texts)
    try:
        together.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in together


def _check_inbox_numbers(name: str, value: Sequence[int], capabilities: StoreCapabilities) -> None:
    for item in value:
        _check_int(name, item, 1, MAX_TIME_MS)


def _check_fire_times(name: str, value: Sequence[int], capabilities: StoreCapabilities) -> None:
    if len(value) > _MAX_REQUESTED:
        raise InvalidArgumentError(name, f"holds {len(value)} moments, at most {_MAX_REQUESTED} are allowed")
    for item in value:
        _check_int(name, item, 0, MAX_TIME_MS)


def _check_awaited(name: str, value: Sequence[Awaited], capabilities: StoreCapabilities) -> None:
    size = sum(awaited_bytes(item.name, item.step_id) for item in value)
    if size > MAX_AWAITED_BYTES:
        raise InvalidArgumentError(name, f"takes {size} bytes, at most {MAX_AWAITED_BYTES} are allowed")


def _check_removed(name: str, value: Sequence[str], capabilities: StoreCapabilities) -> None:
    _check_ids(name, value, capabilities)
    _check_changes(name, value)


def _check_changes(name: str, value: Sequence[object]) -> None:
    if len(value) > MAX_TIMER_CHANGES:
        raise InvalidArgumentError(name, f"holds {len(value)} timers, at most {MAX_TIMER_CHANGES} are allowed")


def _check_timers(name: str, value: Sequence[Timer], capabilities: StoreCapabilities) -> None:
    _check_changes(name, value)
    for timer in value:
        _check_int(f"{name}.fire_at_ms", timer.fire_at_ms, 0, MAX_TIME_MS)
    if len({timer.timer_id for timer in value}) != len(value):
        raise InvalidArgumentError(name, "names a timer twice")


def _check_text(name: str, value: Any, capabilities: StoreCapabilities) -> None:
    text = plain_text(name, value)
    if "\0" in text:
        raise InvalidArgumentError(name, "must not contain NUL")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidArgumentError(name, "must not contain a lone surrogate") from None
    if size > _MAX_TEXT_BYTES:
        raise InvalidArgumentError(name, f"takes {size} bytes in UTF-8, at most {_MAX_TEXT_BYTES} are allowed")


def _check_overlap_policy(name: str, value: Any, capabilities: StoreCapabilities) -> None:
    if value not in get_args(OverlapPolicy):
        raise InvalidArgumentError(name, f"must be one of {', '.join(get_args(OverlapPolicy))}")


def _check_requested_overlap(name: str, value: Any, capabilities: StoreCapabilities) -> None:
    if value not in get_args(RequestedOverlap):
        raise InvalidArgumentError(name, f"must be one of {', '.join(get_args(RequestedOverlap))}")


def _check_action(name: str, value: Any, capabilities: StoreCapabilities) -> None:
    if value not in get_args(BucketAction):
        raise InvalidArgumentError(name, f"must be one of {', '.join(get_args(BucketAction))}")


def _check_statuses(name: str, value: Sequence[RunStatus], capabilities: StoreCapabilities) -> None:
    for status in value:
        if status not in RunStatus.__members__.values():
            raise InvalidArgumentError(name, f"{status!r} is not a status")


def check_prunable(statuses: Sequence[RunStatus]) -> None:
    """Refuse to prune runs that are still alive."""
    for status in statuses:
        if status not in TERMINAL_STATUSES:
            raise InvalidArgumentError("statuses", f"{status} is not terminal and cannot be pruned")


def check_retryable(statuses: Sequence[RunStatus]) -> None:
    """Refuse to retry runs that have not ended, or ended well."""
    for status in statuses:
        if status not in TERMINAL_STATUSES or status is RunStatus.FINISHED:
            raise InvalidArgumentError("statuses", f"{status} is no end that can be retried")


def check_transaction_write(write: TransactionWrite, capabilities: StoreCapabilities) -> None:
    """Refuse a write as `append_events` would refuse its arguments."""
    for field in fields(write):
        _CHECKS[field.name](field.name, getattr(write, field.name), capabilities)
    _check_lease_end({"now_ms": write.now_ms, "lease_ms": write.lease_ms})


_MAX_TEXT_BYTES = 4_096
"""Reasons, comments and names of people: text for a person to read, not a payload."""

_MAX_REQUESTED = 1_000
_PAIR = 2

_CHECKS_TOGETHER: dict[frozenset[str], Callable[[dict[str, Any]], None]] = {
    frozenset({"owner", "lease_ms", "available_at_ms"}): _check_claim,
    frozenset({"action", "run_id"}): _check_settling,
    frozenset({"now_ms", "lease_ms"}): _check_lease_end,
    frozenset({"aborted", "parked"}): _check_ending,
}
"""Arguments that only make sense together, by the names of a verb that takes them."""

_IDS = (
    "run_id",
    "new_run_id",
    "workflow_id",
    "workflow_version",
    "operation_id",
    "queue",
    "owner",
    "lease_token",
    "timer_id",
    "signal_id",
    "name",
    "approval_id",
    "retry_id",
    "schedule_id",
)
_ID_LISTS = ("workflow_ids", "queues", "removed_timers")
_PAYLOADS = ("input", "output", "error", "payload", "spec")
_WORDS = ("reason", "decided_by", "comment", "cursor", "run_id_prefix")
_IDS_SET = frozenset(_IDS)
_COUNTS = (
    "now_ms",
    "available_at_ms",
    "fire_at_ms",
    "next_fire_at_ms",
    "finished_before_ms",
    "created_from_ms",
    "created_before_ms",
    "expected_next_index",
    "seen_inbox_seq",
    "from_index",
    "from_ms",
    "after_seq",
    "limit",
    "history_limit",
    "history_bytes",
    "max_bytes",
)
_POSITIVE = ("lease_ms", "max_crashes", "expected_revision")
_NUMBERS = frozenset({*_COUNTS, *_POSITIVE})
_SEQUENCES = frozenset({"events", "taken_inbox", "set_timers", "removed_timers", "awaited"})
"""Sequences of which an empty one needs no look."""
_TEXTS = frozenset({*_IDS, *_ID_LISTS, "run_ids", "leases", *_PAYLOADS, *_WORDS, "overlap_policy", "overlap", "action"})

_CHECKS: dict[str, Check] = {
    **dict.fromkeys(_IDS, _check_id),
    **dict.fromkeys(_PAYLOADS, _check_payload),
    **dict.fromkeys(_COUNTS, _check_count),
    **dict.fromkeys(_POSITIVE, _check_positive),
    **dict.fromkeys(_ID_LISTS, _check_ids),
    **dict.fromkeys(_WORDS, _check_text),
    "priority": _check_priority,
    "event": _check_event,
    "events": _check_events,
    "taken_inbox": _check_inbox_numbers,
    "set_timers": _check_timers,
    "removed_timers": _check_removed,
    "awaited": _check_awaited,
    "fire_times_ms": _check_fire_times,
    "overlap_policy": _check_overlap_policy,
    "overlap": _check_requested_overlap,
    "action": _check_action,
    "statuses": _check_statuses,
    "run_ids": _check_run_ids,
    "leases": _check_leases,
    "runs": _check_runs,
    "signals": _check_signals,
}


def approval_payload(*, approved: bool, decided_by: str | None, comment: str | None) -> JsonText:
    """Write the payload of an approval's inbox entry."""
    return encode_json({"approved": approved, "decided_by": decided_by, "comment": comment})


def cancel_payload(reason: str | None) -> JsonText:
    """Write the payload of a cancel request's inbox entry."""
    return encode_json({"reason": reason})
