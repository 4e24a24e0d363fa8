"""The ledger as a static site: an index to search and sort, with trends along main, and a page for each report.

Everything is in the files: no server, no request to elsewhere, the same from a folder as from a web server. Names come
from outside; in the index they travel as data and are only ever set as text.
"""

import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gitops_ml import history, wording
from gitops_ml.comparison import Comparison
from gitops_ml.entries import ReportEntry
from gitops_ml.history import Row
from gitops_ml.html import LinkedPicture, document, page
from gitops_ml.spec import Track
from gitops_ml.trends import Trend
from gitops_ml.values import dataclass

METRICS = 8
"""Columns and trends of an experiment at most; the first is the one that decides."""
_LINES = 6
_COLUMNS = 240
"""Places along a trend's chart: more commits share one, and keep their extremes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """The branch whose history trends follow: its commits with their times in seconds since 1970, oldest first."""

    name: str
    commits: Sequence[tuple[str, int]]
    releases: Sequence[tuple[int, str]] = ()
    """Position of the commit and name, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What the site shows."""

    title: str
    ledger: str
    """Its commit; empty: there is none."""
    rows: Sequence[Row]
    """Newest first."""
    reports: Sequence[ReportEntry]
    tracked: Mapping[str, Sequence[Track]]
    """What decides first, by experiment, as the specs say it of experiments without a report."""
    paged: frozenset[str]
    """Folders of the reports that have a page."""
    records: int
    branch: Branch
    trends: Sequence[Trend]


def page_path(folder: str) -> str:
    """Return where a report's page stands in the site."""
    return f"{folder}/index.html"


def report_page(comparison: Comparison, plots: Iterable[str]) -> str:
    """Return a report's page; ``plots`` are the paths of its pictures, from the page."""
    pictures = [LinkedPicture(alt=_alt(path), source=path) for path in sorted(plots)]
    back = '<p class=baseline><a href="../../../index.html">All experiments</a></p>'
    return page(comparison, {experiment.name: pictures for experiment in comparison.experiments}, above=back)


def is_report(folder: str) -> bool:
    """Say whether a folder is named as ours are: whoever can push to the ledger can name one otherwise."""
    return _FOLDER.fullmatch(folder) is not None


def is_plot(path: str) -> bool:
    """Say whether a file of a report is one of its pictures, from its folder."""
    return _PLOT.fullmatch(path) is not None


_FOLDER = re.compile(r"reports/[a-z0-9][a-z0-9-]{0,62}/[0-9a-f]{12}-[0-9a-f]{8}")
_PLOT = re.compile(r"plots/[a-z0-9][a-z0-9-]{0,99}\.svg")


def is_harmless(svg: bytes) -> bool:
    """Say whether a picture holds nothing but drawing: no script, no link, nothing from elsewhere."""
    text = svg.decode("utf-8", "replace")
    return text.startswith("<svg") and _HARM.search(text) is None


_HARM = re.compile(
    r"<\s*(script|foreignobject|a|image|iframe|animate\w*|set|handler)\b|\son\w+\s*=|<!(?!--)|<\?|@import|url\(\s*[\"']?(?!#)"
    r"|href\s*=\s*[\"']?(?!#)(?![\"']#)",
    re.IGNORECASE,
)


def _alt(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".svg").replace("-", " ")


def deciding(
    rows: Sequence[Row], reports: Sequence[ReportEntry], tracked: Mapping[str, Sequence[Track]]
) -> Mapping[str, tuple[Sequence[str], str]]:
    """Return each experiment's metrics, the one that decides first, and that one's goal (empty: not known).

    What decides is what most reports say, without any what is ``tracked`` first; experiments stand in the order of
    their newest row.
    """
    found = {}
    judged: dict[str, Counter[tuple[str, str]]] = {}
    for report in reports:
        if report.metric:
            judged.setdefault(report.experiment, Counter())[report.metric, report.goal] += 1
    of: dict[str, list[Row]] = {}
    for row in rows:
        of.setdefault(row.experiment, []).append(row)
    for experiment, its in of.items():
        names = history.usual_metrics(its, (), tracked)
        first = next((track for track in tracked.get(experiment, ()) if track.name in names), None)
        metric, goal = (first.name, str(first.goal)) if first else ("", "")
        if experiment in judged:
            metric, goal = judged[experiment].most_common(1)[0][0]
        if metric in names:
            names = [metric, *(name for name in names if name != metric)]
        else:
            goal = ""
        found[experiment] = names[:METRICS], goal
    return found


