"""What the publishing job takes from the training job, and what it refuses."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitops_ml.errors import DeniedError, UserError
from gitops_ml.handover import HandoverError, Writer, digest_of, take
from gitops_ml.planning import Trial
from gitops_ml.records import Attempt, Origin, Outcome, json_document, record_from_json
from gitops_ml.spec import Artifact, Goal, Metrics, Read, Track
from tests.fakes.runs import attempt, experiment, record, trial

CI = Origin(kind="ci", run_url="https://github.example/runs/1")
SPEC = experiment(
    metrics=Metrics(read=(Read(path="out/metrics.json"),), track=(Track(name="accuracy", goal=Goal.MAXIMIZE),)),
    artifacts=(Artifact(path="out/small.json", store="git"), Artifact(path="out/model.bin")),
)
TRIAL = trial(SPEC)
RECORD = f"records/{TRIAL.key[:2]}/{TRIAL.key}/record.json"


def _made(folder: Path, of: Trial = TRIAL, failed: tuple[Attempt, ...] = (), **fields: Any) -> str:
    """Hand over one trial's outputs as the training job does, and return the digest that it says."""
    from gitops_ml.outputs import made_record
    from gitops_ml.storage.folder import FolderStorage

    outputs = folder.parent / "outputs"
    for path, text in {"metrics.json": '{"accuracy": 0.9}', "small.json": "{}", "model.bin": "weights"}.items():
        (outputs / "out").mkdir(parents=True, exist_ok=True)
        (outputs / "out" / path).write_text(text)
    made, _ = made_record(of, attempt(of, **fields), outputs, FolderStorage(folder.parent / "storage"))
    writer = Writer(folder)
    writer.add(of, made, outputs)
    return writer.close(failed)


def _edit(folder: Path, change: Any) -> str:
    index = json.loads((folder / "handover.json").read_text())
    change(index)
    (folder / "handover.json").write_text(json.dumps(index))
    return digest_of(folder)


def test_take__what_was_handed_over__makes_the_record_anew(tmp_path):
    digest = _made(tmp_path / "raw")
    taken = take(tmp_path / "raw", digest, [TRIAL], CI)
    made = record_from_json(json_document(taken.files[RECORD]))

    assert taken.records == (TRIAL.key,)
    assert taken.costs_usd == (0.5,)
    assert [(scalar.name, scalar.value) for scalar in made.scalars] == [("accuracy", 0.9)]
    assert made.attempt.origin == CI
    assert {file.path: file.store for file in made.files} == {
        "out/metrics.json": "storage",
        "out/model.bin": "storage",
        "out/small.json": "git",
    }
    # The weights stay where they are: nobody carries them through the CI's artifacts.
    assert sorted(path.name for path in (tmp_path / "raw").rglob("*") if path.is_file()) == [
        "handover.json",
        "metrics.json",
        "small.json",
    ]


def test_take__predictions__reach_the_ledger_of_the_job_that_publishes(tmp_path):
    of = trial(experiment(metrics=Metrics(read=(Read(path="out/metrics.json"),), predictions="out/preds.csv")))
    (tmp_path / "outputs/out").mkdir(parents=True)
    (tmp_path / "outputs/out/preds.csv").write_text("id,correct\na,1\n")

    taken = take(tmp_path / "raw", _made(tmp_path / "raw", of), [of], CI)

    folder = f"records/{of.key[:2]}/{of.key}"
    made = record_from_json(json_document(taken.files[f"{folder}/record.json"]))
    assert taken.files[f"{folder}/outputs/out/preds.csv"] == b"id,correct\na,1\n"
    assert {file.path: file.store for file in made.files}["out/preds.csv"] == "git"


def test_take__metric_changed_on_the_way__takes_nothing(tmp_path):
    digest = _made(tmp_path / "raw")
    (tmp_path / "raw" / "outputs" / TRIAL.key / "out" / "metrics.json").write_text('{"accuracy": 1.0}')

    with pytest.raises(DeniedError, match="somebody changed it on the way"):
        take(tmp_path / "raw", digest, [TRIAL], CI)


def test_take__trial_that_the_plan_does_not_have__is_refused(tmp_path):
    digest = _made(tmp_path / "raw")

    with pytest.raises(HandoverError, match="trials that are not in the plan"):
        take(tmp_path / "raw", digest, [trial(SPEC, seed=1)], CI)


