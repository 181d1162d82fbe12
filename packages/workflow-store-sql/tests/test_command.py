"""`python -m workflow_store_sql show STORE [QUERY]`."""

import pytest
from workflow_store_sql import load_statements
from workflow_store_sql.__main__ import main


@pytest.mark.parametrize("store", ["d1", "postgres"])
def test_statement_is_shown_as_it_is_sent(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", store, "load_run"]) == 0
    assert capsys.readouterr().out == f"{load_statements(f'workflow_store_{store}')['load_run']}\n"


def test_names_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "d1"]) == 0
    assert capsys.readouterr().out.split() == sorted(load_statements("workflow_store_d1"))


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (["show", "oracle"], 1, "there is no SQL store 'oracle' here"),
        (["show", "memory"], 1, "there is no SQL store 'memory' here"),
        (["show", "d1", "load_ran"], 1, "d1 has no query 'load_ran'"),
        (["show"], 2, "show STORE [QUERY]"),
        ([], 2, "show STORE [QUERY]"),
        (["show", "d1", "load_run", "now"], 2, "show STORE [QUERY]"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], status: int, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert problem in captured.err
