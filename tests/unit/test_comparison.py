"""Whole experiments: which trials stand for a side, what decides, what is said beside the metrics."""

import dataclasses
import json
from collections.abc import Sequence

import pytest

from gitops_ml.comparison import Comparison, ExperimentComparison, GateResult, Verdict, compare, winner
from gitops_ml.comparison_json import comparison_to_json
from gitops_ml.planning import Action, Relation
from gitops_ml.records import BaselineChoice, Hardware, Outcome, Problem
from gitops_ml.spec import (
    Data,
    Gate,
    Goal,
    Metrics,
    Plot,
    Role,
    Summary,
    SummaryKind,
    Sweep,
    Tolerance,
    Track,
)
from tests.fakes import runs
from tests.fakes.runs import World

TRACK = Track(name="acc", goal=Goal.MAXIMIZE, gate=Gate.FAIL, tolerance=Tolerance(absolute=0.01))
SPEC = runs.experiment(TRACK, seeds=(0, 1, 2))
BASE = [0.950, 0.953, 0.947]
WORSE = [0.920, 0.925, 0.917]
BETTER = [0.990, 0.993, 0.985]


def of(world: World, **more: object) -> ExperimentComparison:
    (found,) = compare(world.plan(), world.records, world.attempts, **more).experiments
    return found


def test_compare__worse_on_matching_seeds__fails() -> None:
    comparison = of(World(SPEC).fill("acc", BASE, WORSE))

    assert comparison.gate is GateResult.FAIL
    assert comparison.metrics[0].method == "paired t"
    assert comparison.points[0].metrics == comparison.metrics
    assert (comparison.best_head, comparison.best_base) == (None, None)


def test_compare__same_input__same_bytes() -> None:
    def text() -> str:
        world = World(SPEC).fill("acc", BASE, WORSE)
        return json.dumps(comparison_to_json(compare(world.plan(), world.records, world.attempts)))

    assert text() == text()


@pytest.mark.parametrize("relation", [Relation.SAME, Relation.REMOVED])
def test_compare__nothing_to_compare__only_named(relation: Relation) -> None:
    world = World(SPEC, relation=relation).fill("acc", BASE, WORSE)
    found = compare(world.plan(), world.records, world.attempts)

    assert found.experiments == ()
    assert (found.unchanged if relation is Relation.SAME else found.removed) == ("digits",)
    assert found.gate is GateResult.PASS


def test_compare__failed_seed__is_missing_and_says_why() -> None:
    comparison = of(World(SPEC).fill("acc", BASE, [0.99, None, 0.99]))
    metric = comparison.metrics[0]

    assert (metric.verdict, comparison.gate) == (Verdict.MISSING, GateResult.FAIL)
    assert metric.reasons[0] == "has no value: the trial failed, exit code 1 (seed 1)"
    assert [trial.recorded for trial in comparison.points[0].head_trials] == [True, False, True]


def test_compare__trial_never_run__is_missing_and_says_so() -> None:
    world = World(SPEC).fill("acc", BASE, [0.99, None, 0.99])
    world.attempts.clear()

    assert of(world).metrics[0].reasons[0] == "has no value: the trial was not run (seed 1)"


def test_compare__nan__is_invalid() -> None:
    metric = of(World(SPEC).fill("acc", BASE, [0.99, float("nan"), 0.99])).metrics[0]

    assert (metric.verdict, metric.gate) == (Verdict.INVALID, GateResult.FAIL)
    assert metric.reasons[0] == "is NaN (seed 1)"


def test_compare__torn_file__is_invalid() -> None:
    world = World(SPEC).fill("acc", BASE, [0.95, 0.953])
    torn = (Problem(file="m.csv", where="line 7", message="is cut off"),)
    world.add("head", {"acc": 0.99}, 2, more={"problems": torn})
    metric = of(world).metrics[0]

    assert (metric.verdict, metric.gate) == (Verdict.INVALID, GateResult.FAIL)
    assert metric.reasons[0] == "cannot be trusted: m.csv line 7: is cut off (seed 2)"


