"""Named SQL: statements live in `.sql` files, and Python asks for them by name.

A file is a series of blocks:

```sql
-- name: load_run
-- Reads one run with its payloads.
-- ?1 run_id
SELECT ...
```

A block of several statements, which go out together as one batch, marks each of them:

```sql
-- name: requeue_run
-- Gives a dead run back to the workers.
-- statement: before
-- ?1 run_id
SELECT ...
-- statement: head
-- ?1 run_id  ?2 now_ms
UPDATE ...
```

The loader gives `load_run`, `requeue_run.before` and `requeue_run.head`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources

from .errors import InvalidQueryFileError

__all__ = ["Query", "load_queries", "parse_queries"]

_MARK = re.compile(r"--\s*(?P<kind>name|statement):\s*(?P<name>\S*)\s*")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PARAMETER = re.compile(r"[?$](\d+)\s+(\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One statement with a name."""

    name: str
    sql: str
    parameters: tuple[str, ...]
    """What the numbered parameters stand for, in order, as the comment above the statement says."""


@dataclass(slots=True)
class _Draft:
    """A statement whose lines are still being collected."""

    name: str
    line: int
    comments: list[str]
    code: list[str]


def load_queries(package: str, folder: str = "sql") -> dict[str, Query]:
    """Read all files of named SQL of an installed package.

    Raises:
        InvalidQueryFileError: A statement without a name, a name given twice, or parameters out of order.
    """
    queries: dict[str, Query] = {}
    for entry in sorted(resources.files(package).joinpath(folder).iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".sql"):
            for name, query in parse_queries(entry.name, entry.read_text(encoding="utf-8")).items():
                if name in queries:
                    raise InvalidQueryFileError(entry.name, 1, f"{name!r} is defined in another file too")
                queries[name] = query
    return queries


def parse_queries(file_name: str, text: str) -> dict[str, Query]:
    """Read one file of named SQL.

    Raises:
        InvalidQueryFileError: As `load_queries`.
    """
    queries: dict[str, Query] = {}
    for draft in _drafts(file_name, text):
        if draft.name in queries:
            raise InvalidQueryFileError(file_name, draft.line, f"{draft.name!r} is defined twice")
        queries[draft.name] = _finish(file_name, draft)
    return queries


def _drafts(file_name: str, text: str) -> list[_Draft]:
    drafts: list[_Draft] = []
    block = ""
    for number, line in enumerate(text.splitlines(), start=1):
        mark = _MARK.fullmatch(line.strip())
        if mark is not None:
            if not _NAME.fullmatch(mark["name"]):
                raise InvalidQueryFileError(file_name, number, f"{mark['name']!r} is not a name")
            if mark["kind"] == "name":
                block = mark["name"]
                drafts.append(_Draft(block, number, [], []))
            elif not block:
                raise InvalidQueryFileError(file_name, number, "a statement outside of a named block")
            else:
                _begin_statement(drafts, f"{block}.{mark['name']}", number)
        elif drafts and line.strip():
            (drafts[-1].comments if _is_comment(drafts[-1], line) else drafts[-1].code).append(line)
        elif line.strip() and not line.lstrip().startswith("--"):
            raise InvalidQueryFileError(file_name, number, "SQL before the first name")
    return drafts


def _is_comment(draft: _Draft, line: str) -> bool:
    # Comments inside a statement are part of its text.
    return not draft.code and line.lstrip().startswith("--")


def _begin_statement(drafts: list[_Draft], name: str, line: int) -> None:
    if not drafts[-1].code and "." not in drafts[-1].name:
        drafts.pop()  # the block's own lines were its description
    drafts.append(_Draft(name, line, [], []))


def _finish(file_name: str, draft: _Draft) -> Query:
    sql = "\n".join(draft.code).strip().removesuffix(";").rstrip()
    if not sql:
        raise InvalidQueryFileError(file_name, draft.line, f"{draft.name!r} has no SQL")
    named = _PARAMETER.findall("\n".join(draft.comments))
    if [int(number) for number, _ in named] != list(range(1, len(named) + 1)):
        raise InvalidQueryFileError(file_name, draft.line, f"the parameters of {draft.name!r} are not 1, 2, 3 …")
    return Query(name=draft.name, sql=sql, parameters=tuple(name for _, name in named))
