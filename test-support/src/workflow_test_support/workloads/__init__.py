"""Workflows, and processes that run them, which several tests share."""
