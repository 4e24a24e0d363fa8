"""One metric's runs on both sides -> a verdict, and what it does to the gate.

The rule for the test is fixed by the number of runs and their seeds, never by what the test finds: choosing
among tests by their result would be a way to find what one wants. Methods, error rates: docs/statistics.md.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from datetime import date

from gitops_ml import ranks, stats
from gitops_ml.acceptance import Acknowledgement
from gitops_ml.spec import CompareRule, Gate, Goal, Missing, Track
from gitops_ml.values import dataclass

PAIRS_MIN = 3
"""Common seeds from which on the differences per seed are tested."""
PERMUTATION_MAX = 5
"""Runs per side up to which all splits are counted."""
RANKS_MIN = 10
"""Runs per side, or pairs, from which on ranks are looked at too."""


class Verdict(enum.StrEnum):
    """What can be said of a metric."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    INCONCLUSIVE = "inconclusive"
    NEW = "new"
    NO_BASELINE = "no baseline"
    MISSING = "missing"
    INVALID = "invalid"
    NOT_COMPARABLE = "not comparable"


class GateResult(enum.StrEnum):
    """What a metric, an experiment or the whole change does to the gate."""

    PASS = "pass"  # noqa: S105 a verdict, not a password
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One trial's value of a metric. ``value`` None: there is none, ``problem`` says why (failed seed, NaN, ...)."""

    seed: int
    repeat: int
    key: str
    value: float | None
    problem: str = ""
    invalid: bool = False
    """The trial left something, but it cannot be used: NaN, a torn file."""
    count: int | None = None
    """How many test examples a proportion was taken over, when the file says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One metric on one side: raw values per seed and their moments over the valid ones."""

    samples: tuple[Sample, ...]
    n: int
    mean: float | None
    sd: float | None
    """Sample standard deviation (n - 1); None for n < 2."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "Side":
        """Return the side that these samples make."""
        found = stats.moments([sample.value for sample in samples if sample.value is not None])
        # The spread of values near the largest double may be beyond it.
        sd = found.sd if found.sd is not None and math.isfinite(found.sd) else None
        return cls(samples=tuple(samples), n=found.n, mean=found.mean, sd=sd)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricComparison:
    """One metric of one point, both sides.

    ``difference`` is head - base in the metric's unit; ``improvement`` is its sign-turned form, positive is
    good (None for goal none); the interval is for the improvement (the difference when goal is none).
    """

    track: Track
    base: Side
    head: Side
    verdict: Verdict
    gate: GateResult
    difference: float | None = None
    relative: float | None = None
    """difference / |base mean|; None for a base mean of 0."""
    improvement: float | None = None
    tolerance: float = 0.0
    """Absolute, in the metric's unit."""
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    method: str = ""
    """``paired t``, ``Welch t``, ``prediction interval``, ``pooled t``, ``not tested``, ``deterministic``."""
    noise_sd: float | None = None
    """Standard deviation that the test went by: of one run, for a paired t of one difference."""
    p_value: float | None = None
    """One-sided, in the direction of the difference that was found."""
    p_adjusted: float | None = None
    p_permutation: float | None = None
    p_rank: float | None = None
    """Of the rank test for many runs: Wilcoxon's for pairs, else Mann and Whitney's. Information, as the one above."""
    probability_better: float | None = None
    """How often a run of head is better than one of the baseline, for pairs than its own; a tie counts half."""
    seeds_needed: int | None = None
    """About how many more seeds per side would settle an inconclusive verdict; None: not known."""
    reasons: tuple[str, ...] = ()
    """Sentences a reviewer needs: why missing, not comparable, the floor missed, accepted by whom, ..."""
    accepted: str | None = None
    """The acknowledgement that lets a regression pass: its reason, author and expiry in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a metric's verdict depends on besides its runs."""

    rule: CompareRule
    baseline: str | None = None
    """Why there is nothing to compare with, in words; None: there is a baseline."""
    new: bool = False
    """The baseline commit does not have the experiment (or the point): only a floor can fail it."""
    missing: Missing = Missing.RUN
    first: bool = False
    """There is nothing before head at all; not: a baseline that was not found or cannot be read."""
    incomparable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Why versions cannot be compared, by metric; "" for all."""
    head_best_of: int = 1
    """How many points the head side's was chosen from without confirmation on fresh seeds."""
    base_best_of: int = 1
    noise: Mapping[str, stats.Noise] = dataclasses.field(default_factory=dict)
    """Run-to-run noise learned from earlier runs, by metric."""
    acknowledgements: Mapping[str, Acknowledgement] = dataclasses.field(default_factory=dict)
    """By metric."""
    today: date | None = None


