"""Write docs/store-contract.md, and a table of docs/errors-to-raise.md, from the docstrings of the store Protocols.

So these pages cannot drift. Run it after a change of the contract: `python scripts/render_contract.py`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workflow_runtime.store import CONTRACT_VERSION, protocol, render_status_table, status_table

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "store-contract.md"
ERRORS_PAGE = DOCS / "errors-to-raise.md"

_OPTIONAL = (
    protocol.SupportsSubscribe,
    protocol.SupportsNotify,
    protocol.Listening,
    protocol.SupportsTransactions,
    protocol.SupportsHeartbeats,
    protocol.SupportsMetering,
)
ROLES = [*protocol.WorkflowExecutionStore.__bases__[:-1], *_OPTIONAL]  # without Protocol itself
_SECTION = re.compile(r"^(Args|Contract|Raises):$")
_ENTRY = re.compile(r"^    (?P<name>[\w-]+): (?P<text>.*)$")
_VERBS = re.compile(r"(?<=^<!-- verbs: ).*?(?=^<!-- end of verbs -->$)", re.MULTILINE | re.DOTALL)


def render_page() -> str:
    """Write the whole page."""
    blocks = [
        "# The store contract",
        "<!-- Written by scripts/render_contract.py from the docstrings. Change those, then run it. -->",
        f"Version {CONTRACT_VERSION}.",
        _prose(_document(protocol)[""]),
        "Every line below that begins with an id is a clause; contract tests cite it by that id.",
    ]
    for role in ROLES:
        blocks += _render_role(role)
    blocks += ["## Status table", _prose(_document(status_table)[""]), render_status_table()]
    return "\n\n".join(blocks) + "\n"


def render_errors_page(page: str) -> str:
    """Return the page with its table of verbs as the docstrings have it."""
    rows = [f"| `{verb}` | `{error}` | {text} |" for verb, error, text in _raised()]
    table = "\n".join(["| Verb | Error | When |", "|---|---|---|", *rows])
    heading = "written by scripts/render_contract.py from the docstrings -->"
    return _VERBS.sub(lambda _: f"{heading}\n\n{table}\n\n", page)


def _raised() -> Iterator[tuple[str, str, str]]:
    """Yield each verb with each error that its docstring names, and when it is raised."""
    for role in ROLES:
        for name, member in vars(role).items():
            if inspect.isfunction(member):
                raised = _document(member).get("Raises", [])
                yield from ((name, error, text) for error, text in _entries(raised))


def _render_role(role: type) -> Iterator[str]:
    yield f"## {role.__name__}"
    yield from _render_docstring(_document(role))
    for name, member in vars(role).items():
        if isinstance(member, property):
            yield f"### {name}"
            yield from _render_docstring(_document(member))
        elif inspect.isfunction(member) and not name.startswith("_"):
            yield f"### {name}"
            yield f"```text\n{_signature(member)}\n```"
            yield from _render_docstring(_document(member))


def _render_docstring(document: dict[str, list[str]]) -> Iterator[str]:
    yield _prose(document.pop(""))
    for section, lines in document.items():
        if section == "Contract":
            yield "Clauses:\n\n" + "\n".join(f"- **{name}** {text}" for name, text in _entries(lines))
        else:
            label = {"Args": "Arguments", "Raises": "Raises"}[section]
            yield f"{label}:\n\n" + "\n".join(f"- `{name}`: {text}" for name, text in _entries(lines))


def _document(described: object) -> dict[str, list[str]]:
    """Split a docstring into its sections; the prose before the first goes under the empty name."""
    sections: dict[str, list[str]] = {"": []}
    current = ""
    for line in (inspect.getdoc(described) or "").splitlines():
        if heading := _SECTION.match(line):
            current = heading[1]
            sections[current] = []
        else:
            sections[current].append(line)
    return sections


def _entries(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Join the lines of each `name: text` entry."""
    name, words = "", list[str]()
    for line in lines:
        if entry := _ENTRY.match(line):
            if name:
                yield name, " ".join(words)
            name, words = entry["name"], [entry["text"]]
        elif line.strip():
            words.append(line.strip())
    if name:
        yield name, " ".join(words)


def _prose(lines: list[str]) -> str:
    paragraphs = "\n".join(lines).strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _signature(verb: Callable[..., Any]) -> str:
    signature = inspect.signature(verb)
    arguments = [f"    {_argument(item)}," for name, item in signature.parameters.items() if name != "self"]
    body = "\n".join(["(", "    *,", *arguments, ")"]) if arguments else "()"
    kind = "async " if inspect.iscoroutinefunction(verb) else ""
    return f"{kind}{verb.__name__}{body} -> {signature.return_annotation}"


def _argument(item: inspect.Parameter) -> str:
    default = "" if item.default is item.empty else f" = {item.default!r}"
    return f"{item.name}: {item.annotation}{default}"


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
    ERRORS_PAGE.write_text(render_errors_page(ERRORS_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
