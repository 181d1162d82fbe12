"""The kit proves itself: each deliberate fault is caught by the clause that it breaks."""

import re

import pytest
from all_mutants import ALL_MUTANTS
from mutant_catalogue import Mutant, hunt, memory_harness
from sql_mutants import SQL_MUTANTS, d1_harness
from workflow_contract_tests import CLAUSES, catalogue, certify
from workflow_store_memory import InMemoryWorkflowStore

_TRIES = 3
"""A race that time decides may miss a fault on a busy machine."""
_OWN_MISTAKE = re.compile(r"^(AttributeError|TypeError|NameError|KeyError|IndexError|LookupError)\b")


@pytest.mark.parametrize("mutant", ALL_MUTANTS, ids=lambda mutant: f"{mutant.clause}-{mutant.name}")
def test_mutant_is_caught_by_its_clause(mutant: Mutant) -> None:
    caught = next((found for _ in range(_TRIES) if (found := hunt(mutant)) is not None), None)
    assert caught is not None, f"no case of {mutant.clause} noticed: {mutant.story}"
    assert not _OWN_MISTAKE.match(caught.problem or ""), f"the mutant itself is broken: {caught.problem}"


@pytest.mark.parametrize("name", ["batch-is-no-transaction"])
def test_races_between_processes_have_teeth(name: str) -> None:
    races = [case for case in catalogue() if "processes" in case.needs and case.name.startswith("processes_")]
    assert certify(lambda: d1_harness(name), races).of("failed"), "no race between processes noticed"


def test_unbroken_memory_store_passes() -> None:
    report = certify(lambda: memory_harness(InMemoryWorkflowStore))
    assert report.of("failed", "not-run") == ()
    assert report.certified
    assert "InMemoryWorkflowStore: certified for contract 0.1" in report.as_markdown()


@pytest.mark.timeout(600)  # several hundred cases, each on a file of its own
def test_unbroken_d1_store_passes_where_its_mutants_fail() -> None:
    hunted = {mutant.clause for mutant in SQL_MUTANTS}
    report = certify(lambda: d1_harness(None), [case for case in catalogue() if hunted & set(case.clauses)])
    assert report.of("failed", "not-run") == ()
    reasons = {"notify: the store does not declare it", "statements: the harness gives none, and need not"}
    assert {result.problem for result in report.of("not-applicable")} <= reasons


def test_mutants_break_words_of_their_clause() -> None:
    """What a mutant says that it breaks stands in the clause, and a case of that name cites it."""
    bodies = {(clause_id, case.name.partition("-")[0]) for case in catalogue() for clause_id in case.clauses}
    for mutant in ALL_MUTANTS:
        assert mutant.words in CLAUSES[mutant.clause], f"{mutant.name}: {mutant.words!r} is not in {mutant.clause}"
        assert not mutant.case or (mutant.clause, mutant.case) in bodies, f"{mutant.name}: no case {mutant.case!r}"


def test_every_clause_has_a_mutant() -> None:
    assert sorted({mutant.clause for mutant in ALL_MUTANTS}) == sorted(CLAUSES)
