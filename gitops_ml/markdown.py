"""A comparison as Markdown: the comment, ``report.md`` and the job summary; and as text for the terminal.

One renderer, and a ladder of details: under a byte budget it drops, in this order, log tails; trials and problems;
unchanged metrics; changed metrics beyond 200 and 100; all charts but the first of each experiment; changed metrics
beyond 20; all charts; the other changed metrics; parameters, costs and notes; gated metrics beyond 10; everything but
the verdict lines; verdict lines beyond 50, 20, 8 and 3. What was dropped is said at the end, with a link to the full
report. Nothing is ever cut in the middle, so the Markdown is valid at every budget.

Every foreign name is encoded (``code``, ``prose``): names come from specs, training output and file systems.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal

from gitops_ml import wording
from gitops_ml.comparison import Comparison, Curves, ExperimentComparison, GateResult, MetricComparison
from gitops_ml.planning import Action, ExperimentPlan, Plan
from gitops_ml.records import Series
from gitops_ml.values import dataclass

COMMENT_BYTES = 60_000
"""GitHub refuses a comment over 65,536 characters; what is over our budget is dropped in order."""

Images = Mapping[str, Mapping[str, str | None]]
"""By experiment, the URL of each picture by its name; a None stands for a picture that cannot be shown there."""


def marker(identity: str) -> str:
    """Return the first line of a comment, by which it is found again.

    Raises:
        ValueError: the identity holds a character that could end the marker.
    """
    if not re.fullmatch(r"[A-Za-z0-9._/-]{1,64}", identity) or "--" in identity:
        raise ValueError(f"comment id {identity!r}: accepted are up to 64 letters, digits and . _ / - (no --)")
    return f"<!-- gitops-ml comment={identity} -->"


def comment(
    comparison: Comparison,
    *,
    identity: str,
    images: Images | None = None,
    report_url: str | None = None,
    budget_bytes: int = COMMENT_BYTES,
) -> str:
    """Return the comment for all experiments of a change, its marker first, in at most ``budget_bytes`` bytes of UTF-8.

    Args:
        images: addresses of the pictures by experiment. None draws Mermaid charts in their place, and so does an
            experiment none of whose pictures has an address; one that has no pictures at all gets nothing.
        report_url: where the full report stands; linked as such, so it must be one of ours.
        budget_bytes: at least 1,500.
    """
    first = marker(identity) + "\n"
    return first + summary(comparison, images=images, report_url=report_url, budget_bytes=budget_bytes - len(first))


def summary(
    comparison: Comparison,
    *,
    images: Images | None = None,
    report_url: str | None = None,
    budget_bytes: int = 1_000_000,
) -> str:
    """Return the comment's text without its marker, for a job summary."""
    for detail in LADDER:
        text = _document(comparison, detail, images, report_url)
        if len(text.encode()) <= budget_bytes:
            return text
    return f"**{wording.GATE_WORDS[comparison.gate]}**; the report is too long to be shown here.\n"


def report(experiment: ExperimentComparison, images: Mapping[str, str | None]) -> str:
    """Return ``report.md`` of one experiment: the same content in full, pictures beside it."""
    line = _verdict_line(experiment, 80)
    title = f"# {code(experiment.name)}"
    baseline = prose(experiment.baseline.sentence())
    blocks = [title, line, baseline]
    if experiment.description:
        blocks.append(prose(wording.clean(experiment.description, 400)))
    blocks += _sections(experiment, LADDER[0], images)
    blocks.append(_foot(experiment))
    return "\n\n".join(blocks) + "\n"


# Encoding


# Each step of the ladder writes the same names again.
@functools.lru_cache(maxsize=2**15)
def code(name: str, limit: int = 80) -> str:
    """Return a foreign name as an HTML ``code`` element that no parser reads as anything else.

    Hidden characters go, everything but ASCII letters, digits and spaces becomes an entity.
    """
    return f"<code>{_entities(wording.clean(name, limit) or ' ')}</code>"


def _entities(text: str) -> str:
    return _NOT_PLAIN.sub(lambda match: _entity(match[0]), text)


