"""The check of ids, and the source of random ones."""

from __future__ import annotations

import os

from .errors import InvalidArgumentError

__all__ = ["MAX_ID_BYTES", "check_id", "new_id", "plain_text"]

MAX_ID_BYTES = 512
"""The longest id, in bytes of UTF-8."""


def check_id(argument: str, value: object) -> str:
    """Refuse an id that some store could not carry; give it as a plain `str`.

    Raises:
        InvalidArgumentError: `value` is not a string, is empty, is longer than 512 bytes in UTF-8, or holds a
            NUL or a lone surrogate.
    """
    text = plain_text(argument, value)
    if not text:
        raise InvalidArgumentError(argument, "must not be empty")
    if "\0" in text:
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
    """Make an id of 128 random bits, for runs, operations, claims and owners."""
    return os.urandom(16).hex()
