"""Verdicts, corrections and gates over samples made by hand."""

import dataclasses
import math
from collections.abc import Sequence
from datetime import date

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from bench.bench_statistics import DESIGNS, lines, sweep_lines
from gitops_ml.acceptance import Acknowledgement
from gitops_ml.diagnostics import Position
from gitops_ml.spec import CompareRule, Gate, Goal, Missing, Tolerance, Track
from gitops_ml.stats import Noise
from gitops_ml.verdicts import GateResult, MetricComparison, Sample, Setting, Side, Verdict, judge
from gitops_ml.wording import how_tested

TRACK = Track(name="acc", goal=Goal.MAXIMIZE, gate=Gate.FAIL, tolerance=Tolerance(absolute=0.01))
SETTING = Setting(rule=CompareRule())


def side(values: Sequence[float | None], first: int = 0, *, invalid: bool = False) -> Side:
    return Side.of(
        [
            Sample(
                seed=seed,
                repeat=0,
                key=f"{seed}",
                value=value,
                problem=""
                if value is not None
                else "is NaN at step 3"
                if invalid
                else "has no value: the trial failed",
                invalid=invalid and value is None,
            )
            for seed, value in enumerate(values, first)
        ]
    )


def verdict(
    base: Sequence[float | None],
    head: Sequence[float | None],
    track: Track = TRACK,
    *,
    head_seed: int = 0,
    invalid: bool = False,
    **setting: object,
) -> MetricComparison:
    """Judge one metric; ``head_seed``: the head side's first, 100 makes it unpaired."""
    given_setting = dataclasses.replace(SETTING, **setting)
    (found,) = judge([track], [(side(base), side(head, head_seed, invalid=invalid))], given_setting)
    return found


BASE = [0.950, 0.953, 0.947]


@pytest.mark.parametrize(
    ("head", "expected", "gate"),
    [
        ([0.920, 0.925, 0.917], Verdict.WORSE, GateResult.FAIL),
        ([0.990, 0.993, 0.985], Verdict.BETTER, GateResult.PASS),
        ([0.949, 0.954, 0.9465], Verdict.SAME, GateResult.PASS),
        ([0.945, 0.955, 0.920], Verdict.INCONCLUSIVE, GateResult.WARN),
        # Lower with certainty, but by less than the tolerance.
        ([0.945, 0.9481, 0.942], Verdict.SAME, GateResult.PASS),
    ],
)
def test_judge__paired_seeds__verdict_by_interval_and_tolerance(
    head: list[float], expected: Verdict, gate: GateResult
) -> None:
    found = verdict(BASE, head)
    interval = scipy.stats.ttest_rel(head, BASE).confidence_interval(0.9)

    assert (found.verdict, found.gate, found.method) == (expected, gate, "paired t")
    assert found.interval == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert found.p_value == pytest.approx(scipy.stats.ttest_rel(head, BASE).pvalue / 2)
    assert found.improvement == found.difference == pytest.approx(sum(head) / 3 - 0.95)


def test_judge__goal_minimize__lower_is_better() -> None:
    track = dataclasses.replace(TRACK, goal=Goal.MINIMIZE)
    found = verdict(BASE, [0.920, 0.925, 0.917], track)

    assert found.verdict is Verdict.BETTER
    assert found.difference is not None
    assert found.difference < 0 < found.improvement  # type: ignore[operator]
    assert found.interval is not None
    assert found.interval[0] > 0


def test_judge__no_goal__is_shown_and_not_judged() -> None:
    track = Track(name="lr", tolerance=Tolerance(absolute=0.01))
    found = verdict(BASE, [0.920, 0.925, 0.917], track)

    assert (found.verdict, found.gate, found.improvement) == (Verdict.INCONCLUSIVE, GateResult.PASS, None)
    assert found.reasons == ("is shown, not judged: no goal says which direction is good",)
    assert verdict(BASE, [0.951, 0.954, 0.9485], track).verdict is Verdict.SAME


