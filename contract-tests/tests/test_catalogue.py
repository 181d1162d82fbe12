"""The list of cases fits the contract, and the kit reads the contract from the docstrings."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_contract_tests import CLAUSES, catalogue
from workflow_contract_tests.cases import clause
from workflow_contract_tests.catalogue import check_coverage
from workflow_contract_tests.clauses import parse_clauses
from workflow_contract_tests.verbs import CLAIM_VERBS, LEASE_VERBS
from workflow_runtime.store import DRIVER_VERBS, STATUS_TABLE, protocol
from workflow_store_memory import InMemoryWorkflowStore


def test_clauses_are_read_with_their_continuation_lines() -> None:
    docstring = """Do something.

    Contract:
        LOG-1: The events get the indexes
            from here on.
        LOG-2: All or none.

    Not a clause: this.
    """
    assert parse_clauses(docstring) == {"LOG-1": "The events get the indexes from here on.", "LOG-2": "All or none."}


def test_every_clause_of_the_contract_is_read() -> None:
    source = Path(protocol.__file__).read_text(encoding="utf-8")
    ids = set(re.findall(r"^ +([A-Z]+-\d+): ", source, flags=re.MULTILINE))
    assert ids == set(CLAUSES)
    assert [clause_id for clause_id, text in CLAUSES.items() if not text.endswith(".")] == []


def test_a_clause_written_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="LOG-1 is written twice"):
        parse_clauses("LOG-1: One.\nLOG-1: Two.")


def test_clause_without_a_case_is_noticed() -> None:
    without = [case for case in catalogue() if "TIMER-3" not in case.clauses]
    with pytest.raises(RuntimeError, match=r"clauses without a case: .*TIMER-3"):
        check_coverage(without)


def test_case_that_cites_an_unknown_clause_is_noticed() -> None:
    invented = dataclasses.replace(catalogue()[0], clauses=("LOG-99",))
    with pytest.raises(RuntimeError, match="clauses that the contract does not have: LOG-99"):
        check_coverage([*catalogue(), invented])


def test_two_cases_of_one_name_are_noticed() -> None:
    with pytest.raises(RuntimeError, match="two cases have one id"):
        check_coverage([*catalogue(), catalogue()[0]])


def test_body_without_a_rule_is_refused() -> None:
    async def silent(harness: object) -> None:
        pass

    with pytest.raises(TypeError, match="docstring that says the rule"):
        clause("LOG-1")(silent)


def test_cases_are_in_the_order_of_the_contract() -> None:
    order = list(CLAUSES)
    firsts = [order.index(case.clauses[0]) for case in catalogue()]
    assert firsts == sorted(firsts)


def test_rules_are_one_sentence() -> None:
    for case in catalogue():
        assert case.rule.endswith("."), case.id
        assert case.rule[0].isupper() or case.rule[0] == "`", case.id


def test_bodies_need_no_pytest() -> None:
    script = "import sys, workflow_contract_tests as kit; kit.catalogue(); print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_verbs_are_those_of_the_contract() -> None:
    assert sorted(verb.name for verb in LEASE_VERBS) == sorted([*DRIVER_VERBS, "heartbeat_run_leases"])
    assert {verb.name for verb in CLAIM_VERBS} < set(STATUS_TABLE)


def test_lease_verbs_call_what_they_are_named_after() -> None:
    store = InMemoryWorkflowStore()
    assert [verb.of(store).__name__ for verb in LEASE_VERBS] == [verb.name for verb in LEASE_VERBS]


def test_page_of_changes_has_every_clause() -> None:
    """Who adds a clause says there since which version of the contract it holds."""
    page = (Path(__file__).parents[2] / "docs/clause-changes.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\b[A-Z]+-\d+\b", page))
    for family, first, last in re.findall(r"\b([A-Z]+)-(\d+) to [A-Z]+-(\d+)\b", page):
        listed |= {f"{family}-{number}" for number in range(int(first), int(last) + 1)}
    assert listed == set(CLAUSES)
