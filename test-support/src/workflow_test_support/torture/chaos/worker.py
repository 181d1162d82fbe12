"""A worker process of the chaos runs."""

from datetime import timedelta

from workflow_test_support.torture.errand import errand
from workflow_test_support.torture.worker_process import main

_POLL = timedelta(milliseconds=100)

if __name__ == "__main__":
    main([errand], _POLL)
