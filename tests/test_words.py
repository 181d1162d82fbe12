"""The check of the glossary's words finds what it is for, and the sources pass it."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

check_words = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "check_words.py")))
TABLE = """
| Word | Meaning | Not |
|---|---|---|
| store | An object. | `storage backend`, `plugin` |
| run | One execution. | |
| step | A function. | `activity` |
"""


@pytest.mark.parametrize(
    "line",
    ["a storage backend", "STORAGE_BACKENDS = 1", "class StorageBackend: ...", "the plugin's", "plugins", "activities"],
)
def test_banned_word_is_found_in_each_form(line: str) -> None:
    bans = check_words.read_bans(TABLE)
    assert [ban.word for ban in bans] == ["store", "store", "step"]
    assert [number for number, _ in check_words.find_banned(f"fine\n{line}\n", bans)] == [2]


@pytest.mark.parametrize(
    "line", ["the backend of storage", "FROM pg_stat_activity AS activity", "pluginless", "a store"]
)
def test_other_words_are_not(line: str) -> None:
    assert list(check_words.find_banned(line, check_words.read_bans(TABLE))) == []


def test_sources_and_pages_keep_to_the_glossary(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_words.main() == 0, capsys.readouterr().out
    looked_at = {path.suffix for path in check_words.files()}
    assert looked_at == {".py", ".sql", ".md"}


def test_page_without_a_table_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "glossary.md"
    page.write_text("# Glossary\n", encoding="utf-8")
    assert check_words.main(page) == 2
