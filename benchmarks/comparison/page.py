"""The page docs/performance.md: what people wrote stays, and what lies between its marks is made of the results."""

from __future__ import annotations

from workflow_test_support.repository import ROOT

from comparison.charts import chart
from comparison.report import tables
from comparison.results import Results, load, save
from comparison.rows import ROWS

__all__ = ["CHARTS", "PAGE", "RESULTS", "drawn", "with_results", "write"]

PAGE = ROOT / "docs" / "performance.md"
CHARTS = ROOT / "docs" / "performance"
RESULTS = CHARTS / "results.json"
BEGIN, END = "<!-- The rest is written by `nox -s bench`. -->\n", "<!-- The end of what is written. -->\n"


def with_results(text: str, results: Results) -> str:
    """Return the text of the page with what the results say between its marks.

    Raises:
        ValueError: The marks are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no place for results")
    return f"{before}{BEGIN}\n{tables(results, CHARTS.name)}\n\n{END}{after}"


def drawn(results: Results) -> dict[str, str]:
    """Return the charts, by the names of their files."""
    return {f"{row.id}.svg": chart(row, results.rows[row.id]) for row in ROWS if row.id in results.rows}


def write(results: Results) -> None:
    """Write results, charts and page. What is shown is what was saved: nothing that only this process knows."""
    CHARTS.mkdir(exist_ok=True)
    save(results, RESULTS)
    saved = load(RESULTS)
    for old in CHARTS.glob("*.svg"):
        old.unlink()
    for name, text in drawn(saved).items():
        (CHARTS / name).write_text(text, encoding="utf-8")
    PAGE.write_text(with_results(PAGE.read_text(encoding="utf-8"), saved), encoding="utf-8")
