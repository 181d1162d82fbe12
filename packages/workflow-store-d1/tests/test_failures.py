"""The meaning of D1's error texts: they alone decide whether a batch was done."""

import pytest
from workflow_store_d1.failures import failure


@pytest.mark.parametrize(
    ("text", "unavailable", "unknown"),
    [
        ("D1 DB is overloaded. Requests queued for too long.", True, False),
        ("D1 DB is overloaded. Too many requests queued.", True, False),
        ("Cannot resolve D1 DB due to transient issue on remote node.", True, False),
        ("Exceeded maximum DB size.", True, False),
        ("Currently processing a long-running export.", True, False),
        ("Currently processing a long-running import.", True, False),
        ("Network connection lost.", True, True),
        ("Replica disconnected from primary.", True, True),
        ("D1 DB reset because its code was updated.", True, True),
        ("Internal error while starting up D1 DB storage caused object to be reset.", True, True),
        ("Internal error in D1 DB storage caused object to be reset.", True, True),
        ("D1 DB storage operation exceeded timeout which caused object to be reset.", True, True),
        ("internal error; reference = abc123", True, True),
        ("Failed to parse body as JSON, got: error code: 502", True, True),
        ("Failed to parse body as JSON, got: <!DOCTYPE html>", True, True),
        ("UNIQUE constraint failed: t.k: SQLITE_CONSTRAINT", False, False),
        ("no such table: t: SQLITE_ERROR", False, False),
    ],
)
@pytest.mark.parametrize("prefix", ["", "D1_ERROR: ", "Error: D1_ERROR: "])
def test_words_tell_whether_the_batch_was_done(text: str, unavailable: bool, unknown: bool, prefix: str) -> None:
    error = failure(prefix + text)
    assert (error.problem, error.unavailable, error.outcome_unknown) == (text, unavailable, unknown)
