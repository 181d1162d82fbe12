"""What is special to this store: the file survives its writers."""

import asyncio
from pathlib import Path

import pytest
from jsonl_store import JsonlWorkflowStore
from workflow_runtime.errors import CorruptRecordError
from workflow_runtime.payloads import JsonText


async def _create(store: JsonlWorkflowStore, run_id: str) -> None:
    await store.create_run(
        run_id=run_id,
        workflow_id="w",
        workflow_version="1",
        input=JsonText("null"),
        operation_id=f"create {run_id}",
        now_ms=1,
    )


def test_line_that_was_never_finished_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "store.jsonl"

    async def scenario() -> list[str]:
        store = JsonlWorkflowStore(path)
        await _create(store, "one")
        with path.open("ab") as file:
            file.write(b'{"verb": "create_run", "argu')
        await _create(store, "two")
        runs = await JsonlWorkflowStore(path).list_runs(limit=9)
        return [run.run_id for run in runs.runs]

    assert asyncio.run(scenario()) == ["one", "two"]


def test_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.jsonl"
    path.write_bytes(b"nonsense\n")
    with pytest.raises(CorruptRecordError, match="byte 0"):
        asyncio.run(JsonlWorkflowStore(path).load_run(run_id="one"))