def _entity(character: str) -> str:
    # GFM's e-mail autolinker looks at the decoded text, so an at-sign gets a comment that splits it.
    return f"&#{ord(character)};" + ("<!-- -->" if character == "@" else "")


_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 ]")
# What may mean something in Markdown, depending on what stands around it: all but letters, digits and these.
_DOUBTFUL = re.compile(r"""[^\w ,()%+=;/'"\N{MINUS SIGN}±→↑↓–…∞×]|_""")
# What a forge turns into a link to a user, issue, change, snippet, label, milestone or alert when a word follows. An
# address is one more: GitLab looks for them in the text that is already rendered, where an entity is its character.
_REFERENCE = re.compile(r"""([@#!$&%~^])(?=[\w"'])|(:)(?=//)|\b(GH-)(?=\d)""", re.IGNORECASE)

_BLOCK_START = re.compile(r"\s*(?:\d+[.)]|[+=])(?=\s|=|$)")
"""What begins a list or underlines a heading, at the start of a line."""


_NUMBER = re.compile(r"[+\N{MINUS SIGN}]?\d+(?:\.\d+)?(?: \([+\N{MINUS SIGN}]?\d+(?:\.\d+)? %\))?", re.ASCII)
"""What most cells hold, such as ``+0.026 (+3.4 %)``: harmless as it is."""


@functools.lru_cache(maxsize=2**15)
def prose(marked: str) -> str:
    """Return a sentence that may hold foreign text: names between backticks become code, all else is inert."""
    if _NUMBER.fullmatch(marked):
        return marked
    return "".join(code(part, 160) if is_name else _inert(part) for is_name, part in wording.marked_parts(marked))


@functools.lru_cache(4096)
def _inert(text: str) -> str:
    text = wording.clean(f"[{text}]", 2000)[1:-1]  # in brackets, so that spaces at the ends stay
    text = _REFERENCE.sub(lambda match: match[0] + "\N{ZERO WIDTH SPACE}", text)
    begins = ""
    if start := _BLOCK_START.match(text):
        begins, text = text[: start.end() - 1] + _entity(text[start.end() - 1]), text[start.end() :]
    # GFM links every `www.`, also one that ends a word.
    return _WWW.sub("&#119;ww", begins + _DOUBTFUL.sub(_judged, text))


def _judged(match: re.Match[str]) -> str:
    text, index, character = match.string, match.start(), match[0]
    before, following = text[index - 1 : index], text[index + 1 : index + 2]
    inside_number = character == "." and before.isdigit() and following.isdigit()
    ends_word = character in ".:" and following in ("", " ")
    inside_word = character == "-" and before.isalnum() and following.isalnum()
    return character if inside_number or ends_word or inside_word else _entity(character)


_WWW = re.compile("www", re.IGNORECASE)


