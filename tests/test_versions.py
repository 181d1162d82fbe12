"""The distributions of this repository can be installed together, now and after a version was raised."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def raising(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, at work on a copy of what it reads and writes."""
    copied = (
        *ROOT.glob("packages/*/pyproject.toml"),
        *ROOT.glob("*/pyproject.toml"),
        *ROOT.glob("examples/*/pyproject.toml"),
        *ROOT.glob("examples/third-party/*/pyproject.toml"),
        *ROOT.glob("packages/*/src/*/_version.py"),
        *ROOT.glob("*/src/*/_version.py"),
    )
    for path in copied:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    spec = importlib.util.spec_from_file_location("raise_version", ROOT / "scripts" / "raise_version.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    module.ROOT = tmp_path  # type: ignore[attr-defined]
    return module


def test_siblings_of_this_repository_fit(raising: ModuleType) -> None:
    assert raising.misfits() == []


@pytest.mark.parametrize("part", ["major", "minor", "patch"])
@pytest.mark.parametrize(
    "name",
    [
        "workflow-runtime",
        "workflow-migrations",
        "workflow-store-memory",
        "workflow-store-sql",
        "workflow-contract-tests",
    ],
)
def test_whatever_is_raised_the_siblings_fit_afterwards(raising: ModuleType, name: str, part: str) -> None:
    before = {project.name: project.version for project in raising.projects().values()}

    new = raising.raise_version(name, part)

    after = {project.name: project.version for project in raising.projects().values()}
    assert raising.misfits() == []
    assert new[name] == raising.raised(before[name], part) == after[name]
    assert after == before | new


def test_dependents_of_what_may_break_are_raised_with_it(raising: ModuleType) -> None:
    """Their ranges change, so they are other releases; who does not depend on it stays."""
    new = raising.raise_version("workflow-migrations", "minor")

    stores = {f"workflow-store-{name}" for name in ("sql", "d1", "postgres")}
    assert set(new) == {"workflow-migrations", *stores}


def test_patch_moves_nobody_else(raising: ModuleType) -> None:
    assert set(raising.raise_version("workflow-runtime", "patch")) == {"workflow-runtime"}


def test_version_that_was_raised_alone_is_found(raising: ModuleType) -> None:
    """What `hatch version minor` does."""
    project = raising.projects()["workflow-runtime"]
    project.write_version(raising.raised(project.version, "minor"))

    everybody = [*raising.projects().values(), *raising.projects_in(raising.EXAMPLES)]
    dependents = [other.name for other in everybody if "workflow-runtime" in other.ranges()]
    assert "example-workflow-store-jsonl" in dependents
    assert [misfit.partition(" ")[0] for misfit in raising.misfits()] == dependents
    assert raising.main(["--check"]) == 1
