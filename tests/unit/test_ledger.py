"""The ledger: read many, append without loss, whatever dies or races."""

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gitops_ml.errors import ExitCode, GitError, ServiceError
from gitops_ml.git import RefusedError, Repository
from gitops_ml.ledger import Results, attempt_path, record_path, report_path, series_path
from gitops_ml.records import (
    Attempt,
    Outcome,
    Record,
    Series,
    attempt_to_json,
    json_bytes,
    record_to_json,
    series_to_csv,
)
from tests.fakes.repositories import ENVIRON, clone, commit, fingerprint, git, make_remote, make_repository, write

BRANCH = "gitops-ml/reports"


def key_of(number):
    return f"{number % 256:02x}" + f"{number:062x}"


def attempt(number, key, outcome=Outcome.FAILED, reason="exit code 1"):
    return Attempt(
        key=key, number=number, experiment="digits", outcome=outcome, reason=reason, exit_code=1, backend="local",
        commit="1" * 40, dirty=False, params={}, seed=0, started_at="2026-01-31T12:00:00Z", duration_s=1, cost_usd=0,
    )  # fmt: skip


def record(key, value=0.5):
    series = (Series(name="accuracy", steps=(0.0, 1.0), values=(0.1, value)),)
    return Record(
        key=key, document={"seed": 0}, experiment="digits", path="digits.yaml", commit="1" * 40, dirty=False,
        point={}, params={}, seed=0, repeat=0, attempt=attempt(1, key, Outcome.SUCCEEDED, "exit code 0"), scalars=(),
        series=series,
    )  # fmt: skip


def record_files(key, value=0.5):
    made = record(key, value)
    return {
        record_path(key): json_bytes(record_to_json(made)),
        series_path(key): series_to_csv(made.series)[0],
        f"records/{key[:2]}/{key}/outputs/confusion.json": b"[[1]]",
    }


def report_folder(experiment, number):
    return report_path(experiment, f"{number:012x}" + "0" * 28, f"{number:08x}" + "0" * 56)


def report_files(experiment, number, gate="pass"):
    folder = report_folder(experiment, number)
    return {f"{folder}/report.json": json_bytes({"gate": gate}), f"{folder}/report.md": b"# Report\n"}


@pytest.fixture
def remote(tmp_path):
    remote = make_remote(tmp_path / "remote.git")
    make_repository(tmp_path / "origin", {"train.py": "print(1)\n"}, remote=remote)
    return remote


@pytest.fixture
def open_results(tmp_path, remote):
    """Results of a fresh clone each; at the end every clone must be byte for byte as it was cloned."""
    opened = {}

    def opener(name="work", **options):
        folder = tmp_path / name
        if not folder.exists():
            clone(remote, folder)
        repository = Repository.find(folder, ENVIRON)
        opened.setdefault(folder, (fingerprint(folder), []))[1].append(repository)
        return Results(repository, remote="origin", branch=BRANCH, sleep=lambda _: None, **options)

    yield opener
    for folder, (before, repositories) in opened.items():
        for repository in repositories:
            repository.close()
        assert fingerprint(folder) == before


def ledger_paths(remote):
    return git(remote, "ls-tree", "-r", "--name-only", BRANCH).split()


# Reading and keeping


def test_results__nothing_anywhere__is_empty(open_results):
    results = open_results()
    results.refresh()

    assert results.keys() == frozenset()
    assert results.records([key_of(1)]) == {}
    assert list(results.all_records()) == []
    assert results.attempts([key_of(1)]) == {}
    assert results.report_files("reports/digits/1-2") is None
    assert results.warnings == ()