def _cell(text: str) -> str:
    return text or " "


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return a GFM table of cells that are Markdown already."""
    lines = [header, ["---:" if column in right else "---" for column in range(len(header))], *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def details(title: str, body: str) -> str:
    """Return a folded block; ``title`` is Markdown-free HTML."""
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def fence(lines: Sequence[str], language: str = "text") -> str:
    """Return lines as a code block whose fence none of them can close."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    ticks = "`" * max(3, longest + 1)
    return "\n".join([ticks + language, *lines, ticks])


# The ladder


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """How much is shown; ``None`` for a number means all."""

    log_tails: bool = True
    trials: bool = True
    rest: bool = True
    charts: int | None = None
    changed: int | None = None
    facts: bool = True
    gated: int | None = None
    sections: bool = True
    lines: int | None = None
    name_limit: int = 80


def _ladder() -> Iterator[Detail]:
    detail = Detail()
    yield detail
    steps: tuple[dict[str, int | bool], ...] = (
        {"log_tails": False},
        {"trials": False},
        {"rest": False},
        {"changed": 200},
        {"changed": 100},
        {"charts": 1},
        {"changed": 20},
        {"charts": 0},
        {"changed": 0},
        {"facts": False},
        {"gated": 10},
        {"sections": False, "name_limit": 40},
        {"lines": 50},
        {"lines": 20},
        {"lines": 8, "name_limit": 24},
        {"lines": 3, "name_limit": 12},
        {"lines": 1},
    )
    for step in steps:
        detail = dataclasses.replace(detail, **step)  # type: ignore[arg-type]
        yield detail


LADDER = tuple(_ladder())


def _document(comparison: Comparison, detail: Detail, images: Images | None, report_url: str | None) -> str:
    order = (GateResult.FAIL, GateResult.WARN, GateResult.PASS)
    experiments = sorted(comparison.experiments, key=lambda e: order.index(e.gate))
    shown = experiments[: detail.lines]
    blocks = []
    if len(experiments) != 1:
        blocks.append(f"**{prose(wording.summary(comparison))}**")
        blocks.append("\n".join(f"- {_verdict_line(experiment, detail.name_limit)}" for experiment in shown))
        if len(shown) < len(experiments):
            blocks.append(f"and {wording.count(len(experiments) - len(shown), 'more experiment')}")
    else:
        blocks.append(_verdict_line(experiments[0], detail.name_limit))
    blocks.append(prose(comparison.baseline.sentence()) if detail.sections else "")
    if detail.sections:
        for experiment in experiments:
            if len(experiments) > 1:
                blocks.append(f"### {code(experiment.name)}")
            pictures = None if images is None else images.get(experiment.name, {})
            blocks += _sections(experiment, detail, pictures, linked=True)
        blocks += _others(comparison)
    blocks.append(_end(detail, report_url))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _verdict_line(experiment: ExperimentComparison, name_limit: int) -> str:
    head = wording.headline(experiment, name_limit)
    # A spec's name is plain by its schema, but a report from elsewhere may hold anything.
    name = prose(wording.clean(experiment.name, max(name_limit, 24)).replace("`", "'"))
    return f"{head.mark} **{name}: {head.verdict}** — {prose(head.because)}"


def _others(comparison: Comparison) -> Iterator[str]:
    for title, names in (("Unchanged, not trained again", comparison.unchanged), ("Removed", comparison.removed)):
        if names:
            more = f" and {len(names) - 20} more" if len(names) > 20 else ""
            yield f"{title}: {', '.join(code(name) for name in names[:20])}{more}"


def _end(detail: Detail, report_url: str | None) -> str:
    full = LADDER[0]
    dropped = [
        words
        for is_dropped, words in (
            (detail.log_tails != full.log_tails, "log tails"),
            (detail.trials != full.trials, "trials and problems"),
            (detail.rest != full.rest, "unchanged metrics"),
            (detail.charts is not None, "charts"),
            (detail.changed is not None, "changed metrics"),
            (detail.facts != full.facts, "parameters, cost and notes"),
            (detail.gated is not None, "gated metrics"),
            (detail.sections != full.sections, "tables"),
        )
        if is_dropped
    ]
    link = f"[full report]({report_url})" if report_url else ""
    if not dropped:
        return link
    left_out = f"Left out to fit here: {', '.join(dropped)}"
    return f"{left_out}; see the {link}." if link else f"{left_out}; the report has it all."


# One experiment


def _sections(
    experiment: ExperimentComparison, detail: Detail, images: Mapping[str, str | None] | None, *, linked: bool = False
) -> list[str]:
    """``linked``: the pictures stand elsewhere, so whether a reader sees them is not known here."""
    gated, changed, rest = wording.tiers(experiment.metrics)
    blocks: list[str] = []
    if detail.facts:
        blocks += _notes(experiment)
    blocks += _metrics_table(gated[: detail.gated], len(gated))
    if detail.facts:
        blocks += ["\n".join(f"- {prose(reason)}" for reason in wording.reasons(experiment)[:20])]
    blocks += _charts(experiment, detail, images, linked=linked)
    blocks += _changed(changed, detail, folded=bool(gated))
    if rest and detail.rest:
        title = f"{wording.count(len(rest), 'metric')} unchanged"
        blocks.append(details(title, table(*_metric_cells(rest), right=(1, 2, 3))))
    elif rest:
        blocks.append(f"{wording.count(len(rest), 'metric')} unchanged")
    blocks += _points(experiment, detail)
    if detail.facts:
        blocks += _facts(experiment)
    if detail.trials:
        blocks += _trials(experiment, detail)
    return [block for block in blocks if block]


