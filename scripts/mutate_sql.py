"""Break each statement of a SQL store in many small ways, and show which of them no case of the contract notices.

Every mutant is tried in a process of its own, on the cases that send its statement, quick ones first, until one fails.
What is left at the end is a survivor: a case that is missing, a part of the statement that nothing needs, or a change
that means the same. Judge each. All of a store takes hours on few cores; first take the quick cases, then try what they
left on the others. Each line of the file that `--out` names is one mutant that was tried; a run that was stopped goes
on where the file ends:

    export WORKFLOW_CONTRACT_SCALE=0.2
    python scripts/mutate_sql.py sqlite --longest 0.5 --out quick.jsonl
    python scripts/mutate_sql.py sqlite --again quick.jsonl --shortest 0.4 --out slow.jsonl
    python scripts/mutate_sql.py postgres --query claim_due_timers

Judgements of survivors stand in `scripts/sql_survivors/STORE.toml`, in groups with one reason each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import workflow_store_sql.statements
from workflow_contract_tests import Case, catalogue
from workflow_contract_tests.examination import examine
from workflow_store_d1 import get_migration_sql as sqlite_migrations
from workflow_store_sql import load_queries
from workflow_test_support.harnesses import combining, postgres, sqlite

_Token = re.Match[str]
_TOKEN = re.compile(
    r"(?P<comment>--[^\n]*)|(?P<text>'(?:[^']|'')*')|(?P<number>\b\d+\b)|(?P<parameter>[?$]\d+)"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_.]*)|(?P<sign><>|<=|>=|!=|\|\||->>|->|::|[-+*/=<>(),;])"
)
_SIGNS: Mapping[str, tuple[str, ...]] = {
    "=": ("<>",),
    "<>": ("=",),
    "<": ("<=", ">"),
    "<=": ("<", ">"),
    ">": (">=", "<"),
    ">=": (">", "<"),
    "+": ("-",),
    "-": ("+",),
}
_WORDS: Mapping[str, tuple[str, ...]] = {
    "AND": ("OR",),
    "OR": ("AND",),
    "ASC": ("DESC",),
    "DESC": ("ASC",),
    "MIN": ("max",),
    "MAX": ("min",),
    "LEAST": ("greatest",),
    "GREATEST": ("least",),
    "COALESCE": ("nullif",),
    "NOT": ("",),
    "NULL": ("0",),
    "EXISTS": ("NOT EXISTS",),
    "DISTINCT": ("",),
    "LEFT": ("",),
    "TRUE": ("false",),
    "FALSE": ("true",),
}
SURVIVED = "-"
"""Stands for the case that caught a mutant, if none did."""
JUDGEMENTS = Path(__file__).with_name("sql_survivors")
_CLAUSE_ENDS = {"LIMIT", "FOR", "RETURNING", "UNION", "ROWS"}
_CASE_S = 20.0
"""A case that takes longer has caught the mutant."""
_BLOCKED_S = 30
"""A case that takes even longer blocks the event loop: the mutant's process is ended, which has caught it too."""


@dataclass(frozen=True)
class Mutant:
    """A statement with one change."""

    query: str
    line: int
    column: int
    before: str
    after: str
    sql: str

    def __str__(self) -> str:
        return f"{self.query}:{self.line}:{self.column}: {self.before!r} -> {self.after!r}"


@dataclass
class Tally:
    """The mutants that were tried, and the cases that caught them."""

    tried: int = 0
    survivors: list[str] = field(default_factory=list)
    catches: dict[str, Counter[str]] = field(default_factory=dict)
    """For each statement, the number of mutants that a case has caught."""

    def add(self, mutant: Mutant, catcher: str) -> None:
        """Count a mutant that was tried."""
        self.tried += 1
        self.catches.setdefault(mutant.query, Counter())[catcher] += 1
        if catcher == SURVIVED:
            self.survivors.append(str(mutant))


