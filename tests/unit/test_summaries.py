"""One value per metric from what a trial left."""

import math
from pathlib import Path

import pytest

from gitops_ml.readers.base import merge, read_outputs
from gitops_ml.records import NOT_WRITTEN, Problem, Record, Scalar, SeriesRange
from gitops_ml.spec import Goal, Read, Summary, SummaryKind, Track
from gitops_ml.summaries import Metrics, Unusable, summary_value
from tests.fakes import runs

SPEC = runs.experiment()
NAN, INF = math.nan, math.inf


def record(**fields: object) -> Record:
    return runs.record(runs.trial(SPEC), **fields)


def track(kind: SummaryKind = SummaryKind.LAST, goal: Goal = Goal.MAXIMIZE, name: str = "acc", **of: object) -> Track:
    return Track(name=name, goal=goal, summary=Summary(kind=kind, **of))


def value(wanted: Track, *series: tuple[float, ...], others: tuple[Track, ...] = (), **fields: object) -> object:
    names = ("acc", "val/loss")
    written = [runs.series(name, *values) for name, values in zip(names, series, strict=False)]
    return summary_value(wanted, Metrics(record(series=written, **fields)), (wanted, *others))


LOSS = track(name="val/loss", goal=Goal.MINIMIZE)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (track(), 0.6),
        (track(SummaryKind.BEST), 0.9),
        (track(SummaryKind.BEST, Goal.MINIMIZE), 0.5),
        (track(SummaryKind.MIN), 0.5),
        (track(SummaryKind.MAX, Goal.MINIMIZE), 0.9),
        (track(SummaryKind.MEAN_LAST, k=2), 0.75),
        (track(SummaryKind.AT, at=SummaryKind.BEST, of="val/loss"), 0.9),
        (track(SummaryKind.AT, at=SummaryKind.MAX, of="val/loss"), 0.5),
    ],
)
def test_summary_value__each_rule__its_value(wanted: Track, expected: float) -> None:
    assert value(wanted, (0.5, 0.9, 0.6), (3.0, 1.0, 2.0), others=(LOSS,)) == pytest.approx(expected)


def test_summary_value__final_value__counts_for_every_rule_of_one_value() -> None:
    for kind in (SummaryKind.LAST, SummaryKind.BEST, SummaryKind.MIN, SummaryKind.MAX):
        assert value(track(kind), values={"acc": 0.7}) == 0.7


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (track(SummaryKind.MEAN_LAST, k=3), "is one final value; `mean_last` needs a series"),
        (track(SummaryKind.AT, at=SummaryKind.BEST, of="x"), "is one final value; `at` needs a series"),
        (track(name="other"), "is not among the metrics that the trial left"),
    ],
)
def test_summary_value__final_value_for_a_series_rule__says_what_is_needed(wanted: Track, text: str) -> None:
    assert value(wanted, values={"acc": 0.7}) == Unusable(text)


@pytest.mark.parametrize(
    ("wanted", "series", "text"),
    [
        (track(), (0.5, NAN), "is NaN at step 1"),
        (track(), (0.5, INF), "is infinite at step 1"),
        (track(SummaryKind.BEST), (0.9, NAN, 0.5), "is NaN at step 1"),
        (track(SummaryKind.MAX), (0.9, -INF), "is infinite at step 1"),
        (track(SummaryKind.MEAN_LAST, k=2), (0.9, NAN, 0.5), "is NaN at step 1"),
    ],
)
def test_summary_value__not_finite__is_invalid(wanted: Track, series: tuple[float, ...], text: str) -> None:
    assert value(wanted, series) == Unusable(text, invalid=True)


def test_summary_value__nan_that_was_overcome__does_not_spoil_the_last() -> None:
    assert value(track(), (NAN, 0.5)) == 0.5
    assert value(track(SummaryKind.MEAN_LAST, k=1), (NAN, 0.5)) == 0.5


