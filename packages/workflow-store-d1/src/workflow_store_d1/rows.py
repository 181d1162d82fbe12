"""Payloads as D1 keeps them: text, whose column says nothing about what it holds."""

from __future__ import annotations

from workflow_runtime.store import JsonText

from .database import Row

__all__ = ["checked_payload"]


def checked_payload(row: Row, column: str) -> JsonText | None:
    """Return a payload.

    Raises:
        ValueError: The statement's `json_valid` says that it is no JSON.
    """
    text = row[column]
    if text is None:
        return None
    if not row[f"{column}_valid"]:
        raise ValueError(f"{column} is not valid JSON")
    return JsonText(text)
