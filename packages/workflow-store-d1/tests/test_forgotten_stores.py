"""A file that nobody closes keeps no program from ending, says so, and has what was acknowledged."""

import asyncio
import gc
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from workflow_runtime.errors import ConfigurationError, StoreOperationError
from workflow_store_d1 import D1WorkflowStore
from workflow_store_d1.local import LocalD1Database

pytestmark = pytest.mark.real_time

BEGIN = """
import asyncio, atexit, gc, os, signal, sys, threading, time
from datetime import timedelta
from workflow_runtime.payloads import JsonText
from workflow_runtime.errors import ConfigurationError, StoreOperationError
from workflow_store_d1 import D1WorkflowStore
from workflow_store_d1.local import LocalD1Database

PATH = sys.argv[1]

async def opened(**options):
    store = await D1WorkflowStore.open(PATH, **options)
    await store.ensure_schema()
    return store

async def start(store, run_id):
    await store.create_run(run_id=run_id, workflow_id="w", workflow_version="1", input=JsonText("1"),
                           operation_id="o", now_ms=1)
    print("acknowledged", run_id, flush=True)

async def forget(run_id="kept"):
    store = await opened()
    await start(store, run_id)
    return store
"""

ENDINGS = {
    # what the program does: its exit status, and whether it forgot anything
    "main returns": ("asyncio.run(forget())", 0, True),
    "a global keeps the store": ("store = asyncio.run(forget())", 0, True),
    "sys.exit in main": ("async def main():\n    store = await forget(); sys.exit(3)\nasyncio.run(main())", 3, True),
    "sys.exit beside": ("store = asyncio.run(forget())\nsys.exit(3)", 3, True),
    "an exception in main": ("async def main():\n    store = await forget(); 1 / 0\nasyncio.run(main())", 1, True),
    "Ctrl-C": (
        "async def main():\n    store = await forget(); os.kill(os.getpid(), signal.SIGINT); await asyncio.sleep(60)\n"
        "asyncio.run(main())",
        -2,
        True,
    ),
    "Ctrl-C inside async with": (
        "async def main():\n    async with D1WorkflowStore.open(PATH) as store:\n        await store.ensure_schema()\n"
        "        await start(store, 'kept'); os.kill(os.getpid(), signal.SIGINT); await asyncio.sleep(60)\n"
        "asyncio.run(main())",
        -2,
        False,
    ),
    "sys.exit inside async with": (
        "async def main():\n    async with D1WorkflowStore.open(PATH) as store:\n        await store.ensure_schema()\n"
        "        await start(store, 'kept'); sys.exit(3)\nasyncio.run(main())",
        3,
        False,
    ),
    "the loop is closed with a store open": (
        "loop = asyncio.new_event_loop()\nstore = loop.run_until_complete(forget())\nloop.close()",
        0,
        True,
    ),
    "the loop is closed with a call under way": (
        "async def main():\n    global store\n    store = await forget()\n"
        "    asyncio.ensure_future(start(store, 'perhaps')); await asyncio.sleep(0)\n"
        "loop = asyncio.new_event_loop()\nloop.run_until_complete(main())\nloop.close()",
        0,
        True,
    ),
    "twice": ("for name in ('kept', 'other'):\n    store = asyncio.run(forget(name))", 0, True),
    "the store is garbage": ("asyncio.run(forget())\ngc.collect()\nprint('collected')", 0, True),
    "from a thread": (
        "thread = threading.Thread(target=lambda: asyncio.run(forget()))\nthread.start()\nthread.join()",
        0,
        True,
    ),
    "heartbeats too": (
        "async def main():\n    store = await forget(); await store.open_heartbeats().__aenter__()\n"
        "asyncio.run(main())",
        0,
        True,
    ),
    "while the file is locked": (
        "import sqlite3\nasync def main():\n    global store, holder\n    store = await forget()\n"
        "    holder = sqlite3.connect(PATH, isolation_level=None); holder.execute('BEGIN IMMEDIATE')\n"
        "    asyncio.ensure_future(start(store, 'never')); await asyncio.sleep(0.2)\n"
        "loop = asyncio.new_event_loop()\nloop.run_until_complete(main())\nos.environ['x'] = 'y'",
        0,
        True,
    ),
    "in a long statement": (
        "async def main():\n    global store\n    store = await forget()\n"
        "    sql = 'WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n'\n"
        "    asyncio.ensure_future(store.database.prepare(sql).all()); await asyncio.sleep(0.2)\n"
        "loop = asyncio.new_event_loop()\nloop.run_until_complete(main())",
        0,
        True,
    ),
    "closed": ("async def main():\n    store = await forget(); await store.close()\nasyncio.run(main())", 0, False),
}


