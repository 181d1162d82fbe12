"""Every distribution has the same shape, and the commands that README gives are those that CI runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_ci_runs_the_command_of_the_readme() -> None:
    """The last line of .ci/run stands in README word for word, and so does its twin for the demo."""
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()

    assert command.endswith("nox -s tests")
    assert command in readme
    assert command.removesuffix("tests") + "demo" in readme


def test_distribution_has_the_common_files(folder: Path, package: Path) -> None:
    """A reader who knows one distribution finds the way in all of them."""
    expected = [folder / name for name in ("README.md", "CHANGELOG.md", "LICENSE", "tests")]
    expected += [package / name for name in ("py.typed", "_version.py")]

    assert [str(path.relative_to(folder)) for path in expected if not path.exists()] == []
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_changelog_tells_the_version(folder: Path, package: Path) -> None:
    """The version of the code has a section, or what is not released yet has one."""
    [version] = re.findall(r'__version__ = "(.+)"', (package / "_version.py").read_text(encoding="utf-8"))
    changelog = (folder / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[?([^\]\s]+)", changelog, flags=re.MULTILINE)

    assert {version, "Unreleased"} & set(sections)
