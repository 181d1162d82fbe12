"""Certification of a store without any test framework."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import platform
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

from workflow_runtime.store import CONTRACT_VERSION

from ._version import __version__
from .cases import Case
from .catalogue import catalogue
from .harness import HarnessError, StoreHarness
from .report import CaseResult, Outcome, Report
from .settings import CASE_TIMEOUT_S

__all__ = ["HarnessFactory", "NotDeclaredError", "certify", "certify_async", "excuse", "run_case"]

HarnessFactory: TypeAlias = Callable[[], Any]
"""Returns a `StoreHarness` with fresh data: the harness, an awaitable of it, or a context manager (plain or async)
that enters with it and cleans up afterwards."""


class NotDeclaredError(Exception):
    """The store does not declare the capability that the case is about. Raised when the store is open."""

    def __init__(self, capability: str) -> None:
        self.capability = capability
        super().__init__(f"{capability}: the store does not declare it")


def excuse(case: Case, harness: StoreHarness) -> tuple[Outcome, str] | None:
    """Return the outcome and the reason when a case cannot run on this harness, `None` when it can."""
    for need in case.needs:
        if need in harness.not_applicable:
            return "not-applicable", f"{need}: {harness.not_applicable[need]}"
        if not harness.gives(need):
            return "not-run", f"the harness gives no {need!r} and does not declare it as not applicable"
    return None


async def run_case(case: Case, harness: StoreHarness) -> None:
    """Run one case. An error that it raises is its finding.

    Raises:
        NotDeclaredError: The case does not apply to this store.
    """
    refuse_optimised()
    patience = asyncio.timeout(CASE_TIMEOUT_S)
    try:
        async with patience, harness:
            if case.capability is not None and not getattr(harness.store.capabilities, case.capability):
                raise NotDeclaredError(case.capability)
            if not case.fresh:
                await harness.store.ensure_schema()
            await case.body(harness)
    except TimeoutError as error:
        if not patience.expired():
            raise
        raise AssertionError(
            f"no end after {CASE_TIMEOUT_S:g} s: a call hangs, or a claim loop does not terminate"
        ) from error


def refuse_optimised() -> None:
    """Raise an error when Python drops assertions, because every case would pass."""
    if not __debug__:
        raise HarnessError("Python runs with -O, which removes the assertions of the test cases")


def certify(harness_factory: HarnessFactory, cases: Sequence[Case] | None = None) -> Report:
    """Run every case against a store and return the report.

    Args:
        harness_factory: Called once for each case.
        cases: Runs only these. A report on a part of the catalogue certifies nothing.
    """
    return asyncio.run(certify_async(harness_factory, cases))


async def certify_async(harness_factory: HarnessFactory, cases: Sequence[Case] | None = None) -> Report:
    """Do what `certify` does, inside a running event loop."""
    refuse_optimised()
    began = time.perf_counter()
    examination = _Examination()
    results = [await examination.examine(case, harness_factory) for case in (catalogue() if cases is None else cases)]
    return Report(
        store=examination.store,
        contract_version=CONTRACT_VERSION,
        suite_version=__version__,
        python_version=platform.python_version(),
        seconds=time.perf_counter() - began,
        results=tuple(results),
    )


class _Examination:
    """The examination of one store. It learns the name of the store when a case has opened it."""

    store = "unknown store"

    async def examine(self, case: Case, harness_factory: HarnessFactory) -> CaseResult:
        began = time.perf_counter()
        outcome, problem = await self._outcome(case, harness_factory)
        return CaseResult(
            id=case.id,
            clauses=case.clauses,
            rule=case.rule,
            outcome=outcome,
            seconds=time.perf_counter() - began,
            problem=problem,
        )

    async def _outcome(self, case: Case, harness_factory: HarnessFactory) -> tuple[Outcome, str | None]:
        async with contextlib.AsyncExitStack() as stack:
            harness = await stack.enter_async_context(_harness(harness_factory))
            if (excused := excuse(case, harness)) is not None:
                return excused
            try:
                await run_case(case, harness)
            except HarnessError:
                raise
            except NotDeclaredError as error:
                return "not-applicable", str(error)
            except Exception as error:  # noqa: BLE001  # whatever a case raises is its finding
                return "failed", _describe(error)
            finally:
                self.store = harness.store_name
        return "passed", None


@contextlib.asynccontextmanager
async def _harness(factory: HarnessFactory) -> AsyncIterator[StoreHarness]:
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


def _describe(error: BaseException) -> str:
    """Return the error and the lines of the case that raised it: an assertion without pytest shows no values."""
    head = "".join(traceback.format_exception_only(error)).strip()
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "workflow_contract_tests" in frame.filename
    ]
    where = [f"  {frame.filename.rpartition('/')[2]}:{frame.lineno} in {frame.name}: {frame.line}" for frame in frames]
    return "\n".join([head, *where[2:]])
