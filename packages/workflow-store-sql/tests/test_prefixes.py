"""The text that ends a range of those that begin alike."""

import sys

import pytest
from workflow_store_sql import after_prefix

LAST = chr(sys.maxunicode)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        ("a", "b"),
        ("run-9", "run-:"),
        ("%_", "%`"),
        ("é", "ê"),
        ("a\ud7ff", "a\ue000"),
        (f"a{LAST}", "b"),
        (f"a{LAST}{LAST}", "b"),
        (LAST, None),
        ("", None),
    ],
)
def test_end_of_a_prefix(prefix: str, end: str | None) -> None:
    """SQLite compares the bytes of UTF-8: in the order of code points, as Python does."""
    assert after_prefix(prefix) == end
    if end is not None:
        assert prefix.encode() < f"{prefix}{LAST}".encode() < end.encode()