@pytest.mark.parametrize(
    ("base", "head", "method"),
    [
        ([0.9], [0.5], "not tested"),
        ([0.9, 0.8], [0.5], "not tested"),
        ([0.9, 0.8, 0.85], [0.5], "prediction interval"),
        ([0.9], [0.5, 0.6, 0.55], "prediction interval"),
        ([0.9, 0.8], [0.5, 0.6], "Welch t"),
        ([0.9, 0.9], [0.5, 0.5], "deterministic"),
        ([0.9, 0.9, 0.9], [0.5], "deterministic"),
        ([0.9, 0.9, 0.9], [0.5, 0.6, 0.5], "Welch t"),
    ],
)
def test_judge__unmatched_seeds__method_by_the_number_of_runs(
    base: list[float], head: list[float], method: str
) -> None:
    assert verdict(base, head, head_seed=100).method == method


@pytest.mark.parametrize("drop", [0.02, 1.0, 1e6])
def test_judge__one_run_per_side__never_worse(drop: float) -> None:
    found = verdict([0.9], [0.9 - drop])

    assert (found.verdict, found.gate, found.method) == (Verdict.INCONCLUSIVE, GateResult.WARN, "not tested")
    assert found.reasons == ("1 run per side, not tested",)
    assert (found.p_value, found.interval) == (None, None)


def test_judge__one_run_per_side_within_tolerance__is_same() -> None:
    assert verdict([0.9], [0.895]).verdict is Verdict.SAME


def test_judge__ten_pairs__ranks_are_information() -> None:
    base = [0.90 + 0.001 * seed for seed in range(10)]
    found = verdict(base, [value + 0.01 + 0.0001 * seed**2 for seed, value in enumerate(base)])

    assert (found.method, found.verdict) == ("paired t", Verdict.BETTER)
    assert (found.p_rank, found.probability_better) == (1 / 2**10, 1.0)
    assert how_tested(found).endswith(", 0.00098 by permutation, 0.00098 by ranks, better on 100 % of the seeds")


def test_judge__ten_runs_per_side_on_other_seeds__ranks_are_information() -> None:
    base = [0.90 + 0.001 * seed for seed in range(10)]
    head = [0.8925 + 0.001 * seed for seed in range(10)]
    found = verdict(base, head, dataclasses.replace(TRACK, goal=Goal.MINIMIZE), head_seed=50)

    wanted = scipy.stats.mannwhitneyu(head, base, alternative="less", method="exact")
    assert found.method == "Welch t"
    assert found.p_rank == pytest.approx(wanted.pvalue, abs=1e-10)
    assert found.probability_better == pytest.approx(1 - wanted.statistic / 100)
    assert ", P(better) = 97 %" in how_tested(found)


def test_judge__nine_pairs__no_ranks() -> None:
    base = [0.90 + 0.001 * seed**2 for seed in range(9)]
    found = verdict(base, base[::-1])

    assert (found.p_rank, found.probability_better) == (None, None)


def test_judge__one_run_per_side_with_pooled_noise__is_tested() -> None:
    found = verdict([0.9], [0.8], noise={"acc": Noise(0.01, 20)})

    assert (found.verdict, found.method) == (Verdict.WORSE, "pooled t")
    assert found.reasons == ("noise pooled with earlier runs (20 degrees of freedom)",)


def counted(value: float, count: int | None) -> Side:
    return Side.of([Sample(seed=0, repeat=0, key="", value=value, count=count)])


