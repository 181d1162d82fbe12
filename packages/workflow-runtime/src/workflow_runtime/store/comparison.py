"""What `create_run` says about a run id that is taken."""

from __future__ import annotations

import json
from typing import Any

from ..payloads import JsonText

__all__ = ["differing_fields", "same_json"]


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


def same_json(left: JsonText, right: JsonText) -> bool:
    """Compare two documents as JSON values: order of keys is nothing, `1`, `1.0` and `true` differ."""
    return left == right or _canonical(left) == _canonical(right)


def _canonical(text: JsonText) -> str:
    value: Any = json.loads(text)
    return json.dumps(value, sort_keys=True)
