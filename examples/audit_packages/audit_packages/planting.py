"""Planting changes in a copied environment, so that the audit has something to find."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from audit_packages.environment import Distribution
from audit_packages.records import Problem, read_record


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Change:
    """One planted change, as the audit must report it."""

    label: str
    path: str
    problem: Problem


def flip_byte(file: Path) -> None:
    """Change one byte in the middle; the size stays."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def append_bytes(file: Path) -> None:
    """Add bytes at the end."""
    with file.open("ab") as stream:
        stream.write(b"\n# not in the RECORD\n")


_PLANTERS: tuple[tuple[Problem, Callable[[Path], None]], ...] = (
    ("changed", flip_byte),
    ("missing", Path.unlink),
    ("resized", append_bytes),
)


def plant_changes(distributions: Sequence[Distribution], count: int, seed: int) -> frozenset[Change]:
    """Plant `count` changes of all kinds in turn, in files chosen by `seed`.

    Raises:
        ValueError: There are fewer files to change.
    """
    candidates = _candidates(distributions)
    if len(candidates) < count:
        raise ValueError(f"{count} changes need as many files, there are {len(candidates)}")
    changes = set()
    # No security rests on it: the same seed must choose the same files.
    for number, (label, path, file) in enumerate(random.Random(seed).sample(candidates, count)):
        problem, plant = _PLANTERS[number % len(_PLANTERS)]
        plant(file)
        changes.add(Change(label=label, path=path, problem=problem))
    return frozenset(changes)


def _candidates(distributions: Sequence[Distribution]) -> list[tuple[str, str, Path]]:
    """Files with content that exactly one distribution vouches for: a change of a shared one would be found twice."""
    files = [
        (distribution.label, entry["path"], Path(os.path.normpath(distribution.dist_info.parent / entry["path"])))
        for distribution in distributions
        for entry in read_record(distribution.dist_info)
    ]
    owners = Counter(file for _, _, file in files)
    return [(label, path, file) for label, path, file in files if owners[file] == 1 and file.stat().st_size > 0]