def test_judge__one_run_per_side_with_counts__tells_of_the_examples_and_decides_nothing() -> None:
    """Newcombe 1998, table II, method 10: 56/70 - 48/80 is 0.0524 to 0.3339 at 95 %."""
    setting = Setting(rule=CompareRule(confidence=0.95))
    (found,) = judge([TRACK], [(counted(48 / 80, 80), counted(56 / 70, 70))], setting)

    assert (found.verdict, found.method, found.interval) == (Verdict.INCONCLUSIVE, "not tested", None)
    assert found.reasons == (
        "1 run per side, not tested",
        (
            "for these two checkpoints, 70 test examples put the difference between "
            "+0.0524 and +0.3339 (95 % interval); another training may differ by more"
        ),
    )


@pytest.mark.parametrize(("value", "count"), [(0.5, None), (1.5, 10), (0.123, 10), (0.5, 0)])
def test_judge__count_that_makes_no_proportion__is_left_alone(value: float, count: int | None) -> None:
    (found,) = judge([TRACK], [(counted(0.5, 10), counted(value, count))], SETTING)

    assert found.reasons == ("1 run per side, not tested",)


def test_judge__equal_values_on_every_seed__is_same_without_a_test() -> None:
    track = dataclasses.replace(TRACK, tolerance=Tolerance())
    found = verdict(BASE, BASE, track)

    assert (found.verdict, found.method, found.p_value) == (Verdict.SAME, "deterministic", None)


def test_judge__no_noise_on_either_side__difference_beyond_tolerance_is_real() -> None:
    assert verdict([0.9] * 3, [0.88] * 3).verdict is Verdict.WORSE
    assert verdict([0.9] * 3, [0.895] * 3).verdict is Verdict.SAME
    assert verdict([0.9] * 3, [0.91] * 3).verdict is Verdict.BETTER


def test_judge__same_difference_on_every_seed__is_not_taken_for_certainty() -> None:
    """A coarse metric (7 of 1000 wrong) gives equal differences by chance."""
    found = verdict([0.90, 0.94, 0.98], [0.88, 0.92, 0.96])

    assert (found.method, found.verdict) == ("Welch t", Verdict.INCONCLUSIVE)


def test_judge__some_seeds_in_common__tests_those() -> None:
    found = verdict([0.9, 0.8, 0.85, 0.7], [0.91, 0.82, 0.86])

    assert found.method == "paired t"
    assert found.reasons == ("tested on the 3 seeds that both sides have",)


def test_judge__inconclusive__says_how_many_seeds_more() -> None:
    """A tolerance of one standard deviation takes 14 runs per side; the reference table says so."""
    found = verdict(
        [0.0, 1.0, 2.0], [-0.5, 0.5, 1.5], dataclasses.replace(TRACK, tolerance=Tolerance(absolute=1.0)), head_seed=9
    )

    assert found.noise_sd == pytest.approx(1.0)
    assert found.seeds_needed == 14 - 3


def test_judge__relative_tolerance__is_of_the_baseline_mean() -> None:
    track = dataclasses.replace(TRACK, tolerance=Tolerance(relative=0.01))

    assert verdict([-200.0], [-201.0], track).tolerance == pytest.approx(2.0)


def test_judge__two_gated_metrics__holm_takes_back_what_luck_may_have_done() -> None:
    head = [0.930, 0.928, 0.936]
    alone = verdict(BASE, head, dataclasses.replace(TRACK, tolerance=Tolerance()))
    assert alone.verdict is Verdict.WORSE
    assert alone.p_value is not None
    tracks = [dataclasses.replace(TRACK, name=f"m{i}", tolerance=Tolerance()) for i in range(20)]
    flat = (side(BASE), side([0.951, 0.951, 0.948]))
    found = judge(tracks, [(side(BASE), side(head)), *[flat] * 19], SETTING)[0]

    assert found.p_adjusted == pytest.approx(20 * alone.p_value)
    assert (found.verdict, found.gate) == (Verdict.INCONCLUSIVE, GateResult.WARN)
    assert found.reasons == (
        (
            f"is worse by itself (p = {alone.p_value:.2g}), not after the correction for 20 gated metrics"
            f" (p = {20 * alone.p_value:.2g})"
        ),
    )


