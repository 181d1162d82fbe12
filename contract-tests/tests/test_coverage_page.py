"""docs/contract-coverage.md is what the cases and the mutants say."""

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "render_coverage.py"


def test_coverage_page_is_fresh() -> None:
    """A change of a case or of a mutant takes the page along: run `python scripts/render_coverage.py`."""
    script = runpy.run_path(str(SCRIPT))

    assert script["PAGE"].read_text(encoding="utf-8") == script["render_page"]()