def judge(
    tracks: Sequence[Track], sides: Sequence[tuple[Side, Side]], setting: Setting
) -> tuple[MetricComparison, ...]:
    """Return the metrics that decide together, each with its verdict and what that does to the gate.

    Args:
        tracks: what is compared.
        sides: base and head of each.
        setting: rules and circumstances.
    """
    measured = [measure(track, base, head, setting) for track, (base, head) in zip(tracks, sides, strict=True)]
    corrected = _corrected(measured, setting)
    return tuple(_gated(_needed(metric, n, setting), setting) for metric, n in corrected)


def measure(track: Track, base: Side, head: Side, setting: Setting) -> MetricComparison:
    """Return one metric's comparison by itself: without correction for others, and without the gate."""
    plain = MetricComparison(track=track, base=base, head=head, verdict=Verdict.NEW, gate=GateResult.PASS)
    lack = _lacking(head)
    if setting.new or setting.baseline is not None:
        verdict = Verdict.NEW if setting.new else Verdict.NO_BASELINE
        metric = dataclasses.replace(plain, verdict=verdict, reasons=(setting.baseline or "is new",))
        return _incomplete(metric, lack)
    if base.mean is None:
        reason = f"on the baseline it {_lacking(base)[1]}"
        return _incomplete(dataclasses.replace(plain, verdict=Verdict.NO_BASELINE, reasons=(reason,)), lack)
    if head.mean is None:
        return _incomplete(plain, lack)
    incomparable = setting.incomparable.get(track.name) or setting.incomparable.get("")
    if incomparable:
        metric = dataclasses.replace(plain, verdict=Verdict.NOT_COMPARABLE, reasons=(incomparable,))
        return _incomplete(metric, lack)
    metric = _tested(plain, setting)
    if base.n < len(base.samples):
        metric = dataclasses.replace(metric, reasons=(*metric.reasons, f"on the baseline it {_lacking(base)[1]}"))
    return _incomplete(metric, lack)


def _incomplete(metric: MetricComparison, lack: tuple[Verdict | None, str]) -> MetricComparison:
    """Return the metric with the verdict that a missing or invalid value of a head trial forces."""
    verdict, reason = lack
    if verdict is None:
        return metric
    return dataclasses.replace(metric, verdict=verdict, reasons=(reason, *metric.reasons))


def _lacking(side: Side) -> tuple[Verdict | None, str]:
    if side.samples and side.n == len(side.samples):
        return None, ""
    if not side.samples:
        return Verdict.MISSING, "has no trial"
    by_problem: dict[str, list[Sample]] = {}
    for sample in side.samples:
        if sample.value is None:
            by_problem.setdefault(sample.problem, []).append(sample)
    texts = [f"{problem} ({_seeds([s.seed for s in samples])})" for problem, samples in by_problem.items()]
    invalid = any(sample.invalid for samples in by_problem.values() for sample in samples)
    return (Verdict.INVALID if invalid else Verdict.MISSING), "; ".join(texts)


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"


# Testing


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """``improvement`` and the interval have their sign turned so that positive is good."""

    method: str
    improvement: float
    interval: tuple[float, float] | None = None
    p_below: float | None = None
    p_above: float | None = None
    permutation: float | None = None
    """Exact p in the direction of the improvement."""
    rank: float | None = None
    probability_better: float | None = None
    noise_sd: float | None = None
    reasons: tuple[str, ...] = ()


