"""RECORD files of installed distributions: reading them, hashing what they name, comparing the two.

The format is specified at https://packaging.python.org/en/latest/specifications/recording-installed-packages/.
Everything here is a plain function of files; values are JSON objects, so that steps can return them as they are.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

Problem = Literal["missing", "resized", "changed"]


class Entry(TypedDict):
    """One file that a RECORD vouches for."""

    path: str
    """Relative to the folder that holds the `.dist-info` folder."""
    hash: str
    """As the RECORD writes it: `sha256=` and the digest in URL-safe base64 without padding."""
    size: int | None


class Digest(TypedDict):
    """What a file really is."""

    hash: str
    size: int


class Finding(TypedDict):
    """One file that is not as its RECORD says."""

    path: str
    problem: Problem


class RecordError(Exception):
    """A RECORD file that does not keep to its specification."""

    def __init__(self, row: int, problem: str) -> None:
        self.row = row
        self.problem = problem
        super().__init__(f"RECORD row {row}: {problem}")


def read_record(dist_info: Path) -> list[Entry]:
    """Read the entries of a distribution's RECORD that carry a hash."""
    return parse_record((dist_info / "RECORD").read_text(encoding="utf-8"))


def parse_record(text: str) -> list[Entry]:
    """Parse a RECORD; rows without a hash (the RECORD itself, compiled bytecode) vouch for nothing and are left out.

    Raises:
        RecordError: A row that is none.
    """
    entries = []
    for row, fields in enumerate(csv.reader(io.StringIO(text)), start=1):
        if not fields:
            continue
        if len(fields) != 3 or not fields[0]:
            raise RecordError(row, f"expected path, hash and size, found {fields!r}")
        path, file_hash, size = fields
        if file_hash:
            _check_algorithm(row, file_hash)
            entries.append(Entry(path=path, hash=file_hash, size=_parse_size(row, size)))
    return entries


def _check_algorithm(row: int, file_hash: str) -> None:
    algorithm, separator, digest = file_hash.partition("=")
    if not separator or not digest:
        raise RecordError(row, f"{file_hash!r} is not of the form algorithm=digest")
    # The shake functions need a length that RECORD has no place for.
    if algorithm not in hashlib.algorithms_guaranteed or algorithm.startswith("shake"):
        raise RecordError(row, f"unknown hash algorithm {algorithm!r}")


def _parse_size(row: int, size: str) -> int | None:
    if not size:
        return None
    if not (size.isascii() and size.isdigit()):
        raise RecordError(row, f"{size!r} is not a size")
    return int(size)


def hash_file(path: Path, algorithm: str) -> Digest | None:
    """Hash one file; `None` when it is not there."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, algorithm).digest()
            size = file.tell()
    except FileNotFoundError:
        return None
    text = base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
    return Digest(hash=f"{algorithm}={text}", size=size)


def hash_entries(site: Path, entries: Sequence[Entry]) -> dict[str, Digest | None]:
    """Hash the files of some entries with the algorithm that each entry names."""
    return {entry["path"]: hash_file(site / entry["path"], entry["hash"].partition("=")[0]) for entry in entries}


def compare_entries(entries: Sequence[Entry], digests: Mapping[str, Digest | None]) -> list[Finding]:
    """List the files that are not as recorded, by path."""
    findings = []
    for entry in entries:
        problem = _problem(entry, digests[entry["path"]])
        if problem is not None:
            findings.append(Finding(path=entry["path"], problem=problem))
    return sorted(findings, key=lambda finding: finding["path"])


def _problem(entry: Entry, digest: Digest | None) -> Problem | None:
    if digest is None:
        return "missing"
    if entry["size"] is not None and entry["size"] != digest["size"]:
        return "resized"
    return None if entry["hash"] == digest["hash"] else "changed"
