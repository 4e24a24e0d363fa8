"""What the publishing job takes from the training job, and what it refuses."""

import dataclasses
import io
import json
import os
import stat
import struct
import tempfile
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitops_ml.errors import DeniedError, UserError
from gitops_ml.handover import MAX_FILES, HandoverError, Writer, digest_of, ended_in, take, unpack
from gitops_ml.planning import Trial
from gitops_ml.records import Attempt, Origin, Outcome, json_document, record_from_json
from gitops_ml.spec import Artifact, Goal, Metrics, Read, Track
from tests.fakes.runs import attempt, experiment, record, trial, usage

CI = Origin(kind="ci", run_url="https://github.example/runs/1")
NOW = datetime(2026, 12, 1, 2, tzinfo=UTC)
ASKED = datetime(2026, 11, 30, 23, tzinfo=UTC)
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
    taken = take(tmp_path / "raw", digest, [TRIAL], CI, now=NOW)
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

    taken = take(tmp_path / "raw", _made(tmp_path / "raw", of), [of], CI, now=NOW)

    folder = f"records/{of.key[:2]}/{of.key}"
    made = record_from_json(json_document(taken.files[f"{folder}/record.json"]))
    assert taken.files[f"{folder}/outputs/out/preds.csv"] == b"id,correct\na,1\n"
    assert {file.path: file.store for file in made.files}["out/preds.csv"] == "git"


def test_take__metric_changed_on_the_way__takes_nothing(tmp_path):
    digest = _made(tmp_path / "raw")
    (tmp_path / "raw" / "outputs" / TRIAL.key / "out" / "metrics.json").write_text('{"accuracy": 1.0}')

    with pytest.raises(DeniedError, match="somebody changed it on the way"):
        take(tmp_path / "raw", digest, [TRIAL], CI, now=NOW)


def test_take__trial_that_the_plan_does_not_have__is_refused(tmp_path):
    digest = _made(tmp_path / "raw")

    with pytest.raises(HandoverError, match="trials that are not in the plan"):
        take(tmp_path / "raw", digest, [trial(SPEC, seed=1)], CI, now=NOW)


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
    taken = take(tmp_path / "raw", digest, [TRIAL], CI, now=NOW)
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
        take(tmp_path / "raw", digest, [TRIAL], CI, now=NOW)


def test_take__link_among_the_outputs__is_refused(tmp_path):
    digest = _made(tmp_path / "raw")
    secret = tmp_path / "secret"
    secret.write_text("canary")
    (tmp_path / "raw" / "outputs" / TRIAL.key / "out" / "link.json").symlink_to(secret)

    with pytest.raises(HandoverError, match="no regular file"):
        take(tmp_path / "raw", digest, [TRIAL], CI, now=NOW)


def test_take__pipe_among_the_outputs__is_refused_without_waiting(tmp_path):
    digest = _made(tmp_path / "raw")
    os.mkfifo(tmp_path / "raw" / "pipe")

    with pytest.raises(HandoverError, match="no regular file"):
        take(tmp_path / "raw", digest, [TRIAL], CI, now=NOW)


def test_take__failed_attempt__is_kept_with_a_short_log(tmp_path):
    other = trial(SPEC, seed=1)
    lost = attempt(other, Outcome.FAILED, log_tail="x" * 9000)
    digest = _made(tmp_path / "raw", failed=(lost,))
    taken = take(tmp_path / "raw", digest, [TRIAL, other], CI, now=NOW)

    (kept,) = taken.failed
    assert (len(kept.log_tail), kept.origin, kept.seed) == (4096, CI, 1)
    assert f"attempts/{other.key[:2]}/{other.key}/1.json" in taken.files
    assert sum(taken.costs_usd) == 1.0


def test_take__no_folder__says_so(tmp_path):
    with pytest.raises(UserError):
        take(tmp_path / "nowhere", "0" * 64, [TRIAL], CI, now=NOW)


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
        taken = take(folder, digest, [TRIAL], CI, now=NOW)
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


# A zip of it


NAMES = ("raw", "raw.env")


