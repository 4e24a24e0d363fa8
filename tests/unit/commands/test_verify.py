"""A ledger that is whole, and each way in which it can be off: found, named, and nothing else refuses to work."""

import json

import pytest

from gitops_ml.ledger import attempt_path, record_path, series_path
from gitops_ml.records import attempt_to_json, json_bytes
from tests.fakes import ledgers
from tests.fakes.ledgers import command
from tests.fakes.repositories import commit, git, make_remote, make_repository, write

ONE, OTHER = ledgers.record(0.9), ledgers.record(0.8, 1)
REPORT = next(path for path in ledgers.report_files() if path.endswith("report.json"))
ATTEMPT = attempt_path(ONE.key, 1)
FOLDER = record_path(ONE.key).rpartition("/")[0]


def files():
    return {
        **ledgers.record_files(ONE),
        **ledgers.record_files(OTHER),
        **ledgers.report_files(),
        ATTEMPT: json_bytes(attempt_to_json(ONE.attempt)),
        "README.md": b"# Results\n",
    }


@pytest.fixture
def writer(tmp_path):
    """Return a clone in which the ledger is checked out, to be written by hand, with a whole ledger pushed."""
    remote = make_remote(tmp_path / "remote.git")
    make_repository(tmp_path / "work", {"train.py": "pass"}, remote=remote)
    by_hand = make_repository(tmp_path / "hand", remote=remote)
    git(by_hand, "checkout", "-q", "--orphan", ledgers.BRANCH)
    commit(by_hand, files())
    git(by_hand, "push", "-q", "origin", ledgers.BRANCH)
    return by_hand


def push(writer, *options):
    git(writer, "push", "-q", *options, "origin", ledgers.BRANCH)


def verify(tmp_path):
    said = command(tmp_path / "work", "verify", "--format", "json")
    document = json.loads(said.out)
    assert said.code == (1 if document["findings"] else 0)
    return document


def findings(tmp_path):
    return [(one["where"], one["message"]) for one in verify(tmp_path)["findings"]]


def test_verify__whole_ledger__is_fine(tmp_path, writer):
    said = command(tmp_path / "work", "verify")

    tip = git(writer, "rev-parse", "HEAD")
    assert (said.code, said.err) == (0, "")
    assert said.out == f"ledger {tip[:12]}: 2 records, 1 attempt, 1 report, 2 outputs: nothing off\n"


def test_verify__no_ledger__is_fine(tmp_path):
    said = command(make_repository(tmp_path / "new", {"a": ""}), "verify")

    assert (said.code, said.out, said.err) == (0, "", "there is no ledger yet: no branch gitops-ml/reports\n")


def test_verify__tampered_record__is_found_by_its_key_and_by_its_history(tmp_path, writer):
    document = json.loads(files()[record_path(ONE.key)])
    document["document"]["params"]["lr"] = document["params"]["lr"] = 0.7
    tampered = commit(writer, {record_path(ONE.key): json_bytes(document)})
    push(writer)

    (changed, keyed) = findings(tmp_path)

    where = record_path(ONE.key)
    assert changed == (where, f"changed by commit {tampered[:12]}; the ledger is only appended to")
    assert keyed[0] == where
    assert keyed[1].endswith(f"not {ONE.key[:12]}: it was changed after it was written")


@pytest.mark.parametrize(
    ("path", "data", "messages"),
    [
        (f"{FOLDER}/outputs/confusion.json", b"[[2]]", {"has the sha256 "}),
        (series_path(ONE.key), b"metric,step,time,value\nloss,0,,0.5\n", {"the series 'loss' is not the one that"}),
        (series_path(ONE.key), b"nonsense\n", {"cannot be read: line 1 of the series"}),
        (record_path(ONE.key), b"{", {"cannot be read: not valid JSON"}),
        (ATTEMPT, json_bytes(attempt_to_json(OTHER.attempt)), {f"is of another key, {OTHER.key[:12]}"}),
        (REPORT, b"{}", {"cannot be read: this is no report"}),
    ],
)
def test_verify__changed_file__is_found(path, data, messages, tmp_path, writer):
    commit(writer, {path: data})
    push(writer)

    found = findings(tmp_path)

    assert {where for where, _ in found} == {path}
    assert "changed by commit " in found[0][1]
    assert all(any(message.startswith(wanted) for _, message in found) for wanted in messages)


