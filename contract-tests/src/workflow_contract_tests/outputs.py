"""The files that a report is written to: JSON, Markdown, JUnit's XML, a badge."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from .report import CaseResult, Report

__all__ = ["as_badge", "as_junit", "write_outputs"]

_LETTER = 6.6
"""The width of a letter of the badge, on average."""
_BADGE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{label}: {text}">
<rect width="{left}" height="20" fill="#555"/>
<rect x="{left}" width="{right}" height="20" fill="{color}"/>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">
<text x="{left_middle}" y="14">{label}</text>
<text x="{right_middle}" y="14">{text}</text>
</g>
</svg>
"""


def write_outputs(
    report: Report, *, markdown: Path | None, json: Path | None, junit: Path | None, badge: Path | None
) -> None:
    """Write the report to the files that are named."""
    wanted = ((markdown, report.as_markdown), (json, report.as_json), (junit, lambda: as_junit(report)))
    for path, text in (*wanted, (badge, lambda: as_badge(report))):
        if path is not None:
            path.write_text(text(), encoding="utf-8")


def as_junit(report: Report) -> str:
    """Return the report as JUnit's XML. What is not applicable or not written counts as skipped."""
    refused, left_out = report.of("failed", "not-run"), report.of("not-applicable", "not-written")
    suite = ElementTree.Element(
        "testsuite",
        name=f"workflow contract {report.contract_version}",
        tests=str(len(report.results)),
        failures=str(len(refused)),
        skipped=str(len(left_out)),
        time=f"{report.seconds:.3f}",
    )
    for result in report.results:
        case = ElementTree.SubElement(
            suite, "testcase", classname=report.store, name=result.id, time=f"{result.seconds:.3f}"
        )
        _add_outcome(case, result)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _add_outcome(case: ElementTree.Element, result: CaseResult) -> None:
    if result.outcome == "passed":
        return
    problem = "".join(letter for letter in result.problem or "" if letter.isprintable() or letter in "\n\t")
    tag = "failure" if result.outcome in {"failed", "not-run"} else "skipped"
    ElementTree.SubElement(case, tag, message=problem.partition("\n")[0]).text = problem


def as_badge(report: Report) -> str:
    """Return an SVG that names the certified levels."""
    levels = [verdict.level for verdict in report.levels if verdict.status == "certified"]
    text = ", ".join(levels) if report.certified else "not certified"
    label = f"workflow contract {report.contract_version}"
    left, right = round(len(label) * _LETTER) + 10, round(len(text) * _LETTER) + 10
    return _BADGE.format(
        label=escape(label),
        text=escape(text),
        color="#4c1" if report.certified else "#e05d44",
        left=left,
        right=right,
        width=left + right,
        left_middle=left / 2,
        right_middle=left + right / 2,
    )
