"""The few git commands, on real repositories. No test may change a user's repository: each one checks."""

import os
import subprocess
from pathlib import Path

import pytest

from gitops_ml.errors import GitError, ServiceError, UserError
from gitops_ml.git import RefusedError, RejectedError, Repository, redacted
from tests.fakes.repositories import (
    ENVIRON,
    clone,
    commit,
    fingerprint,
    git,
    make_remote,
    make_repository,
    write,
)


@pytest.fixture
def remote(tmp_path):
    return make_remote(tmp_path / "remote.git")


@pytest.fixture
def work(tmp_path, remote):
    return make_repository(tmp_path / "work", {"train.py": "print(1)\n", "a/b.txt": "b\n"}, remote=remote)


@pytest.fixture
def open_repository():
    """Open repositories; at the end each must be as it was when it was opened."""
    opened = []

    def opener(folder, environ=ENVIRON):
        before = fingerprint(folder)
        repository = Repository.find(folder, environ)
        opened.append((repository, before))
        return repository

    yield opener
    for repository, before in opened:
        repository.close()
        assert fingerprint(repository.top) == before


# What is here


def test_find__from_a_subfolder__returns_the_top(work, open_repository):
    (work / "deep").mkdir()
    repository = Repository.find(work / "deep", ENVIRON)

    assert repository.top == work
    assert repository.state == work / ".gitops-ml"


def test_find__outside_of_a_repository__says_what_to_do(tmp_path):
    with pytest.raises(UserError) as caught:
        Repository.find(tmp_path, {**ENVIRON, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)})

    assert str(caught.value) == f"{tmp_path} is in no git repository; specs are read from git: git init"


GIT_SAYS = "fatal: not a git repository (or any of the parent directories): .git"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda git: (git / "HEAD").write_bytes(b"\0\0\0"),
            "its HEAD is damaged; write `ref: refs/heads/BRANCH` into it, with the branch that was checked out",
        ),
        (
            lambda git: (git / "HEAD").unlink(),
            "its HEAD cannot be read (No such file or directory); make it readable, or clone it again",
        ),
        (lambda git: (git / "refs").rename(git / "lost"), "it has no refs in it; clone it again"),
    ],
    ids=["a torn HEAD", "no HEAD", "no refs"],
)
def test_find__damaged_repository__says_what_git_says_and_what_to_do(work, damage, said):
    damage(work / ".git")
    (work / "deep").mkdir()

    with pytest.raises(GitError) as caught:
        Repository.find(work / "deep", {**ENVIRON, "GIT_CEILING_DIRECTORIES": str(work.parent)})

    assert str(caught.value) == f"{work}/.git is there, but git takes it for no repository ({GIT_SAYS}): {said}"


def test_find__work_tree_whose_repository_is_gone__says_what_to_do(tmp_path):
    (tmp_path / ".git").write_text("gitdir: /nonexistent/worktrees/here\n")

    with pytest.raises(GitError) as caught:
        Repository.find(tmp_path, ENVIRON)

    assert str(caught.value) == (
        f"{tmp_path}/.git is there, but git takes it for no repository "
        "(fatal: not a git repository: /nonexistent/worktrees/here): it is a file that names the repository's place, "
        "and there is none; `git worktree repair` or clone it again"
    )


def test_find__bare_repository__says_what_to_do(remote):
    with pytest.raises(UserError, match="bare repository"):
        Repository.find(remote, ENVIRON)


def test_find__no_git_on_the_path__says_so(work):
    with pytest.raises(UserError, match="git is not installed"):
        Repository.find(work, {"PATH": "/nonexistent"})


def test_find__too_old_git__names_its_version(work, tmp_path):
    old = tmp_path / "bin" / "git"
    old.parent.mkdir()
    old.write_text('#!/bin/sh\nfor word; do case $word in version) echo "git version 2.20.1";; esac; done\n')
    old.chmod(0o755)

    with pytest.raises(UserError) as caught:
        Repository.find(work, {**ENVIRON, "PATH": f"{old.parent}:{os.environ['PATH']}"})

    assert str(caught.value) == "git version 2.20.1 is too old; gitops-ml needs git 2.31 or newer"


