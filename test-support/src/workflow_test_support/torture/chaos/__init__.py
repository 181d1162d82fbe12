"""The chaos runs: workers, sessions and servers are killed under work."""