def _tested(plain: MetricComparison, setting: Setting) -> MetricComparison:
    track, base, head = plain.track, plain.base, plain.head
    assert base.mean is not None
    sign = -1.0 if track.goal is Goal.MINIMIZE else 1.0
    if head.samples == base.samples:
        found = _exact(0.0, "both sides are the same trials")  # a point of a sweep that the change left as it was
    else:
        noise = setting.noise.get(track.name)
        found = _finding(_values(head, sign), _values(base, sign), setting.rule.confidence, noise)
    tolerance = track.tolerance.absolute + track.tolerance.relative * abs(base.mean)
    low, high = found.interval or (found.improvement, found.improvement)
    if not all(map(math.isfinite, (found.improvement, low, high, tolerance))):
        return dataclasses.replace(plain, verdict=Verdict.INVALID, reasons=("is too large to be compared",))
    reasons = found.reasons
    if found.method == "not tested":
        reasons = (*reasons, *_on_these_examples(plain, setting.rule.confidence))
    if track.goal is Goal.NONE:
        inside = max(abs(low), abs(high)) <= tolerance
        verdict = Verdict.SAME if inside else Verdict.INCONCLUSIVE
        if not inside:
            reasons = (*reasons, "is shown, not judged: no goal says which direction is good")
    elif found.interval is None:
        verdict = Verdict.SAME if abs(found.improvement) <= tolerance else Verdict.INCONCLUSIVE
    elif high < 0 and found.improvement < -tolerance:
        verdict = Verdict.WORSE
    elif low > 0:
        verdict = Verdict.BETTER
    elif low > -tolerance or found.method == "deterministic":
        verdict = Verdict.SAME
    else:
        verdict = Verdict.INCONCLUSIVE
    downward = found.improvement < 0
    difference = sign * found.improvement
    relative = difference / abs(base.mean) if base.mean else None
    # Not by `replace`, which looks at each of 20 fields: this is done for every metric.
    return MetricComparison(
        track=track,
        base=base,
        head=head,
        verdict=verdict,
        gate=plain.gate,
        difference=difference,
        relative=relative if relative is not None and math.isfinite(relative) else None,
        improvement=None if track.goal is Goal.NONE else found.improvement,
        tolerance=tolerance,
        interval=found.interval,
        confidence=setting.rule.confidence if found.interval else None,
        method=found.method,
        noise_sd=found.noise_sd,
        p_value=found.p_below if downward else found.p_above,
        p_permutation=found.permutation,
        p_rank=found.rank,
        probability_better=None if track.goal is Goal.NONE else found.probability_better,
        reasons=reasons,
    )


def _values(side: Side, sign: float) -> dict[int, float]:
    return {sample.seed: sign * sample.value for sample in side.samples if sample.value is not None}


def _finding(
    head: Mapping[int, float], base: Mapping[int, float], confidence: float, noise: stats.Noise | None
) -> _Finding:
    """Return what the runs of both sides say, by the one test that their numbers and seeds allow."""
    common = [seed for seed in head if seed in base]
    if len(common) >= PAIRS_MIN:
        paired = _paired([head[seed] for seed in common], [base[seed] for seed in common], confidence)
        if paired is not None:
            if len(common) < max(len(head), len(base)):
                reason = f"tested on the {len(common)} seeds that both sides have"
                paired = dataclasses.replace(paired, reasons=(reason,))
            return paired
    h, b = list(head.values()), list(base.values())
    few, many = sorted((len(h), len(b)))
    flat = min(h) == max(h) and min(b) == max(b)
    if flat and (few >= 2 or many >= 3):
        return _exact(h[0] - b[0])
    if noise is not None and len(h) + len(b) - 2 < stats.POOLED_DF_MIN:
        found = stats.pooled_t(h, b, noise, confidence)
        reason = f"noise pooled with earlier runs ({noise.df} degrees of freedom)"
        return _from_test(found, None, (reason,))
    if few >= 2:
        found = stats.welch_t(h, b, confidence)
        if few >= RANKS_MIN:
            rank = ranks.mann_whitney_p(*((h, b) if found.difference < 0 else (b, h)))
            return dataclasses.replace(_from_test(found), rank=rank, probability_better=ranks.superiority(h, b))
        if many > PERMUTATION_MAX:
            return _from_test(found)
        return _from_test(found, stats.permutation_p(*((h, b) if found.difference < 0 else (b, h))))
    if many >= 3:
        return _from_test(stats.prediction_t(h, b, confidence))
    text = "1 run per side" if many == 1 else "2 runs against 1"
    improvement = _mean(h) - _mean(b)
    return _Finding(method="not tested", improvement=improvement, reasons=(f"{text}, not tested",))


def _on_these_examples(metric: MetricComparison, confidence: float) -> tuple[str, ...]:
    """Say what the number of test examples tells of two single runs, if their values are proportions.

    It is about these two checkpoints on one test set: another training differs by more. So it is told and decides
    nothing.
    """
    if metric.head.n != 1 or metric.base.n != 1:
        return ()
    counts = [_successes(side.samples[0]) for side in (metric.head, metric.base) if len(side.samples) == 1]
    if len(counts) != 2 or counts[0] is None or counts[1] is None:
        return ()
    low, high = stats.newcombe(counts[0], counts[1], confidence)
    text = (
        f"for these two checkpoints, {counts[0][1]} test examples put the difference between {low:+.4f} and {high:+.4f}"
    )
    return (f"{text} ({100 * confidence:g} % interval); another training may differ by more",)