def test_judge__without_correction__each_metric_by_itself() -> None:
    tracks = [dataclasses.replace(TRACK, name=f"m{i}", tolerance=Tolerance()) for i in range(20)]
    sides = [(side(BASE), side([0.930, 0.928, 0.936]))] * 20
    found = judge(tracks, sides, Setting(rule=CompareRule(correction="none")))

    assert {metric.verdict for metric in found} == {Verdict.WORSE}
    assert {metric.p_adjusted for metric in found} == {None}


def test_judge__ungated_metrics__are_no_part_of_the_correction() -> None:
    shown = [dataclasses.replace(TRACK, name=f"m{i}", gate=Gate.WARN) for i in range(50)]
    sides = [(side(BASE), side([0.930, 0.928, 0.936]))] * 51
    found = judge([TRACK, *shown], sides, SETTING)[0]

    assert found.p_adjusted == found.p_value


# Nothing that is missing passes

LACKING = [
    ({"head": [0.99, None, 0.99]}, Verdict.MISSING, ("has no value: the trial failed (seed 1)",)),
    ({"head": [None, None, None]}, Verdict.MISSING, ("has no value: the trial failed (seeds 0, 1, 2)",)),
    ({"head": []}, Verdict.MISSING, ("has no trial",)),
    ({"head": [0.99, None, 0.99], "invalid": True}, Verdict.INVALID, ("is NaN at step 3 (seed 1)",)),
    ({"head": [0.99] * 3, "incomparable": {"": "the evaluation data `test` changed"}}, Verdict.NOT_COMPARABLE, None),
    ({"head": [0.99] * 3, "base": [None, None]}, Verdict.NO_BASELINE, None),
    ({"head": [0.99] * 3, "base": [], "baseline": "there is no baseline commit"}, Verdict.NO_BASELINE, None),
]


@pytest.mark.parametrize(("given_case", "expected", "reasons"), LACKING)
def test_judge__something_lacks__fails_the_gate_and_says_what(
    given_case: dict[str, object], expected: Verdict, reasons: tuple[str, ...] | None
) -> None:
    case = {"base": BASE, **given_case}
    found = verdict(case.pop("base"), case.pop("head"), **case)  # type: ignore[arg-type]

    assert (found.verdict, found.gate) == (expected, GateResult.FAIL)
    assert found.reasons
    assert reasons is None or found.reasons[: len(reasons)] == reasons


@pytest.mark.parametrize(("given_case", "expected", "_"), LACKING)
def test_judge__something_lacks_in_a_warning_metric__warns(
    given_case: dict[str, object], expected: Verdict, _: object
) -> None:
    case = {"base": BASE, **given_case}
    track = dataclasses.replace(TRACK, gate=Gate.WARN)
    found = verdict(case.pop("base"), case.pop("head"), track, **case)  # type: ignore[arg-type]

    assert (found.verdict, found.gate) == (expected, GateResult.WARN)


def test_judge__a_baseline_seed_lacks__does_not_pass_in_silence() -> None:
    found = verdict([0.95, None, 0.953, 0.947], [0.95, 0.95, 0.954, 0.948])

    assert (found.verdict, found.gate) == (Verdict.SAME, GateResult.WARN)
    assert found.reasons[-1] == "on the baseline it has no value: the trial failed (seed 1)"


@pytest.mark.parametrize(
    ("missing", "first", "expected"),
    [
        (Missing.RUN, False, GateResult.FAIL),
        (Missing.ANCESTOR, False, GateResult.FAIL),
        (Missing.FAIL, False, GateResult.FAIL),
        (Missing.WARN, False, GateResult.WARN),
        (Missing.RUN, True, GateResult.WARN),
        (Missing.FAIL, True, GateResult.FAIL),
    ],
)
def test_judge__no_baseline__as_the_spec_says(missing: Missing, first: bool, expected: GateResult) -> None:
    assert verdict([], [0.9], baseline="there is none", missing=missing, first=first).gate is expected


