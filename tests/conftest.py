"""A test that takes `folder` runs once for each distribution of the repository."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = [path.parent for pattern in ("packages/*", "*") for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "folder" in metafunc.fixturenames:
        metafunc.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])


@pytest.fixture
def package(folder: Path) -> Path:
    """The import package of the distribution."""
    [init] = folder.glob("src/*/__init__.py")
    return init.parent
