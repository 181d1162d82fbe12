"""The check that words with one meaning keep it: the last column of docs/glossary.md names what is not used for a word.

    python scripts/check_words.py

It reads the sources of all distributions (Python and SQL) and the documentation. A word that means something else in
a place, such as a name of PostgreSQL's, stands in `ELSEWHERE`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"
SOURCES = (
    "packages/*/src",
    "contract-tests/src",
    "migrations-shared/src",
    "examples/*/src",
    "examples/third-party/*/src",
)
PAGES = (
    "*.md",
    "docs/*.md",
    "packages/*/README.md",
    "contract-tests/*.md",
    "migrations-shared/*.md",
    "examples/*/*.md",
    "examples/third-party/*/*.md",
)
SUFFIXES = {".py", ".sql"}
ELSEWHERE = ("pg_stat_activity", "AS activity", "activity.")
"""Text in which a word is a name of something that is not ours."""

_ROW = re.compile(r"^\| (?P<word>[^|]+) \| (?P<meaning>[^|]+) \|(?P<banned>[^|]*)\|$")


@dataclass(frozen=True)
class Ban:
    """A word that is not used, and the one that is."""

    word: str
    banned: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """The banned word and its plural, whole and in any case, as prose and as an identifier."""
        *others, last = map(re.escape, self.banned.split())
        plural = f"{last[:-1]}(?:y|ies)" if last.endswith("y") else f"{last}s?"
        words = "[ _-]?".join([*others, plural])
        return re.compile(rf"(?<![A-Za-z]){words}(?![a-z])", re.IGNORECASE)


def read_bans(glossary: str) -> list[Ban]:
    """Read the last column of the glossary's table."""
    rows = [row for line in glossary.splitlines() if (row := _ROW.match(line))]
    return [Ban(row["word"], banned) for row in rows for banned in re.findall(r"`([^`]+)`", row["banned"])]


def find_banned(text: str, bans: list[Ban]) -> Iterator[tuple[int, Ban]]:
    """Yield the number of each line that has a banned word, and the ban."""
    for name in ELSEWHERE:
        text = text.replace(name, "")
    for ban in bans:
        for found in ban.pattern.finditer(text):
            yield text.count("\n", 0, found.start()) + 1, ban


def files() -> list[Path]:
    """List the files that are looked through."""
    sources = [path for folder in SOURCES for root in ROOT.glob(folder) for path in root.rglob("*")]
    pages = [path for pattern in PAGES for path in ROOT.glob(pattern) if path.name != "CHANGELOG.md"]
    return sorted({path for path in sources if path.suffix in SUFFIXES} | set(pages) - {GLOSSARY})


def main(glossary: Path = GLOSSARY) -> int:
    """Print each banned word. Return 1 if there is one, 2 if the glossary bans nothing."""
    bans = read_bans(glossary.read_text(encoding="utf-8"))
    if not bans:
        print(f"{glossary} bans no word: its table is not as this script reads it")
        return 2
    found = [
        f"{path.relative_to(ROOT)}:{number}: '{ban.banned}': say '{ban.word}' (docs/glossary.md)"
        for path in files()
        for number, ban in find_banned(path.read_text(encoding="utf-8"), bans)
    ]
    print("\n".join(found) or f"{len(bans)} words are banned, and none of them is used")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