@pytest.mark.parametrize(
    ("inconclusive", "gate", "expected"),
    [
        (Gate.WARN, Gate.FAIL, GateResult.WARN),
        (Gate.FAIL, Gate.FAIL, GateResult.FAIL),
        (Gate.OFF, Gate.FAIL, GateResult.PASS),
        (Gate.FAIL, Gate.WARN, GateResult.WARN),
        (Gate.FAIL, Gate.OFF, GateResult.PASS),
    ],
)
def test_judge__inconclusive__as_the_spec_says(inconclusive: Gate, gate: Gate, expected: GateResult) -> None:
    found = verdict([0.9], [0.5], dataclasses.replace(TRACK, gate=gate), rule=CompareRule(inconclusive=inconclusive))
    assert (found.verdict, found.gate) == (Verdict.INCONCLUSIVE, expected)


# Floors


def test_judge__new_experiment__only_a_floor_fails_it() -> None:
    new = {"new": True, "baseline": "the baseline does not have this experiment"}
    floored = dataclasses.replace(TRACK, floor=0.9)

    assert verdict([], [0.1], **new).gate is GateResult.PASS
    assert verdict([], [0.95], floored, **new).gate is GateResult.PASS
    below = verdict([], [0.89], floored, **new)
    assert (below.verdict, below.gate) == (Verdict.NEW, GateResult.FAIL)
    assert below.reasons == ("the baseline does not have this experiment", "is below its floor of 0.9")


def test_judge__floor_to_minimize__is_the_most_allowed() -> None:
    track = dataclasses.replace(TRACK, goal=Goal.MINIMIZE, floor=0.9)

    assert verdict(BASE, BASE, track).reasons[-1] == "is above its floor of 0.9"
    assert verdict(BASE, BASE, dataclasses.replace(track, floor=0.96)).gate is GateResult.PASS


def test_judge__floor_without_a_value__fails_closed() -> None:
    track = dataclasses.replace(TRACK, gate=Gate.OFF, floor=0.9)
    found = verdict(BASE, [None], track)

    assert found.gate is GateResult.FAIL
    assert found.reasons[-1] == "has no value to hold against its floor of 0.9"


@pytest.mark.parametrize("gate", [Gate.OFF, Gate.WARN])
def test_judge__floor_and_a_seed_without_a_value__fails_closed(gate: Gate) -> None:
    found = verdict(BASE, [0.95, None, 0.96], dataclasses.replace(TRACK, gate=gate, floor=0.9))

    assert (found.verdict, found.gate) == (Verdict.MISSING, GateResult.FAIL)
    assert found.reasons[-1] == "lacks a value on some seed, so it does not hold its floor of 0.9"


# Acknowledgements

ACCEPTED = Acknowledgement(
    experiment="digits",
    metric="acc",
    bound=0.91,
    reason="half the parameters",
    author="Ada",
    expires=date(2026, 12, 31),
    position=Position(3, 5),
)
WORSE = [0.920, 0.925, 0.917]


def test_judge__accepted_regression__passes_and_says_why() -> None:
    found = verdict(BASE, WORSE, acknowledgements={"acc": ACCEPTED}, today=date(2026, 12, 31))

    assert (found.verdict, found.gate) == (Verdict.WORSE, GateResult.PASS)
    assert found.accepted == "half the parameters (by Ada, to 0.91 at worst, until 2026-12-31)"


@pytest.mark.parametrize(
    ("change", "today", "reason"),
    [
        ({"bound": 0.93}, date(2026, 1, 1), "was accepted to 0.93 at worst, and is beyond that"),
        ({}, date(2027, 1, 1), "was accepted until 2026-12-31, which is over"),
    ],
)
def test_judge__acceptance_that_does_not_hold__fails_and_says_why(
    change: dict[str, float], today: date, reason: str
) -> None:
    found = verdict(BASE, WORSE, acknowledgements={"acc": dataclasses.replace(ACCEPTED, **change)}, today=today)

    assert (found.gate, found.accepted) == (GateResult.FAIL, None)
    assert found.reasons[-1] == reason


