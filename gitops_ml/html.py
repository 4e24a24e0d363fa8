"""A comparison as one self-contained page: no request leaves it, and its only script sorts tables.

Light and dark by the reader's setting, printable, usable on a phone and with a screen reader. A content security
policy with the script's and the style's own digests is the second wall behind the escaping.
"""

import base64
import hashlib
import html
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from gitops_ml import wording
from gitops_ml.comparison import Comparison, ExperimentComparison, GateResult, MetricComparison, Verdict
from gitops_ml.records import Record
from gitops_ml.values import dataclass


class Picture(Protocol):
    """A plot as ``plots.Picture`` makes it."""

    @property
    def name(self) -> str: ...
    @property
    def alt(self) -> str: ...
    @property
    def svg(self) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedPicture:
    """A plot in a file of its own: ``source`` is its path from the page."""

    alt: str
    source: str


def page(comparison: Comparison, pictures: Mapping[str, Sequence[Picture | LinkedPicture]], *, above: str = "") -> str:
    """Return the page for all experiments.

    Args:
        comparison: what it shows.
        pictures: by experiment name.
        above: HTML that stands before the title.
    """
    order = (GateResult.FAIL, GateResult.WARN, GateResult.PASS)
    experiments = sorted(comparison.experiments, key=lambda e: order.index(e.gate))
    several = len(experiments) != 1
    title = "Comparison" if several else wording.clean(experiments[0].name)
    body = [f"{above}<h1>{_text(title)}</h1>", _baseline(comparison.baseline.sentence())]
    if several:
        lines = "".join(f"<li>{_verdict_line(experiment)}</li>" for experiment in experiments)
        body += [f"<p><strong>{_text(wording.summary(comparison))}</strong></p><ul class=verdicts>{lines}</ul>"]
    for index, experiment in enumerate(experiments):
        body += _experiment(experiment, pictures.get(experiment.name, ()), 3 if several else 2, index)
    for heading, names in (("Unchanged, not trained again", comparison.unchanged), ("Removed", comparison.removed)):
        if names:
            listed = ", ".join(_code(name) for name in names[:100])
            body.append(f"<h2>{heading}</h2><p>{listed}</p>")
    linked = any(isinstance(picture, LinkedPicture) for of in pictures.values() for picture in of)
    # A page from the file system is no origin of its own: `file:` lets it show what lies beside it.
    return document(title, "\n".join(body), images="'self' file:" if linked else "'none'")


def record_page(record: Record) -> str:
    """Return the page for one record: what determined it, its final values, its files."""
    attempt = record.attempt
    facts = [
        ("key", record.key),
        ("commit", record.commit + (" and uncommitted work" if record.dirty else "")),
        ("spec", record.path),
        *([("derived from", record.derived_from)] if record.derived_from else []),
        ("seed", str(record.seed)),
        ("started", attempt.started_at),
        ("time", wording.duration(attempt.duration_s)),
        ("cost", wording.money(attempt.cost_usd)),
        ("backend", attempt.backend),
        ("machine", attempt.hardware.machine if attempt.hardware else wording.NOTHING),
        ("origin", attempt.origin.kind),
    ]
    scalars = [(s.name, f"{s.value:.6g}") for s in record.scalars]
    last = [(s.name, f"{s.values[-1]:.6g}") for s in record.series]
    body = [
        f"<h1>{_text(record.experiment)}</h1>",
        _table("Facts", ["what", "value"], [[_text(name), _code(value, 300)] for name, value in facts]),
        _table(
            "Parameters",
            ["name", "value"],
            [[_code(k), _code(wording.value_text(v), 300)] for k, v in record.params.items()],
        ),
        _table("Metrics", ["metric", "last value"], [[_code(k), _text(v)] for k, v in [*scalars, *last]], numeric=(1,)),
        _table(
            "Files",
            ["path", "bytes", "kept", "SHA-256"],
            [[_code(f.path, 200), str(f.size_bytes), _text(f.store), _code(f.sha256)] for f in record.files],
            numeric=(1,),
        ),
    ]
    return document(wording.clean(record.experiment), "\n".join(body))


