"""The model keeps the contract itself: the catalogue holds it to every clause, as it holds a store."""

from model_store import model_harness
from workflow_contract_tests import catalogue, certify
from workflow_contract_tests.model import Model
from workflow_runtime.store import WorkflowExecutionStore

OPEN = {
    "RETAIN-1-runs_that_ended_at_once_go_whole": "the limit takes some of the runs that ended at one moment",
    "LEASE-2-heartbeat_tells_inbox_cancel_and_clock": "a model has no clock",
    "LEASE-4-renewals_among_many_tell_the_clock": "the same",
    "SCHEDULE-10-next_due_is_what_time_decides": "two ticks are for one moment, and the limit takes one of them",
}
"""Cases that ask for more than the model says."""
NOT_OF_THE_MODEL = {"ensure_schema", "check_schema", "read_clock", "capabilities"}


def test_model_keeps_every_clause() -> None:
    cases = [case for case in catalogue() if "race" not in getattr(case.body, "__module__", "")]
    report = certify(model_harness, cases)
    assert {result.id: result.problem for result in report.of("failed", "not-run") if result.id not in OPEN} == {}
    assert len(report.of("passed")) > 500


def test_model_has_every_verb() -> None:
    verbs = {name for role in WorkflowExecutionStore.__mro__ for name in vars(role) if not name.startswith("_")}
    assert {verb for verb in verbs - NOT_OF_THE_MODEL if not callable(getattr(Model, verb, None))} == set()