def index(content: Content) -> str:
    """Return ``index.html``."""
    known = deciding(content.rows, content.reports, content.tracked)
    counts = (
        wording.count(len(known), "experiment"),
        wording.count(len(content.reports), "report"),
        wording.count(content.records, "record"),
    )
    ledger = f"; ledger <code>{content.ledger[:12]}</code>" if content.ledger else ""
    title = wording.clean(content.title) or "Experiments"
    body = [
        f"<header><h1>{_text(title)}</h1><p class=baseline>{', '.join(counts)}{ledger}</p></header>",
        _CONTROLS if known else "<p>Nothing is on the ledger yet.</p>",
        "<section aria-labelledby=cards-title><h2 id=cards-title tabindex=-1>Experiments</h2>",
        _legend(content),
        "<div class=cards-grid>",
        *_cards(content, known),
        "</div>",
        "<p><button type=button id=all hidden>Show all</button></p></section>",
        _TABLE if known else "",
        f'<script type="application/json" id=data>{_embedded(_data(content, known))}</script>',
    ]
    return document(title, "\n".join(body), style=_file("board.css"), script=_file("board.js"))


def _legend(content: Content) -> str:
    if not content.trends:
        return ""
    signs = ["dotted lines are releases"] if content.branch.releases else []
    signs += ["rings are changes of level"] if any(len(trend.levels) > 1 for trend in content.trends) else []
    name = f"<code>{_text(wording.clean(content.branch.name, 40))}</code>"
    return f"<p class=baseline>Curves follow the history of {name}{''.join('; ' + sign for sign in signs)}.</p>"


def _embedded(data: object) -> str:
    # Inside a script element nothing is unescaped, and `</script>` or `<!--` would end or change it.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# The data of the table


def _data(content: Content, known: Mapping[str, tuple[Sequence[str], str]]) -> dict[str, Any]:
    numbers = {experiment: number for number, experiment in enumerate(known)}
    ranks = _ranks(content.rows, known)
    return {
        "experiments": [
            {"name": name, "metrics": [wording.clean(metric, 60) for metric in metrics], "goal": goal}
            for name, (metrics, goal) in known.items()
        ],
        "rows": [
            _row(row, numbers[row.experiment], known[row.experiment][0], ranks.get(index, 0), content)
            for index, row in enumerate(content.rows)
        ],
        "reports": _other_reports(content, numbers),
    }


def _row(row: Row, number: int, metrics: Sequence[str], rank: int, content: Content) -> list[Any]:
    point = wording.point_text(row.point) if row.point else ""
    params = wording.point_text(row.params) if row.params else ""
    marks = [mark for mark, shown in (("uncommitted", row.dirty), ("rerun", row.derived_from)) if shown]
    return [
        number,
        rank,
        [row.metrics.get(metric) for metric in metrics],
        wording.clean(point or params, 120),
        len(row.seeds),
        row.commit[:12],
        row.date[:10],
        wording.clean(row.verdict, 40),
        wording.clean(row.gate, 20),
        row.cost_usd,
        row.report if row.report in content.paged else "",
        row.keys[0][:12],
        # Searched, not shown.
        wording.clean(" ".join((params, row.user, row.backend, *row.data, *row.data.values())), 600),
        " ".join(marks),
    ]


def _ranks(rows: Sequence[Row], known: Mapping[str, tuple[Sequence[str], str]]) -> Mapping[int, int]:
    """Return the place of each row in its experiment, the best is 1; without a goal nothing has a place."""
    placed: dict[str, list[tuple[float, int]]] = {}
    for index, row in enumerate(rows):
        metrics, goal = known[row.experiment]
        if goal in ("maximize", "minimize") and metrics and metrics[0] in row.metrics:
            value = row.metrics[metrics[0]]
            placed.setdefault(row.experiment, []).append((-value if goal == "maximize" else value, index))
    return {index: rank for found in placed.values() for rank, (_, index) in enumerate(sorted(found), 1)}