def test_judge__accepted_but_missing_invalid_or_below_the_floor__fails() -> None:
    given_setting = {"acknowledgements": {"acc": dataclasses.replace(ACCEPTED, bound=0.0)}}

    assert verdict(BASE, [0.9, None, 0.9], **given_setting).gate is GateResult.FAIL
    assert verdict(BASE, [0.9, None, 0.9], invalid=True, **given_setting).gate is GateResult.FAIL
    assert verdict(BASE, WORSE, dataclasses.replace(TRACK, floor=0.93), **given_setting).gate is GateResult.FAIL


# Sweeps

BETTER = [0.990, 0.993, 0.985]


@pytest.mark.parametrize(
    ("values", "head_of", "base_of", "expected"),
    [
        (BETTER, 1, 1, Verdict.BETTER),
        (BETTER, 8, 1, Verdict.INCONCLUSIVE),
        (BETTER, 8, 8, Verdict.INCONCLUSIVE),
        (BETTER, 1, 8, Verdict.BETTER),
        (BASE, 8, 1, Verdict.INCONCLUSIVE),
        (BASE, 8, 8, Verdict.SAME),
        (WORSE, 8, 1, Verdict.WORSE),
        (WORSE, 8, 8, Verdict.WORSE),
        (WORSE, 1, 8, Verdict.INCONCLUSIVE),
    ],
)
def test_judge__best_of_several_points__says_only_what_selection_leaves(
    values: list[float], head_of: int, base_of: int, expected: Verdict
) -> None:
    assert verdict(BASE, values, head_best_of=head_of, base_best_of=base_of).verdict is expected


def test_judge__best_of_several_points__says_so() -> None:
    found = verdict(BASE, BETTER, head_best_of=8)
    assert found.reasons == ("looks better, but the value is the best of 8, not confirmed on fresh seeds",)


# Properties

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(NUMBERS, max_size=6), st.lists(NUMBERS, max_size=6), st.sampled_from(Goal), st.sampled_from([0, 100]))
def test_judge__any_doubles__a_verdict_with_finite_numbers(
    base: list[float], head: list[float], goal: Goal, head_seed: int
) -> None:
    track = dataclasses.replace(TRACK, goal=goal, floor=0.5)
    found = verdict(base, head, track, head_seed=head_seed)
    numbers = (
        found.difference,
        found.relative,
        found.tolerance,
        found.p_value,
        found.noise_sd,
        *(found.interval or ()),
    )

    assert all(number is None or math.isfinite(number) for number in numbers)
    assert base or found.gate is GateResult.FAIL


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_judge__sides_and_goal_swapped__same_verdict(base: list[float], head: list[float]) -> None:
    track = dataclasses.replace(TRACK, gate=Gate.OFF)
    one = verdict(base, head, track, head_seed=100)
    other = verdict(
        [-v for v in base], [-v for v in head], dataclasses.replace(track, goal=Goal.MINIMIZE), head_seed=100
    )

    assert other.verdict is one.verdict


def test_judge__two_equal_trials_on_both_sides__are_the_same() -> None:
    found = verdict([0.9, 0.8], [0.9, 0.8], TRACK)

    assert (found.verdict, found.method, found.reasons) == (
        Verdict.SAME,
        "deterministic",
        ("both sides are the same trials",),
    )


def test_error_rates__few_repeats__within_their_limits() -> None:
    """The whole table is printed by ``python -m bench.bench_statistics``."""
    broken = [line for line in (*lines(DESIGNS, repeats=200), *sweep_lines(repeats=100)) if not line.ok]

    assert not broken
