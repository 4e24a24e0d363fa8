"""Numbers and sentences about a comparison, said once for comment, report, page and terminal.

A *marked* text names foreign things between backticks (``the metric `val/loss` is missing``); each renderer turns them
into its own kind of code. ``mark`` makes a name safe for that, whatever it holds.
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from gitops_ml.comparison import (
    Change,
    Comparison,
    Cost,
    Curves,
    ExperimentComparison,
    GateResult,
    MetricComparison,
    PointComparison,
    Side,
    TrialSummary,
    Verdict,
)
from gitops_ml.records import Outcome
from gitops_ml.spec import Gate, Goal, Value
from gitops_ml.values import dataclass

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"

MARKS: Mapping[Verdict, str] = {
    Verdict.BETTER: "\N{WHITE HEAVY CHECK MARK}",
    Verdict.WORSE: "\N{CROSS MARK}",
    Verdict.SAME: "\N{ALMOST EQUAL TO}",
    Verdict.INCONCLUSIVE: "\N{BLACK QUESTION MARK ORNAMENT}",
    Verdict.NEW: "\N{SQUARED NEW}",
    Verdict.NO_BASELINE: "\N{MEDIUM WHITE CIRCLE}",
    Verdict.MISSING: "\N{WARNING SIGN}\N{VARIATION SELECTOR-16}",
    Verdict.INVALID: "\N{NO ENTRY}",
    Verdict.NOT_COMPARABLE: "\N{NO ENTRY SIGN}",
}
"""A picture beside each verdict's word, for the eye alone: the word always stands there too."""
SIGNS: Mapping[Verdict, str] = {
    Verdict.BETTER: "\N{BLACK UP-POINTING TRIANGLE}",
    Verdict.WORSE: "\N{BLACK DOWN-POINTING TRIANGLE}",
    Verdict.SAME: "\N{ALMOST EQUAL TO}",
    Verdict.INCONCLUSIVE: "?",
    Verdict.NEW: "+",
    Verdict.NO_BASELINE: "\N{WHITE CIRCLE}",
    Verdict.MISSING: "!",
    Verdict.INVALID: "!",
    Verdict.NOT_COMPARABLE: "\N{NOT EQUAL TO}",
}
"""The same for a page: signs that every system font has."""

NOT_WORSE = "not worse"
"""What ``same`` is called when the interval reaches beyond the tolerance on the good side: a gain is not excluded."""
LEGEND: Mapping[str, str] = {
    "better": "the interval of the difference lies wholly on the good side of zero",
    "worse": "it lies wholly on the bad side of zero, and the difference exceeds the tolerance",
    "same": "the interval lies within the tolerance on both sides",
    NOT_WORSE: "a loss beyond the tolerance is excluded; a gain beyond it is not, and not shown either",
    "inconclusive": "the interval reaches beyond the tolerance on the bad side: more seeds would tell",
}
"""The words of verdicts that rest on an interval, for those who read one for the first time."""

GATE_WORDS: Mapping[GateResult, str] = {
    GateResult.PASS: "gate passed",
    GateResult.WARN: "gate passed with a warning",
    GateResult.FAIL: "gate failed",
}

# Format characters hide or reorder text (bidi overrides, zero width, tags); the rest has no glyph at all.
_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
# Marks that stack on one letter: a few are a language, forty are an attack on the line above.
_STACK = 2
_NO_MARKS = re.compile("[ -\u02ff\u2010-\u20cf\u2100-\u22ff]*")
"""Latin letters and what our own numbers and verdicts are written with; no marks that stack are in there."""


