"""The examination of a store by one case, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, get_args

from workflow_runtime.store import CapabilityNotSupportedError, WorkflowExecutionStore

from .cases import Capability, Case
from .explaining import describe
from .harness import OPTIONAL_NEEDS, HarnessError, StoreHarness
from .report import CaseResult, Outcome
from .settings import CASE_TIMEOUT_S
from .stacks import VERBS, describe_tasks

__all__ = [
    "Examined",
    "HarnessFactory",
    "NotDeclaredError",
    "examine",
    "excuse",
    "is_unwritten",
    "open_harness",
    "refuse_optimised",
    "run_case",
]

HarnessFactory: TypeAlias = Callable[[], Any]
"""Returns a `StoreHarness` with fresh data: the harness, an awaitable of it, or a context manager (plain or async)
that enters with it and cleans up afterwards."""


class NotDeclaredError(Exception):
    """The store does not declare the capability that the case is about. Raised before the body begins."""

    def __init__(self, capability: str) -> None:
        self.capability = capability
        super().__init__(f"{capability}: the store does not declare it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """The result of a case, with what the store said of itself."""

    result: CaseResult
    store: str = "unknown store"
    module: str | None = None
    capabilities: tuple[str, ...] | None = None
    """The capabilities that it declared; `None` if the case did not get so far."""
    subject: dict[str, str] = field(default_factory=dict)


def excuse(case: Case, harness: StoreHarness) -> tuple[Outcome, str] | None:
    """Return the outcome and the reason when a case cannot run on this harness, `None` when it can."""
    for need in case.needs:
        if need in harness.not_applicable:
            return "not-applicable", f"{need}: {harness.not_applicable[need]}"
        if not harness.gives(need) and need in OPTIONAL_NEEDS:
            return "not-applicable", f"{need}: the harness gives none, and need not"
        if not harness.gives(need):
            return "not-run", f"the harness gives no {need!r} and does not declare it as not applicable"
    return None


def refuse_optimised() -> None:
    """Raise an error when Python drops assertions, because every case would pass."""
    if not __debug__:
        raise HarnessError("Python runs with -O, which removes the assertions of the test cases")


async def run_case(case: Case, harness: StoreHarness, *, timeout_s: float | None = None) -> None:
    """Run one case. An error that it raises is its finding.

    Raises:
        NotDeclaredError: The case does not apply to this store.
    """
    refuse_optimised()
    await _Attempt(case, harness, CASE_TIMEOUT_S if timeout_s is None else timeout_s).run()


class _Attempt:
    """One run of a case. It passes only if its body came to its end, whatever the harness does on its way out."""

    def __init__(self, case: Case, harness: StoreHarness, timeout_s: float) -> None:
        self._case = case
        self._harness = harness
        self._timeout_s = timeout_s
        self._finding: BaseException | None = None
        self._completed = False
        self._stacks: str | None = None

    async def run(self) -> None:
        try:
            async with asyncio.timeout(None) as patience:
                watch = asyncio.get_running_loop().call_later(self._timeout_s, self._give_up, patience)
                try:
                    async with self._harness:
                        await self._body()
                finally:
                    watch.cancel()
        except TimeoutError:
            if self._stacks is None:
                raise
            raise AssertionError(self._overdue()) from None
        if self._stacks is not None:
            raise AssertionError(self._overdue())
        if self._finding is not None:
            raise self._finding  # the harness swallowed it
        if not self._completed:
            raise AssertionError("the body of the case did not come to its end, and the harness hid why")

    def _give_up(self, patience: asyncio.Timeout) -> None:
        """Keep the stacks as they are, before the cancellation unwinds them."""
        self._stacks = describe_tasks()
        patience.reschedule(asyncio.get_running_loop().time())

    def _overdue(self) -> str:
        said = "a call hangs, or a claim loop does not terminate"
        return f"no end after {self._timeout_s:g} s: {said}\n{self._stacks}"

    async def _body(self) -> None:
        try:
            await self._checked_body()
        except BaseException as error:
            self._finding = error
            raise
        self._completed = True

    async def _checked_body(self) -> None:
        store, needed = self._harness.store, self._case.capability
        declared = self._harness.declared = _declared(store)
        if needed is not None and needed not in declared:
            raise NotDeclaredError(needed)
        try:
            if not self._case.fresh:
                await store.ensure_schema()
            await self._case.body(self._harness)
        except NotDeclaredError as error:
            raise AssertionError("the store raised NotDeclaredError, which is the kit's own") from error
        except (Exception, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # SystemExit, or what a test framework skips with
            raise AssertionError(f"the store raised {type(error).__name__}, which would end the run") from error


async def examine(case: Case, factory: HarnessFactory, *, timeout_s: float | None = None) -> Examined:
    """Run one case on a harness of its own. Whatever goes wrong is its finding.

    Raises:
        HarnessError: The harness is made wrongly, so that no verdict is possible.
    """
    return await _Examination(case, timeout_s).by(factory)


class _Examination:
    """The examination by one case. What is found first stands: no clean-up can hide it."""

    def __init__(self, case: Case, timeout_s: float | None) -> None:
        self._case = case
        self._timeout_s = timeout_s
        self._found: tuple[Outcome, str | None] | None = None
        self._harness: StoreHarness | None = None

    async def by(self, factory: HarnessFactory) -> Examined:
        began = time.perf_counter()
        try:
            async with open_harness(factory) as self._harness:
                self._found = await self._try(self._harness)
        except (HarnessError, KeyboardInterrupt):
            raise
        except BaseException as error:
            if _is_cancelled(error):
                raise
            if self._found is None or self._found[0] == "passed":
                what = "the harness factory raised" if self._harness is None else "the clean-up of the harness raised"
                self._found = "failed", f"{what} {describe(error)}"
        seconds = time.perf_counter() - began
        outcome, problem = self._found or ("failed", "the harness factory hid what happened")
        return self._examined(outcome, problem, seconds)

    async def _try(self, harness: StoreHarness) -> tuple[Outcome, str | None]:
        if (excused := excuse(self._case, harness)) is not None:
            return excused
        try:
            await run_case(self._case, harness, timeout_s=self._timeout_s)
        except HarnessError:
            raise
        except NotDeclaredError as error:
            return "not-applicable", str(error)
        except (Exception, asyncio.CancelledError) as error:  # whatever a case raises is its finding
            if _is_cancelled(error):
                raise
            return "not-written" if is_unwritten(error) else "failed", describe(error)
        return "passed", None

    def _examined(self, outcome: Outcome, problem: str | None, seconds: float) -> Examined:
        result = CaseResult(
            id=self._case.id,
            clauses=self._case.clauses,
            rule=self._case.rule,
            outcome=outcome,
            seconds=seconds,
            problem=problem,
            fault_points=0 if self._harness is None else self._harness.fault_points,
        )
        if self._harness is None:
            return Examined(result=result)
        return Examined(
            result=result,
            store=self._harness.store_name,
            module=self._harness.store_module,
            capabilities=self._harness.declared,
            subject=dict(self._harness.subject),
        )


def is_unwritten(error: BaseException) -> bool:
    """Return True if a verb of the contract is missing or not implemented, for a case or for the runtime."""
    if isinstance(error, CapabilityNotSupportedError) and error.__cause__ is not None:
        return is_unwritten(error.__cause__)
    if isinstance(error, AttributeError):
        return error.name in VERBS and error.obj is not None and not hasattr(error.obj, error.name)
    return isinstance(error, NotImplementedError)


def _declared(store: WorkflowExecutionStore) -> tuple[str, ...]:
    capabilities = store.capabilities
    return tuple(name for name in get_args(Capability) if getattr(capabilities, name))


def _is_cancelled(error: BaseException) -> bool:
    """Return True if somebody outside cancelled the examination; a store may raise the same error for nothing."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


@contextlib.asynccontextmanager
async def open_harness(factory: HarnessFactory) -> AsyncIterator[StoreHarness]:
    """Enter what a factory makes, and give the harness."""
    made = factory()
    if isinstance(made, StoreHarness):
        yield made
    elif hasattr(made, "__aenter__"):
        async with made as harness:
            yield harness
    elif hasattr(made, "__enter__"):
        with made as harness:
            yield harness
    elif inspect.isawaitable(made):
        yield await made
    else:
        raise HarnessError(f"the harness factory gave {type(made).__name__}, not a StoreHarness")