def _successes(sample: Sample) -> tuple[int, int] | None:
    """Return a proportion as (successes, count); None: it is none."""
    if not sample.count or sample.value is None or not 0 <= sample.value <= 1:
        return None
    successes = round(sample.value * sample.count)
    # Files round to 4 digits or more.
    return (successes, sample.count) if abs(successes / sample.count - sample.value) <= 5e-5 else None


def _paired(head: Sequence[float], base: Sequence[float], confidence: float) -> _Finding | None:
    """Return what pairs say; None: all differ by the same, so that their differences show no noise to go by."""
    if head == base:
        return _exact(0.0, "every seed gives the same value on both sides")
    differences = [h - b for h, b in zip(head, base, strict=True)]
    spread = max(differences) - min(differences)
    largest = max(map(abs, [*head, *base]))
    # Equal up to rounding. With a coarse metric (7 of 1000 wrong) that happens by chance.
    if not spread > 1e-12 * largest:
        return None
    found = stats.paired_t(head, base, confidence)
    downward = (head, base) if found.difference < 0 else (base, head)
    finding = _from_test(found, stats.sign_flip_p(*downward) if len(head) <= 2 * PERMUTATION_MAX else None)
    if len(head) < RANKS_MIN:
        return finding
    rank = ranks.signed_rank_p(*downward)
    return dataclasses.replace(finding, rank=rank, probability_better=ranks.pairs_above(head, base))


def _exact(improvement: float, reason: str = "") -> _Finding:
    return _Finding(
        method="deterministic",
        improvement=improvement,
        interval=(improvement, improvement),
        reasons=(reason,) if reason else (),
    )


def _from_test(found: stats.Test, permutation: float | None = None, reasons: tuple[str, ...] = ()) -> _Finding:
    return _Finding(
        method=found.method,
        improvement=found.difference,
        interval=(found.low, found.high),
        p_below=found.p_below,
        p_above=found.p_above,
        permutation=permutation,
        noise_sd=found.noise,
        reasons=reasons,
    )


def _mean(values: Sequence[float]) -> float:
    mean = stats.moments(values).mean
    assert mean is not None
    return mean


# Many metrics, many points


def _corrected(metrics: Sequence[MetricComparison], setting: Setting) -> list[tuple[MetricComparison, int]]:
    """Return the metrics as Holm's correction over the gated ones leaves them, with how many were corrected for."""
    family = [
        index
        for index, metric in enumerate(metrics)
        if metric.track.gate is Gate.FAIL and metric.p_value is not None and metric.improvement is not None
    ]
    done = [(_unselected(metric, setting), 1) for metric in metrics]
    if setting.rule.correction == "none" or not family:
        return done
    below = [_one_sided(metrics[index], below=True) for index in family]
    above = [_one_sided(metrics[index], below=False) for index in family]
    adjusted = zip(family, stats.holm(below), stats.holm(above), strict=True)
    for index, p_below, p_above in adjusted:
        metric = metrics[index]
        assert metric.improvement is not None
        p = p_below if metric.improvement < 0 else p_above
        done[index] = (_unselected(_upheld(metric, p, len(family), setting), setting), len(family))
    return done


def _one_sided(metric: MetricComparison, *, below: bool) -> float:
    assert metric.p_value is not None
    assert metric.improvement is not None
    return metric.p_value if (metric.improvement < 0) is below else 1 - metric.p_value


def _upheld(metric: MetricComparison, p: float, family: int, setting: Setting) -> MetricComparison:
    metric = dataclasses.replace(metric, p_adjusted=p)
    if p <= (1 - setting.rule.confidence) / 2 or metric.verdict not in (Verdict.WORSE, Verdict.BETTER):
        return metric
    # What is not better after all is still not worse: its whole interval lies above zero.
    instead = Verdict.INCONCLUSIVE if metric.verdict is Verdict.WORSE else Verdict.SAME
    reason = (
        f"is {metric.verdict} by itself (p = {metric.p_value:.2g}), "
        f"not after the correction for {family} gated metrics (p = {p:.2g})"
    )
    return dataclasses.replace(metric, verdict=instead, reasons=(*metric.reasons, reason))


