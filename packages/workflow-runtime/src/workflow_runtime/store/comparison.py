"""The answers of `create_run` and `fork_run` about a run id that is taken."""

from __future__ import annotations

import json
from typing import Any

from ..payloads import JsonText
from .values import RunRecord

__all__ = ["differing_fields", "differing_fork", "same_json"]


def differing_fields(
    *, stored_workflow_id: str, stored_input: JsonText, workflow_id: str, input: JsonText
) -> tuple[str, ...]:
    """Name what is not as the caller asked: `workflow_id`, `input`, both or neither."""
    differs = []
    if stored_workflow_id != workflow_id:
        differs.append("workflow_id")
    if not same_json(stored_input, input):
        differs.append("input")
    return tuple(differs)


def differing_fork(stored: RunRecord, *, run_id: str, from_index: int, workflow_version: str | None) -> tuple[str, ...]:
    """Name what is not as the caller of `fork_run` asked; a version that is not asked for differs from none."""
    differs = []
    if stored.forked_from_run_id != run_id:
        differs.append("run_id")
    if stored.forked_from_index != from_index:
        differs.append("from_index")
    if workflow_version not in {None, stored.workflow_version}:
        differs.append("workflow_version")
    return tuple(differs)


def same_json(left: JsonText, right: JsonText) -> bool:
    """Compare two documents as JSON values: order of keys is nothing, `1`, `1.0` and `true` differ."""
    return left == right or _canonical(left) == _canonical(right)


def _canonical(text: JsonText) -> str:
    value: Any = json.loads(text)
    return json.dumps(value, sort_keys=True)