def test_keep__then_read__needs_no_remote(tmp_path):
    work = make_repository(tmp_path / "alone", {"a": "1"})
    with Repository.find(work, ENVIRON) as repository:
        results = Results(repository, remote="origin", branch=BRANCH)
        results.refresh()
        results.keep({**record_files(key_of(1)), **report_files("digits", 5)})

        assert results.keys() == {key_of(1)}
        assert results.records([key_of(1), key_of(2)])[key_of(1)].series == record(key_of(1)).series
        assert [one.key for one in results.all_records()] == [key_of(1)]
        assert results.report_files(report_folder("digits", 5)) == {
            "report.json": b'{\n "gate": "pass"\n}\n',
            "report.md": b"# Report\n",
        }
        assert results.warnings == ()
        with pytest.raises(GitError) as caught:
            results.push("x")

    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == (
        "there is no remote called `origin` to push results to; add one (git remote add origin URL) or name another "
        "as `ledger: {remote: ...}` in gitops-ml.yaml"
    )


def test_keep__record_that_is_there__stays(open_results):
    results = open_results()
    results.keep(record_files(key_of(1), 0.5))
    results.keep(record_files(key_of(1), 0.9))

    assert results.records([key_of(1)])[key_of(1)].series[0].values == (0.1, 0.5)


def test_keep__half_a_record_of_a_killed_process__is_none_and_is_completed(open_results):
    results = open_results()
    files = record_files(key_of(1))
    whole = files.pop(record_path(key_of(1)))
    results.keep(files)

    assert results.keys() == frozenset()
    assert results.kept() == {}
    assert results.records([key_of(1)]) == {}

    results.keep({**files, record_path(key_of(1)): whole})

    assert results.keys() == {key_of(1)}


def test_keep__attempts_under_one_number__get_numbers_of_their_own(open_results):
    results = open_results()
    for reason in ("one", "two", "two"):
        results.keep({attempt_path(key_of(1), 1): json_bytes(attempt_to_json(attempt(1, key_of(1), reason=reason)))})

    found = results.attempts([key_of(1)])[key_of(1)]

    assert [(one.number, one.reason) for one in found] == [(1, "one"), (2, "two")]


@pytest.mark.parametrize("path", ["../x", "records/../../x", "/etc/x", "README.md", "records//x", "other/x"])
def test_keep__path_that_is_no_place_on_the_ledger__is_refused(path, open_results):
    with pytest.raises(GitError, match="is no place on the ledger"):
        open_results().keep({path: b""})


def test_records__broken_one__is_left_out_and_named(open_results):
    results = open_results()
    results.keep({**record_files(key_of(1)), record_path(key_of(2)): b"[]", record_path(key_of(3)): json_bytes(
        record_to_json(record(key_of(4)))
    )})  # fmt: skip
    results.push("x")

    found = open_results("other")
    found.refresh()

    assert set(found.records([key_of(n) for n in range(5)])) == {key_of(1)}
    assert [one.key for one in found.all_records()] == [key_of(1)]
    assert sorted(found.warnings) == [
        f"the record {key_of(2)[:12]} cannot be read and is left out: not a JSON object",
        f"the record {key_of(3)[:12]} cannot be read and is left out: it says that its key is {key_of(4)[:12]}",
    ]


# Pushing


def test_push__everything_kept__is_one_commit_on_an_orphan_branch(open_results, remote):
    results = open_results()
    failed = json_bytes(attempt_to_json(attempt(1, key_of(2))))
    files = {**record_files(key_of(1)), **report_files("digits", 5), attempt_path(key_of(2), 1): failed}
    results.keep(files)
    head = git(remote, "rev-parse", "main")

    pushed = results.push("report: digits [skip ci]", [head])

    assert pushed.commit == git(remote, "rev-parse", BRANCH)
    assert (sorted(pushed.added), pushed.present, pushed.warnings) == (sorted(files), (), ())
    assert sorted(ledger_paths(remote)) == sorted([*files, "README.md"])
    assert git(remote, "log", "--format=%s|%an|%P", BRANCH) == "report: digits [skip ci]|A. Author|"
    assert git(remote, "rev-parse", f"refs/gitops-ml/commits/{head}") == head
    assert results.kept() == {}
    assert not any((results._repository.state / "results").rglob("*"))
    assert results.keys() == {key_of(1)}


