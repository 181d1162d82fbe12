"""Write docs/store-contract.md from the docstrings of the store Protocols, so that the page cannot drift.

Run it after a change of the contract: `python scripts/render_contract.py`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workflow_runtime.store import CONTRACT_VERSION, protocol, render_status_table, status_table

PAGE = Path(__file__).parents[1] / "docs" / "store-contract.md"

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
