"""What a succeeded trial brought back becomes its record."""

import pytest

from gitops_ml import wording
from gitops_ml.comparison import compare
from gitops_ml.outputs import collected, made_record
from gitops_ml.spec import Goal, Metrics, Read, Track
from gitops_ml.storage.folder import FolderStorage
from tests.fakes.runs import World, attempt, experiment, trial

TRACK = Track(name="accuracy", goal=Goal.MAXIMIZE)
SPEC = experiment(metrics=Metrics(read=(Read(path="m.json"),), track=(TRACK,), predictions="./preds.csv"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,correct\na,1\n", ()),
        (None, ("preds.csv as predictions: it was not written",)),
        ("", ("preds.csv as predictions: is empty",)),
        (
            "name,label\na,1\n",
            (
                (
                    "preds.csv as predictions: needs `id` and `correct`, `score`, or `target` and `prediction`; "
                    "found are: `name`, `label`"
                ),
            ),
        ),
        ("id,correct\na,1\n,1\n", ("preds.csv as predictions: row 3: has no id or no value; it is not used",)),
    ],
    ids=["sound", "missing", "empty", "wrong columns", "a row without id"],
)
def test_collected__predictions__what_cannot_be_used_is_said_and_costs_no_metric(tmp_path, text, said):
    (tmp_path / "m.json").write_text('{"accuracy": 0.9}')
    if text is not None:
        (tmp_path / "preds.csv").write_text(text)

    found = collected(trial(SPEC), tmp_path)

    assert found.ignored == said
    assert found.problems == ()


def test_collected__tracked_name_in_two_files__says_what_to_track(tmp_path):
    spec = experiment(metrics=Metrics(read=(Read(path="*.json"),), track=(TRACK,)))
    for name in ("last.json", "m.json"):
        (tmp_path / name).write_text('{"accuracy": 0.9}')

    *_, missing = collected(trial(spec), tmp_path).problems

    assert (missing.where, missing.message) == (
        "accuracy",
        "the tracked metric was not written by one file alone; track `last.json:accuracy` or `m.json:accuracy`",
    )


def test_collected__predictions_kept_elsewhere__are_not_missed(tmp_path):
    (tmp_path / "m.json").write_text('{"accuracy": 0.9}')

    assert collected(trial(SPEC), tmp_path, elsewhere=["preds.csv"]).ignored == ()


def test_problems__predictions_with_wrong_columns_in_three_seeds__the_report_says_why(tmp_path):
    (tmp_path / "m.json").write_text('{"accuracy": 0.9}')
    (tmp_path / "preds.csv").write_text("name,label\na,1\n")
    world = World(spec=SPEC).fill("accuracy", [0.8, 0.8, 0.8], [0.9, 0.9, 0.9])
    storage = FolderStorage(tmp_path / "storage")
    for planned in world.head:
        one = planned.trial
        world.records[one.key] = made_record(one, attempt(one), tmp_path, storage)[0]

    compared = compare(world.plan(), world.records, {})

    assert wording.problems(compared.experiments[0]) == [
        (
            "ignored: preds.csv as predictions: needs `id` and `correct`, `score`, or `target` and `prediction`; "
            "found are: `name`, `label` (3 of 3 trials)"
        )
    ]
