"""The two workflows: the audit of one distribution, and the collecting of all reports."""

from __future__ import annotations

import asyncio
from typing import Any

from workflow_runtime import Context, workflow

from audit_packages import steps
from audit_packages.records import Digest, Entry

APPROVAL_ID = "findings"

_WAVE = 4
"""Chunks that one run hashes at the same time."""


@workflow(id="audit-distribution", version="1")
async def audit_distribution(ctx: Context, input: Any) -> Any:
    """Audit one distribution; findings wait for a person's decision before they are reported."""
    entries = await _read_entries(ctx, input["dist_info"])
    digests = await _hash_entries(ctx, input["site"], entries, input["chunk"])
    findings = (await ctx.step(steps.compare, entries, digests))["findings"]
    report = {"distribution": input["label"], "files": len(entries), "findings": findings, "approved": None}
    if findings:
        report["approved"] = (await ctx.approve(APPROVAL_ID)).approved
    await ctx.step(steps.send_report, report)
    return report


@workflow(id="collect-reports", version="1")
async def collect_reports(ctx: Context, input: Any) -> Any:
    """Wait for every report, then write them all to one file."""
    reports = [await ctx.wait_for_event(steps.REPORT_SIGNAL) for _ in range(input["expected"])]
    return await ctx.step(steps.write_report, input["report_file"], reports)


async def _read_entries(ctx: Context, dist_info: str) -> list[Entry]:
    entries: list[Entry] = []
    more = True
    while more:
        page = await ctx.step(steps.read_record, dist_info, len(entries))
        entries += page["entries"]
        more = page["more"]
    return entries


async def _hash_entries(ctx: Context, site: str, entries: list[Entry], chunk: int) -> dict[str, Digest | None]:
    digests: dict[str, Digest | None] = {}
    starts = range(0, len(entries), chunk)
    for first in range(0, len(starts), _WAVE):
        # Explicit ids: within one wave the steps begin in any order.
        wave = [
            ctx.step.options(id=f"hash-{start}")(steps.hash_files, site, entries[start : start + chunk])
            for start in starts[first : first + _WAVE]
        ]
        for result in await asyncio.gather(*wave):
            digests |= result["digests"]
    return digests
