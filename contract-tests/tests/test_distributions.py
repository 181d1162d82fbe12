"""Which distribution a report names: authors certify what they have installed, mostly from their working copy."""

import json
from pathlib import Path

import pytest
from workflow_contract_tests.distributions import find_distribution


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that distributions are installed into."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


def _install(site: Path, name: str, version: str, *, folder: Path, editable: bool = True) -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "direct_url.json").write_text(json.dumps({"url": folder.as_uri(), "dir_info": {"editable": editable}}))


def _package(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "src" / name).mkdir(parents=True)
    (folder / "src" / name / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(folder / "src"))


def test_installed_package_has_its_distribution() -> None:
    name, version = find_distribution("pytest")
    assert (name, version) == ("pytest", pytest.__version__)


def test_working_copy_has_the_distribution_of_its_folder(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "my work"
    _package(work / "stores" / "one", "first_acme_store", monkeypatch)
    _install(site, "acme-everything", "9.9", folder=work)
    _install(site, "acme-stores-for-all", "1.2", folder=work / "stores" / "one")
    assert find_distribution("first_acme_store.store") == ("acme-stores-for-all", "1.2")


def test_package_of_no_distribution_has_none(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path / "two", "second_acme_store", monkeypatch)
    _install(site, "another-one", "1.2", folder=tmp_path / "tw")
    _install(site, "copied-from-there", "1.2", folder=tmp_path / "two", editable=False)
    assert find_distribution("second_acme_store") == (None, None)


@pytest.mark.parametrize("module", [None, "", "__main__", "no_such_module_anywhere"])
def test_no_package_has_none(module: str | None) -> None:
    assert find_distribution(module) == (None, None)
