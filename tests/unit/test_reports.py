"""A report's files: the same bytes from the same records, whatever this run did."""

import dataclasses
import json

import pytest

from gitops_ml import reports
from gitops_ml.errors import UserError
from tests.fakes import comparisons as fakes


def test_build__recomputed_by_another_run__same_bytes_and_folder():
    first = fakes.experiment()
    trials = tuple(dataclasses.replace(trial, reused=True) for trial in first.points[0].head_trials)
    again = dataclasses.replace(
        first,
        points=(dataclasses.replace(first.points[0], head_trials=trials),),
        head_cost=dataclasses.replace(first.head_cost, spent_s=0.0, spent_usd=0.0),
        baseline=dataclasses.replace(first.baseline, behind=17),
    )

    assert reports.build(again) == reports.build(first)
    assert reports.plan_digest(again) == reports.plan_digest(first)


def test_build__holds_json_text_and_plots():
    files = reports.build(fakes.experiment())

    names = [name for name in files if not name.startswith("plots/")]
    assert names == ["report.json", "report.md"]
    assert len(files) == 6
    text = files["report.md"].decode()
    assert all(f"]({name})" in text for name in files if name.startswith("plots/"))
    assert [e.name for e in reports.comparison_from(files["report.json"], "x").experiments] == ["digits-mlp"]


@pytest.mark.parametrize(
    "changed",
    [
        {"metrics": (fakes.LOSS,)},
        {"baseline": dataclasses.replace(fakes.BASELINE, version=None)},
        {"points": fakes.failed_experiment().points},
        {"plots": ()},
    ],
)
def test_plan_digest__other_content__is_another(changed):
    before = fakes.experiment()

    assert reports.plan_digest(dataclasses.replace(before, **changed)) != reports.plan_digest(before)


@pytest.mark.parametrize("document", [None, [], {}, {"schema": "gitops-ml/report/v1"}, {"schema": 3}])
def test_experiment_from__no_report__says_where(document):
    with pytest.raises(UserError, match=r"^report.json: .*`gitops-ml report` writes it anew$"):
        reports.comparison_from(json.dumps(document).encode(), "report.json")


def test_build__large_report__stays_in_its_limits():
    experiment = fakes.big_experiment(200, 3, n=200)

    files = reports.build(experiment)

    assert len([name for name in files if name.startswith("plots/")]) == 12
    assert all(len(content) < 60_000 for name, content in files.items() if name.startswith("plots/"))