def test_find__variables_that_point_elsewhere__are_ignored(work, tmp_path, open_repository):
    other = make_repository(tmp_path / "other", {"x": "x"})
    environ = {
        **ENVIRON,
        "GIT_DIR": str(other / ".git"),
        "GIT_INDEX_FILE": str(other / "i"),
        "GIT_WORK_TREE": str(other),
    }

    repository = open_repository(work, environ)

    assert repository.top == work
    assert repository.head().commit == git(work, "rev-parse", "HEAD")
    assert repository.work_tree(["*"]) is None


@pytest.mark.parametrize("state", ["branch", "detached", "unborn"])
def test_head__however_it_stands(state, work, tmp_path, open_repository):
    expected = (git(work, "rev-parse", "HEAD"), "topic/x")
    if state == "branch":
        git(work, "checkout", "-q", "-b", "topic/x")
    elif state == "detached":
        git(work, "checkout", "-q", "--detach")
        expected = (expected[0], None)
    else:
        work = make_repository(tmp_path / "empty")
        expected = (None, "main")

    head = open_repository(work).head()

    assert (head.commit, head.branch) == expected


def test_resolve__revisions_of_the_user__are_known(work, open_repository):
    first = git(work, "rev-parse", "HEAD")
    second = commit(work, {"x": "1"})
    git(work, "tag", "-a", "-m", "v1", "v1", first)
    repository = open_repository(work)

    assert [repository.resolve(name) for name in ("HEAD", "main~1", "v1", first[:8])] == [second, first, first, first]
    assert [repository.resolve(name) for name in ("nope", "", "-x", "a\nb", "HEAD:x", "main..v1")] == [None] * 6


def test_resolve_ref__remote_branch__goes_before_the_local_one(work, open_repository):
    pushed = git(work, "rev-parse", "HEAD")
    commit(work, {"x": "1"})

    assert open_repository(work).resolve_ref("main", "origin") == pushed


def test_resolve_ref__clone_that_lacks_the_branch__fetches_it(work, remote, tmp_path, open_repository):
    main = git(work, "rev-parse", "HEAD")
    git(work, "checkout", "-q", "-b", "topic")
    commit(work, {"x": "1"})
    git(work, "push", "-q", "origin", "topic")
    shallow = clone(remote, tmp_path / "shallow", "--depth=1", "--branch=topic")

    assert open_repository(shallow).resolve_ref("main", "origin") == main