def _notes(experiment: ExperimentComparison) -> Iterator[str]:
    sentences = wording.notes(experiment)
    if sentences:
        yield "\n".join(f"> {prose(sentence)}  " for sentence in sentences)


def _metrics_table(metrics: Sequence[MetricComparison], total: int) -> Iterator[str]:
    if metrics:
        yield table(*_metric_cells(metrics), right=(1, 2, 3))
    if len(metrics) < total:
        yield f"and {wording.count(total - len(metrics), 'more gated metric')}"


def _metric_cells(metrics: Sequence[MetricComparison]) -> tuple[list[str], list[list[str]]]:
    level = wording.interval_title(metrics)
    header = ["metric", "baseline", "this change", f"difference<br><sub>{level}</sub>", "verdict", "gate"]
    rows = [
        [
            f"{code(row.name)} {row.arrow}".rstrip(),
            prose(row.base),
            prose(row.head),
            # Below each other, because a forge's comment is narrower than eight columns.
            _two_lines(prose(row.difference), row.interval),
            _two_lines(f"{row.mark} {row.verdict}", wording.how_tested(row.metric, brief=True)),
            f"**{row.gate}**" if row.gate == "fail" else row.gate,
        ]
        for row in map(wording.row, metrics)
    ]
    return header, rows


def _two_lines(first: str, second: str) -> str:
    """Return a cell of Markdown with a text in small letters below it."""
    return first + (f"<br><sub>{prose(second)}</sub>" if second not in ("", wording.NOTHING) else "")


def _changed(metrics: Sequence[MetricComparison], detail: Detail, *, folded: bool) -> Iterator[str]:
    if not metrics:
        return
    shown = metrics[: detail.changed]
    title = f"{wording.count(len(metrics), 'other metric')} changed" if folded else f"{len(metrics)} metrics"
    if not shown:
        yield title
        return
    body = table(*_metric_cells(shown), right=(1, 2, 3))
    if len(shown) < len(metrics):
        body += f"\n\nand {len(metrics) - len(shown)} more"
    yield details(title, body) if folded else body


def _charts(
    experiment: ExperimentComparison, detail: Detail, images: Mapping[str, str | None] | None, *, linked: bool
) -> Iterator[str]:
    if images is not None and not images:
        return
    wanted = [name for plot in experiment.plots for name in plot.y]
    curves = [c for c in wording.deciding_curves(experiment) if not wanted or c.name in wanted]
    charts = (chart for chart in map(mermaid, curves[:4]) if chart)
    shown = [(name, url) for name, url in (images or {}).items() if url]
    if shown:
        shown = shown[: detail.charts]
        yield "\n".join(f"![{_alt(name)}]({url})" for name, url in shown[:2])
        if len(shown) > 2:
            pictures = "\n".join(f"![{_alt(name)}]({url})" for name, url in shown[2:])
            yield details(f"{len(shown) - 2} more plots", pictures)
        # In an e-mail, or where a picture on a private host is not shown, the numbers are still there.
        if linked and shown and (chart := next(charts, None)):
            yield details("Without pictures", chart)
        return
    drawn = list(charts)[: detail.charts]
    yield from drawn[:1]
    if len(drawn) > 1:
        yield details(f"{wording.count(len(drawn) - 1, 'more chart')}", "\n\n".join(drawn[1:]))


def _alt(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9 ]+", " ", name).strip() or "plot"


def _points(experiment: ExperimentComparison, detail: Detail) -> Iterator[str]:
    rows = wording.point_rows(experiment)
    if not rows or not detail.rest:
        return
    body = table(
        ["point", "baseline", "this change", "difference", "verdict"],
        (
            [
                code(wording.point_text(point.point), 120) + (" (best)" if point.point == experiment.best_head else ""),
                prose(row.base),
                prose(row.head),
                prose(row.difference),
                f"{row.mark} {row.verdict}",
            ]
            for point, row in ((point, wording.row(metric)) for point, metric in rows[:200])
        ),
        right=(1, 2, 3),
    )
    name = wording.deciding_name(experiment) or ""
    yield details(f"{len(rows)} points by {code(name)}", body)


