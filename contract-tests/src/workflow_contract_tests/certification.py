"""Certification of a store in this process, without any test framework."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Sequence

from workflow_runtime.store import CONTRACT_VERSION

from ._version import __version__
from .cases import Case
from .catalogue import catalogue
from .distributions import find_distribution
from .examination import (
    Examined,
    HarnessFactory,
    NotDeclaredError,
    examine,
    excuse,
    is_unwritten,
    refuse_optimised,
    run_case,
)
from .harness import HarnessError
from .levels import LEVELS, Level
from .report import Report, Way
from .settings import SCALE, SEED

__all__ = [
    "HarnessFactory",
    "NotDeclaredError",
    "certify",
    "certify_async",
    "excuse",
    "is_unwritten",
    "report_on",
    "run_case",
]


def certify(
    harness_factory: HarnessFactory, cases: Sequence[Case] | None = None, *, timeout_s: float | None = None
) -> Report:
    """Run every case against a store, in this process, and return the report.

    Args:
        harness_factory: Called once for each case.
        cases: Runs only these. A level is certified only if all its cases are among them.
        timeout_s: How long a case may take; a minute if it is not said.
    """
    try:
        return asyncio.run(certify_async(harness_factory, cases, timeout_s=timeout_s))
    except SystemExit as error:
        raise HarnessError("the store raised SystemExit in a task of its own, which ended the run") from error


async def certify_async(
    harness_factory: HarnessFactory, cases: Sequence[Case] | None = None, *, timeout_s: float | None = None
) -> Report:
    """Do what `certify` does, inside a running event loop."""
    refuse_optimised()
    began = time.perf_counter()
    chosen = catalogue() if cases is None else cases
    examined = [await examine(case, harness_factory, timeout_s=timeout_s) for case in chosen]
    return report_on(examined, seconds=time.perf_counter() - began)


def report_on(
    examined: Sequence[Examined],
    *,
    seconds: float,
    scale: float = SCALE,
    seed: int = SEED,
    way: Way = "in process",
    roles: tuple[Level, ...] = LEVELS,
) -> Report:
    """Return the report on a store that was examined."""
    known = [one for one in examined if one.module is not None]
    last = known[-1] if known else None
    distribution, version = find_distribution(last.module if last else None)
    declared = {one.capabilities for one in examined if one.capabilities is not None}
    return Report(
        store=last.store if last else "unknown store",
        contract_version=CONTRACT_VERSION,
        suite_version=__version__,
        python_version=platform.python_version(),
        seconds=seconds,
        results=tuple(one.result for one in examined),
        capabilities=tuple(sorted(set().union(*declared))),
        distribution=distribution,
        distribution_version=version,
        subject={name: text for one in examined for name, text in one.subject.items()},
        scale=scale,
        seed=seed,
        way=way,
        roles=roles,
        objections=_objections(known, len(declared)),
    )


def _objections(known: Sequence[Examined], declarations: int) -> tuple[str, ...]:
    stores = sorted({one.store for one in known})
    found = []
    if len(stores) > 1:
        found.append(f"cases were given different stores: {', '.join(stores)}")
    if declarations > 1:
        found.append("the store declares other capabilities from case to case")
    return tuple(found)
