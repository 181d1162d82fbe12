"""The ids of writes: no two alike, in whatever thread or process."""

import os
import subprocess
import sys
import threading

import pytest
from workflow_runtime.ids import OperationIds, check_id, new_operation_id


def test_no_two_are_alike_in_any_thread() -> None:
    """Threads that begin at the same moment, before the process has its random part."""
    for _ in range(20):
        ids, taken = OperationIds(), list[str]()
        begin = threading.Barrier(8)

        def take(ids: OperationIds = ids, taken: list[str] = taken, begin: threading.Barrier = begin) -> None:
            begin.wait(10)
            taken.extend(ids.take() for _ in range(100))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(set(taken)) == 800


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_begins_anew() -> None:
    """Otherwise both would go on with the same numbers."""
    program = """
import os
from workflow_runtime.ids import new_operation_id

before = new_operation_id()
read, write = os.pipe()
if not os.fork():
    os.write(write, new_operation_id().encode())
    os._exit(0)
os.wait()
print(before, new_operation_id(), os.read(read, 100).decode())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    before, after, childs = done.stdout.split()
    assert before.partition("-")[0] == after.partition("-")[0] != childs.partition("-")[0]


def test_nothing_random_is_made_by_an_import() -> None:
    """Some hosts keep the memory of a program that has been imported, and start many processes with it."""
    program = """
import os

os.urandom = None
import workflow_runtime
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_they_are_ids_that_every_store_carries() -> None:
    operation_id = new_operation_id()
    assert check_id("operation_id", operation_id) == operation_id
