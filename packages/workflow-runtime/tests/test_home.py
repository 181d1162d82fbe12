"""The process and event loop in which the connections of a store can be used."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_runtime.errors import ConfigurationError
from workflow_runtime.store import Home
from workflow_store_memory import InMemoryWorkflowStore


async def new_home() -> Home:
    return Home("this store")


async def check(home: Home) -> None:
    home.check()


async def test_a_store_is_used_where_it_was_opened() -> None:
    home = Home("this store")
    for _ in range(3):
        home.check()
        await asyncio.sleep(0)
    assert not home.is_inherited


def test_a_second_event_loop_is_refused_and_told_why() -> None:
    home = asyncio.run(new_home())
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="this store belongs to an event loop that is closed"):
            asyncio.run(check(home))


async def test_the_event_loop_of_another_thread_is_refused() -> None:
    home, problems = Home("this store"), []

    def use() -> None:
        try:
            asyncio.run(check(home))
        except ConfigurationError as error:
            problems.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    await asyncio.to_thread(thread.join, 10)
    assert len(problems) == 1
    assert "this store belongs to another event loop" in problems[0]
    home.check()


def test_without_an_event_loop_the_first_one_that_asks_is_home() -> None:
    home = Home("this store")
    asyncio.run(check(home))
    with pytest.raises(ConfigurationError, match="event loop"):
        asyncio.run(check(home))


def test_an_event_loop_can_be_named() -> None:
    loop = asyncio.new_event_loop()
    try:
        home = Home("this store", loop)
        loop.run_until_complete(check(home))
        with pytest.raises(ConfigurationError, match="another event loop"):
            asyncio.run(check(home))
        loop.run_until_complete(check(home))
    finally:
        loop.close()


async def test_a_handler_is_told_to_use_a_step() -> None:
    home, adrift = Home("this store"), await asyncio.to_thread(Home, "this store")
    problems = []

    @workflow(id="curious")
    async def curious(ctx: Context, _: None) -> None:
        for one in (home, adrift):
            try:
                one.check()
            except ConfigurationError as error:
                problems.append(str(error))

    runtime = WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[curious])
    await (await runtime.run_here(curious, None)).result()
    assert len(problems) == 2
    assert all("ctx.step" in problem for problem in problems)
    adrift.check()


FORKED = """
import asyncio, os
from workflow_runtime.errors import ConfigurationError
from workflow_runtime.store import Home

async def check(home):
    home.check()

async def main(forks_inside):
    home = Home("this store")
    if forks_inside:
        fork(home)
    return home

def fork(home):
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        return
    try:
        assert home.is_inherited
        asyncio.run(check(home))
    except ConfigurationError as error:
        assert f"belongs to process {os.getppid()}" in str(error), error
        asyncio.run(check(Home("a store of the child's own")))
        os._exit(0)
    os._exit(1)

asyncio.run(main(forks_inside=True))
fork(asyncio.run(main(forks_inside=False)))
fork(Home("this store"))
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_is_refused_and_told_why() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")