def document(title: str, body: str, *, images: str = "'none'", style: str = "", script: str = "") -> str:
    """Return a whole page around HTML that is escaped already.

    Args:
        images: where the policy lets images come from; ``data:`` for a page with embedded ones.
        style: added to that of every page.
        script: instead of the one that sorts tables.
    """
    script = script or _SCRIPT
    policy = (
        f"default-src 'none'; img-src {images}; script-src '{_digest(script)}'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{_text(title)} - gitops-ml</title>\n<style>{_STYLE}{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


# One experiment


def _experiment(
    experiment: ExperimentComparison, pictures: Sequence[Picture | LinkedPicture], level: int, index: int
) -> Iterator[str]:
    yield f'<section id="experiment-{index}">'
    if level > 2:
        yield f"<h2>{_text(wording.clean(experiment.name))}</h2>"
    yield f'<p class="verdict {_kind(experiment)}">{_verdict_line(experiment)}</p>'
    if experiment.description:
        yield f"<p>{_text(wording.clean(experiment.description, 400))}</p>"
    notes = wording.notes(experiment)
    if notes:
        yield f"<ul class=notes>{''.join(f'<li>{_marked(note)}</li>' for note in notes)}</ul>"
    yield from _metrics(experiment)
    if experiment.metrics:
        yield _folded("How to read the verdicts", _LEGEND)
    if pictures:
        figures = "".join(_figure(picture) for picture in pictures)
        yield f"{_heading('Plots', level)}<div class=plots>{figures}</div>"
    yield from _points(experiment, level)
    yield from _facts(experiment, level)
    yield from _trials(experiment)
    yield "</section>"


def _kind(experiment: ExperimentComparison) -> str:
    if experiment.gate is GateResult.FAIL:
        return "bad"
    # A gate that nothing is held to passes also without a result.
    well = wording.headline(experiment).kind in (Verdict.BETTER, Verdict.SAME, Verdict.NEW)
    return "good" if experiment.gate is GateResult.PASS and well else "open"


def _verdict_line(experiment: ExperimentComparison) -> str:
    head = wording.headline(experiment)
    name = _text(wording.clean(experiment.name))
    verdict = f"<strong>{name}: {_text(head.verdict)}</strong>"
    return f"<span aria-hidden=true>{head.sign}</span> {verdict} — {_marked(head.because)}"


def _baseline(sentence: str) -> str:
    return f"<p class=baseline>{_marked(sentence)}</p>"


def _heading(text: str, level: int) -> str:
    return f"<h{level}>{_text(text)}</h{level}>"


def _metrics(experiment: ExperimentComparison) -> Iterator[str]:
    gated, changed, rest = wording.tiers(experiment.metrics)
    reasons = wording.reasons(experiment)
    if gated:
        yield _metric_table("Metrics that decide", gated)
    if reasons:
        yield f"<ul>{''.join(f'<li>{_marked(reason)}</li>' for reason in reasons[:200])}</ul>"
    if changed:
        yield _metric_table("Other metrics that changed" if gated else "Metrics", changed)
    if rest:
        yield _folded(f"{wording.count(len(rest), 'metric')} unchanged", _metric_table("Unchanged metrics", rest))


def _metric_table(caption: str, metrics: Sequence[MetricComparison]) -> str:
    level = wording.interval_title(metrics)
    header = ["metric", "baseline", "this change", "difference", level, "verdict", "gate", "test"]
    rows, keys = [], []
    for metric in metrics:
        row = wording.row(metric)
        kind = {Verdict.BETTER: "good", Verdict.WORSE: "bad"}.get(metric.verdict, "open")
        rows.append(
            [
                f"{_code(row.name)} {row.arrow}",
                _text(row.base),
                _text(row.head),
                _text(row.difference),
                _text(row.interval),
                f'<span class="{kind}">{wording.mark_of(metric, wording.SIGNS)} {_text(row.verdict)}</span>',
                f'<span class="{row.gate if row.gate == "fail" else "quiet"}">{_text(row.gate)}</span>',
                _text(wording.how_tested(metric)),
            ]
        )
        keys.append([None, metric.base.mean, metric.head.mean, metric.difference, None, None, None, None])
    return _table(caption, header, rows, numeric=(1, 2, 3), keys=keys)


def _points(experiment: ExperimentComparison, level: int) -> Iterator[str]:
    rows = wording.point_rows(experiment)
    if not rows:
        return
    yield _heading("Sweep", level)
    cells, keys = [], []
    for point, metric in rows[:1000]:
        row = wording.row(metric)
        best = " <strong>best</strong>" if point.point == experiment.best_head else ""
        cells.append(
            [
                _code(wording.point_text(point.point), 200) + best,
                *map(_text, (row.base, row.head, row.difference, row.verdict)),
            ]
        )
        keys.append([None, metric.base.mean, metric.head.mean, metric.difference, None])
    header = ["point", "baseline", "this change", "difference", "verdict"]
    name = wording.clean(wording.deciding_name(experiment) or "")
    yield _table(f"{len(rows)} points by {name}", header, cells, numeric=(1, 2, 3), keys=keys)


def _facts(experiment: ExperimentComparison, level: int) -> Iterator[str]:
    yield _heading("What changed, what it took", level)
    if experiment.changes:
        rows = [
            [_code(c.what), *(wording.NOTHING if side is None else _code(side, 200) for side in wording.sides(c))]
            for c in experiment.changes[:500]
        ]
        yield _table("Parameters, code, data, environment", ["what", "baseline", "this change"], rows)
    costs = [[_text(cell) for cell in row] for row in wording.costs(experiment)]
    yield _table(
        "Time and cost", ["", "baseline", "this change", "difference"], costs, numeric=(1, 2, 3), sortable=False
    )


def _trials(experiment: ExperimentComparison) -> Iterator[str]:
    rows = wording.trial_rows(experiment)
    if rows:
        header = ["side", "point", "seed", "outcome", "time", "cost", "key"]
        cells = [
            [
                row.side,
                _code(row.point, 200) if row.point else "",
                row.seed,
                row.outcome,
                row.duration,
                row.cost,
                row.key,
            ]
            for row in rows[:2000]
        ]
        shown = [
            [*(_text(cell) if i != 1 else cell for i, cell in enumerate(row[:-1])), _code(row[-1])] for row in cells
        ]
        used = wording.used_columns(header, cells)
        table = _table("Trials", [header[i] for i in used], [[row[i] for i in used] for row in shown])
        yield _folded(wording.count(len(rows), "trial"), table)
    if rented := wording.rented_rows(experiment):
        cells = [[_text(cell) for cell in row] for row in rented[:2000]]
        used = wording.used_columns(wording.RENTED_HEADER, cells)
        heads = [wording.RENTED_HEADER[i] for i in used]
        table = _table("Rented machines", heads, [[row[i] for i in used] for row in cells], sortable=False)
        yield _folded(wording.count(len(rented), "rented machine"), table)
    for trial in wording.trials(experiment, head=True):
        if not trial.recorded and trial.attempt is not None and trial.attempt.log_tail:
            log = "\n".join(_text(line) for line in wording.clean_lines(trial.attempt.log_tail))
            yield _folded(f"Log of the failed trial with seed {trial.seed}", f"<pre tabindex=0>{log}</pre>")
    problems = wording.problems(experiment)
    if problems:
        listed = "".join(f"<li>{_marked(problem)}</li>" for problem in problems[:200])
        yield _folded(wording.problems_title(len(problems)), f"<ul>{listed}</ul>")
    base = experiment.baseline.version
    commits = f"this change {_code(experiment.head.commit)}" + (f", baseline {_code(base.commit)}" if base else "")
    yield f"<p class=baseline>Commits: {commits}. Spec: {_code(experiment.path, 200)}.</p>"


# Parts


def _text(text: str) -> str:
    return html.escape(text)


def _code(name: str, limit: int = 80) -> str:
    return f"<code>{html.escape(wording.clean(name, limit))}</code>"


def _marked(marked: str) -> str:
    return "".join(
        _code(part, 160) if is_name else html.escape(part)
        for is_name, part in wording.marked_parts(wording.clean(marked, 2000))
    )


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{_text(title)}</summary>{body}</details>"


def _figure(picture: Picture | LinkedPicture) -> str:
    if isinstance(picture, LinkedPicture):
        source, alt = html.escape(picture.source), html.escape(picture.alt)
        return f'<figure><img src="{source}" alt="{alt}" loading=lazy><figcaption>{alt}</figcaption></figure>'
    svg = picture.svg.decode()
    # The drawing's size in points would overflow a phone; its viewBox scales to the column.
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(picture.alt)}" ', 1)
    return f"<figure>{svg}<figcaption>{_text(picture.alt)}</figcaption></figure>"


