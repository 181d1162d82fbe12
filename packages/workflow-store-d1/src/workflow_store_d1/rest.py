"""The shape of Cloudflare's REST API for D1: what is sent, and what an answer means. Nothing here does I/O.

Values travel as JSON, and D1 keeps numbers as JavaScript does. So integers beyond 2^53 go out as text, which a column
of integers makes exact again; those that come back have lost their last digits unless the SQL casts them to text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from .database import D1DatabaseError, D1Value
from .failures import failure

__all__ = ["HttpResult", "check_wire_values", "read_answer", "request_body"]

_EXACT = 2**53
"""Integers up to here are exact in JavaScript."""

_VERDICT_OF_SQLITE = re.compile(r"SQLITE_[A-Z]+")


@dataclass(frozen=True, slots=True)
class HttpResult:
    """The outcome of one statement."""

    results: list[dict[str, Any]]
    meta: Mapping[str, Any] = field(default_factory=dict)


def check_wire_values(values: tuple[D1Value, ...]) -> None:
    """Refuse values that JSON cannot carry.

    Raises:
        D1DatabaseError: Bytes, or a number that is not finite.
    """
    for position, value in enumerate(values, start=1):
        if isinstance(value, bytes):
            raise D1DatabaseError(
                f"the value bound to ?{position} is bytes, which the HTTP API does not carry: "
                "bind value.hex() and write unhex() around the parameter"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise D1DatabaseError(f"the value bound to ?{position} is not a finite number")


def request_body(statements: Sequence[tuple[str, tuple[D1Value, ...]]]) -> bytes:
    """Write a batch as the body of a request."""
    batch = [{"sql": sql, "params": [_parameter(value) for value in values]} for sql, values in statements]
    return json.dumps({"batch": batch}, ensure_ascii=False, separators=(",", ":")).encode()


def _parameter(value: D1Value) -> object:
    if isinstance(value, int):
        return int(value) if abs(value) <= _EXACT else str(value)
    return value


def read_answer(status: int, headers: Mapping[str, str], content: bytes, count: int) -> list[HttpResult]:
    """Read what the API says to a batch.

    Args:
        status: Of HTTP.
        headers: Of the response, to be looked up in any case.
        content: Its body.
        count: How many statements the batch had.

    Raises:
        D1DatabaseError: The batch was refused, may have been lost, or the answer is none of the API's.
    """
    body = _parsed(content)
    if status != 200 or (isinstance(body, dict) and body.get("success") is False):
        raise _refusal(status, headers, _verdict(body))
    try:
        results = [_result(item) for item in body["result"]]
    except (KeyError, TypeError, ValueError):
        raise _strange("the answer does not have the shape of D1's API") from None
    if len(results) != count:
        raise _strange(f"{count} statements gave {len(results)} results")
    return results


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _result(item: Any) -> HttpResult:
    rows = item["results"]
    if isinstance(rows, dict):  # the form of /raw; that of /query has an object for each row
        columns = rows["columns"]
        rows = [zip(columns, row, strict=True) for row in rows["rows"]]
    return HttpResult([dict(row) for row in rows], dict(item.get("meta") or {}))


def _strange(problem: str) -> D1DatabaseError:
    """Return the error of an answer that cannot be understood; the batch it answers may have been done."""
    return D1DatabaseError(f"{problem}: check base_url", unavailable=True, outcome_unknown=True)


def _verdict(body: Any) -> str | None:
    """Return what D1 says is wrong, if it is D1 that speaks."""
    errors = body.get("errors") if isinstance(body, dict) else None
    messages = [error.get("message") for error in errors or () if isinstance(error, dict)]
    return "; ".join(message for message in messages if isinstance(message, str)) or None


def _refusal(status: int, headers: Mapping[str, str], verdict: str | None) -> D1DatabaseError:
    match status:
        case 401 | 403:
            return D1DatabaseError(
                f"the API refuses the token (HTTP {status}): it needs the permission D1:Edit for this account",
                no_access=True,
            )
        case 404:
            return D1DatabaseError(
                "the API knows no such database (HTTP 404): check the ids of account and database", no_access=True
            )
        case 429:
            return D1DatabaseError(
                "the API has had too many requests (HTTP 429)", unavailable=True, retry_after=_retry_after(headers)
            )
    if verdict is not None:
        said = failure(verdict)
        if status < 500 or said.unavailable or _VERDICT_OF_SQLITE.search(verdict):
            return said
    if status >= 500 or status == 408:
        # Somebody between us and the database: it may have the batch all the same.
        return D1DatabaseError(
            f"the API is not there (HTTP {status}{'' if verdict is None else f': {verdict}'})",
            unavailable=True,
            outcome_unknown=True,
            retry_after=_retry_after(headers),
        )
    return D1DatabaseError(f"the API gave an answer that it never gives (HTTP {status}): check base_url")


def _retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """Read how long to wait: a number of seconds, or a date, which the same clock has written as that of the answer."""
    told = headers.get("retry-after", "").strip()
    if told.isdecimal():
        return timedelta(seconds=min(int(told), 86_400))
    until = _date(told)
    if until is None:
        return None
    return max(until - (_date(headers.get("date", "")) or datetime.now(UTC)), timedelta(0))


def _date(text: str) -> datetime | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415  # slow to load, and seldom needed

    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