@pytest.mark.parametrize("bad", [NAN, INF])
def test_summary_value__final_value_not_finite__is_invalid(bad: float) -> None:
    word = "NaN" if math.isnan(bad) else "infinite"
    assert value(track(), values={"acc": bad}) == Unusable(f"is {word}", invalid=True)


def test_summary_value__too_few_values__says_how_many() -> None:
    assert value(track(SummaryKind.MEAN_LAST, k=5), (1.0, 2.0)) == Unusable("has 2 values, `mean_last: 5` needs 5")


AT_BEST = track(SummaryKind.AT, at=SummaryKind.BEST, of="val/loss")


def test_summary_value__at_another_without_goal__says_so() -> None:
    found = value(AT_BEST, (1.0,), (1.0,))
    assert found == Unusable("has no value: what is best for `val/loss` is not said; track it with a goal")


def test_summary_value__at_another_that_is_missing__says_so() -> None:
    found = value(AT_BEST, (1.0,), others=(LOSS,))
    assert found == Unusable("has no value: `val/loss`, at whose best it is taken, has no series")


def test_summary_value__at_another_that_diverged__is_invalid() -> None:
    found = value(AT_BEST, (1.0, 2.0), (1.0, NAN), others=(LOSS,))
    assert found == Unusable("cannot be taken at the best of `val/loss`, which is NaN at step 1", invalid=True)


def test_summary_value__at_a_step_without_value__says_which() -> None:
    made = record(series=[runs.series("acc", 0.5, 0.6, steps=(0, 2)), runs.series("val/loss", 3.0, 1.0, 2.0)])
    found = summary_value(AT_BEST, Metrics(made), (AT_BEST, LOSS))
    assert found == Unusable("has no value at step 1, where `val/loss` is at its best")


def test_summary_value__step_written_twice__last_one_counts() -> None:
    made = record(series=[runs.series("acc", 0.1, 0.2, 0.3, steps=(0, 1, 1)), runs.series("val/loss", 2.0, 1.0)])
    assert summary_value(AT_BEST, Metrics(made), (AT_BEST, LOSS)) == 0.3


def test_summary_value__name_in_several_files__says_how_to_write_it() -> None:
    found = value(track(), values={"a.json:acc": 1.0, "b.json:acc": 2.0})
    assert found == Unusable("stands in several files: write `a.json:acc` or `b.json:acc`")
    assert value(track(name="b.json:acc"), values={"a.json:acc": 1.0, "b.json:acc": 2.0}) == 2.0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(SummaryKind.LAST, 0.6), (SummaryKind.BEST, 0.9), (SummaryKind.MIN, 0.5), (SummaryKind.MAX, 0.9)],
)
def test_summary_value__points_not_read__range_tells(kind: SummaryKind, expected: float) -> None:
    known = SeriesRange(name="acc", points=3, first=0.5, last=0.6, minimum=0.5, maximum=0.9)
    assert value(track(kind), ranges=(known,)) == expected


def test_summary_value__points_not_read_and_needed__says_so() -> None:
    known = SeriesRange(name="acc", points=3, first=0.5, last=NAN, minimum=0.5, maximum=0.9)
    assert value(track(SummaryKind.MEAN_LAST, k=2), ranges=(known,)) == Unusable(
        "has no points here, and `mean_last` needs them"
    )
    assert value(track(), ranges=(known,)) == Unusable("is NaN", invalid=True)


def test_summary_value__thinned_series__no_mean_of_the_last() -> None:
    found = value(track(SummaryKind.MEAN_LAST, k=2), (1.0, 2.0, 3.0), decimated=True)
    assert found == Unusable("was too large to be kept whole, so `mean_last` cannot be taken; log less often")


def test_summary_value__near_the_largest_double__mean_is_finite() -> None:
    assert value(track(SummaryKind.MEAN_LAST, k=2), (1.7e308, 1.7e308)) == pytest.approx(1.7e308)