def test_compare__metric_that_nobody_wrote__is_missing() -> None:
    world = World(SPEC).fill("other", BASE, BASE)

    assert of(world).metrics[0].verdict is Verdict.MISSING


def test_compare__new_experiment__passes_and_says_so() -> None:
    world = World(SPEC, relation=Relation.NEW).fill("acc", [], [0.5])
    comparison = of(world)

    assert (comparison.metrics[0].verdict, comparison.gate) == (Verdict.NEW, GateResult.PASS)
    assert comparison.base_cost is None


def test_compare__baseline_never_trained__fails_and_says_so() -> None:
    world = World(SPEC).fill("acc", [None, None, None], BASE)
    world.attempts.clear()
    comparison = of(world)

    assert (comparison.metrics[0].verdict, comparison.gate) == (Verdict.NO_BASELINE, GateResult.FAIL)
    assert comparison.metrics[0].reasons == ("on the baseline it has no value: the trial was not run (seeds 0, 1, 2)",)


def test_compare__no_baseline_commit__warns_with_the_reason() -> None:
    choice = BaselineChoice(version=None, ref="main", chosen="none", note="this is the first commit of main")
    world = World(SPEC, relation=Relation.NO_BASELINE, baseline=choice).fill("acc", [], BASE)
    comparison = of(world)

    assert (comparison.metrics[0].verdict, comparison.gate) == (Verdict.NO_BASELINE, GateResult.WARN)
    assert comparison.metrics[0].reasons == ("this is the first commit of main",)


def test_compare__baseline_not_found__fails_where_a_first_commit_warns() -> None:
    choice = BaselineChoice(
        version=None, ref="mian", chosen="not found", note="there is no branch or commit `mian` here"
    )
    comparison = of(World(SPEC, relation=Relation.NO_BASELINE, baseline=choice).fill("acc", [], BASE))

    assert (comparison.metrics[0].verdict, comparison.gate) == (Verdict.NO_BASELINE, GateResult.FAIL)


def test_compare__spec_of_the_baseline_not_valid__fails() -> None:
    comparison = of(World(SPEC, relation=Relation.NO_BASELINE).fill("acc", [], BASE))

    assert (comparison.metrics[0].verdict, comparison.gate) == (Verdict.NO_BASELINE, GateResult.FAIL)


# Comparability


def test_compare__changed_evaluation_data__is_not_comparable() -> None:
    spec = dataclasses.replace(SPEC, data=(Data(name="test", uri="test.csv", role=Role.EVAL),))
    world = World(spec)
    for seed, value in enumerate(BASE):
        world.add("base", {"acc": value}, seed)
        world.add("head", {"acc": value}, seed, data=[["test", "another"]])
    comparison = of(world)

    assert (comparison.metrics[0].verdict, comparison.gate) == (Verdict.NOT_COMPARABLE, GateResult.FAIL)
    assert comparison.metrics[0].reasons == ("the evaluation data `test` changed",)
    assert [change.what for change in comparison.changes] == ["code", "data.test"]


def test_compare__changed_training_data__is_a_change_like_any_other() -> None:
    spec = dataclasses.replace(SPEC, data=(Data(name="test", uri="test.csv"),))
    world = World(spec)
    for seed, value in enumerate(BASE):
        world.add("base", {"acc": value}, seed)
        world.add("head", {"acc": value}, seed, data=[["test", "another"]])

    assert of(world).metrics[0].verdict is Verdict.SAME


def test_compare__changed_evaluation_code__is_not_comparable() -> None:
    world = World(SPEC)
    world.add("base", {"acc": 0.9}, evaluation="one")
    world.add("head", {"acc": 0.9}, evaluation="two")

    assert of(world).metrics[0].reasons == ("the declared evaluation code changed",)


