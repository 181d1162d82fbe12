"""The refusal of bad arguments (ARG-1 to ARG-3, LOG-8, PAUSE-5, BULK-3): an argument's name says what it must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workflow_runtime.errors import InvalidArgumentError

__all__ = ["refuse_bad_arguments"]

LAST_MS = 2**53 - 1
IDS = [
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
]
ID_LISTS = ["workflow_ids", "queues", "removed_timers", "run_ids"]
COUNTS = [
    "limit",
    "history_limit",
    "history_bytes",
    "max_bytes",
    "from_index",
    "after_seq",
    "seen_inbox_seq",
    "expected_next_index",
]
LEAST_ONE = ["lease_ms", "max_crashes", "expected_revision"]


def refuse_bad_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise `InvalidArgumentError` for the first argument that is none; `None` is an absent one."""
    for name, value in arguments.items():
        if value is not None and not _rule_of(name)(value):
            raise InvalidArgumentError(name, f"cannot be {value!r}")
    if arguments.get("lease_ms") is not None and arguments["now_ms"] + arguments["lease_ms"] > LAST_MS:
        raise InvalidArgumentError("lease_ms", "ends after the last moment of time")


def _rule_of(name: str) -> Callable[[Any], bool]:
    """Return the test that the argument of this name must pass."""
    if name in IDS:
        return _is_id
    if name in ID_LISTS:
        return _are_ids
    if name == "fire_times_ms":
        return lambda value: all(_is_whole(item, 0) for item in value)
    if name == "priority":
        return lambda value: _is_whole(value, -32_768) and value <= 32_767
    least = 1 if name in LEAST_ONE else 0 if name in COUNTS or name.endswith("_ms") else None
    return lambda value: least is None or _is_whole(value, least)


def _is_id(value: Any) -> bool:
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        return len(value.encode("utf-8")) <= 512
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _are_ids(value: Sequence[Any]) -> bool:
    return all(_is_id(item) for item in value)


def _is_whole(value: Any, least: int) -> bool:
    return type(value) is int and least <= value <= LAST_MS