def test_push__by_one__is_read_by_another_clone(open_results):
    results = open_results()
    files = {**record_files(key_of(1)), **report_files("digits", 5)}
    results.keep({**files, attempt_path(key_of(1), 1): json_bytes(attempt_to_json(attempt(1, key_of(1))))})
    results.push("x")

    other = open_results("other")
    other.refresh()

    assert other.keys() == {key_of(1)}
    assert dataclasses.replace(other.records([key_of(1)])[key_of(1)], ranges=()) == record(key_of(1))
    assert [one.key for one in other.all_records()] == [key_of(1)]
    assert [one.number for one in other.attempts([key_of(1), key_of(2)])[key_of(1)]] == [1]
    assert other.report_files(report_folder("digits", 5))["report.md"] == b"# Report\n"
    assert other.report_files(f"records/{key_of(1)[:2]}/{key_of(1)}/outputs") == {"confusion.json": b"[[1]]"}


def test_push__record_that_is_there__stays_and_is_named(open_results, remote):
    first, second = open_results("first"), open_results("second")
    first.keep(record_files(key_of(1), 0.5))
    second.keep({**record_files(key_of(1), 0.9), **record_files(key_of(2))})
    first.push("first")

    pushed = second.push("second")

    assert pushed.present == (key_of(1),)
    assert sorted(pushed.added) == sorted(record_files(key_of(2)))
    assert second.kept() == {}
    assert second.records([key_of(1)])[key_of(1)].series[0].values == (0.1, 0.5)
    assert git(remote, "log", "--format=%s", BRANCH).split() == ["second", "first"]


def test_push__branch_of_code__is_refused_and_loses_nothing(tmp_path, open_results, remote):
    open_results()
    with Repository.find(tmp_path / "work", ENVIRON) as repository:
        results = Results(repository, remote="origin", branch="main", sleep=lambda _: None)
        results.keep(record_files(key_of(1)))
        before = git(remote, "rev-parse", "main")

        with pytest.raises(GitError) as caught:
            results.push("x")

        assert str(caught.value) == (
            "main on origin is no ledger: it holds `train.py`. Results need a branch of their own; name another as "
            "`ledger: {branch: gitops-ml/reports}` in gitops-ml.yaml"
        )
        assert git(remote, "rev-parse", "main") == before
        assert sorted(results.kept()) == sorted(record_files(key_of(1)))


def test_push__the_same_again__makes_no_commit(open_results, remote):
    results = open_results()
    results.keep(report_files("digits", 5))
    tip = results.push("x").commit
    results.keep(report_files("digits", 5))

    again = results.push("x")

    assert (again.commit, again.added) == (tip, ())
    assert results.push("x").commit == tip
    assert git(remote, "rev-list", "--count", BRANCH) == "1"


def test_push__attempts_of_two_clones_under_one_number__are_both_kept(open_results):
    for name in ("first", "second", "second"):
        results = open_results(name)
        results.keep({attempt_path(key_of(1), 1): json_bytes(attempt_to_json(attempt(1, key_of(1), reason=name)))})
        results.push("x")

    found = results.attempts([key_of(1)])[key_of(1)]

    assert [(one.number, one.reason) for one in found] == [(1, "first"), (2, "second")]


def test_push__branch_moves_meanwhile__is_built_again_on_the_new_tip(open_results, remote):
    """The other side wins the race three times: between our fetch and our push."""
    other = open_results("other")
    races = iter(range(3))

    class Racing(Repository):
        def write_commit(self, files, *, parent, message):
            if (number := next(races, None)) is not None:
                other.keep(report_files("other", 10 + number))
                other.push("other")
            return super().write_commit(files, parent=parent, message=message)

    open_results("mine")
    with Racing(Path(other._repository.top).parent / "mine", ENVIRON) as repository:
        waits = []
        results = Results(repository, remote="origin", branch=BRANCH, sleep=waits.append)
        results.keep(report_files("mine", 5))
        results.push("mine")

    assert len(waits) == 3
    assert git(remote, "log", "--format=%s", BRANCH).split() == ["mine", "other", "other", "other"]
    assert git(remote, "show", f"{BRANCH}:README.md").splitlines()[5:] == [
        "| experiment | gate | commit | latest |",
        "| --- | --- | --- | --- |",
        f"| mine | pass | {5:012x} | [report]({report_folder('mine', 5)}/report.md) |",
        f"| other | pass | {12:012x} | [report]({report_folder('other', 12)}/report.md) |",
    ]


