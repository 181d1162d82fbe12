"""Raise the version of a distribution, and of everything that must be raised with it.

    python scripts/raise_version.py DISTRIBUTION major|minor|patch
    python scripts/raise_version.py --check

Siblings require each other by a range that ends before the next version which may break them: before 1.0 that is the
next minor one. So a distribution that leaves the ranges of its dependents raises these ranges, and the dependents with
them: they are released together. The check fails where the siblings of this repository could not be installed together.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECTS = ("packages/*", "migrations-shared", "contract-tests")
EXAMPLES = ("examples/third-party/*", "examples/cloudflare-worker")
PARTS = ("major", "minor", "patch")

_REQUIREMENT = re.compile(r'"(?P<name>workflow-[a-z0-9-]+)>=(?P<least>[0-9.]+),<(?P<end>[0-9.]+)"')
_VERSION = re.compile(r'__version__ = "(?P<version>[0-9.]+)"')


@dataclass(frozen=True)
class Project:
    """A folder with a `pyproject.toml`."""

    folder: Path

    @property
    def name(self) -> str:
        """The name of the distribution."""
        found = re.search(r'^name = "([^"]+)"', self._text(), re.MULTILINE)
        assert found is not None, self.folder
        return found[1]

    @property
    def version(self) -> tuple[int, ...]:
        """The version that the code has now."""
        found = _VERSION.search(self._version_file().read_text(encoding="utf-8"))
        assert found is not None, self.folder
        return numbers(found["version"])

    def write_version(self, version: tuple[int, ...]) -> None:
        """Write another version into the code."""
        self._version_file().write_text(f'__version__ = "{dotted(version)}"\n', encoding="utf-8")

    def ranges(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return which versions of which siblings it allows: from the first on, before the second."""
        found = _REQUIREMENT.finditer(self._text())
        return {item["name"]: (numbers(item["least"]), numbers(item["end"])) for item in found}

    def require(self, name: str, version: tuple[int, ...]) -> None:
        """Allow a sibling from this version on, until the next one that may break."""
        wanted = f'"{name}>={dotted(version[:2])},<{dotted(next_breaking(version))}"'
        text = _REQUIREMENT.sub(lambda item: wanted if item["name"] == name else item[0], self._text())
        (self.folder / "pyproject.toml").write_text(text, encoding="utf-8")

    def _text(self) -> str:
        return (self.folder / "pyproject.toml").read_text(encoding="utf-8")

    def _version_file(self) -> Path:
        [file] = self.folder.glob("src/*/_version.py")
        return file


def projects() -> dict[str, Project]:
    """List the distributions of this repository by name."""
    return {project.name: project for project in projects_in(PROJECTS)}


def projects_in(patterns: Sequence[str]) -> list[Project]:
    """List the projects in some folders."""
    return [Project(path.parent) for pattern in patterns for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))]


def numbers(version: str) -> tuple[int, ...]:
    """Read a version."""
    return tuple(int(part) for part in version.split("."))


def dotted(version: tuple[int, ...]) -> str:
    """Write a version."""
    return ".".join(map(str, version))


def raised(version: tuple[int, ...], part: str) -> tuple[int, ...]:
    """Return the next version."""
    index = PARTS.index(part)
    return (*version[:index], version[index] + 1, *(0 for _ in version[index + 1 :]))


def next_breaking(version: tuple[int, ...]) -> tuple[int, ...]:
    """Return the version before which nothing breaks: the next major one, before 1.0 the next minor one."""
    return (version[0] + 1,) if version[0] else (0, version[1] + 1)


def raise_version(name: str, part: str) -> dict[str, tuple[int, ...]]:
    """Raise a distribution, then everybody whose range it has left; give all new versions."""
    known = projects()
    new = {name: raised(known[name].version, part)}
    known[name].write_version(new[name])
    waiting = [name]
    while waiting:
        moved = waiting.pop()
        for other in (*known.values(), *projects_in(EXAMPLES)):
            least, end = other.ranges().get(moved, ((), ()))
            if not end or least <= new[moved] < end:
                continue
            other.require(moved, new[moved])
            if other.name in known and other.name not in new:
                new[other.name] = raised(other.version, "minor")
                other.write_version(new[other.name])
                waiting.append(other.name)
    return new


def misfits() -> list[str]:
    """Name the requirements that the siblings of this repository do not keep."""
    known = projects()
    wrong = []
    for project in (*known.values(), *projects_in(EXAMPLES)):
        for name, (least, end) in project.ranges().items():
            if not least <= known[name].version < end:
                there = dotted(known[name].version)
                wrong.append(f"{project.name} requires {name}>={dotted(least)},<{dotted(end)}; here is {there}")
    return wrong


def main(arguments: list[str]) -> int:
    """Do what the arguments say; give the exit status."""
    match arguments:
        case ["--check"]:
            wrong = misfits()
            print("\n".join(wrong) or "all siblings can be installed together")
            return 1 if wrong else 0
        case [name, part] if name in projects() and part in PARTS:
            for raised_name, version in raise_version(name, part).items():
                print(f"{raised_name} {dotted(version)}: name the changes in its CHANGELOG.md")
            return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
