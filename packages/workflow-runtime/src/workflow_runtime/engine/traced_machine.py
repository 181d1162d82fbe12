"""A machine that keeps what its handler asks for, so that an execution and its replay can be compared."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from ..errors import NonDeterminismError
from ..escapes import text_of
from ..payloads import PayloadCodec
from .handler_outcome import Aborted, Errored, Finished, Outcome
from .history import OperationKind
from .machine import Machine
from .operations import Operation, StepCall

__all__ = ["TracedMachine", "compare"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One operation, as the handler asked for it."""

    step_id: str
    what: str


class TracedMachine(Machine):
    """A machine with a list of what its handler has asked for, in the order of the calls. For checks of replays."""

    def __init__(self, run_id: str, package: str | None, codec: PayloadCodec) -> None:
        self._codec = codec
        super().__init__(run_id, package)

    def _begin(self) -> None:
        super()._begin()
        self.asked: list[Asked] = []

    def request(self, *args: Any, **options: Any) -> asyncio.Future[Any]:
        """Register what the handler asks for, and keep it."""
        before = len(self._operations)
        future = super().request(*args, **options)
        if len(self._operations) > before:  # otherwise the handler is being torn down
            operation = self.unseen[-1]
            self.asked.append(Asked(operation.step_id, self._describe(operation)))
        return future

    @property
    def end(self) -> str:
        """The handler's end, in words."""
        return self._describe_end(self.outcome)

    def _describe(self, operation: Operation) -> str:
        # Encode now: a step may mutate its arguments. A recorded value differs each time, and is not compared.
        parts = [f"{operation.kind} {operation.step_id!r}"]
        if operation.kind is OperationKind.EMIT:
            parts.append(f"with {operation.value}")
        if operation.until is not None:
            parts.append(f"until {operation.until(0)} ms")
        if operation.step is not None:
            parts.append(self._describe_call(operation.step))
        return " ".join(parts)

    def _describe_call(self, call: StepCall) -> str:
        name = getattr(call.function, "__qualname__", type(call.function).__qualname__)
        arguments = [self._text(value) for value in call.args]
        arguments += [f"{key}={self._text(value)}" for key, value in call.kwargs.items()]
        return f"calling {name}({', '.join(arguments)})"

    def _text(self, value: Any) -> str:
        try:
            return str(self._codec.encode(value, "argument"))
        except Exception:  # noqa: BLE001  # an object of the program: all that can be compared is what it is
            return f"<{type(value).__qualname__}>"

    def _describe_end(self, outcome: Outcome | None) -> str:
        match outcome:
            case Finished(output):
                return f"returns {self._text(output)}"
            case Errored(error):
                return f"raises {type(error).__qualname__}: {text_of(error)}"
            case Aborted():
                return "ends as cancelled"
            case None:
                return "goes on"


def compare(first: TracedMachine, second: TracedMachine) -> None:
    """Raise at the first difference between an execution and its replay.

    Raises:
        NonDeterminismError: Names the operation, what was asked for the first time, and what in the replay.
    """
    for one, other in zip_longest(first.asked, second.asked):
        if one != other:
            step_id = one.step_id if one is not None else other.step_id if other is not None else ""
            recorded, called = (asked.what if asked is not None else "nothing more" for asked in (one, other))
            raise NonDeterminismError(first.run_id, step_id, recorded, called)
    if first.end != second.end:
        raise NonDeterminismError(first.run_id, "the end of the handler", first.end, second.end)