def _facts(experiment: ExperimentComparison) -> Iterator[str]:
    if experiment.changes:
        rows = (
            [
                code(change.what),
                *(wording.NOTHING if side is None else code(side, 120) for side in wording.sides(change)),
            ]
            for change in experiment.changes[:100]
        )
        body = table(["what", "baseline", "this change"], rows)
        more = len(experiment.changes) - 100
        body += f"\n\nand {more} more" if more > 0 else ""
        few = len(experiment.changes) <= 6
        yield body if few else details(f"{len(experiment.changes)} things changed", body)
    costs = [[prose(cell) for cell in row] for row in wording.costs(experiment)]
    yield details(
        prose(wording.cost_line(experiment)),
        table(["", "baseline", "this change", "difference"], costs, right=(1, 2, 3)),
    )


def _trials(experiment: ExperimentComparison, detail: Detail) -> Iterator[str]:
    rows = wording.trial_rows(experiment)
    if rows:
        header = ["side", "point", "seed", "outcome", "time", "cost", "key"]
        cells = [
            [
                row.side,
                code(row.point, 120) if row.point else "",
                row.seed,
                prose(row.outcome),
                row.duration,
                row.cost,
                f"<code>{_entities(row.key)}</code>",
            ]
            for row in rows[:200]
        ]
        used = wording.used_columns(header, cells)
        body = table([header[i] for i in used], ([row[i] for i in used] for row in cells))
        if len(rows) > 200:
            body += f"\n\nand {len(rows) - 200} more"
        yield details(wording.count(len(rows), "trial"), body)
    if rented := wording.rented_rows(experiment):
        cells = [[prose(cell) for cell in row] for row in rented[:200]]
        used = wording.used_columns(wording.RENTED_HEADER, cells)
        body = table([wording.RENTED_HEADER[i] for i in used], ([row[i] for i in used] for row in cells))
        if len(rented) > 200:
            body += f"\n\nand {len(rented) - 200} more"
        yield details(wording.count(len(rented), "rented machine"), body)
    if detail.log_tails:
        for trial in wording.trials(experiment, head=True):
            if not trial.recorded and trial.attempt is not None and trial.attempt.log_tail:
                lines = wording.clean_lines(trial.attempt.log_tail)
                yield details(f"log of the failed trial with seed {trial.seed}", fence(lines))
    problems = wording.problems(experiment)
    if problems:
        body = "\n".join(f"- {prose(problem)}" for problem in problems[:50])
        more = len(problems) - 50
        yield details(wording.problems_title(len(problems)), body + (f"\n- and {more} more" if more > 0 else ""))


def _foot(experiment: ExperimentComparison) -> str:
    base = experiment.baseline.version
    sides = [("this change", experiment.head.commit)] + ([("baseline", base.commit)] if base else [])
    commits = ", ".join(f"{side} {code(commit, 40)}" for side, commit in sides)
    return f"Commits: {commits}. Spec: {code(experiment.path, 200)}."


# Mermaid

_MERMAID_CHARS = 1_900
"""GitLab draws a block by itself only up to 2,000 characters."""


def mermaid(curves: Curves) -> str | None:
    """Return the mean curves of both sides as a Mermaid chart; None: fewer than two finite points to draw.

    Its parser takes plain decimals only, no exponents, no NaN: values are scaled and the factor stands in the title.
    The chart has no legend, so the title says which line is which.
    """
    for points in (32, 20, 10):
        sides = [
            (name, _mean_curve(side, points))
            for name, side in (("baseline", curves.base), ("this change", curves.head))
        ]
        sides = [(name, curve) for name, curve in sides if curve]
        ends = [
            step for side in (curves.base, curves.head) for s in side.values() for step in s.steps if abs(step) < 1e15
        ]
        values = [value for _, curve in sides for _, value in curve]
        if not sides or max(len(curve) for _, curve in sides) < 2:
            return None
        text = _xychart(curves.name, sides, values, min(ends), max(ends))
        if len(text) <= _MERMAID_CHARS:
            return text
    return None