def test_push__answer_lost_after_the_remote_took_it__makes_no_second_commit(open_results, remote):
    class Deaf(Repository):
        lost = 0

        def push(self, remote, commit, ref, *, expected):
            super().push(remote, commit, ref, expected=expected)
            if not self.lost:
                self.lost += 1
                raise ServiceError("the connection was reset")

    folder = open_results()._repository.top
    with Deaf(folder, ENVIRON) as repository:
        results = Results(repository, remote="origin", branch=BRANCH, sleep=lambda _: None)
        results.keep(record_files(key_of(1)))

        pushed = results.push("x")

    assert git(remote, "rev-list", "--count", BRANCH) == "1"
    assert (pushed.commit, sorted(pushed.added), pushed.present) == (
        git(remote, "rev-parse", BRANCH), sorted(record_files(key_of(1))), (),
    )  # fmt: skip


def test_push__refused_by_a_rule_of_the_server__is_not_repeated_and_loses_nothing(open_results, remote):
    write(remote / "hooks", {"pre-receive": "#!/bin/sh\necho asked >> count\necho 'only CI may write' >&2\nexit 1\n"})
    (remote / "hooks/pre-receive").chmod(0o755)
    results = open_results()
    results.keep(record_files(key_of(1)))

    with pytest.raises(RefusedError) as caught:
        results.push("x")

    assert str(caught.value) == (
        "origin refused refs/heads/gitops-ml/reports: [remote rejected] (pre-receive hook declined) "
        "(only CI may write); the results are kept here: report --push again"
    )
    assert (remote / "count").read_text().split() == ["asked"]
    assert results.keys() == {key_of(1)}


def test_push__commits_refused__is_a_warning_only(open_results, remote):
    write(remote / "hooks", {"update": "#!/bin/sh\ncase $1 in refs/gitops-ml/*) exit 1;; esac\n"})
    (remote / "hooks/update").chmod(0o755)
    head = git(remote, "rev-parse", "main")
    results = open_results()
    results.keep(record_files(key_of(1)))

    pushed = results.push("x", [head])

    assert pushed.added
    assert pushed.warnings == (
        f"commit {head[:12]} is not kept on origin ([remote rejected] (hook declined)); after a squash it may be lost",
    )


def test_remote_gone__reading_goes_on_with_a_warning_and_pushing_loses_nothing(open_results, remote, tmp_path):
    results = open_results()
    results.keep(record_files(key_of(1)))
    results.push("x")
    remote.rename(tmp_path / "away")

    later = open_results()
    later.refresh()
    later.keep(record_files(key_of(2)))

    assert later.keys() == {key_of(1), key_of(2)}
    assert len(later.warnings) == 1
    assert later.warnings[0].startswith("the ledger is read as it was last fetched: cannot fetch refs/heads/gitops-ml")
    with pytest.raises(ServiceError, match="the results are kept here: report --push again"):
        later.push("y")
    assert later.kept() == record_files(key_of(2))


def test_never_fetched__the_branch_that_git_clone_brought__is_read(open_results):
    first = open_results("first")
    first.keep(record_files(key_of(1)))
    first.push("x")

    assert open_results("second").keys() == {key_of(1)}


def test_ledger__rewritten_by_someone__is_said_and_built_upon(open_results, remote):
    results = open_results()
    results.keep(record_files(key_of(1)))
    before = results.push("x").commit
    after = git(remote, "commit-tree", "-m", "evil", f"{BRANCH}^{{tree}}")
    git(remote, "update-ref", f"refs/heads/{BRANCH}", after)

    later = open_results()
    later.refresh()

    assert later.warnings == (
        f"the ledger gitops-ml/reports was rewritten: {before[:12]} is not in the history of {after[:12]}",
    )


