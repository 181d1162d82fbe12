"""The ids by which a replay finds again what a handler has asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Container

from ..errors import InvalidArgumentError
from ..ids import MAX_ID_BYTES, check_id

__all__ = ["StepIds", "derived_id"]

_MOST_BYTES_OF_A_CHARACTER = 4


class StepIds:
    """The step ids of one handler: given by it, or made of a name and a counter.

    Args:
        used: The ids so far. The caller adds a new one.
    """

    def __init__(self, used: Container[str]) -> None:
        self._used = used
        self._counts: dict[str, int] = {}

    def take(self, explicit: str | None, default: str) -> str:
        """Return the id of the next operation.

        Args:
            explicit: The id that the handler gave, if it did.
            default: What the id is made of otherwise.

        Raises:
            InvalidArgumentError: The explicit id was used before.
        """
        if explicit is not None:
            explicit = check_id("id", explicit)
            if explicit in self._used:
                raise InvalidArgumentError("id", f"step id {explicit!r} was used before in this run")
            return explicit
        count = self._counts.get(default, 0) + 1
        while (name := derived_id(default if count == 1 else f"{default}#{count}")) in self._used:
            count += 1
        self._counts[default] = count
        return name


def derived_id(text: str) -> str:
    """Return a step id made of a name; one that would be longer than a store carries ends in its hash instead."""
    if len(text) * _MOST_BYTES_OF_A_CHARACTER <= MAX_ID_BYTES:
        return text
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= MAX_ID_BYTES:
        return text
    digest = hashlib.sha256(data).hexdigest()[:32]
    return f"{data[: MAX_ID_BYTES - 33].decode('utf-8', 'ignore')}~{digest}"
