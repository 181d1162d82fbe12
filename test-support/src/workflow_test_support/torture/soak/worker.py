"""A worker process of the soak: one of the chaos runs, with more workflows, and waking up by notices."""

from workflow_test_support.torture.soak.jobs import WORKFLOWS
from workflow_test_support.torture.worker_process import main

if __name__ == "__main__":
    main(WORKFLOWS, poll_interval=None)
