"""The memory store."""

from __future__ import annotations

from workflow_contract_tests import StoreHarness
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore


def harness() -> StoreHarness:
    """Return a harness with fresh data."""
    data = InMemoryData()
    return StoreHarness(
        lambda: InMemoryWorkflowStore(data=data),
        contract_version="0.1",
        not_applicable={
            "processes": "a memory store lives in one process",
            "corrupt": "it keeps frozen values, which nothing can damage behind its back",
        },
        subject={"database": "none"},
    )
