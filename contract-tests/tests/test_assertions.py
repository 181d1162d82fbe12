"""Assertions that show both values without pytest: they decide as before, and evaluate each side once."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from workflow_contract_tests import assertions

_SOURCE = '''"""A module."""

from __future__ import annotations

calls = []

def called(value):
    calls.append(value)
    return value

def compare(left, right, message="they differ"):
    assert called(left) == called(right), message

def bare(left, right):
    assert left in right

def chained(value):
    assert 1 < value < 3, "out of bounds"

class Rude:
    def __repr__(self):
        raise RuntimeError("no")
'''


@pytest.fixture(autouse=True)
def _cached_where_python_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


def _load(folder: Path, source: str = _SOURCE) -> ModuleType:
    path = folder / "sample.py"
    path.write_text(source)
    spec = assertions._Finder(("sample",)).find_spec("sample", [str(folder)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_comparison_shows_both_sides_and_its_message(tmp_path: Path) -> None:
    module = _load(tmp_path)
    with pytest.raises(AssertionError) as failure:
        module.compare([1], [2])
    assert str(failure.value) == "they differ\n    left  = [1]\n    right = [2]"
    assert module.calls == [[1], [2]]
    module.compare(1, 1)
    with pytest.raises(AssertionError, match="left  = 3"):
        module.bare(3, (1, 2))


def test_other_assertions_stay_as_they_are(tmp_path: Path) -> None:
    module = _load(tmp_path)
    module.chained(2)
    with pytest.raises(AssertionError, match=r"^out of bounds$"):
        module.chained(5)


def test_value_without_a_text_and_a_long_one_are_shown(tmp_path: Path) -> None:
    module = _load(tmp_path)
    with pytest.raises(AssertionError) as failure:
        module.compare(module.Rude(), "x" * 1_000)
    assert "left  = <Rude whose repr raises RuntimeError>" in str(failure.value)
    assert "… (1002 characters)" in str(failure.value)


def test_cache_is_used_until_the_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _load(tmp_path)
    cached = list((tmp_path / "__pycache__").iterdir())
    assert [path.name.endswith(".opt-readable.pyc") for path in cached] == [True]
    with monkeypatch.context() as patched:
        patched.setattr(assertions._Loader, "_compile", None)
        spec = assertions._Finder(("sample",)).find_spec("sample", [str(tmp_path)])
        assert spec is not None
        assert isinstance(spec.loader, assertions._Loader)
        assert spec.loader.get_code("sample") is not None
    assert _load(tmp_path, "answer = 43\n").answer == 43


def test_other_modules_are_left_alone() -> None:
    assert assertions._Finder(("sample",)).find_spec("samples", None) is None