def test_compare__evaluation_code_no_longer_declared__is_not_comparable() -> None:
    world = World(SPEC)
    world.add("base", {"acc": 0.9}, evaluation="one")
    world.add("head", {"acc": 0.9})
    comparison = of(world)

    assert (comparison.metrics[0].verdict, comparison.gate) == (Verdict.NOT_COMPARABLE, GateResult.FAIL)
    assert comparison.metrics[0].reasons == (
        "the evaluation code is no longer declared, so it is not known whether it changed",
    )


def test_compare__evaluation_code_declared_anew__is_noted() -> None:
    spec = dataclasses.replace(SPEC, metrics=Metrics(track=(TRACK,), evaluation=("eval.py",)))
    world = World(spec, base_spec=SPEC)
    world.add("base", {"acc": 0.9})
    world.add("head", {"acc": 0.9}, evaluation="one")

    assert of(world).notes == (
        "the baseline does not declare its evaluation code, so it is not known whether that changed",
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"summary": Summary(kind=SummaryKind.BEST)},
            "its summary rule changed, so the values do not mean the same",
        ),
        ({"goal": Goal.MINIMIZE}, "its goal changed from minimize to maximize"),
    ],
)
def test_compare__changed_rule_of_a_metric__only_that_one_is_not_comparable(
    change: dict[str, object], reason: str
) -> None:
    other = Track(name="loss", goal=Goal.MINIMIZE)
    spec = dataclasses.replace(SPEC, metrics=Metrics(track=(TRACK, other)))
    before = dataclasses.replace(spec, metrics=Metrics(track=(dataclasses.replace(TRACK, **change), other)))
    world = World(spec, base_spec=before)
    for seed in range(3):
        world.add("base", {"acc": BASE[seed], "loss": 1.0 + seed}, seed)
        world.add("head", {"acc": BASE[seed], "loss": 1.0 + seed}, seed)
    found = of(world).metrics

    assert [metric.verdict for metric in found] == [Verdict.NOT_COMPARABLE, Verdict.SAME]
    assert found[0].reasons == (reason,)


def test_compare__other_hardware__is_noted() -> None:
    world = World(SPEC)
    world.add("base", {"acc": 0.9})
    trial = world.add("head", {"acc": 0.9})
    machine = Hardware(machine="g6.xlarge", cpus=4, gpus=("L4",))
    attempt = runs.attempt(trial, hardware=machine)
    world.records[trial.key] = dataclasses.replace(world.records[trial.key], attempt=attempt)

    assert of(world).notes == ("the sides ran on different hardware: `test-cpu` and now `g6.xlarge, L4`",)


# What decides


def test_compare__rules_of_the_target_branch__decide() -> None:
    mild = dataclasses.replace(TRACK, gate=Gate.OFF)
    new = Track(name="f1", goal=Goal.MAXIMIZE, gate=Gate.FAIL, floor=0.99, primary=True)
    edited = dataclasses.replace(SPEC, metrics=Metrics(track=(mild, new)))
    world = World(edited)
    for seed in range(3):
        world.add("base", {"acc": BASE[seed], "f1": 0.5}, seed)
        world.add("head", {"acc": WORSE[seed], "f1": 0.1}, seed)
    comparison = of(world, rules={"digits": SPEC})

    assert [(metric.track.name, metric.gate) for metric in comparison.metrics] == [
        ("acc", GateResult.FAIL),
        ("f1", GateResult.PASS),
    ]
    assert comparison.notes == ("the change edits the tracked metrics; their rules apply after the merge",)


def test_compare__repeats__newest_counts_and_earlier_are_shown() -> None:
    world = World(SPEC)
    world.add("base", {"acc": 0.9})
    for repeat, value in enumerate((0.1, 0.2, 0.9)):
        world.add("head", {"acc": value}, repeat=repeat)
    comparison = of(world)
    (trial,) = comparison.points[0].head_trials

    assert comparison.metrics[0].head.mean == 0.9
    assert (trial.repeat, trial.repeats) == (2, {"acc": (0.1, 0.2)})
    assert comparison.notes == ("the newest repeat counts for seed 0, trained more than once",)


