"""The check of ids, and the source of random ones."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

from .errors import InvalidArgumentError

__all__ = ["MAX_ID_BYTES", "NUL", "check_id", "new_id", "new_operation_id", "plain_text"]

MAX_ID_BYTES = 512
"""The longest id, in bytes of UTF-8."""
NUL = "\0"
"""Databases end texts with it, or refuse it."""


def check_id(argument: str, value: object) -> str:
    """Refuse an id that some store could not carry; give it as a plain `str`.

    Raises:
        InvalidArgumentError: `value` is not a string, is empty, is longer than 512 bytes in UTF-8, or holds a
            NUL or a lone surrogate.
    """
    # Most ids, and each step has several of them.
    if type(value) is str and value.isascii() and 0 < len(value) <= MAX_ID_BYTES and NUL not in value:
        return value
    text = plain_text(argument, value)
    if not text:
        raise InvalidArgumentError(argument, "must not be empty")
    if NUL in text:
        raise InvalidArgumentError(argument, "must not contain NUL")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidArgumentError(argument, "must not contain a lone surrogate") from None
    if size > MAX_ID_BYTES:
        raise InvalidArgumentError(argument, f"takes {size} bytes in UTF-8, at most {MAX_ID_BYTES} are allowed")
    return text


def plain_text(argument: str, value: object) -> str:
    """Return the string that a member of an enum, or of another subclass of `str`, holds.

    Raises:
        InvalidArgumentError: It is no string.
    """
    if type(value) is str:
        return value
    if not isinstance(value, str):
        raise InvalidArgumentError(argument, f"must be a string, not {type(value).__name__}")
    return str.__str__(value)  # str(value) of an enum member would be `Signal.GO`


def new_id() -> str:
    """Make an id of 128 random bits, for runs, claims and owners."""
    return os.urandom(16).hex()


class OperationIds:
    """The ids of a process's writes: a random part that is the process's own, and a counter.

    Random bits for each write would be a system call for each.
    """

    def __init__(self) -> None:
        # Not made before it is needed: a copy of the memory of a program that has just begun may start many processes.
        self._source: tuple[str, Iterator[int]] | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._source = None

    def take(self) -> str:
        """Return an id that no other write has. May be called by any thread."""
        if self._source is None:
            self._source = new_id(), itertools.count(1)
        prefix, numbers = self._source
        return f"{prefix}-{next(numbers):x}"


new_operation_id = OperationIds().take
"""Returns a new id for a write."""