def test_worktree_of_another_clone__has_its_own_state(work, tmp_path, open_repository):
    git(work, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    write(tmp_path / "side", {"train.py": "print(2)\n"})
    repository = open_repository(tmp_path / "side")

    tree = repository.work_tree()

    assert repository.head().branch == "side"
    assert tree.read(tree.files["train.py"].oid) == b"print(2)\n"
    assert not (work / ".gitops-ml").exists()


@pytest.mark.parametrize("name", ["with space", "with:colon", 'with"quote', "ünï"])
def test_names_of_folders__of_any_kind__work(name, tmp_path, open_repository):
    work = make_repository(tmp_path / name, {"a": "1"})
    write(work, {"a": "2"})
    repository = open_repository(work)

    tree = repository.work_tree()

    assert tree.read(tree.files["a"].oid) == b"2"
    assert repository.tree(repository.head().commit, "HEAD").read(git(work, "rev-parse", "HEAD:a")) == b"1"


def test_moved_clone__still_finds_its_objects(work, tmp_path):
    with Repository.find(work, ENVIRON) as repository:
        repository.tree(repository.head().commit, "HEAD")
    work.rename(tmp_path / "moved")

    with Repository.find(tmp_path / "moved", ENVIRON) as repository:
        assert repository.merge_base(repository.head().commit, repository.head().commit)


def test_state__brought_by_a_commit__is_refused(work):
    write(work, {".gitops-ml/results/records/ab/x/record.json": "{}"})
    git(work, "add", "-f", ".gitops-ml")
    git(work, "commit", "-qm", "planted")
    repository = Repository.find(work, ENVIRON)

    with pytest.raises(UserError, match=r"\.gitops-ml/results/.* is tracked by git; .* git rm -r \.gitops-ml"):
        repository.tree(repository.head().commit, "HEAD")


def test_sha256_repository__is_read_and_written(tmp_path):
    git(tmp_path, "init", "-q", "--object-format=sha256", "-b", "main", "w")
    commit(tmp_path / "w", {"a": "1"})
    with Repository.find(tmp_path / "w", ENVIRON) as repository:
        made = repository.write_commit({"x/y": b"2"}, parent=None, message="m")

        assert len(made) == 64
        assert repository.tree(made, "m").read(repository.entries(f"{made}:x")["y"].oid) == b"2"


# Trees


def test_tree__odd_names_modes_and_submodules__are_listed(work, tmp_path, open_repository):
    library = make_repository(tmp_path / "library", {"l.py": "l"})
    names = ["with space", "new\nline", 'quo"te', "tab\t", "ünï/ço∂e", "bäckslash\\x"]
    write(work, {name: name for name in names})
    (work / "link").symlink_to("train.py")
    (work / "script.sh").write_text("#!/bin/sh\n")
    (work / "script.sh").chmod(0o755)
    git(work, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "lib")
    head = commit(work, {})
    repository = open_repository(work)

    tree = repository.tree(head, "HEAD")

    assert {*names, "link", "script.sh", "lib", ".gitmodules", "train.py", "a/b.txt"} == set(tree.files)
    assert [tree.files[name].mode for name in ("link", "script.sh", "lib", "train.py")] == [
        "120000", "100755", "160000", "100644",
    ]  # fmt: skip
    assert tree.files["lib"].oid == git(library, "rev-parse", "HEAD")
    assert [tree.read(tree.files[name].oid).decode() for name in names] == names
    assert tree.version.tree == git(work, "rev-parse", "HEAD^{tree}")
    assert (tree.version.commit, tree.version.label, tree.version.dirty) == (head, "HEAD", False)


def test_tree__attributes_and_line_ends__change_nothing(work, open_repository):
    git(work, "config", "core.autocrlf", "true")
    head = commit(work, {"x.txt": "1\n2\n", ".gitattributes": "*.txt export-ignore eol=crlf ident\n"})

    tree = open_repository(work).tree(head, "HEAD")

    assert tree.read(tree.files["x.txt"].oid) == b"1\n2\n"


def test_blobs__many_and_large__come_in_order(work, open_repository):
    contents = {f"f{i}": f"{i}" * 300 for i in range(700)} | {"large": "x" * 3_000_000}
    head = commit(work, contents)
    repository = open_repository(work)
    files = repository.tree(head, "HEAD").files

    found = list(repository.blobs([files[name].oid for name in contents]))

    assert [data.decode() for _, data in found] == list(contents.values())


def test_blobs__object_that_nobody_has__is_an_error(work, open_repository):
    with pytest.raises(GitError) as caught:
        list(open_repository(work).blobs(["1" * 40]))

    assert str(caught.value) == f"object {'1' * 40} is not in this repository"


def test_replaced_objects__are_read_as_they_were_committed(work, open_repository):
    oid = git(work, "rev-parse", "HEAD:train.py")
    commit(work, {"other": "evil"})
    git(work, "replace", oid, git(work, "rev-parse", "HEAD:other"))
    repository = open_repository(work)

    assert list(repository.blobs([oid])) == [(oid, b"print(1)\n")]


# Uncommitted work


def test_work_tree__nothing_changed__is_none(work, open_repository):
    os.utime(work / "train.py")
    write(work, {"untracked.py": "x", ".gitops-ml/note": "x"})

    assert open_repository(work).work_tree(["*.txt"]) is None


def test_work_tree__changes_of_every_kind__are_in_the_tree(work, open_repository):
    commit(work, {"gone.txt": "1", "staged.txt": "1", "mode.sh": "1", "folder": "file", "back.txt": "1", "un.txt": "1"})
    (work / "gone.txt").unlink()
    write(work, {"staged.txt": "2"})
    git(work, "add", "staged.txt")
    (work / "mode.sh").chmod(0o755)
    (work / "folder").unlink()
    write(work, {"folder/new.py": "n", "folder/new.log": "n", "intended.txt": "i", "src/a.py": "a", "ignored.py": "x"})
    write(work, {".git/info/exclude": "ignored.py\n"})
    git(work, "add", "-N", "intended.txt")
    git(work, "rm", "-q", "--cached", "un.txt")
    repository = open_repository(work)

    tree = repository.work_tree(["**/*.py"])

    assert set(tree.files) == {
        "train.py", "a/b.txt", "staged.txt", "mode.sh", "folder/new.py", "intended.txt", "src/a.py", "back.txt",
    }  # fmt: skip
    assert tree.files["mode.sh"].mode == "100755"
    assert tree.read(tree.files["staged.txt"].oid) == b"2"
    assert tree.read(tree.files["intended.txt"].oid) == b"i"
    assert (tree.version.dirty, tree.version.commit) == (True, git(work, "rev-parse", "HEAD"))


def test_work_tree__staged_and_taken_back__is_none(work, open_repository):
    write(work, {"train.py": "other"})
    git(work, "add", "train.py")
    write(work, {"train.py": "print(1)\n"})

    assert open_repository(work).work_tree() is None


def test_work_tree__clean_filters__apply_as_in_git_add(work, open_repository):
    git(work, "config", "filter.shout.clean", "tr a-z A-Z")
    commit(work, {".gitattributes": "*.up filter=shout\n*.txt text eol=lf\n"})
    write(work, {"x.up": "abc\n", "a/b.txt": "b\r\nc\r\n"})

    tree = open_repository(work).work_tree(["*.up"])

    assert tree.read(tree.files["x.up"].oid) == b"ABC\n"
    assert tree.read(tree.files["a/b.txt"].oid) == b"b\nc\n"


def test_work_tree__submodule_at_another_commit__is_recorded(work, tmp_path, open_repository):
    library = make_repository(tmp_path / "library", {"l.py": "l"})
    git(work, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "lib")
    commit(work, {})
    moved = commit(work / "lib", {"l.py": "2"})
    write(work, {"lib/dirty": "not counted"})

    assert open_repository(work).work_tree().files["lib"].oid == moved


def test_work_tree__no_commit_yet__has_an_empty_commit(tmp_path, open_repository):
    work = make_repository(tmp_path / "new")
    write(work, {"a.py": "1", "b.log": "2"})

    tree = open_repository(work).work_tree(["*.py"])

    assert (list(tree.files), tree.version.commit, tree.version.dirty) == (["a.py"], "", True)


def test_work_tree__conflicted_file__is_taken_from_the_disk(work, open_repository):
    git(work, "checkout", "-q", "-b", "side")
    commit(work, {"train.py": "side"})
    git(work, "checkout", "-q", "main")
    commit(work, {"train.py": "main"})
    subprocess.run(["git", "merge", "side"], cwd=work, env=ENVIRON, capture_output=True)

    tree = open_repository(work).work_tree()

    assert b"<<<<<<<" in tree.read(tree.files["train.py"].oid)


@pytest.mark.parametrize("setting", ["core.splitIndex=true", "index.version=4", "core.untrackedCache=true"])
def test_work_tree__kinds_of_index__stay_as_they_are(setting, work, open_repository):
    git(
        work,
        "-c",
        setting,
        "update-index",
        "--force-write-index",
        "--split-index" if "split" in setting else "--refresh",
    )
    write(work, {"train.py": "2"})

    assert open_repository(work).work_tree().files["train.py"].oid


# History, also where it is not all here


@pytest.fixture
def history(work):
    """main: 0 1 2 3 ... 119, topic: leaves at 60, merges 90, then goes on; all pushed."""
    commits = [git(work, "rev-parse", "HEAD")]
    lines = ["feature done"]
    for i in range(1, 120):
        lines.append(f"commit refs/heads/main\nmark :{i}\ncommitter C <c@x> 17000{i:05} +0000\ndata 1\nm")
        lines += [f"from {commits[0]}"] if i == 1 else []
        lines.append(f"M 100644 inline n/{i % 7}.yaml\ndata {len(str(i))}\n{i}\n")
    lines.append("commit refs/heads/topic\nmark :200\ncommitter C <c@x> 1700010000 +0000\ndata 1\nt\nfrom :60\n")
    lines.append("commit refs/heads/topic\nmark :201\ncommitter C <c@x> 1700010001 +0000\ndata 1\nt\nmerge :90\n")
    for i in range(202, 280):
        lines.append(f"commit refs/heads/topic\nmark :{i}\ncommitter C <c@x> 17000{i:05} +0000\ndata 1\nt\n")
    lines.append("done\n")
    subprocess.run(
        ["git", "fast-import", "--quiet", "--force"], cwd=work, env=ENVIRON, input="\n".join(lines).encode(), check=True
    )
    git(work, "push", "-q", "origin", "main", "topic")
    git(work, "reset", "-q", "--hard", "topic")
    return work


def test_history__whole_clone__answers(history, open_repository):
    repository = open_repository(history)
    main, topic = repository.resolve("main~0"), repository.resolve("topic")
    base = git(history, "merge-base", "origin/main", "origin/topic")
    main = git(history, "rev-parse", "origin/main")

    assert repository.merge_base(main, topic) == base
    assert repository.behind(base, main) == 29
    assert len(list(repository.first_parents(topic))) == 1 + 60 + 80


@pytest.mark.parametrize("along", [True, False], ids=["along", "later"])
@pytest.mark.parametrize("depth", [1, 40])
def test_merge_base__shallow_clone__is_deepened_in_the_private_repository(
    depth, along, history, remote, tmp_path, open_repository
):
    base, main = git(history, "merge-base", "origin/main", "origin/topic"), git(history, "rev-parse", "origin/main")
    shallow = clone(remote, tmp_path / "shallow", f"--depth={depth}", "--branch=topic", "--single-branch")
    repository = open_repository(shallow)
    topic = repository.head().commit

    tip = repository.resolve_ref("main", "origin", beside=topic if along else None)

    assert tip == main
    assert repository.merge_base(tip, topic) == base
    assert repository.behind(base, tip) == 29
    assert len(list(repository.first_parents(topic))) == 141
    assert repository.first_parent(topic) == git(history, "rev-parse", "topic~1")


def test_merge_base__shallow_clone__reads_the_base_tree(history, remote, tmp_path, open_repository):
    base = git(history, "merge-base", "origin/main", "origin/topic")
    shallow = clone(remote, tmp_path / "shallow", "--depth=1", "--branch=topic", "--single-branch")
    repository = open_repository(shallow)
    repository.merge_base(repository.resolve_ref("main", "origin"), repository.head().commit)

    tree = repository.tree(base, "base")

    assert {path: tree.read(file.oid).decode() for path, file in tree.files.items() if path.startswith("n/")} == {
        f"n/{i % 7}.yaml": str(i) for i in range(84, 91)
    }


def test_resolve_ref__beside_a_shallow_commit__brings_the_history_and_small_files(
    work, remote, tmp_path, open_repository
):
    large = "x" * 300_000
    base = commit(work, {"small": "1", "large": large})
    git(work, "push", "-q", "origin", "main", "main:refs/heads/topic")
    git(work, "switch", "-q", "-c", "topic")
    commit(work, {"small": "2", "large": "cut"})
    git(work, "push", "-q", "origin", "topic")
    shallow = clone(remote, tmp_path / "shallow", "--depth=1", "--branch=topic")
    repository = open_repository(shallow)
    topic = repository.head().commit

    assert repository.resolve_ref("main", "origin", beside=topic) == base
    remote.rename(tmp_path / "gone")
    assert repository.merge_base(topic, base) == base
    tree = repository.tree(base, "base")
    assert tree.read(tree.files["small"].oid) == b"1"
    (tmp_path / "gone").rename(remote)
    assert tree.read(tree.files["large"].oid) == large.encode()


def test_resolve_ref__beside_a_commit_that_the_server_has_lost__is_asked_for_alone(
    work, remote, tmp_path, open_repository
):
    main = git(work, "rev-parse", "HEAD")
    git(work, "switch", "-q", "-c", "topic")
    commit(work, {"new": "1"})
    git(work, "push", "-q", "origin", "topic")
    shallow = clone(remote, tmp_path / "shallow", "--depth=1", "--branch=topic")
    git(work, "push", "-q", "origin", "--delete", "topic")
    git(remote, "gc", "-q", "--prune=now")
    repository = open_repository(shallow)

    assert repository.resolve_ref("main", "origin", beside=repository.head().commit) == main


def test_resolve_ref__beside_a_shallow_commit__no_such_branch__is_none(work, remote, tmp_path, open_repository):
    shallow = clone(remote, tmp_path / "shallow", "--depth=1", "--branch=main")
    repository = open_repository(shallow)

    assert repository.resolve_ref("missing", "origin", beside=repository.head().commit) is None


def test_merge_base__closer_ancestor_behind_the_boundary__is_found(work, remote, tmp_path, open_repository):
    """A common ancestor that is here need not be the best one: a merge may hide a closer one."""
    git(work, "checkout", "-q", "-b", "topic")
    commit(work, {"t": "1"})
    git(work, "checkout", "-q", "main")
    for i in range(6):
        closer = commit(work, {"m": str(i)})
    git(work, "checkout", "-q", "topic")
    git(work, "merge", "-q", "--no-edit", "main")
    git(work, "checkout", "-q", "main")
    tip = commit(work, {"m": "tip"})
    git(work, "push", "-q", "origin", "main", "topic")
    topic = git(work, "rev-parse", "topic")
    shallow = clone(remote, tmp_path / "shallow", "--depth=3", "--no-single-branch", "--branch=topic")

    assert open_repository(shallow).merge_base(topic, tip) == closer


def test_merge_base__unrelated_histories__is_none(work, open_repository):
    one = git(work, "rev-parse", "HEAD")
    git(work, "checkout", "-q", "--orphan", "other")
    other = commit(work, {"x": "1"})

    assert open_repository(work).merge_base(one, other) is None


def test_merge_base__shallow_and_the_remote_gone__says_so(history, remote, tmp_path, open_repository):
    shallow = clone(remote, tmp_path / "shallow", "--depth=1", "--no-single-branch", "--branch=topic")
    git(shallow, "remote", "set-url", "origin", str(tmp_path / "gone"))
    repository = open_repository(shallow)

    with pytest.raises(ServiceError, match="this clone is shallow, and the history that the baseline needs"):
        repository.merge_base(repository.resolve("origin/main"), repository.head().commit)


def test_shallow__deepened_by_the_user_later__is_noticed(history, remote, tmp_path):
    shallow = clone(remote, tmp_path / "shallow", "--depth=1", "--no-single-branch", "--branch=topic")
    with Repository.find(shallow, ENVIRON) as repository:
        assert repository.behind(repository.first_parent(repository.head().commit), repository.head().commit) is None
    git(shallow, "fetch", "-q", "--unshallow")
    git(shallow, "remote", "set-url", "origin", str(tmp_path / "gone"))

    with Repository.find(shallow, ENVIRON) as repository:
        base = repository.merge_base(repository.resolve("origin/main"), repository.head().commit)

    assert base == git(shallow, "merge-base", "origin/main", "topic")


def test_tree__partial_clone__fetches_what_is_missing_to_the_private_store(work, remote, tmp_path, open_repository):
    old = commit(work, {"a/b.txt": "older", "a/c.txt": "c"})
    commit(work, {"a/b.txt": "newer", "a/c.txt": "d"})
    git(work, "push", "-q", "origin", "main")
    partial = clone(remote, tmp_path / "partial", "--filter=blob:none")
    repository = open_repository(partial)

    tree = repository.tree(old, "old")

    assert tree.read(tree.files["a/b.txt"].oid) == b"older"
    assert [data for _, data in repository.blobs([tree.files["a/c.txt"].oid])] == [b"c"]


# Acts


def test_write_commit__many_files__is_the_parents_tree_and_these(work, open_repository):
    repository = open_repository(work)
    files = {f"records/{i % 16:02}/{i}/record.json": str(i).encode() for i in range(1000)}
    files['odd "name"\nwith\\ünï code'] = b"\0\xff"

    first = repository.write_commit({"kept": b"1", "changed": b"1"}, parent=None, message="first")
    second = repository.write_commit({**files, "changed": b"2"}, parent=first, message="second [skip ci]\n\nwhy")

    tree = repository.tree(second, "x")
    assert {path: tree.read(file.oid) for path, file in tree.files.items()} == {**files, "kept": b"1", "changed": b"2"}
    assert repository.parents(second) == (first,)
    assert repository.object(second).data.decode().partition("\n\n")[2] == "second [skip ci]\n\nwhy"


@pytest.mark.parametrize("path", ["", "a//b", "../x", "/x", "a/.git/config", ".GIT/x", "a\0b"])
def test_write_commit__paths_that_git_would_not_check_out__are_refused(path, work, open_repository):
    with pytest.raises(GitError, match="cannot be the path of a committed file"):
        open_repository(work).write_commit({path: b""}, parent=None, message="x")


def test_push__ref_that_moved__is_rejected(work, remote, open_repository):
    repository = open_repository(work)
    one = repository.write_commit({"a": b"1"}, parent=None, message="1")
    two = repository.write_commit({"a": b"2"}, parent=one, message="2")
    other = repository.write_commit({"a": b"3"}, parent=one, message="3")
    repository.push("origin", one, "refs/heads/l", expected=None)
    repository.push("origin", two, "refs/heads/l", expected=one)

    for commit_id, expected in ((other, one), (one, None)):
        with pytest.raises(RejectedError):
            repository.push("origin", commit_id, "refs/heads/l", expected=expected)

    assert git(remote, "rev-parse", "refs/heads/l") == two
    assert repository.fetch("origin", "refs/heads/l") == two
    assert repository.fetched("origin", "refs/heads/l") == two


def test_push__rewriting_history__is_refused_before_the_remote_is_asked(work, open_repository):
    repository = open_repository(work)
    one = repository.write_commit({"a": b"1"}, parent=None, message="1")
    other = repository.write_commit({"a": b"2"}, parent=None, message="2")

    with pytest.raises(GitError, match="only ever appended to"):
        repository.push("origin", other, "refs/heads/l", expected=one)


def test_push__hook_of_the_server_declines__says_its_words(work, remote, open_repository):
    hook = remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'only CI may write here' >&2\nexit 1\n")
    hook.chmod(0o755)
    repository = open_repository(work)

    with pytest.raises(RefusedError) as caught:
        repository.push("origin", git(work, "rev-parse", "HEAD"), "refs/heads/l", expected=None)

    assert str(caught.value) == (
        "origin refused refs/heads/l: [remote rejected] (pre-receive hook declined) (only CI may write here)"
    )


def test_push_and_fetch__hooks_of_the_user__do_not_run(work, tmp_path, open_repository):
    names = ("pre-push", "reference-transaction", "post-index-change", "pre-auto-gc", "fsmonitor")
    for folder in (work / ".git/hooks", tmp_path / "hooks"):
        # The server of this test is a process here, and reads the global file too: only hooks of the client in there.
        for name in names if folder.parent != tmp_path else ("pre-push", "post-index-change", "fsmonitor"):
            write(folder, {name: f"#!/bin/sh\ntouch {tmp_path}/ran-{name}\n"})
            (folder / name).chmod(0o755)
    config = tmp_path / "config"
    config.write_text(f"[core]\n\thooksPath = {tmp_path}/hooks\n\tfsmonitor = {tmp_path}/hooks/fsmonitor\n")
    write(work, {"train.py": "2"})
    repository = open_repository(work, {**ENVIRON, "GIT_CONFIG_GLOBAL": str(config)})

    repository.work_tree(["*"])
    repository.push(
        "origin", repository.write_commit({"a": b"1"}, parent=None, message="1"), "refs/heads/l", expected=None
    )
    repository.fetch("origin", "refs/heads/l")

    assert list(tmp_path.glob("ran-*")) == []


def test_settings_of_the_user__for_the_connection__are_used(work, remote, tmp_path, open_repository):
    """Also those behind a condition on the user's own .git folder: so actions/checkout hands its token over."""
    secret = tmp_path / "secret.config"
    secret.write_text(f'[url "{remote.as_uri()}"]\n\tinsteadOf = https://git.example.org/acme.git\n')
    git(work, "config", f"includeIf.gitdir:{work}/.git.path", str(secret))
    git(work, "remote", "set-url", "origin", "https://git.example.org/acme.git")
    git(work, "config", "remote.origin.mirror", "true")
    git(work, "config", "push.followTags", "true")
    git(work, "config", "push.gpgSign", "true")
    head = git(work, "rev-parse", "HEAD")
    repository = open_repository(work)

    repository.push("origin", head, "refs/heads/l", expected=None)

    assert repository.fetch("origin", "refs/heads/l") == head
    assert git(remote, "for-each-ref", "--format=%(refname)").split() == ["refs/heads/l", "refs/heads/main"]


def test_tokens__in_headers_of_the_user__are_in_no_argument_list_and_no_file(work, tmp_path):
    """A git on the PATH notes each command line; the token must be in none, nor in the private repository."""
    real = subprocess.run(["sh", "-c", "command -v git"], capture_output=True, text=True).stdout.strip()
    write(tmp_path / "bin", {"git": f'#!/bin/sh\necho "$@" >> {tmp_path}/seen\nexec {real} "$@"\n'})
    (tmp_path / "bin/git").chmod(0o755)
    git(work, "config", "http.https://git.example.org/.extraheader", "AUTHORIZATION: basic c2VjcmV0")
    with Repository.find(work, {**ENVIRON, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}) as repository:
        repository.fetch("origin", "refs/heads/main")

    assert "fetch" in (tmp_path / "seen").read_text()
    assert "c2VjcmV0" not in (tmp_path / "seen").read_text()
    assert [
        file for file in (work / ".gitops-ml").rglob("*") if file.is_file() and b"c2VjcmV0" in file.read_bytes()
    ] == []


def test_fetch__remote_that_cannot_be_reached__says_what_git_said_without_passwords(work, open_repository):
    git(work, "remote", "set-url", "origin", "http://user:hunter2@127.0.0.1:1/x.git")
    repository = open_repository(work)

    with pytest.raises(ServiceError) as caught:
        repository.fetch("origin", "refs/heads/main")

    text = str(caught.value)
    assert text.startswith("cannot fetch refs/heads/main from origin: fatal: unable to access 'http://")
    assert "hunter2" not in text
    assert repository.remote_url("origin") == "http://127.0.0.1:1/x.git"


def test_fetch__no_such_remote_or_ref__are_told_apart(work, open_repository):
    repository = open_repository(work)

    assert repository.fetch("origin", "refs/heads/none") is None
    with pytest.raises(GitError, match="there is no remote called 'upstream'"):
        repository.fetch("upstream", "refs/heads/main")
    for ref in ("--upload-pack=x", "refs/heads/../x", "refs/heads/a b", "a:b"):
        with pytest.raises(GitError, match="is no name of a ref"):
            repository.fetch("origin", ref)


def test_fetch__relative_path_as_remote__is_meant_from_the_top(work, remote, open_repository):
    git(work, "remote", "set-url", "origin", "../remote.git")
    repository = open_repository(work)

    assert repository.fetch("origin", "refs/heads/main") == git(work, "rev-parse", "HEAD")


def test_private_repository__made_by_many_threads_at_once__is_whole(work):
    from concurrent.futures import ThreadPoolExecutor

    def use(number):
        with Repository.find(work, ENVIRON) as repository:
            made = repository.write_commit({"a": str(number).encode()}, parent=None, message="x")
            repository.push("origin", made, f"refs/heads/l{number}", expected=None)
            return repository.fetch("origin", f"refs/heads/l{number}") == made

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))

    assert sorted(path.name for path in (work / ".gitops-ml").iterdir()) == [".gitignore", "git"]
    assert git(work, "status", "--porcelain", "--ignored") == "!! .gitops-ml/"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fatal: https://u:p@h/x", "fatal: https://***@h/x"),
        ("https://x-access-token:ghs_abcdefghij@github.com/a/b", "https://***@github.com/a/b"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("bad token glpat-abcdefghijk here", "bad token *** here"),
        ("git@github.com:acme/x.git", "git@github.com:acme/x.git"),
    ],
)
def test_redacted__leaves_no_secret(text, expected):
    assert redacted(text) == expected


