from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_packages.direct import audit_directly
from audit_packages.environment import copy_environment, distribution_name, site_folders, take_inventory
from audit_packages.planting import Change, plant_changes
from audit_packages.scene import clear_folder

Install = Callable[[str, dict[str, bytes]], Path]


def test_this_interpreters_environment_has_distributions() -> None:
    assert any(site.glob("*.dist-info") for site in site_folders())
    assert all(site.is_relative_to(sys.prefix) for site in site_folders())


@pytest.mark.parametrize(
    ("folder", "name"), [("pip-23.2.1.dist-info", "pip"), ("zope.interface-6.0.dist-info", "zope.interface")]
)
def test_a_distribution_is_named_by_its_folder(folder: str, name: str) -> None:
    assert distribution_name(Path(folder)) == name


def test_a_copy_is_as_its_record_says(prefix: Path, tmp_path: Path, install: Install) -> None:
    dist_info = install("one", {"one/a.py": b"a", "../../bin/one": b"#!/bin/sh"})
    (dist_info.parent / "one" / "not-recorded.txt").write_text("stays behind")
    first = copy_environment(prefix, [dist_info], tmp_path / "1", 1)
    second = copy_environment(prefix, [dist_info], tmp_path / "2", 2)
    assert [d.label for d in first + second] == ["one", "one#2"]
    assert [audit_directly(d.dist_info) for d in first + second] == [{"files": 2, "findings": []}] * 2
    assert (tmp_path / "1" / "bin" / "one").read_bytes() == b"#!/bin/sh"
    assert not list((tmp_path / "1").rglob("not-recorded.txt"))


def test_distributions_that_blur_the_result_are_left_out(prefix: Path, install: Install) -> None:
    fit = install("fit", {"fit.py": b"1"})
    (install("edited", {"edited.py": b"1"}).parent / "edited.py").write_bytes(b"2")
    install("outside", {"../../../elsewhere.py": b"1"})
    install("empty", {})
    (install("unrecorded", {"unrecorded.py": b"1"}) / "RECORD").unlink()
    (install("broken", {"broken.py": b"1"}) / "RECORD").write_text("broken.py,md=1\n")
    inventory = take_inventory(prefix, [fit.parent])
    assert inventory.fit == (fit,)
    reasons = dict(inventory.left_out)
    assert reasons.keys() == {"edited", "outside", "empty", "unrecorded", "broken"}
    assert reasons["edited"] == "differs already: edited.py is changed"
    assert "outside of the environment" in reasons["outside"]


def _planted(prefix: Path, target: Path, sources: list[Path], count: int, seed: int) -> frozenset[Change]:
    return plant_changes(copy_environment(prefix, sources, target, 1), count, seed)


def test_the_direct_audit_finds_exactly_the_planted_changes(prefix: Path, tmp_path: Path, install: Install) -> None:
    sources = [install(name, {f"{name}/{i}.py": name.encode() * i for i in range(9)}) for name in ("one", "two")]
    distributions = copy_environment(prefix, sources, tmp_path / "copy", 1)
    planted = plant_changes(distributions, 7, seed=1)
    assert {change.problem for change in planted} == {"changed", "missing", "resized"}
    found = {
        Change(label=d.label, **finding) for d in distributions for finding in audit_directly(d.dist_info)["findings"]
    }
    assert len(found) == 7
    assert found == planted
    assert all(audit_directly(source)["findings"] == [] for source in sources), "the original is untouched"


def test_the_seed_chooses_the_files(prefix: Path, tmp_path: Path, install: Install) -> None:
    sources = [install("one", {f"one/{i}.py": b"x" for i in range(40)})]
    first, again, other = (
        _planted(prefix, tmp_path / name, sources, 5, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again != other


def test_files_that_two_distributions_share_stay_as_they_are(prefix: Path, tmp_path: Path, install: Install) -> None:
    sources = [
        install(name, {"shared.py": b"s", f"{name}.py": b"1", f"{name}/empty.py": b""}) for name in ("one", "two")
    ]
    planted = _planted(prefix, tmp_path / "copy", sources, 2, seed=1)
    assert {change.path for change in planted} == {"one.py", "two.py"}
    with pytest.raises(ValueError, match="3 changes need as many files, there are 2"):
        _planted(prefix, tmp_path / "again", sources, 3, seed=1)


def test_the_output_folder_is_emptied_only_if_it_is_ours(tmp_path: Path) -> None:
    ours, foreign = tmp_path / "ours", tmp_path / "foreign"
    clear_folder(ours)
    (ours / "old").mkdir()
    clear_folder(ours)
    assert [file.name for file in ours.iterdir()] == [".gitignore"]
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="not this demo's"):
        clear_folder(foreign)
    assert (foreign / "letter.txt").read_text() == "dear"
