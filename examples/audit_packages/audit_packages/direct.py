"""The same audit without any durability, written apart from `records.py`: what the durable one is measured against."""

from __future__ import annotations

import base64
import csv
import hashlib
from pathlib import Path
from typing import Any


def audit_directly(dist_info: Path) -> dict[str, Any]:
    """Audit one distribution in a single loop."""
    files = 0
    findings = []
    with (dist_info / "RECORD").open(encoding="utf-8", newline="") as record:
        for name, recorded, size in csv.reader(record):
            if not recorded:
                continue
            files += 1
            problem = _inspect(dist_info.parent / name, recorded, size)
            if problem:
                findings.append({"path": name, "problem": problem})
    findings.sort(key=lambda finding: finding["path"])
    return {"files": files, "findings": findings}


def _inspect(file: Path, recorded: str, size: str) -> str | None:
    if not file.exists():
        return "missing"
    content = file.read_bytes()
    if size and len(content) != int(size):
        return "resized"
    algorithm, _, expected = recorded.partition("=")
    actual = base64.urlsafe_b64encode(hashlib.new(algorithm, content).digest()).decode().rstrip("=")
    return None if actual == expected else "changed"
