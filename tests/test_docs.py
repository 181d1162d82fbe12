"""The documentation is true: its Python examples run as they stand, and its links lead somewhere."""

import re
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parents[1]
FOLDERS = (".", "docs", "docs/*", "packages/*", "migrations-shared", "contract-tests", "examples/*", "benchmarks")
PAGES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_examples_of_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run in order, in an empty folder, and share their names as one script would."""
    monkeypatch.chdir(tmp_path)
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(page)
    document.namespace["__name__"] = "__main__"

    for example in document.examples():
        example.evaluate()


@each_page
def test_links_of_page_lead_to_files(page: Path) -> None:
    """A relative link names something that is in the repository."""
    targets = re.findall(r"\]\((?!https?://|mailto:|#)([^)#]+)", page.read_text(encoding="utf-8"))

    assert [target for target in targets if not (page.parent / target).exists()] == []