def test_ledger__removed_on_the_remote__is_not_begun_anew_in_silence(open_results, remote):
    results = open_results()
    results.keep(record_files(key_of(1)))
    before = results.push("x").commit
    git(remote, "update-ref", "-d", f"refs/heads/{BRANCH}")
    results.keep(record_files(key_of(2)))

    with pytest.raises(ServiceError, match=f"is no longer on origin; it was at {before}"):
        results.push("y")

    assert results.kept() == record_files(key_of(2))


def test_push__clone_is_shallow_dirty_and_detached__works_and_stays_so(open_results, remote, tmp_path):
    commit(tmp_path / "origin", {"x": "1"})
    git(tmp_path / "origin", "push", "-q")
    clone(remote, tmp_path / "ci", "--depth=1")
    git(tmp_path / "ci", "checkout", "-q", "--detach")
    write(tmp_path / "ci", {"train.py": "dirty", "new": "1"})
    results = open_results("ci")
    head = results._repository.head().commit
    results.keep(record_files(key_of(1)))

    pushed = results.push("x", [head])

    assert pushed.added
    assert pushed.warnings == ()


def test_readme__many_experiments__is_bounded(open_results, remote):
    results = open_results()
    for number in range(203):
        results.keep(report_files(f"e{number:03}", number, gate="| *x*" if number == 1 else "fail"))
    results.push("x")

    text = git(remote, "show", f"{BRANCH}:README.md").splitlines()

    assert text[-1] == "| and 3 more | | | |"
    assert text[7].startswith("| e000 | fail | 000000000000 | [report](reports/e000/")
    assert text[8].startswith("| e001 |  | 000000000001 |")
    assert len(text) == 7 + 200 + 1


# Races and deaths, in processes of their own

WRITER = """
import json, sys
from pathlib import Path
from gitops_ml.git import Repository
from gitops_ml.ledger import Results
import os
name, keep = sys.argv[1], json.loads(sys.argv[2])
with Repository.find(Path.cwd(), os.environ) as repository:
    results = Results(repository, remote="origin", branch="gitops-ml/reports")
    results.keep({path: text.encode() for path, text in keep.items()})
    pushed = results.push(name, [repository.head().commit])
    print(len(pushed.added))
"""