def _unselected(metric: MetricComparison, setting: Setting) -> MetricComparison:
    """Take back what only says that the best of many points looks better than it is.

    The best of k equal points beats a single one by 1.5 standard deviations at k = 10. So without fresh seeds the
    side that chose among more points can only be shown to be worse, and the best of several is never better.
    """
    head, base = setting.head_best_of, setting.base_best_of
    if head == base == 1:
        return metric
    doubtful = {
        Verdict.BETTER: head > 1,
        Verdict.SAME: head > base,
        Verdict.WORSE: base > head,
    }.get(metric.verdict, False)
    if not doubtful:
        return metric
    side, k = ("the baseline", base) if metric.verdict is Verdict.WORSE else ("the value", head)
    reason = f"looks {metric.verdict}, but {side} is the best of {k}, not confirmed on fresh seeds"
    return dataclasses.replace(metric, verdict=Verdict.INCONCLUSIVE, reasons=(*metric.reasons, reason))


def _needed(metric: MetricComparison, family: int, setting: Setting) -> MetricComparison:
    """Return the metric with the number of seeds that would settle it at the tolerance with 80 % power."""
    if metric.verdict is not Verdict.INCONCLUSIVE or metric.improvement is None:
        return metric
    if not metric.noise_sd or metric.tolerance <= 0:
        return metric
    paired = metric.method == "paired t"
    alpha = (1 - setting.rule.confidence) / 2 / family
    needed = stats.runs_needed(metric.tolerance / metric.noise_sd, paired=paired, alpha=alpha)
    if needed is None:
        return metric
    return dataclasses.replace(metric, seeds_needed=max(1, needed - min(metric.base.n, metric.head.n)))


# The gate


def _gated(metric: MetricComparison, setting: Setting) -> MetricComparison:
    track, reasons = metric.track, list(metric.reasons)
    result, accepted = _consequence(metric, setting), None
    given = setting.acknowledgements.get(track.name)
    if given is not None and result is not GateResult.PASS and metric.verdict in _ACCEPTABLE:
        if setting.today is not None and given.expires < setting.today:
            reasons.append(f"was accepted until {given.expires.isoformat()}, which is over")
        elif _beyond(metric, given.bound):
            reasons.append(f"was accepted to {given.bound:g} at worst, and is beyond that")
        else:
            result, accepted = GateResult.PASS, given.words()
    if track.floor is not None and track.goal is not Goal.NONE:
        if metric.head.mean is None:
            result = GateResult.FAIL
            reasons.append(f"has no value to hold against its floor of {track.floor:g}")
        elif metric.head.n < len(metric.head.samples):
            # The seeds that are left may well be the ones that went well.
            result = GateResult.FAIL
            reasons.append(f"lacks a value on some seed, so it does not hold its floor of {track.floor:g}")
        elif _beyond(metric, track.floor):
            result = GateResult.FAIL
            side = "below" if track.goal is Goal.MAXIMIZE else "above"
            reasons.append(f"is {side} its floor of {track.floor:g}")
    if result is metric.gate and len(reasons) == len(metric.reasons) and accepted == metric.accepted:
        return metric  # nearly all of a thousand that are only shown
    return dataclasses.replace(metric, gate=result, reasons=tuple(reasons), accepted=accepted)


_ACCEPTABLE = (Verdict.WORSE, Verdict.INCONCLUSIVE, Verdict.NOT_COMPARABLE, Verdict.NO_BASELINE)


def _beyond(metric: MetricComparison, bound: float) -> bool:
    mean = metric.head.mean
    assert mean is not None
    return mean > bound if metric.track.goal is Goal.MINIMIZE else mean < bound


def _consequence(metric: MetricComparison, setting: Setting) -> GateResult:
    """Return what the verdict does, before floor and acknowledgements."""
    gate = metric.track.gate
    if gate is Gate.OFF:
        return GateResult.PASS
    most = GateResult(gate)
    match metric.verdict:
        case Verdict.BETTER | Verdict.SAME:
            incomplete = metric.base.n < len(metric.base.samples)
            return GateResult.WARN if incomplete else GateResult.PASS
        case Verdict.NEW:
            return GateResult.PASS
        case Verdict.INCONCLUSIVE:
            wanted = setting.rule.inconclusive
            if wanted is Gate.OFF:
                return GateResult.PASS
            return most if wanted is Gate.FAIL else GateResult.WARN
        case Verdict.NO_BASELINE:
            lenient = setting.missing is Missing.WARN or (setting.first and setting.missing is not Missing.FAIL)
            return GateResult.WARN if lenient else most
        case _:
            return most