def _zip(entries: Sequence[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as packed:
        for name, content in entries:
            packed.writestr(name, content)
    return made.getvalue()


def _entry(name: str, kind: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (kind | 0o644) << 16
    return entry


def _unpacked(content: bytes, folder: Path, **limits: int) -> dict[str, bytes]:
    """Return what came of a zip: files by path, all in a folder of their own."""
    archive, into = folder / "a.zip", folder / "into"
    archive.write_bytes(content)
    unpack(archive, into, names=NAMES, **limits)
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    return {path.relative_to(into).as_posix(): path.read_bytes() for path in into.rglob("*") if path.is_file()}


def _refused(content: bytes, folder: Path, **limits: int) -> str:
    with pytest.raises(HandoverError) as caught:
        _unpacked(content, folder, **limits)
    # Nothing beside the folder that it was to be unpacked into.
    assert sorted(path.name for path in folder.iterdir()) in (["a.zip", "into"], ["a.zip"])
    return str(caught.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_unpack__folder_and_file__and_nothing_that_was_not_asked_for(tmp_path, method):
    link = _entry("other/link", stat.S_IFLNK)
    entries = [
        ("raw/", b""),
        ("raw/outputs/a b/\u00fc.json", b"{}"),
        ("raw/handover.json", b"[]"),
        ("raw.env", b"A=b\n"),
    ]
    more = [("report.html", b"<p>"), ("../up", b"x"), ("/abs", b"x"), (link, b"/etc/passwd"), ("raw2/x", b"x")]

    assert _unpacked(_zip([*entries, *more], method), tmp_path) == {
        "raw/outputs/a b/\u00fc.json": b"{}",
        "raw/handover.json": b"[]",
        "raw.env": b"A=b\n",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "into"]


def test_unpack__what_was_handed_over__is_taken(tmp_path):
    digest = _made(tmp_path / "raw")
    files = [path for path in (tmp_path / "raw").rglob("*") if path.is_file()]
    packed = _zip([(path.relative_to(tmp_path).as_posix(), path.read_bytes()) for path in files])
    (tmp_path / "there").mkdir()
    _unpacked(packed, tmp_path / "there")

    assert take(tmp_path / "there/into/raw", digest, [TRIAL], CI, now=NOW).records == (TRIAL.key,)


@pytest.mark.parametrize(
    "name",
    ["raw/../../up", "raw/..", "raw//x", "raw/./x", "raw/x\n", "raw/\x1b[2J", "raw/" + "a/" * 64 + "a"],
)
def test_unpack__path_that_leads_elsewhere_or_is_none__is_refused(tmp_path, name):
    assert _refused(_zip([(name, b"x")]), tmp_path) == f"the archive holds {name!r}, which is no path that we write"


def test_unpack__backslash__is_part_of_a_name(tmp_path):
    assert list(_unpacked(_zip([("raw/..\\..\\up", b"x")]), tmp_path)) == ["raw/..\\..\\up"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR])
def test_unpack__link_or_device__is_refused(tmp_path, kind):
    packed = _zip([(_entry("raw/x", kind), b"/etc/passwd"), ("raw/x/passwd", b"root")])

    assert _refused(packed, tmp_path) == "the archive holds 'raw/x', which is no regular file"


@pytest.mark.parametrize(
    "names",
    [("raw/x", "raw/x"), ("raw/x", "raw/x/y"), ("raw/x/y", "raw/x"), ("raw.env/x", "raw.env"), ("raw/" + "n" * 300,)],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_unpack__one_path_twice_or_a_name_too_long__is_refused(tmp_path, names):
    assert _refused(_zip([(name, b"x") for name in names]), tmp_path).startswith("the archive cannot be unpacked: ")


def test_unpack__bomb__ends_at_the_limit_whatever_it_says_of_its_size(tmp_path):
    packed = bytearray(_zip([("raw/x", bytes(2**24))]))
    at = packed.index(b"PK\x01\x02")
    packed[at + 24 : at + 28] = struct.pack("<I", 100)  # the size, as the list of files has it

    assert len(packed) < 2**15
    said = _refused(bytes(packed), tmp_path, max_file_bytes=2**20)
    # Of what claims to have 100 bytes no more than that is read, and its checksum is another's.
    assert said == "the archive cannot be unpacked: Bad CRC-32 for file 'raw/x'"
    (tmp_path / "b").mkdir()
    assert _refused(_zip([("raw/x", bytes(2**24))]), tmp_path / "b", max_file_bytes=2**20) == (
        "the archive holds too much: at most 1048576 bytes in a file, 1073741824 bytes together"
    )
    assert (tmp_path / "b/into/raw/x").stat().st_size <= 2**20


def test_unpack__many_that_are_too_much_together__are_refused(tmp_path):
    ten, eleven = (_zip([(f"raw/{number}", bytes(100)) for number in range(count)]) for count in (10, 11))

    assert len(_unpacked(ten, tmp_path, max_total_bytes=1000)) == 10
    (tmp_path / "b").mkdir()
    assert _refused(eleven, tmp_path / "b", max_total_bytes=1000) == (
        "the archive holds too much: at most 268435456 bytes in a file, 1000 bytes together"
    )


def test_unpack__too_many_files__are_refused(tmp_path):
    packed = _zip([(f"raw/{number}", b"") for number in range(MAX_FILES + 1)], zipfile.ZIP_STORED)

    assert _refused(packed, tmp_path) == "the archive holds more than 20000 files"


def test_unpack__list_of_files_without_end__is_not_read(tmp_path):
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 17 * 2**20, 0, 0)

    assert _refused(bytes(17 * 2**20) + end, tmp_path) == (
        "the archive cannot be unpacked: its list of files is longer than 16777216 bytes"
    )


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unpack__other_method__is_refused(tmp_path, method):
    assert _refused(_zip([("raw/x", b"x")], method), tmp_path) == (
        "the archive holds 'raw/x' by a method of compression that is not read"
    )


def test_unpack__encrypted__is_refused(tmp_path):
    packed = bytearray(_zip([("raw/x", b"x")]))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        packed[packed.index(mark) + offset] |= 1

    assert "is encrypted" in _refused(bytes(packed), tmp_path)


def test_unpack__entry_without_a_name__is_passed_over(tmp_path):
    nameless = zipfile.ZipInfo("raw/b")
    nameless.filename = ""

    assert _unpacked(_zip([(nameless, b""), ("raw/a", b"1")]), tmp_path) == {"raw/a": b"1"}


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x05\x06", bytes(100), b"PK\x05\x06" + b"\xff" * 18])
def test_unpack__what_is_no_zip__is_refused(tmp_path, content):
    assert _refused(content, tmp_path).startswith("the archive cannot be unpacked: ")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_unpack__any_bytes_in_place_of_some__unpacks_or_is_refused_and_stays_inside(tmp_path, data):
    packed = bytearray(_zip([("raw/a/b", b"text" * 40), ("raw.env", b"A=b"), ("raw/", b"")]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(packed) - 1))
        packed[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=6))
    place = Path(data.draw(st.builds(lambda: tempfile.mkdtemp(dir=tmp_path))))
    try:
        found = _unpacked(bytes(packed), place)
    except HandoverError:
        found = {}

    assert all(path.split("/")[0] in NAMES for path in found)
    assert sorted(path.name for path in place.iterdir()) in (["a.zip", "into"], ["a.zip"])


# What may be spent in a month is counted by these


@pytest.mark.parametrize(
    ("said", "since", "believed"),
    [
        ("2026-11-30T23:30:00Z", ASKED, "2026-11-30T23:30:00Z"),
        ("2026-10-01T00:00:00Z", ASKED, "2026-11-30T23:00:00Z"),
        ("0001-01-01T00:00:00Z", ASKED, "2026-11-30T23:00:00Z"),
        ("2027-01-01T00:00:00Z", ASKED, "2026-12-01T02:00:00Z"),
        ("2026-10-01T00:00:00Z", None, "2026-10-01T00:00:00Z"),
        ("9999-12-31T23:59:59Z", None, "2026-12-01T02:00:00Z"),
    ],
)
def test_take__date_of_an_attempt__lies_between_what_was_asked_for_and_now(tmp_path, said, since, believed):
    other = trial(SPEC, seed=1)
    digest = _made(tmp_path / "raw", failed=(attempt(other, Outcome.FAILED, started_at=said),), started_at=said)
    taken = take(tmp_path / "raw", digest, [TRIAL, other], CI, now=NOW, since=since)
    made = record_from_json(json_document(taken.files[RECORD]))

    assert (made.attempt.started_at, taken.failed[0].started_at) == (believed, believed)


@pytest.mark.parametrize(("said_usd", "believed_usd"), [(0.0, 1.5), (1.0, 1.5), (2.0, 2.0)])
def test_take__cost_of_an_attempt__is_never_below_its_price_and_seconds(tmp_path, said_usd, believed_usd):
    used = usage(usd_per_hour=1.0, billed_s=5400)
    digest = _made(tmp_path / "raw", usage=used, cost_usd=said_usd)
    taken = take(tmp_path / "raw", digest, [TRIAL], CI, now=NOW, since=ASKED)

    assert taken.costs_usd == (believed_usd,)
    assert record_from_json(json_document(taken.files[RECORD])).attempt.cost_usd == believed_usd


def test_take__price_and_seconds_beyond_all_numbers__are_refused(tmp_path):
    digest = _made(tmp_path / "raw", usage=usage(usd_per_hour=1e308, billed_s=1e308))

    with pytest.raises(HandoverError, match="whose product is no amount"):
        take(tmp_path / "raw", digest, [TRIAL], CI, now=NOW, since=ASKED)


# What was ended without a plan


def _ended(folder: Path, one: Attempt) -> str:
    return Writer(folder).close((), ended=(one,))


def test_ended_in__attempt_without_a_plan__keeps_its_change_and_gets_our_origin(tmp_path):
    whose = Origin(kind="local", run_url="https://mallory.example", change=7)
    digest = _ended(
        tmp_path / "raw", attempt(TRIAL, Outcome.CANCELLED, origin=whose, started_at="2030-01-01T00:00:00Z")
    )
    (found,) = ended_in(tmp_path / "raw", digest, CI, NOW)

    assert found.origin == dataclasses.replace(CI, change=7)
    assert (found.key, found.started_at) == (TRIAL.key, "2026-12-01T02:00:00Z")


@pytest.mark.parametrize(
    "fields", [{"key": "../records"}, {"cost_usd": -1.0}, {"number": 0}, {"outcome": Outcome.SUCCEEDED}]
)
def test_ended_in__what_no_attempt_can_be__is_refused(tmp_path, fields):
    digest = _ended(tmp_path / "raw", dataclasses.replace(attempt(TRIAL, Outcome.CANCELLED), **fields))
    with pytest.raises(HandoverError):
        ended_in(tmp_path / "raw", digest, CI, NOW)
