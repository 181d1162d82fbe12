"""Just enough SQL to find words and ends of statements: strings, quoted names and comments are left alone."""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["code_tokens", "comment_above", "replace_words", "split_statements"]

_TOKEN = re.compile(
    r"""
      (?P<opaque> '(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ )
    | (?P<word>   \w+ )
    | (?P<end>    ; )
    | (?P<other>  . )
    """,
    re.VERBOSE | re.DOTALL,
)


def replace_words(sql: str, replacement: Callable[[str], str]) -> str:
    """Pass each bare word through `replacement`."""

    def replace(token: re.Match[str]) -> str:
        word = token["word"]
        return token[0] if word is None else replacement(word)

    return _TOKEN.sub(replace, sql)


def split_statements(sql: str) -> tuple[str, ...]:
    """Cut a script at its semicolons. Comments stay with the statement that follows them.

    Bodies of triggers and dollar-quoted functions hold semicolons of their own; scripts with these are not for
    this function.
    """
    statements: list[str] = []
    current: list[str] = []
    has_code = False
    for token in _TOKEN.finditer(sql):
        if token.lastgroup == "end":
            if has_code:
                statements.append("".join(current).strip())
            current, has_code = [], False
            continue
        current.append(token[0])
        is_comment = token.lastgroup == "opaque" and token[0].startswith(("--", "/*"))
        has_code = has_code or not (is_comment or token[0].isspace())
    if has_code:
        statements.append("".join(current).strip())
    return tuple(statements)


def code_tokens(sql: str) -> tuple[str, ...]:
    """Return the words, marks, strings and quoted names of a statement, without its comments."""
    texts = (token[0] for token in _TOKEN.finditer(sql))
    return tuple(text for text in texts if not (text.isspace() or text.startswith(("--", "/*"))))


def comment_above(statement: str) -> str:
    """Return the lines of comment that stand directly above the code of a statement, as one line."""
    lines: list[str] = []
    for line in map(str.strip, statement.splitlines()):
        if line.startswith("--"):
            lines.append(line.removeprefix("--").strip())
        elif line:
            break
        else:
            lines = []
    return " ".join(lines)
