from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from audit_packages.journal import Journal, JournalLine, read_journal

LINE = JournalLine(mark="begin", run_id="audit:ü\u2028", step_id="hash-0", attempt=1, pid=1)
EXAMPLE = Path(__file__).resolve().parent.parent

WRITER = """
import sys
from pathlib import Path
from audit_packages.journal import Journal
journal = Journal(Path(sys.argv[1]), frozenset(map(int, sys.argv[3:])))
for _ in range(int(sys.argv[2])):
    with journal.execution("run", "step", 1):
        pass
"""


def _start_writer(path: Path, executions: int, *kill_at: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(executions), *map(str, kill_at)], cwd=EXAMPLE)


def test_lines_of_two_writers_are_counted_together(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first, second = Journal(path), Journal(path)
    assert [first.write(LINE), second.write(LINE), second.write(LINE), first.write(LINE)] == [1, 2, 3, 4]
    first.close()
    third = Journal(path)
    assert third.write(LINE) == 5
    second.close()
    third.close()
    assert read_journal(path) == [LINE] * 5


def test_a_journal_that_nobody_wrote_is_empty(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "journal") == []


def test_an_execution_is_framed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with journal.execution("run", "good", 1) as line:
        assert line == 1
    with pytest.raises(ZeroDivisionError), journal.execution("run", "bad", 2):
        _ = 1 / 0
    journal.close()
    lines = read_journal(tmp_path / "journal")
    assert [(line.mark, line.step_id, line.attempt) for line in lines] == [
        ("begin", "good", 1),
        ("end", "good", 1),
        ("begin", "bad", 2),
        ("failed", "bad", 2),
    ]
    assert {line.pid for line in lines} == {os.getpid()}


def test_it_kills_right_after_each_named_line_and_nowhere_else(tmp_path: Path) -> None:
    kills: list[int] = []
    journal = Journal(tmp_path / "journal", {2, 4}, kill=lambda: kills.append(len(read_journal(tmp_path / "journal"))))
    for _ in range(5):
        journal.write(LINE)
    journal.close()
    assert kills == [2, 4]


def test_no_number_is_given_twice_to_threads_of_two_writers(tmp_path: Path) -> None:
    journals = [Journal(tmp_path / "journal") for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda i: journals[i % 2].write(LINE), range(2_000)))
    for journal in journals:
        journal.close()
    assert sorted(numbers) == list(range(1, 2_001))


@pytest.mark.real_time
def test_of_two_processes_the_one_that_writes_the_line_dies(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    writers = [_start_writer(path, 2_000, 1_001) for _ in range(2)]
    statuses = [writer.wait(timeout=60) for writer in writers]
    lines = read_journal(path)
    assert sorted(statuses) == [-signal.SIGKILL, 0]
    victim = writers[statuses.index(-signal.SIGKILL)].pid
    assert lines[1_000].pid == victim
    assert victim not in {line.pid for line in lines[1_001:]}, "nothing of it may come after the line"
