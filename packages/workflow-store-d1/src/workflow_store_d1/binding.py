"""A `D1Database` on the binding of a Python Worker: `env.DB`.

A Worker gets its binding in one of two forms: the object of JavaScript as Pyodide shows it (`JsProxy`), or that same
object inside a wrapper of Cloudflare's SDK, which converts what goes in and comes out. Both are taken; of the second
the bare object is used, for the conversions cost more than the calls.

One call is one promise. A task that is cancelled while it waits for it leaves nothing half done: the batch is done as
a whole or not at all, and nobody learns of it. How long a promise may take is bounded by Cloudflare: a query ends after
30 seconds, and an invocation whose promise never settles is ended. A timer of our own for each call would outlive the
invocation, because Pyodide's event loop cannot take one back.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Self

from workflow_runtime.store import ConfigurationError

from .database import D1Database, D1DatabaseError, D1PreparedStatement, D1Value
from .failures import failure
from .javascript import as_bound, as_read
from .limits import check_statement, check_values

__all__ = ["BindingD1Database", "BindingResult", "BindingStatement", "as_database"]

_PYODIDE, _SDK = "pyodide", "workers"
"""The packages whose classes bindings have: the first shows the bare object, the second wraps it."""


def as_database(db: Any) -> D1Database:
    """Return a database as it is, and a Worker's binding as a database."""
    kind = type(db)
    # A binding is a JavaScript object, so its Python class has no such methods.
    if kind.__module__.partition(".")[0] in {_PYODIDE, _SDK} and not hasattr(kind, "prepare"):
        return BindingD1Database(db)
    if not callable(getattr(db, "prepare", None)):
        what = "a path" if isinstance(db, str | bytes | os.PathLike) else f"a {kind.__name__}"
        raise ConfigurationError(
            f"a store is made of a database object, not of {what}: for a file write `async with "
            "SQLiteWorkflowStore.open(path) as store:`"
        )
    database: D1Database = db
    return database


@dataclass(frozen=True, slots=True)
class BindingResult:
    """The outcome of one statement."""

    results: list[dict[str, Any]]
    meta: Mapping[str, Any]


class BindingStatement:
    """One statement with its values."""

    __slots__ = ("_border", "prepared")

    def __init__(self, border: _Border, prepared: Any) -> None:
        self._border = border
        self.prepared: Any = prepared
        """The statement of JavaScript."""

    def bind(self, *values: D1Value) -> Self:
        """Return a statement of the same text with these values for `?1`, `?2` and so on."""
        check_values(values)
        border = self._border
        return type(self)(border, border.call(self.prepared.bind, *(border.value_out(value) for value in values)))

    async def all(self) -> BindingResult:
        """Run it as a transaction of its own and give its rows."""
        return _result(await self._border.answer(self.prepared.all))

    async def run(self) -> BindingResult:
        """Run it as a transaction of its own."""
        return _result(await self._border.answer(self.prepared.run))


class BindingD1Database:
    """A Worker's D1 binding.

    Args:
        binding: `env.DB`, bare or wrapped; or what its `withSession` gives.

    Raises:
        ConfigurationError: This Python is not that of a Worker, or too old a one.
    """

    def __init__(self, binding: Any) -> None:
        self._border = _Border(_ffi())
        self._binding = self._border.bare(binding)

    def prepare(self, sql: str) -> BindingStatement:
        """Make a statement of SQL text."""
        check_statement(sql)
        return BindingStatement(self._border, self._border.call(self._binding.prepare, sql))

    async def batch(self, statements: Sequence[D1PreparedStatement]) -> list[BindingResult]:
        """Run statements in order as one transaction: all or none."""
        mine = [statement.prepared for statement in statements if isinstance(statement, BindingStatement)]
        if len(mine) != len(statements):
            raise TypeError("a batch takes the statements that prepare() of the same kind of database gave")
        if not mine:
            raise D1DatabaseError("a batch without statements")
        answers = await self._border.answer(self._binding.batch, self._border.list_out(mine))
        return [_result(answer) for answer in answers]


class _Border:
    """The conversions of values between Python and JavaScript."""

    def __init__(self, ffi: ModuleType) -> None:
        self._ffi = ffi

    def bare(self, binding: Any) -> Any:
        """Return the object of JavaScript.

        Raises:
            ConfigurationError: There is none.
        """
        found = binding if isinstance(binding, self._ffi.JsProxy) else _unwrapped(binding)
        if not isinstance(found, self._ffi.JsProxy):
            raise ConfigurationError(f"{type(binding).__name__} is not the D1 binding of a Worker")
        return found

    def value_out(self, value: D1Value) -> Any:
        """Turn a checked value into one that the binding takes."""
        match as_bound(value):
            case None:
                return self._ffi.jsnull  # a None would arrive as `undefined`, which D1 refuses
            case bytes() as data:
                return self._ffi.to_js(data)
            case plain:
                return plain

    def list_out(self, items: list[Any]) -> Any:
        """Turn a list into one that the binding takes."""
        return self._ffi.to_js(items)

    def call(self, function: Any, *arguments: Any) -> Any:
        """Call a function of JavaScript, whose errors become ours."""
        try:
            return function(*arguments)
        except self._ffi.JsException as error:
            raise failure(str(error)) from error

    async def answer(self, function: Any, *arguments: Any) -> Any:
        """Call a function of JavaScript that gives a promise, and wait for what it brings."""
        promise: Awaitable[Any] = self.call(function, *arguments)
        try:
            answer = await promise
        except self._ffi.JsException as error:
            raise failure(str(error)) from error
        return self._value_in(answer.to_py())

    def _value_in(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._value_in(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._value_in(item) for item in value]
        return None if value is self._ffi.jsnull else value


def _result(answer: Mapping[str, Any]) -> BindingResult:
    return BindingResult([_row(row) for row in answer.get("results", ())], answer["meta"])


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: Any) -> Any:
    # The only lists among D1's values are the bytes of a BLOB.
    return bytes(value) if isinstance(value, list | memoryview) else as_read(value)


def _unwrapped(binding: Any) -> Any:
    """Return what an object of the SDK is to JavaScript."""
    if type(binding).__module__.partition(".")[0] != _SDK:
        return None
    from workers import python_to_rpc  # noqa: PLC0415  # the package of the object

    return python_to_rpc(binding)


def _ffi() -> ModuleType:
    try:
        # Pyodide brings it along; nobody can install it elsewhere.
        from pyodide import ffi  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError("a D1 binding exists in a Python Worker only") from error
    if not hasattr(ffi, "jsnull"):
        raise ConfigurationError(
            "Pyodide 0.28 or newer is needed: the Worker's compatibility_date must be 2025-09-29 or later"
        )
    module: ModuleType = ffi
    return module