def _xychart(
    name: str, sides: Sequence[tuple[str, list[tuple[float, float]]]], values: Sequence[float], low: float, high: float
) -> str:
    largest = max(abs(value) for value in values) or 1.0
    exponent = math.floor(math.log10(largest) / 3) * 3
    exponent = 0 if -2 <= math.log10(largest) < 4 else exponent
    scale = 10.0**-exponent
    unit = f" times 1e{exponent}".replace("e-", "e minus ") if exponent else ""
    # The parser refuses quotes and code fences; everything but plain words goes.
    title = re.sub(r"[^A-Za-z0-9 ./_-]+", " ", wording.clean(name, 40)).replace("`", " ").strip() or "metric"
    bottom, top = min(values) * scale, max(values) * scale
    margin = (top - bottom) * 0.05 or abs(top) * 0.05 or 1.0
    lines = [
        "xychart-beta",
        f'  title "{title}{unit} - lines in order: {", ".join(side for side, _ in sides)}"',
        f'  x-axis "step" {_decimal(low)} --> {_decimal(high)}',
        f"  y-axis {_decimal(bottom - margin)} --> {_decimal(top + margin)}",
    ]
    for _, curve in sides:
        lines.append(f"  line [{', '.join(_decimal(value * scale) for _, value in curve)}]")
    return fence(lines, "mermaid")


def _decimal(value: float) -> str:
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _mean_curve(seeds: Mapping[int, Series], points: int) -> list[tuple[float, float]]:
    """Mean over seeds in ``points`` equal parts of the steps: xychart spreads a line's values evenly."""
    finite = [
        (step, value)
        for series in seeds.values()
        for step, value in zip(series.steps, series.values)
        if abs(step) < 1e15 and abs(value) < 1e100
    ]
    if not finite:
        return []
    low, high = min(step for step, _ in finite), max(step for step, _ in finite)
    width = (high - low) / points or 1.0
    sums: dict[int, list[float]] = {}
    for step, value in finite:
        sums.setdefault(min(int((step - low) / width), points - 1), []).append(value)
    return [(low + part * width, math.fsum(values) / len(values)) for part, values in sorted(sums.items())]


# Terminal


def terminal(comparison: Comparison) -> str:
    """Return the comparison as text with aligned columns."""
    lines = []
    if len(comparison.experiments) != 1:
        lines += [wording.summary(comparison), ""]
    for experiment in comparison.experiments:
        head = wording.headline(experiment)
        lines.append(
            f"{wording.plain(experiment.name)}: {head.verdict} - {wording.plain(head.because).replace('`', '')}"
        )
        lines += [f"  {wording.plain(experiment.baseline.sentence())}"]
        lines += [f"  note: {wording.plain(note)}" for note in wording.notes(experiment)]
        gated, changed, rest = wording.tiers(experiment.metrics)
        rows = [wording.row(metric) for metric in [*gated, *changed, *rest][:60]]
        if rows:
            header = ("metric", "baseline", "this change", "difference", "interval", "verdict", "gate")
            cells = [
                (
                    f"{wording.clean(r.name, 48)} {r.arrow}",
                    r.base,
                    r.head,
                    r.difference,
                    r.interval,
                    r.verdict,
                    r.gate,
                )
                for r in rows
            ]
            lines += ["", *(f"  {line}" for line in columns([header, *cells], right=(1, 2, 3)))]
        more = len(experiment.metrics) - len(rows)
        lines += [f"  and {more} more metrics"] if more > 0 else []
        lines += [f"  {wording.plain(reason)}" for reason in wording.reasons(experiment)[:20]]
        lines += [
            f"  changed: {wording.clean(change.what)}: {' -> '.join(map(_or_none, wording.sides(change)))}"
            for change in experiment.changes[:20]
        ]
        lines += [f"  {wording.cost_line(experiment)}", ""]
    for title, names in (("unchanged", comparison.unchanged), ("removed", comparison.removed)):
        if names:
            lines.append(f"{title}: {', '.join(wording.clean(name) for name in names)}")
    return "\n".join(lines).rstrip() + "\n"


def _or_none(text: str | None) -> str:
    return "none" if text is None else wording.clean(text)