@dataclass(frozen=True)
class Store:
    """A store whose statements are broken."""

    package: str
    harness: Callable[[], Any]
    find_valid: Callable[[Sequence[str]], Coroutine[Any, Any, list[bool]]]
    """Returns which statements the database can prepare."""
    close: Callable[[], Coroutine[Any, Any, None]]
    """Removes what the cases of a process have left on the server."""


# What can be changed.


def mutants_of(query: str, sql: str) -> Iterator[Mutant]:
    """Yield each mutant of a statement. Some of them are no SQL."""
    seen = {sql}
    for start, end, after in _changes(sql):
        mutated = sql[:start] + after + sql[end:]
        if mutated not in seen:
            seen.add(mutated)
            column = start - sql.rfind("\n", 0, start)
            yield Mutant(query, sql.count("\n", 0, start) + 1, column, sql[start:end].strip(), after, mutated)


def _changes(sql: str) -> Iterator[tuple[int, int, str]]:
    tokens = [match for match in _TOKEN.finditer(sql) if match.lastgroup != "comment"]
    for before, match, following in zip([None, *tokens[:-1]], tokens, [*tokens[1:], None], strict=True):
        if not _is_free_constant(before, match, following):
            yield from ((*match.span(), after) for after in _replacements(match))
        if before is not None and (before.group().upper(), match.group().upper()) == ("IS", "NULL"):
            yield *match.span(), "NOT NULL"
    yield from ((end, end, " DESC") for end in _order_terms(tokens))
    start = 0
    for line in sql.splitlines(keepends=True):  # a line is a condition, an assignment, a column or a term
        if not line.lstrip().startswith("--"):
            yield start, start + len(line), ""
        start += len(line)


def _is_free_constant(before: _Token | None, token: _Token, following: _Token | None) -> bool:
    """Return True for the number in `EXISTS (SELECT 1 FROM`, which says nothing."""
    if token.lastgroup != "number" or before is None or following is None:
        return False
    return (before.group().upper(), following.group().upper()) == ("SELECT", "FROM")


def _replacements(match: _Token) -> tuple[str, ...]:
    text = match.group()
    match match.lastgroup:
        case "sign":
            return _SIGNS.get(text, ())
        case "word":
            return _WORDS.get(text.upper(), ())
        case "number":
            return (str(int(text) + 1), *(("0",) if int(text) > 1 else ()))
        case "text":
            return ("'~'",)
        case _:
            return ("NULL",)


def _order_terms(tokens: Sequence[_Token]) -> Iterator[int]:
    """Yield the ends of terms of ORDER BY that name no direction."""
    for index, match in enumerate(tokens):
        if match.group().upper() != "BY" or tokens[index - 1].group().upper() != "ORDER":
            continue
        depth, last = 0, match
        for token in tokens[index + 1 :]:
            text = token.group().upper()
            depth += (text == "(") - (text == ")")
            ends = depth < 0 or (depth == 0 and text in _CLAUSE_ENDS)
            if (ends or (depth == 0 and text == ",")) and last.group().upper() not in {"ASC", "DESC"}:
                yield last.end()
            if ends:
                break
            last = token
        else:
            yield last.end()


# The stores.


async def _valid_on_sqlite(texts: Sequence[str]) -> list[bool]:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.executescript(sqlite_migrations())
        return [_can_explain(db, sql) for sql in texts]


def _can_explain(db: sqlite3.Connection, sql: str) -> bool:
    try:
        db.execute(f"EXPLAIN {sql}", {str(number): None for number in range(1, 60)})
    except sqlite3.Error:
        return False
    return True


async def _valid_on_postgres(texts: Sequence[str]) -> list[bool]:
    async with postgres._databases().database() as dsn:  # noqa: SLF001  # the same server as the cases'
        connection = await asyncpg.connect(dsn)
        try:
            return [await _can_prepare(connection, sql) for sql in texts]
        finally:
            await connection.close()


async def _can_prepare(connection: asyncpg.Connection, sql: str) -> bool:
    try:
        await connection.prepare(sql)
    except asyncpg.PostgresError:
        return False
    return True


async def _nothing() -> None:
    """Leave all as it is."""


