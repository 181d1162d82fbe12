"""The verdict on each level: nothing but what passed counts, and the report says what it is about."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from workflow_contract_tests import CaseResult, HarnessError, Report, catalogue, command
from workflow_contract_tests.levels import LEVELS, Level, levels_of
from workflow_contract_tests.outputs import as_badge, as_junit
from workflow_contract_tests.report import Outcome, hash_of
from workflow_contract_tests.verdict import judge
from workflow_contract_tests.verification import verify

ALL = ("heartbeats", "metered", "notify", "subscribe", "transactions")


def _report(outcome: Callable[[Any], Outcome | None] = lambda case: "passed", **changes: Any) -> Report:
    """A report on a store that declares everything, but for durability."""
    results = [
        CaseResult(id=case.id, clauses=case.clauses, rule=case.rule, outcome=found, seconds=0.001, problem="why")
        for case in catalogue()
        if (found := outcome(case)) is not None
    ]
    facts: dict[str, Any] = {
        "store": "Made",
        "contract_version": "0.1",
        "suite_version": "0.1.0",
        "python_version": "3.13.1",
        "seconds": 1.0,
        "results": tuple(results),
        "capabilities": ALL,
        "subject": {"database": "paper | ink"},
        "scale": 1.0,
        "seed": 7,
    }
    return Report(**facts | changes)


def _statuses(report: Report) -> dict[Level, str]:
    return {verdict.level: verdict.status for verdict in report.levels}


def _of(level: Level) -> Callable[[Any], bool]:
    return lambda case: level in levels_of(case)


def test_store_that_passes_everything_is_certified() -> None:
    report = _report()
    assert report.certified
    assert set(_statuses(report).values()) - {"not declared"} == {"certified"}
    assert "Made: certified for contract 0.1" in report.as_markdown()


def test_every_case_has_a_level_and_core_needs_no_capability_of_a_level() -> None:
    assert {level for case in catalogue() for level in levels_of(case)} >= set(LEVELS) - {"durable"}
    core = {case.capability for case in catalogue() if "core" in levels_of(case)}
    assert core == {None, "heartbeats", "metered"}


@pytest.mark.parametrize("outcome", ["failed", "not-run", "not-written", "not-applicable", None])
@pytest.mark.parametrize("level", ["core", "schedules", "live", "transactional"])
def test_one_case_that_did_not_pass_refuses_its_level(level: Level, outcome: Outcome | None) -> None:
    victim = next(case for case in catalogue() if levels_of(case) == (level,) and not case.needs)
    report = _report(lambda case: outcome if case is victim else "passed")
    assert _statuses(report) == _statuses(_report()) | {level: "not certified"}
    assert not report.certified


def test_case_that_cannot_be_tested_is_excused_by_its_need_only() -> None:
    assert _report(lambda case: "not-applicable" if case.needs else "passed").certified
    assert not _report(lambda case: "not-applicable" if case.clauses[0] == "LOG-1" else "passed").certified


def test_case_that_fails_in_two_levels_refuses_both() -> None:
    victim = next(case for case in catalogue() if levels_of(case) == ("live", "schedules"))
    statuses = _statuses(_report(lambda case: "failed" if case is victim else "passed"))
    assert (statuses["core"], statuses["live"], statuses["schedules"]) == ("certified", *["not certified"] * 2)


def test_schedules_that_are_not_written_fail_nothing_else() -> None:
    report = _report(lambda case: "not-written" if _of("schedules")(case) else "passed")
    assert report.certified
    assert _statuses(report) == _statuses(_report()) | {"schedules": "not written"}


def test_schedules_that_are_half_written_are_refused() -> None:
    half = iter([True, False] * len(catalogue()))
    report = _report(lambda case: "not-written" if _of("schedules")(case) and next(half) else "passed")
    assert _statuses(report)["schedules"] == "not certified"
    assert not report.certified


def test_store_without_anything_is_not_written() -> None:
    report = _report(lambda case: "not-written", capabilities=())
    assert _statuses(report) == dict.fromkeys(LEVELS, "not declared") | {
        "core": "not written",
        "schedules": "not written",
    }
    assert not report.certified


def test_half_of_a_level_is_not_declared() -> None:
    report = _report(
        lambda case: "not-applicable" if case.capability == "notify" else "passed", capabilities=("subscribe",)
    )
    (live,) = [verdict for verdict in report.levels if verdict.level == "live"]
    assert (live.status, live.reason) == ("not declared", "notify")


def test_part_of_the_catalogue_certifies_its_levels_only() -> None:
    report = _report(lambda case: "passed" if _of("core")(case) else None)
    assert _statuses(report) == dict.fromkeys(LEVELS, "not examined") | {"core": "certified", "durable": "not declared"}
    assert not _report(lambda case: None).certified


@pytest.mark.parametrize("changes", [{"scale": 0.99}, {"objections": ("two stores",)}])
def test_objection_refuses_every_level(changes: dict[str, Any]) -> None:
    assert "certified" not in _statuses(_report(**changes)).values()


def test_case_that_is_reported_twice_certifies_nothing() -> None:
    whole = [(result.id, result.outcome) for result in _report().results]
    verdicts = judge([*whole, whole[0]], capabilities=ALL)
    assert "certified" not in {verdict.status for verdict in verdicts}


def test_report_as_json_says_what_it_is_about() -> None:
    document = json.loads(_report().as_json())
    assert document["certified"] is True
    assert document["levels"]["core"]["status"] == "certified"
    assert (document["scale"], document["seed"], document["subject"]) == (1.0, 7, {"database": "paper | ink"})
    assert document["results"][0]["id"] == catalogue()[0].id


def test_markdown_escapes_the_facts() -> None:
    assert "| database | paper \\| ink |" in _report().as_markdown()


def test_report_is_verified(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(_report().as_json())
    assert verify(path)[0]
    assert command.main(["verify", str(path)]) == 0
    path.write_text(_report(scale=0.5).as_json())
    assert command.main(["verify", str(path)]) == 1


def test_report_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    text = _report(lambda case: "failed" if case is catalogue()[0] else "passed").as_json()
    path.write_text(text.replace('"failed"', '"passed"', 1))
    assert verify(path) == (False, ["the report was changed after it was written: its hash does not fit"])


def test_report_whose_verdict_does_not_follow_is_refused(tmp_path: Path) -> None:
    document = json.loads(_report(lambda case: "failed" if case is catalogue()[0] else "passed").as_json())
    document["certified"] = True
    path = tmp_path / "report.json"
    path.write_text(json.dumps(document | {"hash": hash_of(document)}))
    certified, lines = verify(path)
    assert not certified
    assert lines[-1] == "the report says something else than its results"


@pytest.mark.parametrize("text", ["", "[]", "{}", None])
def test_file_that_is_no_report_cannot_be_verified(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    assert command.main(["verify", str(path)]) == 2


def test_report_of_another_kit_cannot_be_verified(tmp_path: Path) -> None:
    document = json.loads(_report().as_json()) | {"catalogue": "other"}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(document | {"hash": hash_of(document)}))
    with pytest.raises(HarnessError, match="verify it with that version"):
        verify(path)


def test_junit_counts_what_failed() -> None:
    report = _report(lambda case: "failed" if case is catalogue()[0] else "passed")
    bad = replace(report.results[0], problem="a \x1b bell")
    suite = ElementTree.fromstring(as_junit(replace(report, results=(bad, *report.results[1:]))))
    assert (suite.get("tests"), suite.get("failures")) == (str(len(catalogue())), "1")
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.text == "a  bell"


def test_badge_names_the_levels() -> None:
    assert "core, schedules, live, transactional" in as_badge(_report())
    assert "not certified" in as_badge(_report(scale=0.5))