def writer(folder, name, files, environ=None):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, name, json.dumps({path: data.decode() for path, data in files.items()})],
        cwd=folder,
        env={**ENVIRON, "PYTHONPATH": str(Path(__file__).parents[2]), **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_push__20_processes_at_once__200_experiments_and_every_clone_unchanged(remote, tmp_path):
    """Ten experiments each, at once. 15 clones; the last six processes share one of them."""
    folders = [clone(remote, tmp_path / f"clone{number}") for number in range(15)]
    before = [fingerprint(folder) for folder in folders]

    running = [
        writer(
            folders[min(number, 14)],
            f"w{number}",
            {
                path: data
                for each in range(10 * number, 10 * number + 10)
                for path, data in {**report_files(f"e{each}", each), **record_files(key_of(each))}.items()
            },
        )
        for number in range(20)
    ]
    ended = [(process.communicate(timeout=120), process.returncode) for process in running]

    assert [code for _, code in ended] == [0] * 20, [err.decode() for (_, err), code in ended if code]
    paths = ledger_paths(remote)
    assert sum(path.endswith("/report.json") for path in paths) == 200
    assert sum(path.endswith("/record.json") for path in paths) == 200
    assert all(len(line.split()) <= 1 for line in git(remote, "log", "--format=%P", BRANCH).splitlines())
    assert 15 <= int(git(remote, "rev-list", "--count", BRANCH)) <= 20
    assert git(remote, "show", f"{BRANCH}:README.md").count("[report]") == 200
    git(remote, "fsck", "--strict")
    assert [fingerprint(folder) for folder in folders] == before
    assert [file for folder in folders for file in (folder / ".gitops-ml/results").rglob("*")] == []


KILLER = """#!/bin/sh
# Counts the calls of git, each with a folder so that two at once are two; kills the caller before or after one of them.
n=1; until mkdir "$COUNT/$n" 2>/dev/null; do n=$((n + 1)); [ $n -gt 999 ] && exit 1; done
[ "$KILL" = "before $n" ] && { kill -9 $PPID; exit 1; }
[ "$KILL" = "after $n" ] || exec $REAL "$@"
$REAL "$@"
kill -9 $PPID
"""


def test_push__killed_before_and_after_each_call_of_git__the_next_one_completes_it(remote, tmp_path):
    real = subprocess.run(["sh", "-c", "command -v git"], capture_output=True, text=True).stdout.strip()
    write(tmp_path / "bin", {"git": KILLER})
    (tmp_path / "bin/git").chmod(0o755)
    folder = clone(remote, tmp_path / "work")
    before = fingerprint(folder)
    environ = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "REAL": real, "COUNT": str(tmp_path / "count")}
    (tmp_path / "count").mkdir()
    whole = writer(folder, "whole", report_files("digits", 0), environ)
    whole.communicate(timeout=60)
    assert whole.returncode == 0
    calls = len(list((tmp_path / "count").iterdir()))
    survived = []
    for number, (moment, call) in enumerate(itertools.product(("before", "after"), range(1, calls + 1)), start=1):
        files = {**record_files(key_of(number)), **report_files("digits", number)}
        shutil.rmtree(tmp_path / "count")
        (tmp_path / "count").mkdir()
        process = writer(folder, "first", files, {**environ, "KILL": f"{moment} {call}"})
        process.communicate(timeout=60)
        if process.returncode == 0:
            survived.append((moment, call))
        with Repository.find(folder, ENVIRON) as repository:
            again = Results(repository, remote="origin", branch=BRANCH)
            again.keep(files)
            again.push("again")
            assert again.kept() == {}
        paths = ledger_paths(remote)
        assert sum(path.endswith("/record.json") for path in paths) == number
        assert sum(path.endswith("/report.json") for path in paths) == number + 1
        assert int(git(remote, "rev-list", "--count", BRANCH)) == number + 1
    # The git that stays open to read objects outlives what it is asked, so nobody dies after it.
    assert calls > 8
    assert len(survived) <= 1
    assert fingerprint(folder) == before


def test_push__killed_while_freeing__the_rest_is_freed_and_nothing_doubled(open_results, remote):
    results = open_results()
    files = record_files(key_of(1))
    results.keep(files)
    kept = results.kept()
    results.push("x")
    # As a process leaves it that dies between two removals.
    for path in (series_path(key_of(1)), f"records/{key_of(1)[:2]}/{key_of(1)}/outputs/confusion.json"):
        file = results._repository.state / "results" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(kept[path])

    later = open_results()
    later.push("y")

    assert later.kept() == {}
    assert later.keys() == {key_of(1)}
    assert git(remote, "rev-list", "--count", BRANCH) == "1"


def test_processes__to_read_a_comparisons_records__are_none_beside_the_open_one(open_results, tmp_path):
    results = open_results()
    for number in range(60):
        results.keep(record_files(key_of(number)))
    results.push("x")
    real = subprocess.run(["sh", "-c", "command -v git"], capture_output=True, text=True).stdout.strip()
    write(tmp_path / "bin", {"git": f'#!/bin/sh\necho "$@" >> {tmp_path}/seen\nexec {real} "$@"\n'})
    (tmp_path / "bin/git").chmod(0o755)
    environ = {**ENVIRON, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}

    with Repository.find(results._repository.top, environ) as repository:
        reading = Results(repository, remote="origin", branch=BRANCH)
        assert len(reading.keys()) == 60
        assert len(reading.records(map(key_of, range(70)))) == 60
        assert len(list(reading.all_records())) == 60

    commands = [line.split("lfs ")[-1] for line in (tmp_path / "seen").read_text().splitlines()]
    assert [line.split()[0] for line in commands] == ["rev-parse", "ls-files", "cat-file"]
