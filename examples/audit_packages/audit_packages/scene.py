"""The scene of the audit: copies of this environment with planted changes, in a folder of its own."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from audit_packages.environment import Distribution, copy_environment, site_folders, take_inventory
from audit_packages.planning import Plan, make_plan, spread_kills
from audit_packages.planting import Change, plant_changes

PLANNED_STEPS = 600

_MARKER = "# Written by the audit demo, which empties this folder at each start.\n*\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is audited, and where everything lies."""

    folder: Path
    store: str
    """The path of a SQLite file, or the URL of a Postgres database."""
    distributions: tuple[Distribution, ...]
    planted: frozenset[Change]
    plan: Plan
    kill_at: tuple[int, ...]

    @property
    def journal(self) -> Path:
        """Where the steps tell what ran."""
        return self.folder / "journal.jsonl"

    @property
    def report(self) -> Path:
        """Where the collecting run writes."""
        return self.folder / "report.json"


def prepare_scene(*, folder: Path, store: str | None, copies: int | None, changes: int, kills: int, seed: int) -> Scene:
    """Copy this environment's distributions and plant the changes.

    Raises:
        ValueError: The folder is somebody else's, or the environment holds too little for what is asked.
    """
    clear_folder(folder)
    prefix = Path(sys.prefix)
    inventory = take_inventory(prefix, site_folders())
    for name, reason in inventory.left_out:
        print(f"left out: {name}: {reason}")
    distributions = copy_environment(prefix, inventory.fit, folder / "environment-1", 1)
    plan = make_plan([distribution.files for distribution in distributions], PLANNED_STEPS, copies)
    for copy in range(2, plan.copies + 1):
        distributions += copy_environment(prefix, inventory.fit, folder / f"environment-{copy}", copy)
    return Scene(
        folder=folder,
        store=str(folder / "audit.db") if store is None else _absolute(store),
        distributions=tuple(distributions),
        planted=plant_changes(distributions, changes, seed),
        plan=plan,
        kill_at=spread_kills(plan.steps, kills),
    )


def _absolute(store: str) -> str:
    # The workers are started in another folder.
    return store if "://" in store else str(Path(store).resolve())


def clear_folder(folder: Path) -> None:
    """Make the folder, or empty it; one that this demo did not write is not touched.

    Raises:
        ValueError: It holds something else.
    """
    marker = folder / ".gitignore"
    if folder.exists() and any(folder.iterdir()):
        if not marker.is_file() or marker.read_text(encoding="utf-8") != _MARKER:
            raise ValueError(f"{folder} holds something that is not this demo's; give another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(_MARKER, encoding="utf-8")
