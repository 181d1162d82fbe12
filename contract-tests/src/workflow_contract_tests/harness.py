"""The harness: all that a case needs of a store. The author of the store makes it, every case gets one."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

from workflow_runtime.payloads import JsonValue
from workflow_runtime.store import CONTRACT_VERSION, WorkflowExecutionStore

from .handles import shared_handle
from .statements import Statements

__all__ = ["NEEDS", "OPTIONAL_NEEDS", "HarnessError", "Need", "StoreHarness"]

Need = Literal["processes", "corrupt", "statements"]
NEEDS: tuple[Need, ...] = ("processes", "corrupt", "statements")
"""The needs of cases that a harness may lack: a store in a child process, a damaged row, statements to disturb."""
OPTIONAL_NEEDS: tuple[Need, ...] = ("statements",)
"""Those of them that a harness may lack without a reason."""

OpenStore = Callable[[], WorkflowExecutionStore | Awaitable[WorkflowExecutionStore]]

START_MS = 1_750_000_000_357
"""The first time of the manual clock. It is off the second, the minute and the power of two, so that rounding shows."""


class HarnessError(Exception):
    """A mistake in the harness, because of which no verdict on the store is possible."""


class StoreHarness:
    """One store with fresh data, as the test cases use it.

    Args:
        open_store: Returns a new, independent handle on the same data each time it is called (plain or async).
            At least two are open at the same time. The harness closes them with `await store.close()` if there
            is such a method, and opens new ones after the last of them was closed: they must find the same data.
        contract_version: The version of the contract that the store keeps.
        process_factory: `module:function` by which a child process opens the store. The function is called with
            `process_arguments` and returns a store, an awaitable of one, or an async context manager.
        process_arguments: Keyword arguments for it, which JSON can carry.
        corrupt: Damages the stored input of a run behind the store's back.
        write_business: Writes a row with this key into a table of your own, by what `append_in_transaction` hands to
            `work`. Needed, with `read_business`, for a store that declares `transactions`.
        read_business: Returns the committed keys of that table, one for each row, in any order. It must not wait for a
            transaction that is open.
        statements: What the statements of all handles pass through, so that cases can disturb them. Optional: without
            it these cases do not apply.
        not_applicable: The needs that this store cannot meet (`processes`, `corrupt`), each with the reason.
        subject: What else the report should say of what was examined, in your own words: the database, its version, the
            driver, settings.
    """

    def __init__(
        self,
        open_store: OpenStore,
        *,
        contract_version: str,
        process_factory: str | None = None,
        process_arguments: Mapping[str, JsonValue] | None = None,
        corrupt: Callable[[str], Awaitable[None]] | None = None,
        write_business: Callable[[Any, str], Awaitable[None]] | None = None,
        read_business: Callable[[], Awaitable[Sequence[str]]] | None = None,
        statements: Statements | None = None,
        not_applicable: Mapping[str, str] | None = None,
        subject: Mapping[str, str] | None = None,
    ) -> None:
        self._open_store = open_store
        self._handles: list[WorkflowExecutionStore] = []
        self._numbers = itertools.count(1)
        self._corrupt = corrupt
        self._write_business = write_business
        self._read_business = read_business
        self.statements = statements
        self.fault_points: int = 0
        """The number of points at which the case has disturbed a call."""
        self.contract_version = contract_version
        self.process_factory = process_factory
        self.process_arguments: dict[str, JsonValue] = dict(process_arguments or {})
        self.not_applicable: dict[str, str] = dict(not_applicable or {})
        self.subject: dict[str, str] = dict(subject or {})
        self.now_ms: int = START_MS
        self.store_name: str = "unknown store"
        """The name of the store in reports: its class, known when it is open."""
        self.store_module: str | None = None
        """The module of that class, known when it is open."""
        self.declared: tuple[str, ...] | None = None
        """The capabilities that the store declares, known when a case has asked for them."""
        self._check()

    def _check(self) -> None:
        if self.contract_version != CONTRACT_VERSION:
            raise HarnessError(
                f"the store keeps contract {self.contract_version!r}, these tests are for {CONTRACT_VERSION!r}"
            )
        given = {need for need in NEEDS if self.gives(need)}
        for need, reason in self.not_applicable.items():
            if need not in NEEDS:
                raise HarnessError(f"not_applicable names {need!r}; it can name {', '.join(NEEDS)}")
            if need in given:
                raise HarnessError(f"{need!r} is given and declared not applicable")
            if not reason.strip():
                raise HarnessError(f"not_applicable must say why for {need!r}")

    def gives(self, need: Need) -> bool:
        """Return True if the harness meets this need of some cases."""
        given = {"processes": self.process_factory, "corrupt": self._corrupt, "statements": self.statements}
        return given[need] is not None

    async def __aenter__(self) -> Self:
        """Open the two handles that every case has."""
        try:
            await self.handles(2)
        except BaseException:
            await self._close()
            raise
        if (problem := shared_handle(self.store, self.second)) is not None:
            if self.store is self.second:
                self._handles.pop()
            await self._close()
            raise HarnessError(f"{problem}; it must give independent handles")
        self.store_name = type(self.store).__name__
        self.store_module = type(self.store).__module__
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every handle."""
        await self._close()

    async def _close(self) -> None:
        while self._handles:
            close = getattr(self._handles.pop(), "close", None)
            if close is not None:
                await close()

    @property
    def store(self) -> WorkflowExecutionStore:
        """The first handle."""
        return self._handles[0]

    @property
    def second(self) -> WorkflowExecutionStore:
        """Another handle on the same data: another worker, seen from the first."""
        return self._handles[1]

    async def handles(self, count: int) -> list[WorkflowExecutionStore]:
        """Return so many handles. Open those that are missing."""
        while len(self._handles) < count:
            self._handles.append(await self.open_handle())
        return self._handles[:count]

    async def open_handle(self) -> WorkflowExecutionStore:
        """Open another handle. The caller closes it."""
        opened: Any = self._open_store()
        store: WorkflowExecutionStore = await opened if inspect.isawaitable(opened) else opened
        return store

    async def reopen(self) -> None:
        """Close every handle, and then open as many anew."""
        count = len(self._handles)
        await self._close()
        await self.handles(count)

    async def corrupt(self, run_id: str) -> None:
        """Damage the stored input of a run."""
        if self._corrupt is None:
            raise HarnessError("the harness gives no `corrupt`")
        await self._corrupt(run_id)

    async def write_business(self, tx: Any, key: str) -> None:
        """Write a business row in a transaction."""
        if self._write_business is None:
            raise HarnessError("the store declares `transactions`, so the harness must give `write_business`")
        await self._write_business(tx, key)

    async def read_business(self) -> list[str]:
        """Return the keys of the committed business rows, sorted."""
        if self._read_business is None:
            raise HarnessError("the store declares `transactions`, so the harness must give `read_business`")
        return sorted(await self._read_business())

    def advance(self, by_ms: int) -> int:
        """Move the clock on and return the new time."""
        self.now_ms += by_ms
        return self.now_ms

    def new_id(self, what: str) -> str:
        """Return an id that no other call of this harness returns."""
        return f"{what}-{next(self._numbers)}"