def _other_reports(content: Content, numbers: Mapping[str, int]) -> list[list[Any]]:
    """Return the reports that no row leads to: of records that are gone, or one of several on the same commit."""
    reached = {row.report for row in content.rows}
    return [
        [
            numbers.get(report.experiment, -1),
            report.experiment,
            report.commit[:12],
            wording.clean(next((word for word, _ in report.verdicts if word), ""), 40),
            wording.clean(report.gate, 20),
            report.folder,
        ]
        for report in content.reports
        if report.folder not in reached and report.folder in content.paged
    ]


# Cards


def _cards(content: Content, known: Mapping[str, tuple[Sequence[str], str]]) -> Iterator[str]:
    newest: dict[str, Row] = {}
    best: dict[str, Row] = {}
    ranks = _ranks(content.rows, known)
    for index, row in enumerate(content.rows):
        newest.setdefault(row.experiment, row)
        if ranks.get(index) == 1:
            best[row.experiment] = row
    by_metric: dict[tuple[str, str], list[Trend]] = {}
    for trend in content.trends:
        by_metric.setdefault((trend.experiment, trend.metric), []).append(trend)
    counts = Counter(row.experiment for row in content.rows)
    for number, (experiment, (metrics, goal)) in enumerate(known.items()):
        name = _text(wording.clean(experiment))
        row = newest[experiment]
        charts = [
            _chart(metric, by_metric[experiment, metric], content.branch)
            for metric in metrics
            if (experiment, metric) in by_metric
        ]
        facts = [f"<dt>newest</dt><dd>{_stand(row, metrics, content)}</dd>"]
        if experiment in best:
            facts.append(f"<dt>best</dt><dd>{_stand(best[experiment], metrics, content)}</dd>")
        if metrics:
            arrow = {"maximize": " ↑", "minimize": " ↓"}.get(goal, "")
            facts.append(f"<dt>metric</dt><dd><code>{_text(wording.clean(metrics[0], 40))}</code>{arrow}</dd>")
        first = charts[0] if charts else f"<p class=baseline>no commit of {_text(content.branch.name)} was measured</p>"
        more = charts[1:]
        folded = (
            f"<details><summary>{wording.count(len(more), 'more metric')}</summary>{''.join(more)}</details>"
            if more
            else ""
        )
        yield (
            f'<article class=card data-e="{number}"><h3>{name}</h3><dl>{"".join(facts)}</dl>{first}{folded}'
            f'<p><button type=button class=choose data-e="{number}" aria-label="Show the runs of {name}">'
            f"{wording.count(counts[experiment], 'run')}</button></p></article>"
        )


def _stand(row: Row, metrics: Sequence[str], content: Content) -> str:
    value = row.metrics.get(metrics[0]) if metrics else None
    parts = [f"<strong>{_number(value)}</strong>" if value is not None else ""]
    if row.verdict:
        kind = {"better": "good", "worse": "bad"}.get(row.verdict, "quiet")
        parts.append(f'<span class="{kind}">{_text(wording.clean(row.verdict, 40))}</span>')
    commit = f"<code>{_text(row.commit[:8])}</code>"
    if row.report in content.paged:
        commit = f'<a href="{_text(page_path(row.report))}">{commit}</a>'
    return " ".join(part for part in (*parts, commit) if part)


def _number(value: float) -> str:
    return f"{value:.5g}"


# Charts: drawn here, because two hundred of matplotlib's would take a minute and ten megabytes


_WIDTH, _HEIGHT = 300.0, 72.0
_LEFT, _TOP, _BOTTOM = 4.0, 12.0, 6.0


