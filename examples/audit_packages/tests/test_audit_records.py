from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from audit_packages.direct import audit_directly
from audit_packages.records import (
    Digest,
    Entry,
    RecordError,
    compare_entries,
    hash_entries,
    hash_file,
    parse_record,
    read_record,
)

EMPTY_SHA256 = "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"


def test_rows_without_a_hash_vouch_for_nothing() -> None:
    text = f"pkg/a.py,{EMPTY_SHA256},0\npkg/__pycache__/a.cpython-311.pyc,,\npkg-1.0.dist-info/RECORD,,\n"
    assert parse_record(text) == [Entry(path="pkg/a.py", hash=EMPTY_SHA256, size=0)]


def test_a_path_may_be_quoted_and_a_size_may_be_absent() -> None:
    assert parse_record(f'"pkg/a, ""b"".py",{EMPTY_SHA256},\r\n\r\n') == [
        Entry(path='pkg/a, "b".py', hash=EMPTY_SHA256, size=None)
    ]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("pkg/a.py", "expected path, hash and size"),
        (f",{EMPTY_SHA256},0", "expected path, hash and size"),
        ("pkg/a.py,47DEQpj8,0", "not of the form algorithm=digest"),
        ("pkg/a.py,sha256=,0", "not of the form algorithm=digest"),
        ("pkg/a.py,rot13=abc,0", "unknown hash algorithm 'rot13'"),
        ("pkg/a.py,shake_128=abc,0", "unknown hash algorithm"),
        (f"pkg/a.py,{EMPTY_SHA256},-1", "'-1' is not a size"),
        (f"pkg/a.py,{EMPTY_SHA256},\u0662", "is not a size"),
    ],
)
def test_a_row_that_is_none_is_named(row: str, problem: str) -> None:
    with pytest.raises(RecordError, match=problem) as caught:
        parse_record(f"pkg/ok.py,{EMPTY_SHA256},0\n{row}\n")
    assert caught.value.row == 2


def test_a_hash_is_written_as_a_record_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch()
    assert hash_file(file, "sha256") == Digest(hash=EMPTY_SHA256, size=0)
    assert hash_file(tmp_path / "absent", "sha256") is None


def test_each_kind_of_difference_is_told_apart() -> None:
    entries = [Entry(path=path, hash="sha256=x", size=3) for path in ("same", "gone", "longer", "other")]
    digests = {
        "same": Digest(hash="sha256=x", size=3),
        "gone": None,
        "longer": Digest(hash="sha256=y", size=4),
        "other": Digest(hash="sha256=y", size=3),
    }
    assert compare_entries(entries, digests) == [
        {"path": "gone", "problem": "missing"},
        {"path": "longer", "problem": "resized"},
        {"path": "other", "problem": "changed"},
    ]


def test_without_a_recorded_size_the_hash_decides() -> None:
    entry = Entry(path="a", hash="sha256=x", size=None)
    assert compare_entries([entry], {"a": Digest(hash="sha256=x", size=7)}) == []
    assert compare_entries([entry], {"a": Digest(hash="sha256=y", size=7)}) == [{"path": "a", "problem": "changed"}]


def test_the_direct_audit_agrees(install: Callable[[str, dict[str, bytes]], Path]) -> None:
    """Two audits that share no code come to one result, on every kind of difference."""
    files = {f"pkg/{name}.py": name.encode() * 9 for name in ("same", "gone", "longer", "other")}
    dist_info = install("pkg", {**files, "../../bin/tool": b"#!", "pkg/ümläut, x.py": b"1", "pkg/empty.py": b""})
    package = dist_info.parent / "pkg"
    (package / "gone.py").unlink()
    (package / "longer.py").write_bytes(b"longer" * 10)
    (package / "other.py").write_bytes(b"rehto" * 9)
    entries = read_record(dist_info)
    findings = compare_entries(entries, hash_entries(dist_info.parent, entries))
    assert [finding["problem"] for finding in findings] == ["missing", "resized", "changed"]
    assert audit_directly(dist_info) == {"files": 7, "findings": findings}