def test_take__training_job_that_lies_about_everything__is_corrected_by_the_plan(tmp_path):
    _made(tmp_path / "raw")
    lies = {
        "experiment": "other",
        "commit": "f" * 40,
        "seed": 99,
        "params": {"lr": 9},
        "origin": {"kind": "local", "run_url": "https://evil.example", "user": "eve"},
        "key": "0" * 64,
        "dirty": True,
    }
    digest = _edit(tmp_path / "raw", lambda index: index["records"][TRIAL.key]["attempt"].update(lies))
    taken = take(tmp_path / "raw", digest, [TRIAL], CI)
    made = record_from_json(json_document(taken.files[RECORD])).attempt

    assert (made.experiment, made.commit, made.seed, made.params, made.origin, made.key, made.dirty) == (
        "digits",
        TRIAL.version.commit,
        0,
        {},
        CI,
        TRIAL.key,
        False,
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(schema="gitops-ml/handover/v9"),
        lambda index: index.update(records=[]),
        lambda index: index["records"].update({"../../x": index["records"][TRIAL.key]}),
        lambda index: index["records"][TRIAL.key]["attempt"].update(cost_usd=-1000.0),
        lambda index: index["records"][TRIAL.key]["attempt"].update(duration_s=-1.0),
        lambda index: index["records"][TRIAL.key]["attempt"].update(number=0),
        lambda index: index["records"][TRIAL.key]["attempt"].update(started_at="2026-01"),
        lambda index: index["records"][TRIAL.key]["attempt"].update(outcome="failed"),
        lambda index: index["records"][TRIAL.key]["files"].append({"path": "x\n", "sha256": "", "size_bytes": 1}),
        lambda index: index["failed"].append(index["records"][TRIAL.key]["attempt"]),
    ],
)
def test_take__index_that_we_would_not_write__is_refused_whole(tmp_path, change):
    _made(tmp_path / "raw")
    digest = _edit(tmp_path / "raw", change)

    with pytest.raises(HandoverError):
        take(tmp_path / "raw", digest, [TRIAL], CI)


def test_take__link_among_the_outputs__is_refused(tmp_path):
    digest = _made(tmp_path / "raw")
    secret = tmp_path / "secret"
    secret.write_text("canary")
    (tmp_path / "raw" / "outputs" / TRIAL.key / "out" / "link.json").symlink_to(secret)

    with pytest.raises(HandoverError, match="no regular file"):
        take(tmp_path / "raw", digest, [TRIAL], CI)


def test_take__pipe_among_the_outputs__is_refused_without_waiting(tmp_path):
    digest = _made(tmp_path / "raw")
    os.mkfifo(tmp_path / "raw" / "pipe")

    with pytest.raises(HandoverError, match="no regular file"):
        take(tmp_path / "raw", digest, [TRIAL], CI)


def test_take__failed_attempt__is_kept_with_a_short_log(tmp_path):
    other = trial(SPEC, seed=1)
    lost = attempt(other, Outcome.FAILED, log_tail="x" * 9000)
    digest = _made(tmp_path / "raw", failed=(lost,))
    taken = take(tmp_path / "raw", digest, [TRIAL, other], CI)

    (kept,) = taken.failed
    assert (len(kept.log_tail), kept.origin, kept.seed) == (4096, CI, 1)
    assert f"attempts/{other.key[:2]}/{other.key}/1.json" in taken.files
    assert sum(taken.costs_usd) == 1.0


def test_take__no_folder__says_so(tmp_path):
    with pytest.raises(UserError):
        take(tmp_path / "nowhere", "0" * 64, [TRIAL], CI)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=5,
    ),
    where=st.sampled_from(["records", "failed", "schema", "attempt", "files"]),
)
def test_take__index_of_any_shape__is_refused_in_words(tmp_path_factory, value, where):
    folder = tmp_path_factory.mktemp("handover") / "raw"
    _made(folder)

    def change(index: dict[str, Any]) -> None:
        (index["records"][TRIAL.key] if where in ("attempt", "files") else index)[where] = value

    digest = _edit(folder, change)
    try:
        taken = take(folder, digest, [TRIAL], CI)
    except UserError:
        return
    assert set(taken.records) <= {TRIAL.key}


def test_writer__folder_that_holds_something__is_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "old").touch()

    with pytest.raises(UserError, match="is not empty"):
        Writer(tmp_path / "raw")


def test_writer__record_without_outputs__is_nothing_to_copy(tmp_path):
    writer = Writer(tmp_path / "raw")
    writer.add(TRIAL, record(TRIAL), tmp_path / "nowhere")

    assert len(writer.close([])) == 64