def test_compare__newest_repeat_failed__the_one_before_counts() -> None:
    world = World(SPEC)
    world.add("base", {"acc": 0.9})
    world.add("head", {"acc": 0.9})
    world.add("head", None, repeat=1)
    (trial,) = of(world).points[0].head_trials

    assert (trial.repeat, trial.recorded) == (0, True)


def test_compare__curves__of_what_is_tracked_or_plotted() -> None:
    spec = dataclasses.replace(SPEC, plots=(Plot(y=("loss",)),))
    world = World(spec)
    for side in ("base", "head"):
        curves = [runs.series(name, 1.0, 2.0) for name in ("acc", "loss", "other")]
        world.add(side, {}, more={"series": tuple(curves)})
    (point,) = of(world).points

    assert [curve.name for curve in point.curves] == ["acc", "loss"]
    assert point.curves[0].head[0].values == (1.0, 2.0)


def test_compare__costs__count_failed_attempts_and_tell_what_was_spent_now() -> None:
    world = World(SPEC)
    world.add("base", {"acc": 0.9})
    trial = world.add("head", {"acc": 0.9})
    world.attempts[trial.key] = [runs.attempt(trial, Outcome.PREEMPTED, duration_s=4.0, cost_usd=0.25)]
    before = of(world)
    world.head[0] = dataclasses.replace(world.head[0], action=Action.RUN)
    after = of(world)

    assert (before.head_cost.duration_s, before.head_cost.cost_usd, before.head_cost.spent_s) == (14.0, 0.75, 0)
    assert (after.head_cost.spent_s, after.head_cost.spent_usd) == (14.0, 0.75)
    assert before.base_cost is not None
    assert before.base_cost.duration_s == 10.0


def test_compare__rented_machines__are_known_of_every_attempt() -> None:
    world = World(SPEC)
    world.add("base", {"acc": 0.9})
    trained = world.add("head", {"acc": 0.9})
    lost = world.add("head", None, 1)
    taken = [
        runs.attempt(trained, Outcome.PREEMPTED, number=1, cost_usd=0.25, usage=runs.usage(instance_id="i-1")),
        runs.attempt(trained, Outcome.LOST, number=2),
        runs.attempt(trained, Outcome.PREEMPTED, number=3, cost_usd=0.5, usage=runs.usage(instance_id="i-3")),
    ]
    world.attempts[trained.key] = taken
    world.attempts[lost.key] = [
        runs.attempt(lost, Outcome.LOST, number=n, cost_usd=1.0, usage=runs.usage(instance_id=f"i-{n}0"))
        for n in (1, 2)
    ]

    first, second = of(world).points[0].head_trials

    assert [(one.number, one.usage.instance_id, one.cost_usd) for one in first.rented] == [
        (1, "i-1", 0.25),
        (3, "i-3", 0.5),
    ]
    assert [(one.key, one.number, one.usage.instance_id) for one in second.rented] == [
        (lost.key, 1, "i-10"),
        (lost.key, 2, "i-20"),
    ]


def test_compare__changed_parameter_and_package__are_named() -> None:
    world = World(SPEC)
    environment = {"env": {}, "interpreter": {"packages": ["numpy==1.26"]}}
    world.add("base", {"acc": 0.9}, environment=environment, params={"lr": 0.1, "old": 1})
    environment = {"env": {}, "interpreter": {"packages": ["numpy==2.0"]}}
    world.add("head", {"acc": 0.9}, environment=environment, params={"lr": 0.05, "layers": [1, 2]})

    assert [(c.what, c.before, c.after) for c in of(world).changes][1:] == [
        ("environment.interpreter.packages.numpy", "1.26", "2.0"),
        ("params.layers", None, "[1, 2]"),
        ("params.lr", "0.1", "0.05"),
        ("params.old", "1", None),
    ]


# Sweeps

GRID = (0.1, 0.03, 0.01)
SWEPT = dataclasses.replace(SPEC, sweep=Sweep(grid={"lr": GRID}), params={"lr": 0.1})
CONFIRMED = dataclasses.replace(SWEPT, sweep=Sweep(grid={"lr": GRID}, confirm=(10, 11, 12)))


