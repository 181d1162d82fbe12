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

Text that several statements repeat is a fragment. An `include` line stands for it, in any file of the folder, and its
indentation is given to each line of the fragment:

```sql
-- fragment: summary_columns
head.run_id,
head.status

-- name: load_run
-- ?1 run_id
SELECT
    -- include: summary_columns
FROM workflow_event_locks AS head
WHERE head.run_id = ?1;
```
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources

__all__ = ["InvalidQueryFileError", "Query", "load_queries", "parse_queries"]

_MARK = re.compile(r"(?P<indent>\s*)--\s*(?P<kind>name|statement|fragment|include):\s*(?P<name>.*?)\s*")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PARAMETER = re.compile(r"[?$](\d+)\s+(\w+)")


class InvalidQueryFileError(Exception):
    """A mistake in a file of named SQL. The package that ships the file must be mended."""

    def __init__(self, file_name: str, line: int, problem: str) -> None:
        super().__init__(file_name, line, problem)
        self.file_name = file_name
        self.line = line
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.file_name}, line {self.line}: {self.problem}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One statement with a name."""

    name: str
    sql: str
    parameters: tuple[str, ...]
    """The meaning of the numbered parameters, in order, as the comment above the statement gives it."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of SQL and its place in a file."""

    file_name: str
    number: int
    text: str

    @property
    def is_comment(self) -> bool:
        return self.text.lstrip().startswith("--") and not _MARK.fullmatch(self.text)

    def error(self, problem: str) -> InvalidQueryFileError:
        return InvalidQueryFileError(self.file_name, self.number, problem)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A statement or a fragment whose lines are being collected."""

    name: str
    mark: _Line
    is_fragment: bool = False
    comments: list[str] = field(default_factory=list)
    code: list[_Line] = field(default_factory=list)

    def add(self, line: _Line) -> None:
        # Comments inside a statement are part of its text; an include begins one.
        if line.is_comment and not self.code:
            self.comments.append(line.text)
        else:
            self.code.append(line)


def load_queries(package: str, folder: str = "sql") -> dict[str, Query]:
    """Read all files of named SQL of an installed package.

    Raises:
        InvalidQueryFileError: A statement without a name, a name given twice, parameters out of order, or a fragment
            that is unknown, unused or includes itself.
    """
    files = sorted(resources.files(package).joinpath(folder).iterdir(), key=lambda entry: entry.name)
    return _read({entry.name: entry.read_text(encoding="utf-8") for entry in files if entry.name.endswith(".sql")})


def parse_queries(file_name: str, text: str) -> dict[str, Query]:
    """Read one file of named SQL, which includes its own fragments only.

    Raises:
        InvalidQueryFileError: As `load_queries`.
    """
    return _read({file_name: text})


def _read(files: Mapping[str, str]) -> dict[str, Query]:
    drafts = [draft for file_name, text in files.items() for draft in _drafts(file_name, text)]
    fragments = _by_name(draft for draft in drafts if draft.is_fragment)
    used: set[str] = set()
    statements = _by_name(draft for draft in drafts if not draft.is_fragment)
    queries = {name: _finish(draft, fragments, used) for name, draft in statements.items()}
    for name, fragment in fragments.items():
        if name not in used:
            raise fragment.mark.error(f"the fragment {name!r} is included nowhere")
    return queries


def _drafts(file_name: str, text: str) -> list[_Draft]:
    drafts: list[_Draft] = []
    block = ""
    for number, content in enumerate(text.splitlines(), start=1):
        line = _Line(file_name, number, content)
        mark = _MARK.fullmatch(content)
        kind, name = (mark["kind"], mark["name"]) if mark else ("", "")
        if mark and not _NAME.fullmatch(name):
            raise line.error(f"{name!r} is not a name")
        if kind in {"name", "fragment"}:
            block = name if kind == "name" else ""
            drafts.append(_Draft(name, line, is_fragment=kind == "fragment"))
        elif kind == "statement":
            _begin_statement(drafts, block, name, line)
        else:
            _add_line(drafts, line)
    return drafts


def _begin_statement(drafts: list[_Draft], block: str, name: str, line: _Line) -> None:
    if not block:
        raise line.error("a statement outside of a named block")
    if not drafts[-1].code and drafts[-1].name == block:
        drafts.pop()  # the block's own lines were its description
    drafts.append(_Draft(f"{block}.{name}", line))


def _add_line(drafts: list[_Draft], line: _Line) -> None:
    if not line.text.strip():
        return
    if drafts:
        drafts[-1].add(line)
    elif not line.is_comment:
        raise line.error("SQL before the first name")


def _by_name(drafts: Iterator[_Draft]) -> dict[str, _Draft]:
    found: dict[str, _Draft] = {}
    for draft in drafts:
        if draft.name in found:
            raise draft.mark.error(f"{draft.name!r} is defined twice")
        if not draft.code:
            raise draft.mark.error(f"{draft.name!r} has no SQL")
        found[draft.name] = draft
    return found


def _finish(draft: _Draft, fragments: Mapping[str, _Draft], used: set[str]) -> Query:
    sql = "\n".join(_expand(draft.code, fragments, used, ())).strip().removesuffix(";").rstrip()
    named = _PARAMETER.findall("\n".join(draft.comments))
    if [int(number) for number, _ in named] != list(range(1, len(named) + 1)):
        raise draft.mark.error(f"the parameters of {draft.name!r} are not 1, 2, 3 …")
    return Query(name=draft.name, sql=sql, parameters=tuple(name for _, name in named))


def _expand(
    code: list[_Line], fragments: Mapping[str, _Draft], used: set[str], around: tuple[str, ...]
) -> Iterator[str]:
    """Yield the lines of a text, with fragments in place of their `include` lines; `around` names those it is in."""
    for line in code:
        mark = _MARK.fullmatch(line.text)
        if mark is None:
            yield line.text
            continue
        name = mark["name"]
        if name not in fragments:
            raise line.error(f"there is no fragment {name!r}")
        if name in around:
            raise line.error(f"the fragment {name!r} includes itself")
        used.add(name)
        included = _expand(fragments[name].code, fragments, used, (*around, name))
        yield from (f"{mark['indent']}{text}" for text in included)