def columns(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Return rows as lines whose columns stand under each other."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def plan_table(plan: Plan) -> str:
    """Return what a plan would do as Markdown: one row per experiment and side, and why each trial runs."""
    rows, reasons = [], []
    for experiment in plan.experiments:
        for side, planned in (("this change", experiment.head), ("baseline", experiment.base)):
            if not planned:
                continue
            counts = {action: sum(1 for item in planned if item.action is action) for action in Action}
            worst = sum((item.estimate.worst_usd for item in planned if item.action is Action.RUN), start=Decimal(0))
            rows.append(
                [
                    code(experiment.experiment.name),
                    str(experiment.relation),
                    side,
                    str(counts[Action.RUN]),
                    str(counts[Action.REUSE]),
                    str(counts[Action.SKIP]) if counts[Action.SKIP] else "",
                    wording.money(float(worst)) if worst else wording.NOTHING,
                ]
            )
            seen = {item.reason: None for item in planned if item.action is not Action.REUSE and item.reason}
            reasons += [f"- {code(experiment.experiment.name)}, {side}: {prose(reason)}" for reason in seen]
    if not rows:
        return f"Nothing to do: no experiment is affected.\n\n{prose(plan.baseline.sentence())}\n"
    header = ["experiment", "relation", "side", "to train", "reused", "skipped", "cost at most"]
    blocks = [table(header, rows, right=(3, 4, 5, 6)), prose(plan.baseline.sentence())]
    if reasons:
        blocks.append(details("why", "\n".join(reasons[:100])))
    machines = [
        f"  - {prose(line.strip())}" if line[0] == " " else f"- {code(entry.experiment.name)}: {prose(line)}"
        for entry in plan.experiments
        for line in machine_lines(entry)
    ]
    if machines:
        blocks.append(details("machines and prices", "\n".join(machines[:100])))
    return "\n\n".join(blocks) + "\n"


def machine_lines(entry: ExperimentPlan) -> list[str]:
    """Return on which machines an experiment's trials would run, at which dated prices, and what bounds the cost."""
    estimates = dict.fromkeys(p.estimate for p in (*entry.head, *entry.base) if p.action is Action.RUN)
    lines = []
    for estimate in estimates:
        if estimate.candidates:
            where = f" in {estimate.region}" if estimate.region else ""
            lines.append(f"machines{where}, in this order:")
            lines += [f"  {candidate}" for candidate in estimate.candidates]
        if estimate.note:
            lines.append(f"cost of each: {estimate.note}" if estimate.worst_usd else f"cost: {estimate.note}")
    return lines


def plan_text(plan: Plan) -> str:
    """Return a plan for the terminal: a line per trial with the short key that other commands take."""
    short = plan.head.commit[:12]
    name = short if plan.head.label in (short, plan.head.commit) else f"{plan.head.label} {short}"
    lines = [f"{name}{' with uncommitted work' if plan.head.dirty else ''}"]
    for entry in plan.experiments:
        renamed = f", was {wording.clean(entry.renamed_from)}" if entry.renamed_from else ""
        lines += [
            "",
            f"{wording.clean(entry.experiment.name)} ({entry.relation}{renamed}): {entry.baseline.sentence()}",
        ]
        rows = [
            (
                planned.trial.key[:12],
                side,
                f"seed {planned.trial.seed}" + (f" repeat {planned.trial.repeat}" if planned.trial.repeat else ""),
                wording.plain(wording.point_text(planned.trial.point)),
                str(planned.action),
                planned.reason,
                wording.money(float(planned.estimate.worst_usd)) if planned.estimate.worst_usd else "",
            )
            for side, trials in (("head", entry.head), ("base", entry.base))
            for planned in trials
        ]
        lines += [f"  {line}" for line in columns(rows)] if rows else []
        for line in machine_lines(entry):
            lines.append(f"{'    ' if line[0] == ' ' else '  '}{wording.clean(line, 400)}")
    to_run = plan.to_run()
    worst = sum((planned.estimate.worst_usd for planned in to_run), start=Decimal(0))
    cost = f", at most {wording.money(float(worst))}" if worst else ""
    total = f"{wording.count(len(to_run), 'trial')} to train{cost}" if to_run else "nothing to do"
    return "\n".join([*lines, "", total])
