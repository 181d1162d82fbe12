"""The command `python -m workflow_contract_tests module:harness_factory`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .certification import certify
from .loading import load_object
from .report import Report


def main(arguments: list[str] | None = None) -> int:
    """Certify a store and print the table. Return 0 only when the store is certified."""
    options = _parser().parse_args(arguments)
    sys.path.insert(0, str(Path.cwd()))
    report = certify(load_object(options.harness_factory))
    _write(report, options.markdown, options.json)
    return 0 if report.certified else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workflow_contract_tests", description=main.__doc__)
    parser.add_argument("harness_factory", help="module:function that returns a StoreHarness with fresh data")
    parser.add_argument("--markdown", type=Path, help="write the table to this file as well")
    parser.add_argument("--json", type=Path, help="write the report as JSON to this file")
    return parser


def _write(report: Report, markdown: Path | None, json: Path | None) -> None:
    sys.stdout.write(report.as_markdown() + "\n" + report.summary() + "\n")
    if markdown is not None:
        markdown.write_text(report.as_markdown(), encoding="utf-8")
    if json is not None:
        json.write_text(report.as_json(), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
