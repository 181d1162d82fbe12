"""The cases, in one module for each role. No module here imports a test framework."""
