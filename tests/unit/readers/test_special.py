"""Predictions per example and confusion matrices."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitops_ml.readers.confusion import read_confusion
from gitops_ml.readers.predictions import read_predictions
from gitops_ml.records import ConfusionMatrix, Predictions

FIXTURES = Path(__file__).parents[2] / "fixtures" / "readers"


def predictions(folder, content):
    (folder / "p").write_text(content)
    found, problems = read_predictions(folder / "p", "p")
    return found, [f"{p.where}: {p.message}" if p.where else p.message for p in problems]


def confusion(folder, data):
    (folder / "c").write_text(data if isinstance(data, str) else json.dumps(data))
    found, problems = read_confusion(folder / "c", "c")
    return found, [f"{p.where}: {p.message}" if p.where else p.message for p in problems]


@pytest.mark.parametrize(
    ("content", "scores", "kind"),
    [
        ("id,correct\na,1\nb,0\n", (1.0, 0.0), "correct"),
        ("id,correct\na,True\nb,false\n", (1.0, 0.0), "correct"),
        ("id\tscore\na\t0.5\nb\t-2\n", (0.5, -2.0), "score"),
        ("id,target,prediction\na,cat,cat\nb,cat,dog\n", (1.0, 0.0), "correct"),
        ("id,target,prediction\na,3,3\nb,3,4\n", (1.0, 0.0), "correct"),
        ("id,target,prediction\na,3.5,3\nb,3,4\n", (0.5, 1.0), "error"),
        ('{"id": "a", "correct": true}\n{"id": "b", "correct": 0}\n', (1.0, 0.0), "correct"),
        (
            '{"id": "a", "target": 1, "prediction": 1}\n{"id": "b", "target": 1, "prediction": 2}\n',
            (1.0, 0.0),
            "correct",
        ),
    ],
)
def test_predictions__every_form__one_score_per_id(tmp_path, content, scores, kind):
    assert predictions(tmp_path, content) == (Predictions(ids=("a", "b"), scores=scores, kind=kind), [])


def test_predictions__repeated_id_and_bad_score__not_used_and_said(tmp_path):
    found, problems = predictions(tmp_path, "id,score\na,1\na,2\nb,x\nc,nan\nd,3\ne\n,5\n")

    assert found == Predictions(ids=("d",), scores=(3.0,), kind="score")
    assert problems == [
        "row 7: has 1 cells where the header has 2",
        "row 8: has no id or no value; it is not used",
        "`a`: 1 ids stand there more than once; none of their rows is used",
        "b: 2 examples have no finite score; they are not used",
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is empty"),
        (
            "id,label\na,1\n",
            "needs `id` and `correct`, `score`, or `target` and `prediction`; found are: `id`, `label`",
        ),
        ("id,id,score\na,a,1\n", "line 1: has a name that heads two columns"),
        ("id,score\n", "has no usable row"),
    ],
)
def test_predictions__unusable__says_why(tmp_path, content, problem):
    assert predictions(tmp_path, content) == (None, [problem])


def test_confusion__labels_and_matrix(tmp_path):
    found, problems = confusion(tmp_path, {"labels": ["cat", 1], "matrix": [[9, 1], [0.5, 8]]})

    assert found == ConfusionMatrix(labels=("cat", "1"), counts=((9.0, 1.0), (0.5, 8.0)))
    assert problems == []


def test_confusion__no_labels__numbered_from_0(tmp_path):
    found, problems = confusion(tmp_path, {"matrix": [[9, 1], [2, 8]]})

    assert (found.labels, problems) == (("0", "1"), [])


def test_confusion__dvclive__counted():
    found, problems = read_confusion(FIXTURES / "dvclive/live/plots/sklearn/confusion_matrix.json", "c")

    assert found == ConfusionMatrix(labels=("cat", "dog"), counts=((1.0, 0.0), (1.0, 1.0)))
    assert problems == ()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"labels": ["a"], "matrix": [[1, 2]]}, "matrix: has not 1 rows of 1 numbers, one per label"),
        ({"labels": ["a"], "matrix": [[-1]]}, "matrix, row 1: holds something that is no count"),
        ({"labels": ["a"], "matrix": [[True]]}, "matrix, row 1: holds something that is no count"),
        ('{"labels": ["a"], "matrix": [[NaN]]}', "matrix, row 1: holds something that is no count"),
        ({"labels": ["a", "a"], "matrix": [[1, 1], [1, 1]]}, "labels: are not distinct texts or numbers"),
        ({"labels": [], "matrix": []}, "labels: are none"),
        ({"labels": [0] * 1001, "matrix": []}, "labels: are 1,001; at most 1,000 are read"),
        ({"matrix": []}, "labels: are none"),
        ([{"actual": "a"}], "row 1: has no `actual` and `predicted` label"),
        ([], "holds no confusion matrix but: list of 0 values"),
        ("3", "holds no confusion matrix but: number"),
    ],
)
def test_confusion__unusable__says_why(tmp_path, data, problem):
    found, problems = confusion(tmp_path, data)

    assert found is None
    assert problems == [problem]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.binary(max_size=300), start=st.sampled_from([b"", b"id,score\n", b'{"id":', b'{"labels":', b'[{"actual":'])
)
def test_special__random_bytes__never_raises(tmp_path, data, start):
    (tmp_path / "x").write_bytes(start + data)

    read_predictions(tmp_path / "x", "x")
    read_confusion(tmp_path / "x", "x")
