"""The cases, in one module for each subject. No module here imports a test framework."""