def swept(world: World, side: str, means: Sequence[float], spread: Sequence[float] = (-0.003, 0.003, 0.0)) -> World:
    for lr, mean in zip(GRID, means, strict=False):
        for seed, offset in enumerate(spread):
            world.add(side, {"acc": mean + offset}, seed, point={"lr": lr})
    return world


def test_compare__two_sweeps__best_against_best_and_point_by_point() -> None:
    world = swept(swept(World(SWEPT), "base", (0.90, 0.95, 0.80)), "head", (0.90, 0.85, 0.80), (0.003, -0.003, 0.001))
    comparison = of(world)

    assert (comparison.best_base, comparison.best_head) == ({"lr": 0.03}, {"lr": 0.1})
    assert [point.point for point in comparison.points] == [{"lr": lr} for lr in GRID]
    assert comparison.metrics[0].verdict is Verdict.WORSE
    assert [point.metrics[0].verdict for point in comparison.points] == [
        Verdict.SAME,
        Verdict.WORSE,
        Verdict.SAME,
    ]
    assert all(metric.gate is GateResult.PASS for point in comparison.points for metric in point.metrics)
    assert comparison.notes == (
        "best of 3 points for this change, not confirmed on fresh seeds",
        "best of 3 points for the baseline, not confirmed on fresh seeds",
    )


def test_compare__sweep_wins_without_confirmation__is_not_better() -> None:
    world = swept(World(SWEPT, base_spec=SPEC), "head", (0.99, 0.95, 0.90))
    for seed, value in enumerate(BASE):
        world.add("base", {"acc": value}, seed)
    metric = of(world).metrics[0]

    assert metric.verdict is Verdict.INCONCLUSIVE
    assert metric.reasons == ("looks better, but the value is the best of 3, not confirmed on fresh seeds",)


def test_compare__sweep_confirmed_on_fresh_seeds__only_those_decide() -> None:
    world = swept(World(CONFIRMED, base_spec=SPEC), "head", (0.99, 0.95, 0.90))
    for seed, value in enumerate(BASE):
        world.add("base", {"acc": value}, seed)
    for seed, value in zip((10, 11, 12), (0.952, 0.949, 0.9495), strict=True):
        world.add("head", {"acc": value}, seed, point={"lr": 0.1}, confirms=True)
    comparison = of(world)

    assert [sample.seed for sample in comparison.metrics[0].head.samples] == [10, 11, 12]
    assert (comparison.metrics[0].method, comparison.metrics[0].verdict) == ("Welch t", Verdict.SAME)
    assert comparison.notes == ("best of 3 points for this change, judged on 3 fresh seeds",)
    assert [trial.seed for trial in comparison.points[0].head_trials] == [0, 1, 2, 10, 11, 12]


def test_compare__sweep_confirmed_on_both_sides__points_show_all_runs_of_both() -> None:
    world = swept(World(CONFIRMED), "head", (0.99, 0.95, 0.90))
    swept(world, "base", (0.98, 0.95, 0.90))
    for side in ("head", "base"):
        for seed in (10, 11, 12):
            world.add(side, {"acc": 0.95 + seed / 1000}, seed, point={"lr": 0.1}, confirms=True)
    point = of(world).points[0]

    assert [trial.seed for trial in point.base_trials] == [0, 1, 2, 10, 11, 12]
    assert [trial.seed for trial in point.head_trials] == [0, 1, 2, 10, 11, 12]


def test_compare__confirmation_failed__does_not_pass() -> None:
    world = swept(World(CONFIRMED, base_spec=SPEC), "head", (0.99, 0.95, 0.90))
    world.add("base", {"acc": 0.95})
    world.add("head", None, 10, point={"lr": 0.1}, confirms=True)

    assert (of(world).metrics[0].verdict, of(world).gate) == (Verdict.MISSING, GateResult.FAIL)


