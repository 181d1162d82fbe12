"""The documentation is true: its Python examples run as they stand, and its links lead somewhere."""

import gc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from workflow_store_d1 import D1WorkflowStore
from workflow_test_support.servers.d1_rest import RestDatabase, rest_database
from workflow_test_support.servers.postgres_server import postgres_dsn

ROOT = Path(__file__).parents[1]
FOLDERS = (
    ".",
    "docs",
    "docs/*",
    "packages/*",
    "migrations-shared",
    "contract-tests",
    "examples/*",
    "examples/third-party/*",
    "benchmarks",
)
PAGES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """A server for the pages that speak of one."""
    with postgres_dsn() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def rest() -> Iterator[RestDatabase]:
    """D1 behind the shape of Cloudflare's API."""
    with rest_database() as database:
        yield database


@each_page
def test_examples_of_page_run(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The blocks of a page run in order, in an empty folder, and share their names as one script would."""
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    monkeypatch.chdir(tmp_path)
    if "DATABASE_URL" in page.read_text(encoding="utf-8"):
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("database_url"))
    if "CLOUDFLARE_API_TOKEN" in page.read_text(encoding="utf-8"):
        rest: RestDatabase = request.getfixturevalue("rest")
        defaults = D1WorkflowStore.connect_http.__func__.__kwdefaults__  # type: ignore[attr-defined]  # of a classmethod
        monkeypatch.setitem(defaults, "base_url", rest.base_url)
        monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", rest.account_id)
        monkeypatch.setenv("CLOUDFLARE_D1_DATABASE_ID", rest.database_id)
        monkeypatch.setenv("CLOUDFLARE_API_TOKEN", rest.token)
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(page)
    document.namespace["__name__"] = "__main__"

    thresholds = gc.get_threshold()  # a page says how to set them
    try:
        for example in document.examples():
            example.evaluate()
    finally:
        gc.set_threshold(*thresholds)


REPOSITORY = "https://github.com/workflow-runtime/workflow-runtime"


@each_page
def test_links_of_page_lead_to_files(page: Path) -> None:
    """A relative link, or one into the repository, names something that is there."""
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://|mailto:|#)([^)#]+)", text)
    inside = re.findall(rf"\]\({REPOSITORY}/(?:blob|tree)/main/([^)#]+)", text)

    assert [target for target in targets if not (page.parent / target).exists()] == []
    assert [target for target in inside if not (ROOT / target).exists()] == []


def test_links_of_published_page_lead_somewhere_on_an_index_too(folder: Path) -> None:
    """The README of a distribution is shown where the files beside it are not."""
    text = (folder / "README.md").read_text(encoding="utf-8")

    assert re.findall(r"\]\((?!https?://|mailto:|#)([^)]+)", text) == []