def test_processes__for_a_comparison__are_few(work, tmp_path):
    """What a comparison of uncommitted work needs of git, by subcommand: a contract on speed."""
    real = subprocess.run(["sh", "-c", "command -v git"], capture_output=True, text=True).stdout.strip()
    write(tmp_path / "bin", {"git": f'#!/bin/sh\necho x >> {tmp_path}/seen\nexec {real} "$@"\n'})
    (tmp_path / "bin/git").chmod(0o755)
    with Repository.find(work, {**ENVIRON, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}) as repository:
        head = repository.head().commit
        assert repository.work_tree(["*.py"]) is None
        base = repository.merge_base(head, repository.resolve_ref("main", "origin"))
        repository.tree(head, "HEAD")
        repository.tree(base, "main")

    assert len(Path(tmp_path / "seen").read_text().split()) <= 8


def test_branches__of_a_remote__by_name(tmp_path):
    remote = make_remote(tmp_path / "remote.git")
    work = make_repository(tmp_path / "work", {"a": "1"}, remote=remote)
    git(work, "push", "-q", "origin", "main:topic/é")
    head = git(work, "rev-parse", "HEAD")

    with Repository.find(work, ENVIRON) as repository:
        assert repository.branches("origin") == {"main": head, "topic/é": head}
        with pytest.raises(GitError, match="there is no remote called 'elsewhere'"):
            repository.branches("elsewhere")


def test_is_shallow__of_a_whole_and_a_shallow_clone(tmp_path):
    remote = make_remote(tmp_path / "remote.git")
    work = make_repository(tmp_path / "work", {"a": "1"}, remote=remote)
    commit(work, {"a": "2"})
    git(work, "push", "-q", "origin", "main")
    shallow = clone(remote, tmp_path / "shallow", "--depth=1")

    found = []
    for place in (work, shallow):
        with Repository.find(place, ENVIRON) as repository:
            found.append(repository.is_shallow)
    assert found == [False, True]
