from __future__ import annotations

import pytest
from audit_packages.stores import open_store


async def test_a_url_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(ValueError, match="this demo opens SQLite files"):
        async with open_store("postgresql://localhost/app"):
            pass
