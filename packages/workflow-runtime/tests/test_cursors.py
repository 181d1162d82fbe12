"""A cursor is what was made for one, and nothing else."""

import base64
from typing import Any

import pytest
from workflow_runtime.errors import InvalidArgumentError
from workflow_runtime.store import (
    decode_run_cursor,
    decode_schedule_cursor,
    encode_run_cursor,
    encode_schedule_cursor,
)

IDS = ("a", "a" * 512, "é" * 256, "\U0001f600" * 128, "\x01" * 512, '"\\/', "run", " ", "\n", "0", "a/b?c#d")
LONGEST = 4_096
"""What stores take of a text from outside."""


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("moment", [0, 1, 1_700_000_000_000, 2**53 - 1])
def test_what_goes_in_comes_out(name: str, moment: int) -> None:
    cursor = encode_run_cursor(moment, name)
    assert decode_run_cursor(cursor) == (moment, name)
    assert decode_schedule_cursor(encode_schedule_cursor(name)) == name
    assert len(cursor) <= LONGEST
    assert cursor.isascii()
    assert not set(cursor) & set("+/&?# %")


def made_of(*fields: str) -> str:
    return base64.urlsafe_b64encode("\0".join(fields).encode("utf-8", "surrogatepass")).decode()


NO_TIMES = (
    "-1", "+1", " 1", "1 ", "01", "1_0", "1.0", "1e3", "", "x", "٣", "²", "9007199254740992", "9" * 17, "9" * 5_000,
    "True", "null",
)  # fmt: skip
NO_IDS = ("", "x" * 513, "\ud800", "é" * 257)
JSON = ('["run", true, "a"]', '["run", 1, "a"]', "{}", "null", '["schedule", "a"]')
GOOD = encode_run_cursor(1, "run-1")


@pytest.mark.parametrize(
    "cursor",
    [
        *(made_of("run", moment, "r") for moment in NO_TIMES),
        *(made_of("run", "1", name) for name in NO_IDS),
        made_of("run"),
        made_of("run", "1"),
        made_of("run", "1", "a", "b"),
        made_of("Run", "1", "a"),
        made_of("schedule", "a"),
        "", "x", "=", "ü", "\ud800", " ", GOOD + "\n", " " + GOOD, GOOD + "=", GOOD + "A", GOOD[:-1], GOOD[1:],
        GOOD.swapcase(), GOOD + GOOD,
        *(base64.b64encode(text.encode()).decode() for text in JSON),
        base64.b64encode(b"[" * 100_000).decode(),
        base64.b64encode(b"\xff\xfe\0\0").decode(),
        None, True, 1, 1.5, b"run", GOOD.encode(), ["run"], {}, object(),
    ],
)  # fmt: skip
def test_anything_else_is_refused(cursor: Any) -> None:
    for decode in (decode_run_cursor, decode_schedule_cursor):
        if decode is decode_schedule_cursor and cursor == made_of("schedule", "a"):
            continue
        with pytest.raises(InvalidArgumentError, match="is not a cursor of a listing of") as refused:
            decode(cursor)
        assert refused.value.argument == "cursor"


@pytest.mark.parametrize("name", NO_IDS)
def test_a_schedule_s_id_is_checked_too(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        decode_schedule_cursor(made_of("schedule", name))


def test_bits_that_base64_ignores_are_not_ignored() -> None:
    """`QQ==` and `QR==` are the same byte."""
    cursor = encode_schedule_cursor("ab")
    body = cursor.rstrip("=")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = body[:-1] + alphabet[alphabet.index(body[-1]) + 1] + "=" * (len(cursor) - len(body))
    assert base64.urlsafe_b64decode(twin) == base64.urlsafe_b64decode(cursor)
    with pytest.raises(InvalidArgumentError):
        decode_schedule_cursor(twin)
