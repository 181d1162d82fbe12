"""A worker process of the soak: one of the chaos runs, with more workflows, and waking up by notices."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "chaos"))

from jobs import WORKFLOWS
from worker_process import main

if __name__ == "__main__":
    main(WORKFLOWS, poll_interval=None)