def test_verify__removed_file_that_was_put_back__is_found(tmp_path, writer):
    data = (writer / REPORT).read_bytes()
    (writer / REPORT).unlink()
    removed = commit(writer, {})
    commit(writer, {REPORT: data})
    push(writer)

    assert findings(tmp_path) == [(REPORT, f"removed by commit {removed[:12]}; the ledger is only appended to")]


def test_verify__merge_that_drops_a_side__is_found(tmp_path, writer):
    third = ledgers.record(0.7, 2)
    git(writer, "checkout", "-q", "-b", "side")
    commit(writer, ledgers.record_files(third))
    git(writer, "checkout", "-q", ledgers.BRANCH)
    commit(writer, {"README.md": b"# Other\n"})
    git(writer, "merge", "-q", "-s", "ours", "-m", "drop", "side")
    push(writer)

    assert {where for where, _ in findings(tmp_path)} == set(ledgers.record_files(third))


def test_verify__merge_that_keeps_both_sides__is_fine(tmp_path, writer):
    git(writer, "checkout", "-q", "-b", "side")
    commit(writer, ledgers.record_files(ledgers.record(0.7, 2)))
    git(writer, "checkout", "-q", ledgers.BRANCH)
    commit(writer, ledgers.record_files(ledgers.record(0.6, 3)))
    git(writer, "merge", "-q", "-m", "both", "side")
    push(writer)

    assert findings(tmp_path) == []


def test_verify__force_pushed_ledger__is_found_again_and_again(tmp_path, writer):
    assert findings(tmp_path) == []
    before = git(writer, "rev-parse", "HEAD")
    git(writer, "commit", "-q", "--amend", "-m", "rewritten")
    push(writer, "--force")

    for _ in range(2):
        ((where, message),) = findings(tmp_path)
        assert where == f"commit {before[:12]}"
        assert "rewritten (force-pushed)" in message
    assert command(tmp_path / "work", "log").code == 0


def test_verify__ledger_that_was_put_right_again__is_fine(tmp_path, writer):
    assert findings(tmp_path) == []
    before = git(writer, "rev-parse", "HEAD")
    git(writer, "commit", "-q", "--amend", "-m", "rewritten")
    push(writer, "--force")
    assert findings(tmp_path)
    git(writer, "reset", "-q", "--hard", before)
    push(writer, "--force")

    # The tip of the rewriting was seen too, and has gone.
    assert before[:12] not in {where.removeprefix("commit ") for where, _ in findings(tmp_path)}


def test_verify__half_a_record_and_what_has_no_place__are_found(tmp_path, writer):
    key = "ab" * 32
    write(writer, {f"records/ab/{key}/series.csv": b"metric,step,time,value\n", "notes.txt": b"hello"})
    commit(writer, {f"records/cd/{key}/record.json": b"{}", "reports/Digits/1/report.json": b"{}"})
    push(writer)

    assert findings(tmp_path) == [
        ("notes.txt", "has no place on the ledger"),
        (f"records/cd/{key}", "is named by no key or commit; nothing reads it"),
        ("reports/Digits/1", "is named by no key or commit; nothing reads it"),
        (f"records/ab/{key}", "has no record.json: half a record, which nothing reads"),
    ]


def test_verify__newer_schemas__are_said_and_left_alone(tmp_path, writer):
    key, report = "ab" * 32, "reports/digits/" + "0" * 12 + "-" + "0" * 8 + "/report.json"
    newer = {
        record_path(key): json_bytes({"schema": "gitops-ml/record/v2", "new": True}),
        attempt_path(key, 1): json_bytes({"schema": "gitops-ml/attempt/v2"}),
        report: json_bytes({"schema": "gitops-ml/report/v17"}),
    }
    commit(writer, newer)
    push(writer)

    found = verify(tmp_path)

    assert (found["findings"], found["newer"]) == ([], sorted(newer))
    assert command(tmp_path / "work", "log").code == 0
