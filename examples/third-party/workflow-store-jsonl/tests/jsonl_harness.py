"""What the contract tests need of the store: `workflow-certify jsonl_harness:harness`."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from jsonl_store import JsonlWorkflowStore
from workflow_contract_tests import StoreHarness


@contextmanager
def harness() -> Iterator[StoreHarness]:
    """Make a harness on a new file."""
    with tempfile.TemporaryDirectory(prefix="jsonl-") as folder:
        path = f"{folder}/contract.jsonl"
        yield StoreHarness(
            lambda: JsonlWorkflowStore(path),
            contract_version="0.1",
            process_factory="jsonl_store:JsonlWorkflowStore",
            process_arguments={"path": path},
            not_applicable={"corrupt": "the file holds commands, not rows: a damaged line stops the store as a whole"},
        )
