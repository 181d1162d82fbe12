"""Our stores as the contract tests take them, one module for each: `workflow-certify MODULE:harness` examines it.

A process starts the server that it needs once, and stops it when it ends.
"""
