"""docs/store-contract.md is what the docstrings say."""

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "render_contract.py"


def test_contract_page_is_fresh() -> None:
    """A change of the contract takes the page along: run `python scripts/render_contract.py`."""
    script = runpy.run_path(str(SCRIPT))

    assert script["PAGE"].read_text(encoding="utf-8") == script["render_page"]()
