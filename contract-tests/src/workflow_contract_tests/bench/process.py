"""A child process that measures a store: it reads its order from standard input, and writes what it found to a file."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ..examination import HarnessFactory, open_harness
from ..loading import load_object
from ..measurements import Bench, Measurement
from .measuring import FEW, MANY, StoreBench
from .others import OpenHarness, other_stores

_GRACE_S = 5.0
"""The longest that a store is measured beyond its share of the time."""


def main() -> None:
    """Do what the order says."""
    order = json.loads(sys.stdin.readline())
    sys.path.insert(0, order["folder"])
    factory = load_object(order["factory"])
    file = Path(order["file"])

    def keep(found: Bench) -> None:
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(found)), encoding="utf-8")
        draft.replace(file)

    asyncio.run(_measure(factory, order["seconds"], order["dsn"], keep))


async def _measure(factory: HarnessFactory, seconds: float, dsn: str | None, keep: Callable[[Bench], None]) -> None:
    """Measure the store for half of the time, and the others for a part of the other half each.

    Args:
        factory: Makes the harness of the store.
        seconds: The time for all of it.
        dsn: A PostgreSQL database to measure beside it.
        keep: Gets what was found so far, after each store.
    """
    others = dict(other_stores(dsn))
    name, measurements = await _measure_store(factory, seconds / 2)
    left_out = {other: opened if isinstance(opened, str) else "no time was left" for other, opened in others.items()}
    installed = {other: opened for other, opened in others.items() if not isinstance(opened, str)}
    keep(Bench(store=name, measurements=tuple(measurements), left_out=left_out))
    for other, open_other in installed.items():
        share_s = seconds / 2 / len(installed)
        try:
            # It ends by itself, so that it cleans up: the parent would kill it.
            async with asyncio.timeout(share_s + _GRACE_S):
                measurements += await _measure_other(other, open_other, share_s)
            del left_out[other]
        except TimeoutError:
            continue
        except Exception as error:  # noqa: BLE001  # the store itself was measured
            left_out[other] = f"{type(error).__name__}: {error}"
        keep(Bench(store=name, measurements=tuple(measurements), left_out=left_out))


async def _measure_store(factory: HarnessFactory, seconds: float) -> tuple[str, list[Measurement]]:
    """Measure the store among few runs, and then among many."""
    end = time.perf_counter() + seconds
    async with open_harness(factory) as harness, harness as h:
        await h.store.ensure_schema()
        bench = StoreBench(h.store_name, h)
        await bench.fill(FEW, seconds / 8)
        found = await bench.measure(seconds * 3 / 8, at_once=True)
        await bench.fill(MANY, (end - time.perf_counter()) * 0.7)
        return h.store_name, found + await bench.measure(max(0.0, end - time.perf_counter()), at_once=False)


async def _measure_other(name: str, open_other: OpenHarness, seconds: float) -> list[Measurement]:
    async with open_other() as harness, harness as h:
        await h.store.ensure_schema()
        bench = StoreBench(name, h)
        await bench.fill(FEW, seconds / 4)
        return await bench.measure(seconds * 3 / 4, at_once=True)


if __name__ == "__main__":
    main()
