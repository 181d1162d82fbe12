"""What an id may look like, and where fresh random ones come from."""

from __future__ import annotations

import os

from .errors import InvalidArgumentError

__all__ = ["MAX_ID_BYTES", "check_id", "new_id"]

MAX_ID_BYTES = 512
"""The longest id, in bytes of UTF-8."""


def check_id(argument: str, value: object) -> None:
    """Refuse an id that some store could not carry.

    Raises:
        InvalidArgumentError: `value` is not a string, is empty, is longer than 512 bytes in UTF-8, or holds a
            NUL or a lone surrogate.
    """
    if not isinstance(value, str):
        raise InvalidArgumentError(argument, f"must be a string, not {type(value).__name__}")
    if not value:
        raise InvalidArgumentError(argument, "must not be empty")
    if "\0" in value:
        raise InvalidArgumentError(argument, "must not contain NUL")
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidArgumentError(argument, "must not contain a lone surrogate") from None
    if size > MAX_ID_BYTES:
        raise InvalidArgumentError(argument, f"takes {size} bytes in UTF-8, at most {MAX_ID_BYTES} are allowed")


def new_id() -> str:
    """Make an id of 128 random bits, for runs, operations, claims and owners."""
    return os.urandom(16).hex()
