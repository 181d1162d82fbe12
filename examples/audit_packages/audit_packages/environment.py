"""Copying the installed distributions of an environment: their RECORD files and every file that these vouch for."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from audit_packages.records import Entry, RecordError, compare_entries, hash_entries, read_record


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """One installed distribution in a copy of an environment."""

    label: str
    """Its name; in the second copy and later ones followed by `#` and the number of the copy."""
    dist_info: Path
    files: int
    """How many files its RECORD vouches for."""

    @property
    def run_id(self) -> str:
        """The run that audits it."""
        return run_id_of(self.label)


def run_id_of(label: str) -> str:
    """Name the run that audits a distribution."""
    return f"audit:{label}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What an environment holds."""

    fit: tuple[Path, ...]
    """The `.dist-info` folders of the distributions that are as their RECORD says."""
    left_out: tuple[tuple[str, str], ...]
    """Name and reason of each distribution that cannot be part of the audit."""


class UnfitError(Exception):
    """A distribution whose audit would not tell planted changes from others."""


def site_folders() -> tuple[Path, ...]:
    """Where this interpreter's environment keeps its distributions."""
    folders = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    # On some systems the two are one folder under two names.
    distinct = {folder.resolve(): folder for folder in sorted(folders, reverse=True) if folder.is_dir()}
    return tuple(sorted(distinct.values()))


def take_inventory(prefix: Path, sites: Sequence[Path]) -> Inventory:
    """Find the distributions that are as their RECORD says, and say of the others why they are left out."""
    fit, left_out = [], []
    for dist_info in _dist_infos(sites):
        try:
            _check_fitness(prefix, dist_info)
        except (UnfitError, RecordError, OSError) as error:
            left_out.append((distribution_name(dist_info), str(error)))
        else:
            fit.append(dist_info)
    return Inventory(fit=tuple(fit), left_out=tuple(left_out))


def distribution_name(dist_info: Path) -> str:
    """The name part of `name-version.dist-info`."""
    return dist_info.name.removesuffix(".dist-info").rpartition("-")[0]


def copy_environment(prefix: Path, dist_infos: Sequence[Path], target: Path, copy: int) -> list[Distribution]:
    """Copy distributions to `target`, at the places that they have under `prefix`."""
    return [_copy_distribution(prefix, dist_info, target, copy) for dist_info in dist_infos]


def _dist_infos(sites: Sequence[Path]) -> Iterator[Path]:
    for site in sites:
        yield from sorted(folder for folder in site.glob("*-*.dist-info") if not folder.name.startswith("~"))


def _check_fitness(prefix: Path, dist_info: Path) -> None:
    entries = read_record(dist_info)
    if not entries:
        raise UnfitError("its RECORD vouches for no file")
    for entry in entries:
        if not _location(dist_info, entry).is_relative_to(prefix):
            raise UnfitError(f"{entry['path']} lies outside of the environment")
    findings = compare_entries(entries, hash_entries(dist_info.parent, entries))
    if findings:
        raise UnfitError(f"differs already: {findings[0]['path']} is {findings[0]['problem']}")


def _copy_distribution(prefix: Path, dist_info: Path, target: Path, copy: int) -> Distribution:
    entries = read_record(dist_info)
    for source in [dist_info / "RECORD", *(_location(dist_info, entry) for entry in entries)]:
        destination = target / source.relative_to(prefix)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, destination)
    name = distribution_name(dist_info)
    return Distribution(
        label=name if copy == 1 else f"{name}#{copy}",
        dist_info=target / dist_info.relative_to(prefix),
        files=len(entries),
    )


def _location(dist_info: Path, entry: Entry) -> Path:
    # Not resolve(): a link inside the environment may point out of it, the copy holds the file itself.
    return Path(os.path.normpath(dist_info.parent / entry["path"]))
