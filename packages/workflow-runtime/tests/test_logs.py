"""Lines of the log: what comes from outside stays within the line that it belongs to."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import Context, workflow
from workflow_runtime.logs import get_logger, indented, one_line

if TYPE_CHECKING:
    from conftest import Lab

FORGED = "2026-01-01 00:00:00 ERROR forged"
LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?:DEBUG|INFO|WARNING|ERROR) ")
ENDINGS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\x1b[2K\r", "\x9b1A"]


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a program's own log file gets."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("workflow_runtime")
    logger.addHandler(handler)
    yield written
    logger.removeHandler(handler)


def forged(text: str) -> list[str]:
    """Give the lines that somebody would take for one of ours, or that drive a terminal."""
    return [line for line in text.splitlines() if line.startswith(FORGED) or re.search(r"[\x1b\x9b\x00]", line)]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_neither_ids_nor_errors_forge_a_line(lab: Lab, lines: io.StringIO, ending: str) -> None:
    """An errored run whose id, workflow and exception all try; the traceback is there, and readable."""

    @workflow(id=f"w{ending}{FORGED}")
    async def fails(ctx: Context, _: Any) -> None:
        error = ValueError(f"bad{ending}{FORGED}")
        error.add_note(f"note{ending}{FORGED}")
        raise error

    runtime = lab.runtime(fails)
    await runtime.start_run(fails, run_id=f"r{ending}{FORGED}")
    await runtime.sweep()
    text = lines.getvalue()
    assert "ValueError: bad" in text
    assert "Traceback (most recent call last):" in text
    assert forged(text) == []
    first, *rest = text.split("\n")
    assert LINE.match(first)
    assert all(line.startswith("    ") or LINE.match(line) or not line for line in rest)


def test_one_line_keeps_what_can_be_read() -> None:
    """Words in any script stay as they are; an exception without a text is told by its type."""
    assert one_line(ValueError("größer, 大きい, 🎉\\n")) == "größer, 大きい, 🎉\\n"
    assert one_line(TimeoutError()) == "TimeoutError"
    assert one_line("a\x00\x1b[31m\u202e\ud800") == r"a\x00\x1b[31m\u202e\ud800"
    assert len(one_line("x" * 10_000)) < 2_100


def test_one_line_bears_an_exception_that_cannot_be_written() -> None:
    """Its class is the user's."""

    class Broken(Exception):  # noqa: N818  # a user's name
        def __str__(self) -> str:
            raise RuntimeError

    assert one_line(Broken()) == "Broken without a text"


def test_indented_keeps_tabs_and_lines() -> None:
    """A stack stays readable, and no line of it begins where ours do."""
    assert indented("a\n\tb\x1b") == "    a\n    \tb\\x1b"


def test_traceback_that_was_rendered_is_left_alone(lines: io.StringIO) -> None:
    """A filter of the program may have its own way."""
    logger = get_logger("workflow_runtime")
    record = logger.makeRecord(
        "workflow_runtime", logging.ERROR, __file__, 1, "m", (), (ValueError, ValueError(), None)
    )
    record.exc_text = "mine"
    logger.handle(record)
    assert lines.getvalue().splitlines()[1] == "mine"
