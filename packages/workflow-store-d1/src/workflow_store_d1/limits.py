"""D1's limits, which the local database keeps too: what works on a laptop then works on Cloudflare."""

from __future__ import annotations

import re
from functools import lru_cache

from .database import D1DatabaseError, D1Value

__all__ = [
    "MAX_BOUND_VALUES",
    "MAX_STATEMENT_BYTES",
    "MAX_VALUE_BYTES",
    "check_statement",
    "check_values",
    "first_keyword",
]

MAX_BOUND_VALUES = 100
MAX_VALUE_BYTES = 2_000_000
MAX_STATEMENT_BYTES = 100_000

_BLANK = re.compile(r"(?:\s+|--[^\n]*|/\*.*?\*/)*", re.DOTALL)
_WORD = re.compile(r"\w*")
_REFUSED = frozenset(
    {"ATTACH", "BEGIN", "COMMIT", "DETACH", "END", "RELEASE", "ROLLBACK", "SAVEPOINT", "VACUUM"},
)


@lru_cache(maxsize=512)
def first_keyword(sql: str) -> str:
    """Return the first word of a statement, in capitals; comments before it do not count."""
    blank = _BLANK.match(sql)
    word = _WORD.match(sql, blank.end() if blank else 0)
    return word[0].upper() if word else ""


@lru_cache(maxsize=512)
def check_statement(sql: str) -> None:
    """Refuse text that D1 refuses.

    Raises:
        D1DatabaseError: Empty, too long, or a statement about transactions: `batch` is the only transaction.
    """
    size = len(sql.encode("utf-8"))
    if size > MAX_STATEMENT_BYTES:
        raise D1DatabaseError(f"a statement of {size} bytes is too long: at most {MAX_STATEMENT_BYTES} are allowed")
    keyword = first_keyword(sql)
    if not keyword:
        raise D1DatabaseError("there is no statement in the text")
    if keyword in _REFUSED:
        raise D1DatabaseError(f"{keyword} is not allowed: batch() is the only transaction")


def check_values(values: tuple[D1Value, ...], max_bytes: int = MAX_VALUE_BYTES) -> None:
    """Refuse values that D1 refuses.

    Args:
        values: To be bound.
        max_bytes: The largest one that the database carries; D1 carries 2,000,000 bytes.

    Raises:
        D1DatabaseError: Too many, too large, or of a type that D1 does not know.
    """
    if len(values) > MAX_BOUND_VALUES:
        raise D1DatabaseError(f"{len(values)} values are bound: at most {MAX_BOUND_VALUES} are allowed")
    for position, value in enumerate(values, start=1):
        problem = _problem(value, max_bytes)
        if problem is not None:
            raise D1DatabaseError(f"the value bound to ?{position} {problem}")


def _problem(value: object, max_bytes: int) -> str | None:
    match value:
        case None | float():
            return None
        case int():
            return None if -(2**63) <= value < 2**63 else "does not fit into 64 bits"
        case str():
            return _text_problem(value, max_bytes)
        case bytes():
            return _size_problem(len(value), max_bytes)
    return f"has a type that cannot be stored: {type(value).__name__}"


def _text_problem(value: str, max_bytes: int) -> str | None:
    try:
        size = len(value) if value.isascii() else len(value.encode("utf-8"))
    except UnicodeEncodeError:
        return "holds a lone surrogate"
    return _size_problem(size, max_bytes)


def _size_problem(size: int, max_bytes: int) -> str | None:
    return None if size <= max_bytes else f"takes {size} bytes: at most {max_bytes} are allowed"
