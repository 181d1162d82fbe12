"""The command `python -m workflow_contract_tests`, which is also installed as `workflow-certify`."""

from __future__ import annotations

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
