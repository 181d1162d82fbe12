"""LangGraph's checkpoint savers: calls of the store alone, no graph is run. One step is `put_writes` and `put`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from comparison.contenders.stopwatch import CONNECTIONS, PAYLOAD, STEPS, Task, read_task, repeat_async

METADATA = {"source": "loop", "step": 1, "parents": {}}


async def run_on(saver: Any) -> None:
    """Save the steps of one thread, each on top of the one before."""
    config: Any = {"configurable": {"thread_id": str(uuid.uuid4()), "checkpoint_ns": "", "checkpoint_id": None}}
    for number in range(1, STEPS + 1):
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"state": PAYLOAD}
        checkpoint["channel_versions"] = {"state": f"{number:032}"}
        config = await saver.aput(config, checkpoint, METADATA, checkpoint["channel_versions"])
        await saver.aput_writes(config, [("state", PAYLOAD)], f"task-{number}")


@asynccontextmanager
async def open_saver(task: Task) -> AsyncIterator[Any]:
    if task.options.get("store") == "sqlite":
        async with AsyncSqliteSaver.from_conn_string(str(Path(task.folder, "app.db"))) as saver:
            yield saver
    elif task.at_once == 1:
        async with AsyncPostgresSaver.from_conn_string(task.dsn) as saver:
            yield saver
    else:
        options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        async with AsyncConnectionPool(task.dsn, max_size=CONNECTIONS, kwargs=options) as pool:
            yield AsyncPostgresSaver(pool)


async def main(task: Task) -> None:
    async with open_saver(task) as saver:
        await saver.setup()
        await repeat_async(task, lambda: run_on(saver), STEPS)


if __name__ == "__main__":
    asyncio.run(main(read_task()))
