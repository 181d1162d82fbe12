"""The distribution that a store came from."""

from __future__ import annotations

import functools
import importlib.util
import json
from importlib.metadata import Distribution, distribution, distributions, packages_distributions
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["find_distribution"]


@functools.cache  # it reads the metadata of everything that is installed
def find_distribution(module: str | None) -> tuple[str | None, str | None]:
    """Return the name and the version of the distribution that a module is installed from, editable or not."""
    package = (module or "").partition(".")[0]
    names = packages_distributions().get(package, ())
    found = distribution(names[0]) if names else _find_editable(package)
    return (None, None) if found is None else (found.name, found.version)


def _find_editable(package: str) -> Distribution | None:
    """Return the distribution whose folder the package lies in: the metadata of an editable one lists no packages."""
    try:
        spec = importlib.util.find_spec(package) if package else None
    except ValueError:  # such as `__main__`
        return None
    places = [Path(place) for place in (spec.submodule_search_locations or [spec.origin or ""])] if spec else []
    folders = {_editable_folder(found): found for found in distributions()}
    around = [folder for folder in folders if folder and any(place.is_relative_to(folder) for place in places)]
    return folders[max(around, key=lambda folder: len(folder.parts))] if around else None


def _editable_folder(found: Distribution) -> Path | None:
    """Return where an editable distribution lies. Source: the recorded direct URL, as PyPA specifies it."""
    recorded = json.loads(found.read_text("direct_url.json") or "{}")
    if not recorded.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlsplit(recorded["url"]).path))