def run(path: Path, program: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "always::ResourceWarning", *flags, "-c", BEGIN + program, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends(path: Path, ending: str) -> None:
    program, status, forgotten = ENDINGS[ending]
    began = time.monotonic()
    done = run(path, program)
    assert time.monotonic() - began < 10
    assert done.returncode == status, done.stderr
    assert ("nobody closed the SQLite store on" in done.stderr) == forgotten, done.stderr
    assert "Exception in thread" not in done.stderr
    assert "atexit" not in done.stderr
    if ending != "heartbeats too":  # of two that close at once, neither may be the last one
        assert not path.with_name("app.db-wal").exists(), "the file was closed"
    with closing(sqlite3.connect(path)) as reader:
        runs = {run_id for (run_id,) in reader.execute("SELECT run_id FROM workflow_runs")}
    assert set(done.stdout.split()) & {"kept", "other", "perhaps"} == runs - ({"perhaps"} - set(done.stdout.split()))
    assert "kept" in runs


def test_warnings_that_are_errors_do_not_keep_it_from_ending(path: Path) -> None:
    done = run(path, "store = asyncio.run(forget())", "-W", "error")
    assert done.returncode == 0
    assert "nobody closed" in done.stderr
    assert not path.with_name("app.db-wal").exists(), "it was closed all the same"


async def test_a_store_that_is_garbage_ends_its_thread(path: Path) -> None:
    before = set(threading.enumerate())
    store = await D1WorkflowStore.open(path)
    await store.ensure_schema()
    (thread,) = set(threading.enumerate()) - before
    gone = weakref.ref(store)
    with pytest.warns(ResourceWarning, match="nobody closed the SQLite store"):
        del store
    gc.collect()
    assert gone() is None
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()


async def test_a_store_that_was_never_used_or_could_not_be_opened_is_not_forgotten(path: Path) -> None:
    D1WorkflowStore.open(path)
    assert not path.exists()
    with pytest.raises(StoreOperationError, match="unable to open"):
        await D1WorkflowStore.open(path / "no" / "folder")
    gc.collect()


def loop_of_its_own(main: Any) -> Any:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


def test_a_closed_loop_does_not_end_the_thread(path: Path) -> None:
    """The answer to a call has nowhere to go, and the file can be closed all the same, on another event loop."""

    async def leave_a_call() -> LocalD1Database:
        database = await LocalD1Database.open(path)
        await database.prepare("CREATE TABLE t (n)").run()
        asyncio.ensure_future(database.prepare("INSERT INTO t VALUES (1)").run())  # noqa: RUF006  # left on purpose
        await asyncio.sleep(0)
        return database

    before = set(threading.enumerate())
    database = loop_of_its_own(leave_a_call())
    (thread,) = set(threading.enumerate()) - before
    assert thread.is_alive()
    loop_of_its_own(database.close())
    assert not thread.is_alive()
    gc.collect()


FORK = """
def child(work):
    sys.stdout.flush()  # or the child would have, and write, what is still to be written here
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(work() or 0)
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def test_a_forked_child_is_refused_and_has_a_store_of_its_own(path: Path) -> None:
    program = """
async def own():
    async with D1WorkflowStore.open(PATH) as store:
        await start(store, "child")

async def main():
    async with D1WorkflowStore.open(PATH) as store:
        await store.ensure_schema()
        await start(store, "parent")
        print(child(lambda: asyncio.run(store.load_run(run_id="parent"))))
        print(child(lambda: asyncio.run(store.close())))
        print(child(lambda: asyncio.run(own())))
        await start(store, "after")
asyncio.run(main())
"""
    done = run(path, FORK + program, "-W", "ignore::DeprecationWarning")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[1].startswith("ConfigurationError this SQLite store belongs to process")
    assert "forked" in lines[1]
    assert lines[2:] == ["9", "0", "acknowledged child", "0", "acknowledged after"]
    assert done.stderr == ""


@pytest.mark.parametrize("ending", ["sys.exit()", "del store; gc.collect(); sys.exit()"])
def test_a_child_that_ends_leaves_the_parents_file_alone(path: Path, ending: str) -> None:
    """Closing the connection in the child would remove its log, which the parent writes to."""
    program = f"""
store = None
async def main():
    global store
    store = await forget()
asyncio.run(main())
if (pid := os.fork()) == 0:
    {ending}
status = os.waitpid(pid, 0)[1]
print(status, sorted(name for name in os.listdir(os.path.dirname(PATH))))
asyncio.run(store.close())
"""
    done = run(path, program, "-W", "ignore::DeprecationWarning")
    assert done.stdout.splitlines()[1] == "0 ['app.db', 'app.db-shm', 'app.db-wal']", done.stderr
    assert done.stderr == ""


async def test_a_second_event_loop_is_told_why(path: Path) -> None:
    async with D1WorkflowStore.open(path) as store:
        await store.ensure_schema()
        problems = []

        def use() -> None:
            for call in (
                store.load_run(run_id="r"),
                store.database.prepare("SELECT 1").all(),
                transaction(store),
            ):
                try:
                    asyncio.run(call)
                except ConfigurationError as error:
                    problems.append(str(error))

        await asyncio.to_thread(use)
        assert len(problems) == 3
        assert all(p.startswith("this SQLite store belongs to another event") for p in problems)
        assert await store.load_run(run_id="r") is None


async def transaction(store: D1WorkflowStore) -> None:
    assert isinstance(store.database, LocalD1Database)
    async with store.database.interactive() as transaction:
        await transaction.run([store.database.prepare("SELECT 1")])
