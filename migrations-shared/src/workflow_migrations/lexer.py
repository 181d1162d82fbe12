"""Just enough SQL to find words and ends of statements: strings, quoted names and comments are left alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "Token",
    "code_tokens",
    "comment_above",
    "is_concurrent",
    "is_transaction",
    "replace_words",
    "source_text",
    "split_statements",
    "within_transaction",
]

_TOKEN = re.compile(
    r"""
      (?P<opaque> '(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ )
    | (?P<word>   \w+ )
    | (?P<end>    ; )
    | (?P<other>  . )
    """,
    re.VERBOSE | re.DOTALL,
)

_TRANSACTION = {"BEGIN", "COMMIT"}
_CONCURRENTLY = "CONCURRENTLY"


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


def within_transaction(sql: str) -> str:
    """Return a script as a transaction of somebody else can run it: without BEGIN, COMMIT and CONCURRENTLY."""
    kept: list[str] = []
    statement: list[str] = []
    for token in _TOKEN.finditer(sql):
        if token[0].upper() == _CONCURRENTLY:
            statement.pop()  # the space before it
            continue
        statement.append(token[0])
        if token.lastgroup == "end":
            comment = _comment_of_transaction(statement)
            kept.append("".join(statement) if comment is None else comment)
            statement = []
    return "".join([*kept, *statement]).rstrip() + "\n"


def _comment_of_transaction(statement: Sequence[str]) -> str | None:
    """Return what stands above a BEGIN or COMMIT; `None` if the statement is another."""
    *tokens, _ = statement
    if not is_transaction("".join(tokens)):
        return None
    word = next(at for at, token in enumerate(tokens) if token.upper() in _TRANSACTION)
    return "".join(tokens[:word]).rstrip()


def is_transaction(statement: str) -> bool:
    """Return True if a statement is only BEGIN or COMMIT."""
    words = code_tokens(statement)
    return len(words) == 1 and words[0].upper() in _TRANSACTION


def is_concurrent(statement: str) -> bool:
    """Return True if a statement builds or drops an index while others write."""
    return _CONCURRENTLY in (word.upper() for word in code_tokens(statement))


class Token(str):
    """A word, mark, string or quoted name of a statement, as it is written."""

    __slots__ = ("after_space",)
    after_space: bool
    """True if space or a comment stands before it."""


def code_tokens(sql: str) -> tuple[Token, ...]:
    """Return the words, marks, strings and quoted names of a statement, without its comments."""
    tokens: list[Token] = []
    after_space = False
    for match in _TOKEN.finditer(sql):
        if match[0].isspace() or match[0].startswith(("--", "/*")):
            after_space = True
            continue
        token = Token(match[0])
        token.after_space = after_space
        tokens.append(token)
        after_space = False
    return tuple(tokens)


def source_text(tokens: Iterable[Token]) -> str:
    """Return tokens as they are written, on one line."""
    return "".join(f" {token}" if token.after_space else token for token in tokens).strip()


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
