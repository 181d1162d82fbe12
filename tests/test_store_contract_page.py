"""docs/store-contract.md and the errors of verbs are what the docstrings say."""

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "render_contract.py"


def test_contract_page_is_fresh() -> None:
    """A change of the contract takes the page along: run `python scripts/render_contract.py`."""
    script = runpy.run_path(str(SCRIPT))

    assert script["PAGE"].read_text(encoding="utf-8") == script["render_page"]()


def test_errors_of_verbs_are_fresh() -> None:
    """The table of docs/errors-to-raise.md names what the docstrings name: run `python scripts/render_contract.py`."""
    script = runpy.run_path(str(SCRIPT))
    page = script["ERRORS_PAGE"].read_text(encoding="utf-8")

    assert "| `append_events` | `LeaseLostError` |" in page
    assert page == script["render_errors_page"](page)
