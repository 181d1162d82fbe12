"""The tables of a comparison, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from comparison.results import DISTURBED, Results, Score, Spread
from comparison.rows import CALIBRATIONS, CONTENDERS, ROWS, Row

__all__ = ["duel", "figure", "tables"]

NONE = "–"


def tables(results: Results, charts: str = "") -> str:
    """Return everything that is generated on the page.

    Args:
        results: What was measured.
        charts: Folder of the charts, as a link names it; without it there are none.
    """
    rows = [row for row in ROWS if row.id in results.rows]
    parts = [
        _conditions(results),
        _summary(results, rows),
        _slower(results, rows),
        *(_row(row, results.rows[row.id], charts) for row in rows),
        _calibrations(results),
        _versions(results),
    ]
    return "\n\n".join(part for part in parts if part)


def figure(value: float) -> str:
    """Return a number in three digits, or whole where it is large."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def duel(row: Row, scores: Sequence[Score]) -> tuple[float, Score] | None:
    """Return by which factor ours is ahead of the best peer, and that peer; None where nobody can be compared.

    Rates are compared by their ratios to the raw limit, which was measured beside each. More than 1 is in our favour.
    """
    ours = _standing(scores, "ours")
    rivals = [score for score in scores if CONTENDERS[score.contender].is_peer and score.values]
    if ours is None or not rivals:
        return None
    if row.in_ms:
        best = min(rivals, key=lambda score: statistics.median(score.values))
        return statistics.median(best.values) / statistics.median(ours.values), best
    best = max(rivals, key=lambda score: statistics.median(score.ratios))
    return statistics.median(ours.ratios) / statistics.median(best.ratios), best


def _standing(scores: Sequence[Score], environment: str) -> Score | None:
    """Return the first contender of ours, as it is today or as it was before."""
    for score in scores:
        if CONTENDERS[score.contender].environment == environment:
            return score if score.values else None
    return None


def _conditions(results: Results) -> str:
    rounds = f"{results.rounds} round" + ("s" if results.rounds > 1 else "")
    facts = [f"Measured on {results.date}: {rounds}, {results.seconds:g} seconds for each contender in a round."]
    if results.disturbed:
        facts.append(
            f"**Other programs used the machine:** in {results.disturbed} of {results.turns} turns the raw limit "
            f"changed by a factor of {DISTURBED:g} or more while a contender worked. The ranges show it."
        )
    listed = "\n".join(f"- {title}: {fact}" for title, fact in results.machine.items())
    return "\n\n".join([*facts, listed])


def _summary(results: Results, rows: Sequence[Row]) -> str:
    lines = [
        "### In short",
        "",
        "| Work | ours ÷ raw | before ÷ raw | best peer ÷ raw | ours against it |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_short(row, results.rows[row.id]) for row in rows)])


def _short(row: Row, scores: Sequence[Score]) -> str:
    ours, before, against = _standing(scores, "ours"), _standing(scores, "before"), duel(row, scores)
    cells = [_link(row), _median(row, ours), _median(row, before), NONE, NONE]
    if against is not None:
        ahead, best = against
        cells[3:] = [f"{_median(row, best)} ({CONTENDERS[best.contender].title})", f"**{figure(ahead)}**"]
    return f"| {' | '.join(cells)} |"


def _link(row: Row) -> str:
    return f"[{row.title}](#{row.id})"


def _median(row: Row, score: Score | None) -> str:
    if score is None:
        return NONE
    if row.in_ms:
        return f"{figure(statistics.median(score.values))} ms"
    return figure(statistics.median(score.ratios))


def _slower(results: Results, rows: Sequence[Row]) -> str:
    """Return where a peer is ahead, in words."""
    found = []
    for row in rows:
        against = duel(row, results.rows[row.id])
        if against is not None and against[0] < 1:
            title = CONTENDERS[against[1].contender].title
            found.append(f"- {row.title}: {title} is {figure(1 / against[0])} times as fast.")
    if not found:
        return ""
    return "\n".join(["### Where a peer is faster", "", *found])


def _row(row: Row, scores: Sequence[Score], charts: str) -> str:
    what = "milliseconds" if row.in_ms else f"{row.unit}s per second"
    lines = [f'### <a id="{row.id}"></a>{row.title}', ""]
    if charts:
        lines += [f"![{row.title}, as bars]({charts}/{row.id}.svg)", ""]
    titles = ["Contender", what, f"÷ {_floor(row)}", *_costs(row)]
    lines += [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *(_contender(row, score) for score in scores)])


def _costs(row: Row) -> tuple[str, ...]:
    """Return the titles of the columns that a kind of work has besides."""
    if row.in_ms:
        return ()
    return (*(("statements", "WAL, bytes", "server CPU, µs") if row.counted else ()), "client CPU, µs")


def _floor(row: Row) -> str:
    return row.floor or f"`{row.calibration}`"


def _contender(row: Row, score: Score) -> str:
    title = CONTENDERS[score.contender].title
    if not score.values or score.failure:
        why = f"**could not be measured**: {_cell(score.failure)}" if score.failure else score.absent or "not measured"
        return f"| {title} | {why} |{' |' * (1 + len(_costs(row)))}"
    cost = {
        "statements": _figure(score.statements),
        "WAL, bytes": _figure(score.wal_bytes),
        "server CPU, µs": _spread(score.server_us),
        "client CPU, µs": _spread(score.client_us),
    }
    cells = [title, _spread(score.values), _spread(score.ratios), *(cost[column] for column in _costs(row))]
    return f"| {' | '.join(cells)} |"


def _figure(value: float | None) -> str:
    return NONE if value is None else figure(value)


def _cell(text: str) -> str:
    return text.replace("|", "/")[:200]


def _spread(figures: Sequence[float]) -> str:
    spread = Spread.of(figures)
    if spread is None:
        return NONE
    if spread.least == spread.most:
        return figure(spread.median)
    return f"{figure(spread.median)} [{figure(spread.least)}–{figure(spread.most)}]"


def _calibrations(results: Results) -> str:
    if not results.calibrations:
        return ""
    lines = ["### The raw limits", "", "| Name | What it is | Median [range], all measurements |", "|---|---|---|"]
    for name, rates in results.calibrations.items():
        lines.append(f"| `{name}` | {CALIBRATIONS[name]} | {_spread(rates)} |")
    return "\n".join(lines)


def _versions(results: Results) -> str:
    lines = ["### Versions and set-ups", "", "| Contender | Set-up | Versions |", "|---|---|---|"]
    return "\n".join([*lines, *_set_ups(results)])


def _set_ups(results: Results) -> Iterator[str]:
    taking_part = {score.contender for scores in results.rows.values() for score in scores}
    for name, contender in CONTENDERS.items():
        if name in taking_part and contender.about:
            versions = results.versions.get(contender.environment, {})
            shown = ", ".join(f"{package} {version}" for package, version in versions.items())
            yield f"| {contender.title} | {contender.about} | {shown or NONE} |"