def clean(text: str, limit: int = 80) -> str:
    """Return foreign text as one line without hidden characters, at most ``limit`` characters long."""
    # Looking at far more than is shown costs time and changes nothing.
    text = text[: 16 * limit]
    # Nearly every text is plain, and a report of 1,000 metrics cleans 12,000 of them.
    plain = text.isprintable() and (text.isascii() or _NO_MARKS.fullmatch(text) is not None)
    line = " ".join((text if plain else _without_hidden(text)).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _without_hidden(text: str) -> str:
    shown: list[str] = []
    stacked = 0
    for character in _ANSI.sub("", text):
        category = unicodedata.category(character)
        if category in _UNSHOWN and character not in "\t\n\r":
            continue
        stacked = stacked + 1 if category.startswith("M") else 0
        if stacked <= _STACK:
            shown.append(character)
    return "".join(shown)


def clean_lines(text: str, limit: int = 4096) -> list[str]:
    """Return the last ``limit`` characters of foreign text as lines, each cleaned but with its indentation."""
    lines = []
    for line in _ANSI.sub("", text)[-limit:].splitlines():
        indent = len(line) - len(line.lstrip(" \t"))
        lines.append(" " * min(indent, 16) + clean(line, 400))
    return lines


def mark(name: str, limit: int = 80) -> str:
    """Return a foreign name between backticks, for a marked text."""
    return f"`{clean(name, limit).replace('`', chr(0x2CB)) or ' '}`"


def marked_parts(text: str) -> Iterator[tuple[bool, str]]:
    """Yield (is a name, text) for the parts of a marked text; an odd backtick is no mark."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        parts[-2:] = ["\N{MODIFIER LETTER GRAVE ACCENT}".join(parts[-2:])]
    for index, part in enumerate(parts):
        if part:
            yield index % 2 == 1, part


def plain(text: str) -> str:
    """Return a marked text for the terminal, hidden characters gone."""
    return clean(text, 2000)


def count(n: int, noun: str, plural: str = "") -> str:
    """Return ``1 seed``, ``3 seeds``."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


# Numbers


def number(value: float | None, decimals: int) -> str:
    """Return the value with that many decimals; in powers of ten where that would hide it or fill the line."""
    if value is None:
        return NOTHING
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else f"{MINUS}\N{INFINITY}"
    size = abs(value)
    if size and (size >= 1e7 or decimals > 6 or round(size, decimals) == 0):
        exponent = math.floor(math.log10(size))
        if exponent < -6 or exponent > 6:
            text = f"{value:.{min(max(decimals + exponent, 0), 5)}e}"
            mantissa, power = text.split("e")
            return f"{mantissa}e{int(power)}".replace("-", MINUS)
        decimals = min(decimals, -exponent + 3) if decimals > 6 else max(decimals, -exponent)
    text = f"{value:.{max(decimals, 0)}f}"
    return (text if float(text) else text.lstrip("-")).replace("-", MINUS)


def signed(value: float | None, decimals: int) -> str:
    """Return the value with its sign; nothing is 0, not +0."""
    text = number(value, decimals)
    return f"+{text}" if value is not None and value > 0 else text


def percent(fraction: float) -> str:
    """Return a relative change with two significant digits, such as ``−2.0 %``."""
    value = 100 * fraction
    if not abs(value) < 1000:
        return f"{signed(value, 0)} %"
    return f"{signed(value, _decimals(abs(value), 2) if value else 0)} %"


def _decimals(uncertainty: float, digits: int) -> int:
    return digits - 1 - math.floor(math.log10(uncertainty))


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """How the numbers of one metric are written: as many digits as the uncertainty leaves, in its unit."""

    factor: float
    exponent: int
    """Power of ten that is written behind every number of the metric; 0: none."""
    decimals: int
    unit: str
    difference_unit: str

    @classmethod
    def of(cls, metric: MetricComparison) -> "Numbers":
        """Choose by the interval's width, else the spread, else the tolerance, else the difference."""
        unit = clean(metric.track.unit, 12)
        values = [s.value for side in (metric.base, metric.head) for s in side.samples if s.value is not None]
        finite = [abs(value) for value in values if math.isfinite(value)]
        # `%` on fractions (0.951) shows 95.1 %. Values that are percents already are shown as they are.
        scaled = unit == "%" and max([*finite, abs(metric.track.floor or 0.0)], default=0.0) <= 1.5
        factor = 100.0 if scaled else 1.0
        largest = max(finite, default=0.0) * factor
        exponent = 0
        if 0 < largest < math.inf and not 1e-4 <= largest < 1e7:
            exponent = max(math.floor(math.log10(largest)), -300)
            factor *= 10.0**-exponent
        return cls(
            factor=factor,
            exponent=exponent,
            decimals=cls._choose(metric, finite, factor),
            unit=f" {unit}" if unit else "",
            difference_unit=" pp" if unit == "%" else f" {unit}" if unit else "",
        )

    @staticmethod
    def _choose(metric: MetricComparison, sizes: Sequence[float], factor: float) -> int:
        half = (metric.interval[1] - metric.interval[0]) / 2 if metric.interval else 0.0
        spread = max((side.sd or 0.0 for side in (metric.base, metric.head)), default=0.0)
        for uncertainty in (half, spread, metric.tolerance, abs(metric.difference or 0.0)):
            scaled = uncertainty * factor
            if math.isfinite(scaled) and scaled > 1e-300:
                # A leading 1 or 2 needs one more digit, else rounding would change it by a third.
                leading = scaled / 10.0 ** math.floor(math.log10(scaled))
                return max(0, _decimals(scaled, 2 if leading < 3 else 1))
        largest = max(sizes, default=0.0) * factor
        return max(0, _decimals(largest, 4)) if 0 < largest < math.inf else 1

    def value(self, value: float | None) -> str:
        """Return a value of the metric with its unit."""
        if value is None:
            return NOTHING
        return self.bare(value) + (self.unit if math.isfinite(value) else "")

    def bare(self, value: float) -> str:
        """Return a value without its unit."""
        return number(value * self.factor, self.decimals) + self._power(value)

    def difference(self, value: float | None) -> str:
        """Return a difference of two values with its sign and unit."""
        return NOTHING if value is None else self._signed(value) + self.difference_unit

    def interval(self, low: float, high: float) -> str:
        """Return both ends of an interval of differences."""
        return f"{self._signed(low)} to {self._signed(high)}"

    def _signed(self, value: float) -> str:
        return signed(value * self.factor, self.decimals) + self._power(value) if value else "0"

    def _power(self, value: float) -> str:
        return f"e{self.exponent}".replace("-", MINUS) if self.exponent and value and math.isfinite(value) else ""


def duration(seconds: float) -> str:
    """Return ``48 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def money(usd: float) -> str:
    """Return an amount in US dollars; below one with two significant digits."""
    if usd and abs(usd) < 1:
        return f"{number(usd, _decimals(abs(usd), 2))} USD"
    return f"{usd:.2f} USD"


def change_of(before: float, after: float) -> str:
    """Return ``+12 %`` or nothing where a ratio says nothing."""
    return f"{percent(after / before - 1)}" if before > 0 and after != before else ""


def value_text(value: Value | None) -> str:
    """Return a parameter's value as the spec would write it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(value_text(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return NOTHING if value is None else str(value)


def point_text(point: Mapping[str, Value]) -> str:
    """Return ``act=relu, lr=0.1``; nothing for the only point."""
    # By name: a report that was read again has them in that order.
    return ", ".join(f"{name}={value_text(value)}" for name, value in sorted(point.items()))


# Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric as a table shows it; all texts but ``name`` are ours."""

    metric: MetricComparison
    name: str
    arrow: str
    """Which direction is good: an arrow, or nothing."""
    base: str
    head: str
    difference: str
    interval: str
    mark: str
    """The verdict's picture."""
    verdict: str
    gate: str
    reasons: tuple[str, ...]


_ARROWS = {Goal.MAXIMIZE: "\N{UPWARDS ARROW}", Goal.MINIMIZE: "\N{DOWNWARDS ARROW}", Goal.NONE: ""}


def row(metric: MetricComparison) -> Row:
    """Return the metric's cells."""
    numbers = Numbers.of(metric)
    difference = numbers.difference(metric.difference)
    if metric.relative is not None and metric.difference and metric.track.unit != "%":
        difference += f" ({percent(metric.relative)})"
    return Row(
        metric=metric,
        name=metric.track.name,
        arrow=_ARROWS[metric.track.goal],
        base=_side(metric.base, numbers),
        head=_side(metric.head, numbers),
        difference=difference,
        interval=interval(metric, numbers),
        mark=mark_of(metric),
        verdict=verdict_text(metric) + (" (accepted)" if metric.accepted else ""),
        gate=_gate(metric),
        reasons=metric.reasons,
    )


def verdict_text(metric: MetricComparison) -> str:
    """Return the verdict's word."""
    return NOT_WORSE if is_not_worse(metric) else str(metric.verdict)


def is_not_worse(metric: MetricComparison) -> bool:
    """Whether ``same`` leaves room for a gain beyond the tolerance, so that the word would mislead."""
    return metric.verdict is Verdict.SAME and metric.interval is not None and metric.interval[1] > metric.tolerance


def mark_of(metric: MetricComparison, marks: Mapping[Verdict, str] = MARKS) -> str:
    """Return the picture, or with ``SIGNS`` the sign, of the metric's verdict."""
    return "\N{GREATER-THAN OR EQUAL TO}" if is_not_worse(metric) else marks[metric.verdict]


def _side(side: Side, numbers: Numbers) -> str:
    if side.mean is None:
        # The whole reason stands below the table.
        told = {sample.problem.removeprefix("has no value: ").split(", ")[0] for sample in side.samples}
        problems = sorted(clean(problem, 40) for problem in told if problem)
        return problems[0] if problems else NOTHING
    text = numbers.value(side.mean)
    if side.sd is not None and side.n > 1:
        text += f" ± {numbers.bare(side.sd)}"
    lost = len(side.samples) - side.n
    return f"{text} ({side.n} of {len(side.samples)})" if lost else text


def _gate(metric: MetricComparison) -> str:
    if metric.track.gate is Gate.OFF and metric.gate is GateResult.PASS:
        return NOTHING
    return {GateResult.PASS: "pass", GateResult.WARN: "warn", GateResult.FAIL: "fail"}[metric.gate]


def interval(metric: MetricComparison, numbers: Numbers | None = None) -> str:
    """Return the interval of the difference, in the metric's own direction."""
    if metric.interval is None:
        return NOTHING
    low, high = metric.interval
    if metric.track.goal is Goal.MINIMIZE:
        # It is kept for the improvement; the table shows head - base.
        low, high = -high, -low
    return (numbers or Numbers.of(metric)).interval(low, high)


def interval_title(metrics: Sequence[MetricComparison]) -> str:
    """Return the heading of a column of intervals, with their confidence where it is one."""
    levels = {metric.confidence for metric in metrics if metric.confidence is not None}
    return f"{100 * levels.pop():g} % interval" if len(levels) == 1 else "interval"


def how_tested(metric: MetricComparison, *, brief: bool = False) -> str:
    """Return how the verdict was reached: method, runs, p values, seeds that would settle it.

    Args:
        brief: the deciding p values alone; three seeds keep the permutation's above 0.1 whatever they say.
    """
    parts = [runs(metric)] if metric.method == "not tested" else [clean(metric.method, 40), runs(metric)]
    if metric.p_value is not None:
        parts.append(f"p = {metric.p_value:.2g}")
    if metric.p_adjusted is not None and metric.p_adjusted != metric.p_value:
        parts.append(f"{metric.p_adjusted:.2g} adjusted")
    if metric.p_permutation is not None and not brief:
        parts.append(f"{metric.p_permutation:.2g} by permutation")
    if metric.p_rank is not None and not brief:
        parts.append(f"{metric.p_rank:.2g} by ranks")
    if metric.probability_better is not None and not brief:
        share = f"{100 * metric.probability_better:.0f} %"
        parts.append(f"better on {share} of the seeds" if metric.method == "paired t" else f"P(better) = {share}")
    if metric.seeds_needed:
        parts.append(f"about {count(metric.seeds_needed, 'more seed')} per side would settle it")
    return ", ".join(part for part in parts if part) or NOTHING


def runs(metric: MetricComparison) -> str:
    """Return how many runs stand on each side."""
    base, head = metric.base.n, metric.head.n
    if not base and not head:
        return NOTHING
    if base == head == 1:
        return "1 run per side, not tested" if metric.method == "not tested" else "1 run per side"
    if base == head:
        return count(head, "seed")
    return f"{base} against {count(head, 'run')}" if base else count(head, "run")


def tiers(metrics: Sequence[MetricComparison]) -> tuple[list[MetricComparison], ...]:
    """Return the gated metrics, those that changed, and the rest; what fails or is primary first in each."""
    gated = [m for m in metrics if m.track.gate is not Gate.OFF or m.gate is not GateResult.PASS or m.track.primary]
    others = _without(metrics, gated)
    changed = [m for m in others if (m.verdict is not Verdict.SAME or is_not_worse(m)) and not _flat(m)]
    rest = _without(others, changed)
    return sorted(gated, key=_urgency), sorted(changed, key=_urgency), rest


def _without(metrics: Sequence[MetricComparison], taken: Sequence[MetricComparison]) -> list[MetricComparison]:
    # By identity: comparing thousands of nested values for equality is slow.
    known = {id(metric) for metric in taken}
    return [metric for metric in metrics if id(metric) not in known]


def _flat(metric: MetricComparison) -> bool:
    return metric.verdict is Verdict.INCONCLUSIVE and metric.difference == 0


_GATE_ORDER = (GateResult.FAIL, GateResult.WARN, GateResult.PASS)
_VERDICT_ORDER = (
    Verdict.INVALID,
    Verdict.MISSING,
    Verdict.NOT_COMPARABLE,
    Verdict.WORSE,
    Verdict.NO_BASELINE,
    Verdict.BETTER,
    Verdict.INCONCLUSIVE,
    Verdict.NEW,
    Verdict.SAME,
)


def _urgency(metric: MetricComparison) -> tuple[int, bool, int, float, str]:
    size = abs(metric.relative or 0.0)
    return (
        _GATE_ORDER.index(metric.gate),
        not metric.track.primary,
        _VERDICT_ORDER.index(metric.verdict),
        -size if math.isfinite(size) else 0.0,
        metric.track.name,
    )


# Experiments


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The one line a reviewer reads: the verdict and what it rests on (marked text)."""

    kind: Verdict
    mark: str
    sign: str
    verdict: str
    because: str


def headline(experiment: ExperimentComparison, name_limit: int = 60) -> Headline:
    """Return the experiment's verdict by the metric that decides, in words."""
    gates = any(metric.track.gate is not Gate.OFF or metric.track.floor is not None for metric in experiment.metrics)
    gate = GATE_WORDS[experiment.gate] if gates or experiment.gate is not GateResult.PASS else "no gate"
    failed = [trial for trial in trials(experiment, head=True) if not trial.recorded]
    gated, changed, rest = tiers(experiment.metrics)
    deciding = (gated or changed or rest)[:1]
    if not deciding:
        if failed:
            return _headline(Verdict.MISSING, "no result", f"{failed_text(experiment)}; {gate}")
        return _headline(Verdict.SAME, "nothing to compare", f"no metric is tracked; {gate}")
    metric = deciding[0]
    if failed and metric.head.mean is None:
        return _headline(Verdict.MISSING, "no result", f"{failed_text(experiment)}; {gate}")
    because = metric_sentence(metric, name_limit)
    others = [m for m in gated[1:] if m.gate is not GateResult.PASS]
    if others:
        word = "failed" if others[0].gate is GateResult.FAIL else "warning"
        because += f"; {count(len(others), 'more metric')} with a {word} gate"
    if failed:
        because += f"; {failed_text(experiment)}"
    if metric.accepted:
        because += "; accepted"
    return Headline(
        kind=metric.verdict,
        mark=mark_of(metric),
        sign=mark_of(metric, SIGNS),
        verdict=verdict_text(metric),
        because=f"{because}; {gate}",
    )


def _headline(kind: Verdict, verdict: str, because: str) -> Headline:
    return Headline(kind=kind, mark=MARKS[kind], sign=SIGNS[kind], verdict=verdict, because=because)


def metric_sentence(metric: MetricComparison, name_limit: int = 60) -> str:
    """Return ``accuracy 95.1 % → 93.2 % (−1.9 pp, 90 % interval −2.8 to −1.0, paired t, 3 seeds)``, marked."""
    numbers = Numbers.of(metric)
    name = mark(metric.track.name, name_limit)
    head = numbers.value(metric.head.mean) if metric.head.mean is not None else None
    if head is None:
        return f"{name} {_first(metric.reasons) or 'has no value'}"
    if metric.base.mean is None:
        return f"{name} {head} ({_mean_of(metric.head.n)}, {_first(metric.reasons) or 'nothing to compare with'})"
    inside = [numbers.difference(metric.difference)] if metric.difference is not None else []
    if metric.interval is not None and metric.confidence is not None:
        inside.append(f"{100 * metric.confidence:g} % interval {interval(metric, numbers)}")
    if metric.method and metric.method != "not tested":
        inside.append(clean(metric.method, 40))
    inside.append(runs(metric))
    text = f"{name} {numbers.value(metric.base.mean)} \N{RIGHTWARDS ARROW} {head} ({', '.join(inside)})"
    if metric.verdict in (Verdict.NOT_COMPARABLE, Verdict.INVALID) and metric.reasons:
        text += f": {_first(metric.reasons)}"
    return text


def _first(sentences: Sequence[str]) -> str:
    return clean(sentences[0], 160) if sentences else ""


def _mean_of(n: int) -> str:
    return "1 run" if n == 1 else f"mean of {n} runs"


def trials(experiment: ExperimentComparison, *, head: bool) -> list[TrialSummary]:
    """Return one side's trials over all points, in order."""
    return [trial for point in experiment.points for trial in (point.head_trials if head else point.base_trials)]


def failed_text(experiment: ExperimentComparison) -> str:
    """Return ``2 of 3 trials failed: exit code 1``."""
    all_trials = trials(experiment, head=True)
    lost = [trial for trial in all_trials if not trial.recorded]
    tried = next((trial.attempt for trial in lost if trial.attempt is not None), None)
    if tried is None:
        return f"{len(lost)} of {count(len(all_trials), 'trial')} not run"
    word = {Outcome.TIMED_OUT: "timed out", Outcome.OVER_BUDGET: "over budget"}.get(tried.outcome, str(tried.outcome))
    return f"{len(lost)} of {count(len(all_trials), 'trial')} {word}: {clean(tried.reason, 120)}"


def summary(comparison: Comparison) -> str:
    """Return the line above several experiments: the gate, and how many of each verdict."""
    tally: dict[str, int] = {}
    for experiment in comparison.experiments:
        word = headline(experiment).verdict
        tally[word] = tally.get(word, 0) + 1
    if not tally:
        return "nothing to compare: no experiment is affected by this change"
    parts = ", ".join(f"{n} {word}" for word, n in sorted(tally.items(), key=lambda item: (-item[1], item[0])))
    return f"{GATE_WORDS[comparison.gate]}: {parts}"


def notes(experiment: ExperimentComparison) -> list[str]:
    """Return the sentences for the top, accepted regressions first (marked)."""
    accepted = [
        f"accepted: {mark(metric.track.name)}, {clean(metric.accepted, 300)}"
        for metric in experiment.metrics
        if metric.accepted
    ]
    renamed = [f"renamed from {mark(experiment.renamed_from)}"] if experiment.renamed_from else []
    dirty = ["made from uncommitted work"] if experiment.head.dirty else []
    return [*accepted, *renamed, *dirty, *(clean(note, 300) for note in experiment.notes)]


def reasons(experiment: ExperimentComparison) -> list[str]:
    """Return why metrics are missing, not comparable, below their floor: one marked sentence each.

    What their row says already is left out, and all about those that neither changed nor gate.
    """
    names: dict[str, list[str]] = {}
    for metric in experiment.metrics:
        if metric.verdict is Verdict.SAME and metric.track.gate is Gate.OFF and metric.gate is GateResult.PASS:
            continue
        for reason in metric.reasons:
            if reason != runs(metric):
                names.setdefault(clean(reason, 300), []).append(mark(metric.track.name))
    return [f"{', '.join(dict.fromkeys(of))}: {reason}" for reason, of in names.items()]


def sides(change: Change) -> tuple[str | None, str | None]:
    """Return what stood before and stands after; of a digest as much as tells it from others."""
    before, after = (
        text and re.sub(r"\b([0-9a-f]{12})(?:[0-9a-f]{28}|[0-9a-f]{52})\b", r"\1", text)
        for text in (change.before, change.after)
    )
    return before, after


def costs(experiment: ExperimentComparison) -> list[tuple[str, str, str, str]]:
    """Return rows of (what, baseline, this change, difference) for time and money."""
    head, base = experiment.head_cost, experiment.base_cost
    rows = [("training time", *_cost_cells(base, head, "duration_s"))]
    if head.cost_usd or (base and base.cost_usd):
        rows.append(("cost", *_cost_cells(base, head, "cost_usd")))
    if head.worst_usd:
        before = money(base.worst_usd) if base is not None and base.worst_usd else NOTHING
        rows.append(("cost at most, as planned", before, money(head.worst_usd), ""))
    rows.append(("trials", str(base.trials) if base else NOTHING, str(head.trials), ""))
    whole = (head.duration_s, head.cost_usd)
    # Nothing was spent where everything was reused: the comment made after the run says nothing about it.
    if (head.spent_s, head.spent_usd) not in (whole, (0.0, 0.0)):
        spent = duration(head.spent_s) + (f", {money(head.spent_usd)}" if head.cost_usd else "")
        rows.append(("of it spent by this run", NOTHING, spent, ""))
    machines = [", ".join(machine_names(side)) if side else NOTHING for side in (base, head)]
    if any(text and text != NOTHING for text in machines):
        rows.append(("machine", machines[0] or NOTHING, machines[1] or NOTHING, ""))
    return rows


def cost_line(experiment: ExperimentComparison) -> str:
    """Return time and money of this change with their difference to the baseline."""
    rows = [row for row in costs(experiment) if row[0] in ("training time", "cost")]
    return ", ".join(f"{what} {head}" + (f" ({change})" if change else "") for what, _, head, change in rows)


def _cost_cells(base: Cost | None, head: Cost, field: str) -> tuple[str, str, str]:
    show = money if field == "cost_usd" else duration
    after = getattr(head, field)
    if base is None:
        return NOTHING, show(after), ""
    before = getattr(base, field)
    if not after:
        return show(before), show(after), ""
    # Sides with different numbers of trials are compared per trial: a sweep of 20 is not "20 times slower".
    if base.trials and head.trials and base.trials != head.trials:
        ratio = change_of(before / base.trials, after / head.trials)
        return show(before), show(after), f"{ratio} per trial" if ratio else ""
    return show(before), show(after), change_of(before, after)


def machine_names(cost: Cost) -> list[str]:
    """Return the classes of machines that a side ran on."""
    return sorted(
        {
            clean(machine.machine, 60)
            + (f" ({', '.join(clean(gpu, 30) for gpu in machine.gpus)})" if machine.gpus else "")
            for machine in cost.hardware
        }
    )


_HEAD, _BASE = "this change", "baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """One trial as a table shows it; ``point`` is foreign."""

    side: str
    point: str
    seed: str
    outcome: str
    duration: str
    cost: str
    key: str


def trial_rows(experiment: ExperimentComparison) -> list[TrialRow]:
    """Return the trials of both sides, this change first."""
    rows = []
    both = [trial for head in (True, False) for trial in trials(experiment, head=head)]
    # Where this run trained nothing itself, that each trial is reused tells nothing about any of them.
    some_new = any(trial.recorded and not trial.reused for trial in both)
    for head in (True, False):
        for trial in trials(experiment, head=head):
            attempt = trial.attempt
            outcome = "not run" if attempt is None else str(attempt.outcome).replace("_", " ")
            if trial.reused and trial.recorded:
                outcome = "reused" if some_new else "succeeded"
            elif not trial.recorded and attempt is not None:
                # Who ended it for a reason knows better than the code that its shell then gave.
                known = attempt.outcome is not Outcome.FAILED or attempt.exit_code is None or attempt.exit_code <= 0
                known = known or re.search(rf"\b{attempt.exit_code}\b", attempt.reason) is not None
                code = "" if known else f" (exit code {attempt.exit_code})"
                outcome += f"{code}: {clean(attempt.reason, 120)}"
            rows.append(
                TrialRow(
                    side=_HEAD if head else _BASE,
                    point=point_text(trial.point),
                    seed=str(trial.seed) + (f" (repeat {trial.repeat})" if trial.repeat else ""),
                    outcome=outcome,
                    duration=duration(attempt.duration_s) if attempt else NOTHING,
                    cost=money(attempt.cost_usd) if attempt and attempt.cost_usd else NOTHING,
                    key=trial.key[:12],
                )
            )
    return rows


def rented_rows(experiment: ExperimentComparison) -> list[tuple[str, ...]]:
    """Return every attempt's rented machine: key, what and where, final state, time, cost, price; ours first.

    All but the numbers is foreign text.
    """
    sides = {
        side: [one for trial in trials(experiment, head=side is _HEAD) if not trial.reused for one in trial.rented]
        for side in (_HEAD, _BASE)
    }
    several = any(one.number > 1 for machines in sides.values() for one in machines)
    rows: list[tuple[str, ...]] = []
    for side, one in ((side, one) for side, machines in sides.items() for one in machines):
        usage = one.usage
        price = "not known"
        if usage.usd_per_hour is not None:
            origin = ", ".join(part for part in (usage.price_source, usage.price_date) if part)
            price = f"{usage.usd_per_hour:.4g} USD/h" + (f" ({clean(origin, 60)})" if origin else "")
        idle = "" if usage.idle_share is None else f"{100 * usage.idle_share:.0f} %"
        rows.append(
            (
                side if sides[_BASE] else "",
                one.key[:12],
                str(one.number) if several else "",
                clean(usage.instance_id or "none", 30),
                clean(f"{usage.instance_type} {usage.market}", 60),
                clean(usage.zone, 30),
                clean(usage.final_state, 20),
                duration(usage.billed_s),
                money(one.cost_usd),
                price,
                idle,
                str(len(usage.tries)) if usage.tries else "",
            )
        )
    return rows


RENTED_HEADER = (
    "side",
    "key",
    "attempt",
    "machine",
    "type",
    "zone",
    "last seen",
    "billed",
    "cost",
    "list price",
    "GPU idle",
    "refused before",
)


def used_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the columns that say something in any row."""
    return [i for i in range(len(header)) if any(row[i] not in ("", NOTHING) for row in rows)]


def problems(experiment: ExperimentComparison) -> list[str]:
    """Return what readers complained about or left out, each once with how many trials had it (marked)."""
    seen: dict[str, int] = {}
    for trial in trials(experiment, head=True):
        for problem in trial.problems:
            text = f"{mark(problem.file)} {mark(problem.where, 40)}: {clean(problem.message, 200)}"
            seen[text] = seen.get(text, 0) + 1
        for ignored in trial.ignored:
            text = f"ignored: {clean(ignored, 160)}"
            seen[text] = seen.get(text, 0) + 1
    total = len(trials(experiment, head=True))
    return [f"{text} ({n} of {count(total, 'trial')})" if total > 1 else text for text, n in seen.items()]


def problems_title(n: int) -> str:
    """Return the heading of what ``problems`` returns."""
    return count(n, "problem or ignored value", "problems and ignored values")


def point_rows(experiment: ExperimentComparison) -> list[tuple[PointComparison, MetricComparison]]:
    """Return each point of a sweep with its deciding metric; nothing without a sweep."""
    if len(experiment.points) < 2:
        return []
    name = deciding_name(experiment)
    return [(point, metric) for point in experiment.points for metric in point.metrics if metric.track.name == name]


def deciding_curves(experiment: ExperimentComparison) -> tuple[Curves, ...]:
    """Return the curves of what is compared: those of each side's best point in a sweep."""
    points = experiment.points
    head = next((one for one in points if one.point == experiment.best_head), points[0] if points else None)
    if head is None:
        return ()
    base = next((one for one in points if one.point == experiment.best_base), head)
    if base is head:
        return head.curves
    of_base = {curves.name: curves.base for curves in base.curves}
    of_head = {curves.name: curves.head for curves in head.curves}
    names = dict.fromkeys([*of_head, *of_base])
    return tuple(Curves(name=name, base=of_base.get(name, {}), head=of_head.get(name, {})) for name in names)


def deciding_name(experiment: ExperimentComparison) -> str | None:
    """Return the metric by which points are ranked: the primary, else the first with a gate, else the first."""
    tracks = [metric.track for metric in experiment.metrics]
    tracks = tracks or [metric.track for point in experiment.points for metric in point.metrics]
    chosen = sorted(tracks, key=lambda track: (not track.primary, track.gate is Gate.OFF))
    return chosen[0].name if chosen else None
