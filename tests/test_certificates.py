"""The certificates in the documentation are those that the command wrote, one for each store."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from workflow_contract_tests.report import hash_of

SCRIPT = Path(__file__).parents[1] / "scripts" / "certify_stores.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("certify_stores", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copied(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the certificates, which the script takes for them."""
    folder = tmp_path / "docs" / "certificates"
    shutil.copytree(script.CERTIFICATES, folder)
    for name, place in (("ROOT", tmp_path), ("CERTIFICATES", folder), ("PAGE", folder / "README.md")):
        monkeypatch.setattr(script, name, place)
    return folder


def test_each_store_has_its_certificate(script: ModuleType) -> None:
    """`nox -s certificates` writes them, which a release runs."""
    assert script.find_problems() == []


def _lie(report: dict[str, Any]) -> None:
    report["results"][0]["outcome"] = "failed"


def _refuse(report: dict[str, Any]) -> None:
    report["certified"] = False
    report["hash"] = hash_of(report)


def _rename(report: dict[str, Any]) -> None:
    report["distribution"] = "another"
    report["hash"] = hash_of(report)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(_lie, "memory: the certificate was changed after it was written"),
        pytest.param(_refuse, "memory: the certificate certifies nothing"),
        pytest.param(_rename, "docs/certificates/README.md does not say what the certificates say"),
    ],
)
def test_what_is_wrong_is_found(
    script: ModuleType, copied: Path, change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    report = json.loads((copied / "memory.json").read_text())
    change(report)
    (copied / "memory.json").write_text(json.dumps(report))
    assert script.find_problems() == [problem]


def test_missing_certificate_is_found(script: ModuleType, copied: Path) -> None:
    (copied / "memory.json").unlink()
    assert script.find_problems() == ["memory: there is no certificate"]