async def _drop_databases() -> None:
    await postgres._databases().close()  # noqa: SLF001  # see above


STORES = {
    "sqlite": Store("workflow_store_d1", sqlite.harness, _valid_on_sqlite, _nothing),
    "postgres": Store("workflow_store_postgres", postgres.harness, _valid_on_postgres, _drop_databases),
    # For the statements that write to many runs.
    "postgres-combined": Store("workflow_store_postgres", combining.harness, _valid_on_postgres, _drop_databases),
}


# Which case sends which statement.


class Texts(dict[str, str]):
    """The statements of a store, noting which of them are asked for."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        super().__init__(texts)
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.used.add(name)
        return super().__getitem__(name)


def watch(package: str) -> Texts:
    """Make a store take its statements from `Texts`, from its next handle on."""
    texts = Texts(workflow_store_sql.statements.load_statements(package))
    for module in [module for name, module in sys.modules.items() if name.startswith(package)]:
        if hasattr(module, "load_statements"):
            vars(module)["load_statements"] = lambda *_, **__: texts
    return texts


@dataclass(frozen=True)
class Sends:
    """A case, what it sends, and how long it takes."""

    case: Case
    queries: frozenset[str]
    seconds: float


async def read_sends(store: Store, texts: Texts, cases: Sequence[Case]) -> list[Sends]:
    """Run each case once on the unbroken store.

    Raises:
        SystemExit: A case fails.
    """
    sends = []
    for number, case in enumerate(cases, 1):
        texts.used.clear()
        began = time.perf_counter()
        result = (await examine(case, store.harness)).result
        if result.outcome == "failed":
            raise SystemExit(f"the unbroken store fails {case.id}: {result.problem}")
        if result.outcome == "passed":
            sends.append(Sends(case, frozenset(texts.used), time.perf_counter() - began))
        if number % 100 == 0:
            sys.stdout.write(f"{number} of {len(cases)} cases run on the unbroken store\n")
            sys.stdout.flush()
    return sends


# Trying mutants.


class Trial:
    """A process in which one mutant meets the cases."""

    def __init__(self, store: Store, texts: Texts, mutant: Mutant, sends: Sequence[Sends]) -> None:
        self.mutant = mutant
        self._read, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            os.close(write)
            return
        os.close(self._read)
        try:
            texts[mutant.query] = mutant.sql
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.write(write, asyncio.run(_find_catcher(store, [one.case for one in sends])).encode())
        finally:
            os._exit(0)

    def catcher(self) -> str:
        """Return the case that caught the mutant, or nothing. The process has ended."""
        with os.fdopen(self._read) as pipe:
            return pipe.read() or "(its process died)"


async def _find_catcher(store: Store, cases: Sequence[Case]) -> str:
    found = SURVIVED
    for case in cases:
        signal.alarm(_BLOCKED_S)
        if (await examine(case, store.harness, timeout_s=_CASE_S)).result.outcome != "passed":
            found = case.id
            break
    await store.close()
    return found


def choose_cases(sends: Sequence[Sends], query: str, catches: Counter[str], most: int) -> list[Sends]:
    """Return the cases that a mutant meets: first those that have caught others, then those that send little else."""
    fitting = [one for one in sends if query in one.queries]
    fitting.sort(key=lambda one: (-catches[one.case.id], len(one.queries), one.seconds))
    return fitting[:most]


def try_all(
    store: Store,
    texts: Texts,
    sends: Sequence[Sends],
    mutants: Sequence[Mutant],
    tally: Tally,
    options: argparse.Namespace,
) -> Iterator[tuple[Mutant, str]]:
    """Try mutants side by side, and yield each with the case that caught it, or `SURVIVED`."""
    running: dict[int, Trial] = {}
    waiting = list(reversed(mutants))
    while waiting or running:
        while waiting and len(running) < options.processes:
            mutant = waiting.pop()
            catches = tally.catches.setdefault(mutant.query, Counter())
            trial = Trial(store, texts, mutant, choose_cases(sends, mutant.query, catches, options.most))
            running[trial.pid] = trial
        pid, _ = os.wait()
        if (ended := running.pop(pid, None)) is not None:
            yield ended.mutant, ended.catcher()


# What is known from earlier runs.


def read_results(path: Path) -> dict[str, str]:
    """Return the catcher of each mutant that a file of results names."""
    if not path.exists():
        return {}
    return {line["mutant"]: line["caught_by"] for line in map(json.loads, path.read_text().splitlines())}


def read_judgements(store: str) -> dict[str, str]:
    """Return why each judged survivor of a store may survive."""
    groups = tomllib.loads((JUDGEMENTS / f"{store}.toml").read_text())["judged"]
    return {mutant: group["reason"] for group in groups for mutant in group["mutants"]}


def choose(options: argparse.Namespace) -> list[Mutant]:
    """Return the mutants of the chosen statements that the database can prepare and that are to be tried."""
    store = STORES[options.store]
    queries = load_queries(store.package)
    wanted = tuple(options.query or [""])
    made = [one for name in queries if name.startswith(wanted) for one in mutants_of(name, queries[name].sql)]
    valid = asyncio.run(store.find_valid([one.sql for one in made]))
    mutants = [one for one, is_valid in zip(made, valid, strict=True) if is_valid][:: options.every]
    if options.again is not None:
        before = read_results(options.again)
        mutants = [one for one in mutants if before.get(str(one)) == SURVIVED]
    sys.stdout.write(f"{len(made)} mutants, {sum(valid)} of them are SQL; {len(mutants)} are tried\n")
    return mutants


def report(tally: Tally, reasons: Mapping[str, str]) -> None:
    """Write what survived, and the reason for each that is judged."""
    judged = [one for one in tally.survivors if one in reasons]
    sys.stdout.write(f"{tally.tried} tried, {len(tally.survivors)} survived, {len(judged)} of them are judged\n")
    for one in tally.survivors:
        sys.stdout.write(f"{one}: {reasons.get(one, 'NOT JUDGED')}\n")


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", choices=STORES)
    parser.add_argument(
        "--query", action="append", help="only statements whose names begin so; may be given more than once"
    )
    parser.add_argument("--every", type=int, default=1, help="only one mutant in so many")
    parser.add_argument("--shortest", type=float, default=0, help="leave out cases that take less, in seconds")
    parser.add_argument("--longest", type=float, default=60, help="leave out cases that take longer, in seconds")
    parser.add_argument("--most", type=int, default=10_000, help="try a mutant on so many cases at most")
    parser.add_argument("--again", type=Path, help="only the survivors in this file of an earlier run")
    parser.add_argument("--out", type=Path, default=Path("sql-mutants.jsonl"))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--list", action="store_true", help="only list the mutants")
    options = parser.parse_args()
    mutants = choose(options)
    if options.list:
        for one in mutants:
            sys.stdout.write(f"{one}\n")
        return
    tally = Tally()
    known = read_results(options.out)
    for one in mutants:
        if (catcher := known.get(str(one))) is not None:
            tally.add(one, catcher)
    if left := [one for one in mutants if str(one) not in known]:
        try_and_note(options, left, tally)
    report(tally, read_judgements(options.store))


def try_and_note(options: argparse.Namespace, mutants: Sequence[Mutant], tally: Tally) -> None:
    """Try mutants, and append each to the file of results at once."""
    store = STORES[options.store]
    texts = watch(store.package)
    sends = asyncio.run(read_sends(store, texts, catalogue()))
    asyncio.run(store.close())  # or two trials would use one database
    sends = [one for one in sends if options.shortest <= one.seconds <= options.longest]
    with options.out.open("a") as results:
        for mutant, catcher in try_all(store, texts, sends, mutants, tally, options):
            tally.add(mutant, catcher)
            results.write(json.dumps({"mutant": str(mutant), "caught_by": catcher}) + "\n")
            results.flush()
            if tally.tried % 50 == 0:
                sys.stdout.write(f"{tally.tried} tried, {len(tally.survivors)} survived\n")
                sys.stdout.flush()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch  # trials leave their files behind
        main()
