"""An error as it was recorded: what a person needs to find its cause, long after the process that raised it ended."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from .frozen_value import Value, value

__all__ = ["Failure", "render_failure"]


@value
class Failure(Value):
    """The record of an error, cut to some kilobytes."""

    error_type: str
    """The name of its class."""
    message: str
    notes: tuple[str, ...] = ()
    """Notes added to it by `add_note`."""
    traceback: str = ""
    """Traceback, the innermost call last."""
    cause: Failure | None = None
    """Failure from which it was raised, or else during whose handling."""
    members: tuple[Failure, ...] = ()
    """Failures in an exception group."""
    omitted: int = 0
    """Number of causes and members of this error that were left out."""

    @property
    def is_bare(self) -> bool:
        """True if there is nothing beyond the type and the message."""
        return not (self.notes or self.traceback or self.cause or self.members)


def render_failure(failure: Failure) -> str:
    """Write it for a person to read, causes first, as Python prints an exception."""
    return "\n".join(_lines(failure))


def _lines(failure: Failure) -> Iterator[str]:
    if failure.cause is not None:
        yield from _lines(failure.cause)
        yield from ("", "which led to:", "")
    if failure.traceback:
        yield "Traceback (most recent call last):"
        yield failure.traceback.rstrip("\n")
    yield f"{failure.error_type}: {failure.message}" if failure.message else failure.error_type
    yield from failure.notes
    for number, member in enumerate(failure.members, start=1):
        yield f"  member {number}:"
        yield textwrap.indent(render_failure(member), "    ")
    if failure.omitted:
        yield f"  ({failure.omitted} more left out)"