def test_compare__confirmation_not_trained_yet__cannot_be_better() -> None:
    world = swept(World(CONFIRMED, base_spec=SPEC), "head", (0.99, 0.95, 0.90))
    for seed, value in enumerate(BASE):
        world.add("base", {"acc": value}, seed)
    comparison = of(world)

    assert comparison.metrics[0].verdict is Verdict.INCONCLUSIVE
    assert comparison.notes == ("best of 3 points for this change, not yet trained on the seeds that confirm it",)


def test_compare__baseline_without_the_sweep__its_point_is_found_by_its_parameters() -> None:
    world = swept(World(SWEPT, base_spec=dataclasses.replace(SPEC, params={"lr": 0.03})), "head", (0.9, 0.9, 0.9))
    for seed, value in enumerate(BASE):
        world.add("base", {"acc": value}, seed)
    points = of(world).points

    assert [len(point.base_trials) for point in points] == [0, 3, 0]
    assert [point.metrics[0].verdict for point in points] == [Verdict.NEW, Verdict.WORSE, Verdict.NEW]


def test_compare__point_with_a_failed_seed__cannot_win() -> None:
    world = swept(World(SWEPT), "base", (0.9, 0.9, 0.9))
    world.add("head", {"acc": 0.999}, 0, point={"lr": 0.1})
    world.add("head", None, 1, point={"lr": 0.1})
    world.add("head", {"acc": 0.9}, 0, point={"lr": 0.03})
    world.add("head", {"acc": 0.9}, 1, point={"lr": 0.03})
    comparison = of(world)

    assert comparison.best_head == {"lr": 0.03}
    assert "1 of 2 points of this change lack a result and could not win" in comparison.notes


def test_compare__no_point_has_values__fails() -> None:
    world = swept(World(SWEPT), "base", (0.9, 0.9, 0.9))
    for lr in GRID:
        world.add("head", None, point={"lr": lr})

    assert (of(world).metrics[0].verdict, of(world).gate) == (Verdict.MISSING, GateResult.FAIL)


def test_winner__order_of_records__does_not_matter() -> None:
    world = swept(World(SWEPT), "head", (0.90, 0.95, 0.95))
    records = dict(world.records)
    backwards = dict(reversed(records.items()))

    assert winner(SWEPT, records) == winner(SWEPT, backwards)
    assert winner(SWEPT, records) in ({"lr": 0.03}, {"lr": 0.01})


def test_winner__goal_minimize_and_primary__rank() -> None:
    loss = Track(name="loss", goal=Goal.MINIMIZE, primary=True)
    spec = dataclasses.replace(SWEPT, metrics=Metrics(track=(TRACK, loss)), seeds=(0,))
    world = World(spec)
    for lr, acc, value in ((0.1, 0.99, 2.0), (0.03, 0.5, 1.0)):
        world.add("head", {"acc": acc, "loss": value}, point={"lr": lr})

    assert winner(spec, world.records) == {"lr": 0.03}


def test_winner__nothing_to_rank_by__is_none() -> None:
    spec = dataclasses.replace(SWEPT, metrics=Metrics(track=(Track(name="acc"),)))
    world = swept(World(spec), "head", (0.9, 0.95, 0.8))

    assert winner(spec, world.records) is None
    assert winner(SWEPT, {}) is None


def test_winner__agrees_with_the_comparison() -> None:
    world = swept(swept(World(SWEPT), "base", (0.9, 0.9, 0.9)), "head", (0.90, 0.95, 0.97))

    head = {planned.trial.key: world.records[planned.trial.key] for planned in world.head}

    assert of(world).best_head == winner(SWEPT, head) == {"lr": 0.01}


def test_gate__of_several_experiments__is_the_worst() -> None:
    good, bad = World(SPEC).fill("acc", BASE, BETTER), World(SPEC).fill("acc", BASE, WORSE)
    experiments = (of(good), of(bad))

    assert Comparison(head=runs.HEAD, baseline=runs.BASELINE, experiments=experiments).gate is GateResult.FAIL