def _table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numeric: Sequence[int] = (),
    keys: Sequence[Sequence[float | None]] = (),
    sortable: bool = True,
) -> str:
    """Return a table of cells that are HTML already; ``keys`` are the numbers to sort by where the text has a unit."""
    rows = [*rows]
    align: Callable[[int], str] = lambda column: " class=n" if column in numeric else ""  # noqa: E731
    sortable = sortable and len(rows) > 1
    if sortable:
        heads = "".join(f'<th scope="col"{align(i)}><button>{_text(h)}</button></th>' for i, h in enumerate(header))
    else:
        heads = "".join(f'<th scope="col"{align(i)}>{_text(h)}</th>' for i, h in enumerate(header))
    cards = len(header) > 3
    lines = []
    for index, row in enumerate(rows):
        cells = [f'<th scope="row">{row[0]}</th>']
        for column, cell in enumerate(row[1:], 1):
            number = keys[index][column] if keys else None
            order = f' data-k="{number!r}"' if number is not None else ""
            # On a phone each row is a card, whose cells say what they are.
            order += f' data-h="{html.escape(header[column])}"' if cards else ""
            cells.append(f"<td{align(column)}{order}>{cell}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    kind = ("scroll cards" if sortable else "scroll cards unsorted") if cards else "scroll"
    return (
        f'<div class="{kind}" tabindex=0 role=region aria-label="{html.escape(caption)}"><table>'
        f"<caption>{_text(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


_LEGEND = (
    "<p>A difference is this change less the baseline; the interval covers the true one with the stated confidence.</p>"
    "<dl>"
    + "".join(f"<dt>{_text(word)}</dt><dd>{_text(meaning)}</dd>" for word, meaning in wording.LEGEND.items())
    + "</dl>"
)

_STYLE = """
:root{--ink:#1f2328;--quiet:#59636e;--page:#fff;--line:#d1d9e0;--soft:#f6f8fa;--good:#116329;--bad:#b3261e;
--open:#59636e;--link:#0759c2}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--quiet:#9aa4ae;--page:#0d1117;--line:#3d444d;--soft:#161b22;
--good:#4ac26b;--bad:#ff8578;--open:#9aa4ae;--link:#79b8ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:76rem;margin:0 auto;padding:1.2rem 1rem 3rem}
h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2rem 0 .5rem;overflow-wrap:anywhere}h3{font-size:1.05rem;margin:1.5rem 0 .4rem}
section{margin-top:1rem}a{color:var(--link)}
.baseline{color:var(--quiet);margin:.2rem 0 1rem;overflow-wrap:anywhere}
.verdict{font-size:1.05rem;padding:.7rem .9rem;border:1px solid var(--line);border-left:5px solid var(--open);
border-radius:6px;background:var(--soft);overflow-wrap:anywhere}
.verdict.good{border-left-color:var(--good)}.verdict.bad{border-left-color:var(--bad)}
.verdicts{list-style:none;padding:0}.verdicts li{padding:.2rem 0;overflow-wrap:anywhere}
.notes{border-left:4px solid var(--line);padding:.1rem 0 .1rem 1.6rem;margin:.8rem 0}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:.8rem 0;border:1px solid var(--line);border-radius:6px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.5rem .7rem;background:var(--soft)}
th,td{padding:.35rem .7rem;border-top:1px solid var(--line);text-align:left;vertical-align:top}
thead th{white-space:nowrap;color:var(--quiet);font-weight:600}
tbody th{font-weight:400;min-width:9rem}
td.n,th.n{text-align:right}td.n,td:not(:last-child){white-space:nowrap}
td:last-child{min-width:9rem}td.n:last-child{min-width:0}
th button{all:unset;cursor:pointer;font:inherit}
th button:focus-visible{outline:2px solid var(--link);outline-offset:2px}
th[aria-sort=ascending] button::after{content:" \\25B2"}th[aria-sort=descending] button::after{content:" \\25BC"}
.good{color:var(--good)}.bad,.fail{color:var(--bad)}.fail{font-weight:700}.open,.quiet{color:var(--open)}
.verdict.good,.verdict.bad,.verdict.open{color:var(--ink)}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr));gap:1rem;align-items:start}
figure{margin:0;padding:.6rem;border:1px solid var(--line);border-radius:6px;min-width:0}
figure svg{display:block;width:100%;height:auto;max-height:26rem}
figure img{display:block;width:100%;max-height:26rem;object-fit:contain;object-position:left}
figure svg text:not([style*="fill: #ffffff"]):not([style*="fill: #1f2328"]){fill:var(--ink)!important}
@media (prefers-color-scheme:dark){figure [style*="stroke: #0072b2"]{stroke:#56b4e9!important}
figure [style*="fill: #0072b2"]{fill:#56b4e9!important}figure [style*="stroke: #d55e00"]{stroke:#ff9248!important}
figure [style*="fill: #d55e00"]{fill:#ff9248!important}figure [style*="stroke: #009e73"]{stroke:#2fd1a0!important}
figure [style*="fill: #009e73"]{fill:#2fd1a0!important}}
figcaption{color:var(--quiet);font-size:.85rem;overflow-wrap:anywhere}
details{margin:.8rem 0}summary{cursor:pointer;font-weight:600}
pre{overflow:auto;max-height:24rem;padding:.7rem;background:var(--soft);border:1px solid var(--line);border-radius:6px}
img{max-width:100%}
dl{margin:.6rem 0}dt{font-weight:600}dd{margin:0 0 .3rem 1.2rem;color:var(--quiet)}
sub{line-height:1.4;color:var(--quiet);vertical-align:baseline;font-size:.85em}
@media (max-width:68rem){th,td{padding:.35rem .45rem}tbody th{min-width:6rem}td:last-child{min-width:7rem}}
@media (max-width:40rem){th,td{padding:.3rem .5rem}tbody th{min-width:7.5rem}
.cards thead tr{display:flex;flex-wrap:wrap;border-top:1px solid var(--line)}
.cards thead tr::before{content:"sort by";color:var(--quiet);padding:.1rem .5rem;font-size:.85em}
.cards thead th{border:0;padding:.1rem .5rem;font-size:.85em}
.cards.unsorted thead tr{display:none}
.cards table,.cards thead,.cards tbody,.cards caption,.cards tbody tr,.cards tbody th,.cards tbody td{display:block}
.cards tbody tr{border-top:1px solid var(--line);padding:.4rem .2rem}
.cards tbody th{border:0;font-weight:600;min-width:0}
.cards tbody td{border:0;padding:.1rem .5rem;text-align:left;display:flex;
gap:.6rem;white-space:normal;min-width:0}
.cards tbody td::before{content:attr(data-h);color:var(--quiet);flex:0 0 7rem}.cards tbody td:empty{display:none}}
@media print{body{font-size:11px}.scroll{overflow:visible}figure,tr{break-inside:avoid}main{max-width:none}}
""".strip()

_SCRIPT = """
document.addEventListener("click", function (event) {
  var button = event.target.closest("th button");
  if (!button) return;
  var head = button.parentNode, table = head.closest("table"), body = table.tBodies[0];
  var column = head.cellIndex, down = head.getAttribute("aria-sort") === "ascending";
  var key = function (row) {
    var cell = row.cells[column], number = cell.dataset.k;
    return number === undefined ? cell.textContent : Number(number);
  };
  var rows = Array.from(body.rows);
  rows.sort(function (one, other) {
    var a = key(one), b = key(other);
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    var order = typeof a === "number" ? a - b : a.localeCompare(b, undefined, {numeric: true});
    return down ? -order : order;
  });
  Array.from(head.parentNode.cells).forEach(function (cell) { cell.removeAttribute("aria-sort"); });
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  rows.forEach(function (row) { body.appendChild(row); });
});
window.addEventListener("beforeprint", function () {
  document.querySelectorAll("details").forEach(function (part) { part.open = true; });
});
""".strip()
