"""One line of the file: a verb and its arguments, as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from workflow_runtime.store import (
    Awaited,
    NewEvent,
    RunStatus,
    RunToCreate,
    SignalToDeliver,
    Timer,
    WorkflowVersion,
)

__all__ = ["read_command", "write_command"]

_VALUES = {cls.__name__: cls for cls in (Awaited, NewEvent, RunToCreate, SignalToDeliver, Timer, WorkflowVersion)}


def write_command(verb: str, arguments: dict[str, Any]) -> bytes:
    """Write a command as one line."""
    return json.dumps([verb, arguments], default=_plain).encode("ascii") + b"\n"


def read_command(line: bytes) -> tuple[str, dict[str, Any]]:
    """Read a line that `write_command` wrote; `ValueError` when it did not."""
    verb, arguments = json.loads(line, object_hook=_value)
    if arguments.get("statuses") is not None:
        arguments["statuses"] = [RunStatus(status) for status in arguments["statuses"]]
    return verb, arguments


def _plain(value: Any) -> Any:
    # The runtime gives values of subclasses, too: it is the published class that can be read again.
    name = next(cls.__name__ for cls in type(value).__mro__ if cls.__name__ in _VALUES)
    return {"$": name} | {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _value(document: dict[str, Any]) -> Any:
    name = document.pop("$", None)
    return document if name is None else _VALUES[name](**document)
