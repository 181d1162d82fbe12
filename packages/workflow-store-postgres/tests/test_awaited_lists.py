"""A listing cuts a long list of what a run waits for, and counts it: also around the length where that begins."""

from typing import TYPE_CHECKING

import pytest
from workflow_runtime.store import AWAITED_SHOWN, Awaited
from workflow_store_sql import awaited_text

if TYPE_CHECKING:
    from conftest import Scenes

CUT_FROM = 1_000
"""The statements give a list as it is if its text is no longer than this."""


def list_of_length(length: int) -> list[Awaited]:
    """Return one thing more than a listing shows, as a text of this length."""
    names = [f"s{number}" for number in range(AWAITED_SHOWN + 1)]
    empty = [Awaited(kind="signal", name=name, step_id="w") for name in names]
    share, rest = divmod(length - len(awaited_text(empty)), len(names))
    pads = [share + (number < rest) for number in range(len(names))]
    return [Awaited(kind="signal", name=n, step_id="w" * (1 + pad)) for n, pad in zip(names, pads, strict=True)]


@pytest.mark.parametrize("descending", [False, True])
async def test_list_is_counted_whatever_its_length(scenes: "Scenes", descending: bool) -> None:
    lists = {f"run-{length}": list_of_length(length) for length in range(CUT_FROM - 1, CUT_FROM + 3)}
    for run_id, awaited in lists.items():
        assert len(awaited_text(awaited)) == int(run_id.removeprefix("run-"))
        await scenes.pause(run_id, await scenes.running(run_id), awaited=awaited)
    for filters in ({}, {"workflow_ids": ["ship"]}, {"workflow_ids": ["ship", "other"]}, {"run_id_prefix": "run"}):
        page = await scenes.store.list_runs(limit=9, descending=descending, **filters)
        found = {run.run_id: (run.first_awaited, run.awaited_count) for run in page.runs}
        assert found == {run_id: (tuple(awaited[:AWAITED_SHOWN]), len(awaited)) for run_id, awaited in lists.items()}