def test_metrics__problems__only_those_of_no_metric_are_faults() -> None:
    about_one = Problem(file="m.json", where="acc", message="is NaN")
    torn = Problem(file="m.csv", where="line 12", message="is cut off")

    assert Metrics(record(values={"acc": NAN}, problems=(about_one,))).fault is None
    assert Metrics(record(values={"acc": 1.0}, problems=(about_one, torn))).fault == "m.csv line 12: is cut off"


def test_metrics__two_kinds_of_one_name__series_counts() -> None:
    made = record(series=[runs.series("acc", 0.1, 0.2)], scalars=(Scalar(name="acc", value=9.0),))
    assert summary_value(track(), Metrics(made)) == 0.2


def test_summary_value__tracked_metric_was_not_written__missing_and_the_others_count() -> None:
    absent = Problem(file="m.json", where="f1", message=f"{NOT_WRITTEN}; the files hold: acc")
    metrics = Metrics(record(values={"acc": 0.9}, problems=(absent,)))

    assert summary_value(track(), metrics) == 0.9
    assert summary_value(Track(name="f1"), metrics) == Unusable(
        "has no value: the tracked metric was not written; the files hold: acc"
    )


def test_summary_value__name_in_two_files__concerns_no_other_and_not_the_qualified_one() -> None:
    twice = Problem(
        file="a.json", where="epoch", message="`epoch`: the same name in a.json, b.json; write `a.json:epoch`"
    )
    metrics = Metrics(record(values={"acc": 0.9, "a.json:epoch": 3, "b.json:epoch": 4}, problems=(twice,)))

    assert metrics.fault is None
    assert summary_value(track(), metrics) == 0.9
    assert summary_value(Track(name="a.json:epoch"), metrics) == 3


@pytest.mark.parametrize("name", ["acc", "m.csv:acc"])
def test_summary_value__text_among_its_numbers__is_invalid(name: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("step,acc,loss\n0,0.9,0.1\n1,diverged,0.2\n")
    _, written, problems = merge(read_outputs(tmp_path, [Read(path="m.csv")]), {name})
    metrics = Metrics(record(series=written, problems=problems))
    found = summary_value(Track(name=name), metrics)

    assert isinstance(found, Unusable)
    assert found.invalid
    assert found.text.startswith("cannot be trusted: it is no number in 1 rows, the first is `diverged`")
    assert summary_value(Track(name="loss"), metrics) == 0.2


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("m.csv", "step,loss,acc\n0,2,0.1\n1,,0.2\n"),
        ("m.jsonl", '{"step": 0, "loss": 2, "acc": 0.1}\n{"step": 1, "loss": null, "acc": 0.2}\n'),
    ],
)
def test_summary_value__no_value_to_the_end__is_invalid(file: str, content: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(content)
    _, written, problems = merge(read_outputs(tmp_path, [Read(path=file)]), {"loss"})
    metrics = Metrics(record(series=written, problems=problems))
    found = summary_value(Track(name="loss"), metrics)

    assert isinstance(found, Unusable)
    assert found.invalid
    assert summary_value(Track(name="acc"), metrics) == 0.2


def test_summary_value__steps_go_back_after_a_restart__counts(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("step,acc\n0,0.7\n1,0.8\n1,0.9\n0,0.6\n1,0.95\n")
    _, written, problems = merge(read_outputs(tmp_path, [Read(path="m.csv")]))

    assert [problem.where for problem in problems] == ["acc"]
    assert summary_value(track(), Metrics(record(series=written, problems=problems))) == 0.95


def test_summary_value__torn_file__no_value_of_it_counts() -> None:
    torn = Problem(file="m.csv", where="line 12", message="is cut off")
    found = summary_value(track(), Metrics(record(values={"acc": 1.0}, problems=(torn,))))

    assert found == Unusable("cannot be trusted: m.csv line 12: is cut off", invalid=True)