def _chart(metric: str, trends: Sequence[Trend], branch: Branch) -> str:
    """Return one metric's trend along the branch as a drawing in the page's colours."""
    shown = trends[:_LINES]
    finite = [value for trend in shown for one in trend.measured if math.isfinite(value := one.mean)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    positions = sorted({one.position for trend in shown for one in trend.measured})
    places = {position: place for place, position in enumerate(positions)}

    def x(position: int) -> str:
        share = places[position] / max(len(places) - 1, 1)
        return f"{_LEFT + share * (_WIDTH - 2 * _LEFT):.4g}"

    def y(value: float) -> str:
        # Halves, so that no difference overflows.
        span = high / 2 - low / 2
        share = (value / 2 - low / 2) / span if span > 0 else 0.5
        return f"{_TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM):.4g}"

    parts = [_release(name, x(at)) for at, name in _measured_releases(branch, positions)]
    for number, trend in enumerate(shown):
        points = [(x(one.position), y(one.mean)) for one in trend.measured if math.isfinite(one.mean)]
        line = " ".join(f"{across},{up}" for across, up in _thinned(points))
        parts.append(f'<polyline class="line l{number}" points="{line}"/>')
        if points:
            parts.append(f'<circle class="dot l{number}" cx="{points[-1][0]}" cy="{points[-1][1]}" r="2.6"/>')
        for level in trend.levels[1:]:
            one = trend.measured[level.first]
            title = f"{_number(level.mean)} from {one.commit[:12]} ({_day(branch.commits[one.position][1])})"
            place = f'cx="{x(one.position)}" cy="{y(one.mean)}"'
            parts.append(f'<circle class=change {place} r="3.6"><title>{title}</title></circle>')
    alt = _alt_text(metric, shown, branch)
    caption = f"<code>{_text(wording.clean(metric, 40))}</code> {_number(low)} to {_number(high)}"
    more = f", {_LINES} of {len(trends)} points" if len(trends) > _LINES else ""
    return (
        f'<figure class=trend><svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role=img aria-label="{_text(alt)}" '
        f"preserveAspectRatio=none>{''.join(parts)}</svg><figcaption>{caption}{more}</figcaption></figure>"
    )


def _measured_releases(branch: Branch, positions: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Yield each release with the first measured commit that is part of it or follows it."""
    for position, name in branch.releases:
        at = next((one for one in positions if one >= position), None)
        if at is not None:
            yield at, name


def _release(name: str, across: str) -> str:
    title = _text(wording.clean(name, 40))
    return f'<line class=release x1="{across}" x2="{across}" y1="0" y2="{_HEIGHT:g}"><title>{title}</title></line>'


def _alt_text(metric: str, trends: Sequence[Trend], branch: Branch) -> str:
    first = trends[0]
    ends = [_number(first.measured[index].mean) for index in (0, -1)]
    commits = f"{wording.count(len(first.measured), 'commit')} of {wording.clean(branch.name, 40)}"
    text = f"{wording.clean(metric, 40)} over {commits}: from {ends[0]} to {ends[1]}"
    changes = [first.measured[level.first].commit[:12] for level in first.levels[1:]]
    return text + (f"; its level changed at {', '.join(changes[:4])}" if changes else "")


def _thinned(points: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """Return the points with the extremes of each column kept, at most two in one."""
    if len(points) <= 2 * _COLUMNS:
        return points
    columns: dict[int, list[tuple[str, str]]] = {}
    for point in points:
        columns.setdefault(int(float(point[0]) / _WIDTH * _COLUMNS), []).append(point)
    kept: list[tuple[str, str]] = []
    for column in columns.values():
        ends = {min(column, key=lambda point: float(point[1])), max(column, key=lambda point: float(point[1]))}
        kept += [point for point in column if point in ends][:2]
    return kept


def _day(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d")


def _text(text: str) -> str:
    return html.escape(text)


def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


_CONTROLS = """<form id=controls role=search hidden>
<p><a href="#cards-title">Experiments</a> <a href="#runs-title">Leaderboard</a></p>
<label>Search
<input type=search id=search autocomplete=off spellcheck=false placeholder="name, commit, lr=0.1, better"></label>
<label>Experiment
<select id=experiment><option value="">all</option></select></label>
<label>Show
<select id=show><option value="">all</option><option value=fail>failed gates</option>
<option value=report>with a report</option><option value=rerun>reruns</option></select></label>
<label>Order
<select id=order><option value=date>newest first</option><option value=rank>best first</option></select></label>
<button type=button id=clear>Clear</button>
</form>
<noscript><p>The table of all runs and the search need JavaScript; it comes with this page, nothing is loaded.</p>
</noscript>"""

_TABLE = """<section aria-labelledby=runs-title><h2 id=runs-title tabindex=-1>Leaderboard</h2>
<p id=count class=baseline role=status aria-live=polite></p>
<div class="scroll cards" tabindex=0 role=region aria-labelledby=runs-title><table id=runs hidden>
<thead><tr></tr></thead><tbody></tbody></table></div>
<p><button type=button id=more hidden>Show more</button></p></section>"""
