"""The contention runs: several workers fire the same schedules."""
