import pytest
from workflow_migrations import split_statements


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        ("", ()),
        ("-- only a comment\n/* and another; */;;", ()),
        ("SELECT 1", ("SELECT 1",)),
        ("SELECT 1; SELECT 2;", ("SELECT 1", "SELECT 2")),
        ("SELECT ';'; SELECT \"a;b\"", ("SELECT ';'", 'SELECT "a;b"')),
        ("SELECT 'it''s; one'; SELECT 2", ("SELECT 'it''s; one'", "SELECT 2")),
        ("-- why; really\nSELECT 1; -- the end;", ("-- why; really\nSELECT 1",)),
        ("SELECT 1 /* a; b */ + 2", ("SELECT 1 /* a; b */ + 2",)),
    ],
)
def test_script_is_cut_at_its_semicolons(script: str, statements: tuple[str, ...]) -> None:
    assert split_statements(script) == statements
