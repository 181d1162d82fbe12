"""A difference written down: the clauses, both answers, and a program that a person can run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from workflow_runtime.frozen_value import Value
from workflow_runtime.store import WorkflowExecutionStore

from ..clauses import CLAUSES, parse_clauses
from .drawing import LONG_ID
from .playing import MODEL, Difference
from .script import Operation, TickToken, Token

__all__ = ["clauses_of", "report"]

MOST_CHARACTERS = 3_000
"""The longest answer that is printed in full."""

PROGRAM = """\
import asyncio

from workflow_contract_tests.state_machine import show
from workflow_runtime.store import Awaited, NewEvent, RunStatus, Timer, WorkflowVersion
from workflow_runtime.store import RunToCreate, SignalToDeliver

harness = ...  # your StoreHarness, with fresh data


async def script(call):
{calls}


asyncio.run(show(script, harness))
"""


def report(difference: Difference, *, seed: int, operations: int) -> str:
    """Return what is to be said about a difference.

    Args:
        difference: From the shortest script that was found.
        seed: By which the sequence can be drawn again.
        operations: The length of the sequence as it was drawn.
    """
    operation = difference.operation
    lines = [f"{operation.verb} answers otherwise than the contract says (seed {seed}, {operations} operations)."]
    lines += ["", "Where the answers differ:"]
    lines += [f"  {line}" for line in _differences(difference.forms)]
    lines += ["", *(f"{who} answered: {_cut(repr(answer))}" for who, answer in difference.answers.items())]
    lines += ["", "The clauses of this verb:"]
    lines += [f"  {clause_id}: {CLAUSES[clause_id]}" for clause_id in clauses_of(operation.verb)]
    lines += ["", "A program that shows it:", "", program(difference)]
    return "\n".join(lines)


def clauses_of(verb: str) -> tuple[str, ...]:
    """Return the clauses of a verb, or those of its role when it has none of its own."""
    for role in WorkflowExecutionStore.__mro__:
        method = vars(role).get(verb)
        if method is not None:
            own = parse_clauses(inspect.cleandoc(method.__doc__ or ""))
            return tuple(own or parse_clauses(inspect.cleandoc(role.__doc__ or "")))
    return ()


def program(difference: Difference) -> str:
    """Return the script as Python, with the arguments as they were sent."""
    calls = [_call(op, sent) for op, sent in zip(difference.script, difference.sent, strict=True)]
    return PROGRAM.format(calls="\n".join(f"    {call}" for call in calls))


def _call(operation: Operation, sent: Mapping[str, Any]) -> str:
    if operation.again:
        return f"await call.again({sent['operation_id']!r})"
    arguments = ", ".join(f"{name}={_literal(value)}" for name, value in sent.items())
    return f"await call.{operation.verb}({arguments})"


def _literal(value: Any) -> str:
    """Write a value as Python that makes it again."""
    if isinstance(value, Token | TickToken):
        name, of = ("token", value.run_id) if isinstance(value, Token) else ("tick_token", value.schedule_id)
        return f"call.{name}({_literal(of)}, {value.back})"
    if value == LONG_ID:
        return "'x' * 509 + 'é'"
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, Value):
        names = type(value).__dataclass_fields__  # type: ignore[attr-defined]  # every value is a dataclass
        return f"{type(value).__name__}({', '.join(f'{name}={_literal(getattr(value, name))}' for name in names)})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_literal(item) for item in value)}]"
    return repr(value)


def _differences(forms: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line for each field in which some answer is not the model's."""
    for who, form in forms.items():
        if who != MODEL:
            yield from _between(forms[MODEL], form, "answer", who)


def _between(model: Any, other: Any, path: str, who: str) -> Iterator[str]:
    if isinstance(model, dict) and isinstance(other, dict):
        for name in dict.fromkeys([*model, *other]):
            below = f"{path}.{name}" if name else f"type of {path}"
            yield from _between(model.get(name, "nothing"), other.get(name, "nothing"), below, who)
    elif isinstance(model, list) and isinstance(other, list) and len(model) == len(other):
        for place, (one, two) in enumerate(zip(model, other, strict=True)):
            yield from _between(one, two, f"{path}[{place}]", who)
    elif model != other:
        yield f"{path}: {MODEL} {_cut(repr(model), 200)}; {who} {_cut(repr(other), 200)}"


def _cut(text: str, most: int = MOST_CHARACTERS) -> str:
    text = text.replace(LONG_ID, f"{LONG_ID[:3]}…é")
    return text if len(text) <= most else f"{text[:most]} … ({len(text)} characters)"
