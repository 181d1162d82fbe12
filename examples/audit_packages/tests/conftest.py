"""The example is no distribution: it is imported from its folder."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

Install = Callable[[str, dict[str, bytes]], Path]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An environment without distributions."""
    folder = tmp_path / "prefix"
    (folder / "lib" / "site-packages").mkdir(parents=True)
    return folder


@pytest.fixture
def install(prefix: Path) -> Install:
    """Install a made-up distribution and give its `.dist-info` folder; paths are relative to site-packages."""

    def install_distribution(name: str, files: dict[str, bytes]) -> Path:
        site = prefix / "lib" / "site-packages"
        rows = [_install_file(site, path, content) for path, content in files.items()]
        dist_info = site / f"{name}-1.0.dist-info"
        dist_info.mkdir()
        rows.append(f"{dist_info.name}/RECORD,,")
        (dist_info / "RECORD").write_text("\n".join(rows) + "\n", encoding="utf-8")
        return dist_info

    return install_distribution


def _install_file(site: Path, path: str, content: bytes) -> str:
    file = site / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f'"{path}",sha256={digest},{len(content)}'
