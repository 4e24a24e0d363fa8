"""The few git commands that we use, none of which can change the user's repository.

Everything that we write, fetch or deepen lands in a private bare repository, ``.gitops-ml/git``, which has the user's
object store as its alternate. Two surroundings follow from that:

- *reading* runs in the user's repository with ``GIT_OBJECT_DIRECTORY`` set to the private store: the user's refs,
  config, attributes and ignore rules hold, but an object that git writes (staged work, a lazily fetched blob of a
  partial clone) goes to the private store;
- *acting* (fetch, push, commit) runs in the private repository, with the part of the user's configuration that a
  connection needs handed over in the environment, where no argument list shows a token.

What the private repository lacks on purpose: hooks, automatic maintenance, remotes of its own.
"""

import contextlib
import dataclasses
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

from gitops_ml.errors import GitError, ServiceError, UserError
from gitops_ml.globs import compiled
from gitops_ml.planning import Tree, TreeFile
from gitops_ml.records import Version

STATE = ".gitops-ml"
LOCAL_LIMIT_S = 600.0
NETWORK_LIMIT_S = 300.0
AUTHOR = "gitops-ml <gitops-ml@noreply.invalid>"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is checked out: ``commit`` None in a repository without commits, ``branch`` None when detached."""

    commit: str | None
    branch: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TreeEntry:
    """One line of a tree object: a file, folder or submodule."""

    mode: str
    oid: str


class RejectedError(Exception):
    """The remote did not take the push because the branch moved."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RefusedError(ServiceError):
    """The remote answered, and will not do it: permission, a hook, a protected branch. Trying again is no use."""


class Repository:
    """The user's repository, read through the private one."""

    top: Path
    state: Path
    """The ``.gitops-ml`` folder; it ignores itself."""

    def __init__(self, top: Path, environ: Mapping[str, str]) -> None:
        self.top = top
        self.state = top / STATE
        self._environ = _clean(environ)
        self._batch_lock = threading.Lock()
        self._batch: _Batch | None = None

    @classmethod
    def find(cls, start: Path, environ: Mapping[str, str]) -> "Repository":
        """Return the repository that holds the folder.

        Raises:
            UserError: there is none, or git is missing or too old.
        """
        if not start.is_dir():
            raise UserError(f"{start} is no folder")
        finder = cls(start, environ)
        done = finder._run(["rev-parse", *_LAYOUT], cwd=start, env={}, check=False)
        if done.returncode:
            said = _said(done)
            if "must be run in a work tree" in said:
                raise UserError(f"{start} is inside a bare repository; gitops-ml needs a work tree: git worktree add")
            if "not a git repository" in said:
                raise UserError(f"{start} is in no git repository; specs are read from git: git init")
            raise GitError(f"git cannot read the repository around {start}: {said}")
        lines = os.fsdecode(done.stdout).split("\n")[:-1]
        if len(lines) != _LAYOUT_LINES or not Path(lines[0]).is_absolute():
            version = os.fsdecode(finder._run(["version"], cwd=start, env={}).stdout).strip()
            raise UserError(f"{version} is too old; gitops-ml needs git 2.31 or newer")
        repository = cls(Path(lines[0]), environ)
        repository.__dict__["_layout"] = _layout(lines)
        return repository

    def close(self) -> None:
        """End the git process that reads objects, if one runs; the next question starts another."""
        with self._batch_lock:
            if self._batch:
                self._batch.close()
                self._batch = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Questions

    def head(self) -> Head:
        """Return what is checked out."""
        done = self._read_git(["rev-parse", "--revs-only", "HEAD", "--symbolic-full-name", "HEAD"])
        lines = os.fsdecode(done.stdout).splitlines()
        if len(lines) == 2:
            return Head(commit=lines[0], branch=_branch(lines[1]))
        done = self._read_git(["symbolic-ref", "-q", "HEAD"], check=False)
        return Head(commit=None, branch=_branch(os.fsdecode(done.stdout).strip()))

    def resolve(self, revision: str) -> str | None:
        """Return the commit that the revision names in the user's repository; None: it names none."""
        if not revision or revision.startswith("-") or any(c in revision for c in "\n\0"):
            return None
        found = self.object(f"{revision}^{{commit}}")
        return found.oid if found else None

    def resolve_ref(self, ref: str, remote: str) -> str | None:
        """Return the commit of a baseline ref: the remote-tracking branch, then the local one, then any revision.

        A CI checkout of one commit has none of these: then the remote's branch is fetched.
        """
        for name in (f"refs/remotes/{remote}/{ref}", f"refs/heads/{ref}", ref):
            if commit := self.resolve(name):
                return commit
        if not _REF.fullmatch(ref) or self.remote_url(remote) is None:
            return None
        return self.fetch(remote, f"refs/heads/{ref}")

    def merge_base(self, one: str, other: str) -> str | None:
        """Return the best common ancestor; a shallow clone is deepened by the commit graph alone if need be.

        Raises:
            ServiceError: the history that is needed to answer is not here and could not be fetched.
        """
        for deepen in (*_DEEPEN, None):
            done = self._act(["merge-base", _oid(one), _oid(other)], check=False)
            if done.returncode > 1:
                raise GitError(f"git cannot compare {one[:12]} with {other[:12]}: {_said(done)}")
            base = os.fsdecode(done.stdout).strip() or None
            # A boundary between the base and a tip may hide a closer ancestor; one behind the base cannot.
            boundary = self._boundary([one, other], base)
            if not boundary or deepen is None:
                return base
            self._deepen(boundary, deepen)
        raise AssertionError("the loop returns")

    def first_parent(self, commit: str) -> str | None:
        """Return the commit's first parent; None for a root."""
        parents = self.parents(commit)
        return parents[0] if parents else None

    def parents(self, commit: str) -> tuple[str, ...]:
        """Return all parents of a commit, as it was written (a shallow boundary hides none)."""
        return tuple(line[7:] for line in self._commit_lines(commit) if line.startswith("parent "))

    def first_parents(self, commit: str) -> Iterator[str]:
        """Yield the commit and its first-parent ancestors, newest first."""
        start, skip = commit, 0
        steps = iter(_DEEPEN)
        while True:
            args = ["rev-list", "--first-parent", f"--max-count={_PAGE + skip}", _oid(start), "--"]
            page = os.fsdecode(self._act(args).stdout).split()
            yield from page[skip:]
            start, skip = page[-1], 1
            if len(page) > _PAGE:
                continue
            if start not in self._shallow():
                if len(page) <= skip:
                    return
                continue
            step = next(steps, None)
            if step is None:
                return
            self._deepen([start], step)

    def behind(self, commit: str, tip: str) -> int | None:
        """Return how many commits of the tip are not in the commit's history; None: not known."""
        done = self._act(["rev-list", _oid(tip), f"^{_oid(commit)}", "--"], check=False)
        if done.returncode:
            return None
        commits = os.fsdecode(done.stdout).split()
        return None if self._shallow().intersection(commits) else len(commits)

    def is_ancestor(self, commit: str, tip: str) -> bool:
        """Say whether the commit is the tip or in its history, as far as that is here."""
        done = self._act(["merge-base", "--is-ancestor", _oid(commit), _oid(tip)], check=False)
        return done.returncode == 0

    def tree(self, commit: str, label: str) -> Tree:
        """Return the commit's whole tree, submodules as their commits."""
        tree = self._tree_of(commit)
        return self._listed(Version(commit=commit, tree=tree, label=label))

    def work_tree(self, selected: Sequence[str] = ()) -> Tree | None:
        """Return the uncommitted state as a tree in the private store; None: nothing differs from HEAD.

        It holds tracked changes, and those untracked unignored files that a glob of ``selected`` matches, each as
        ``git add`` would store it; submodules as the commit that is checked out there. In a repository without
        commits there is always a tree, and its version's ``commit`` is empty.
        """
        untracked = "--untracked-files=all" if selected else "--untracked-files=no"
        options = ["--porcelain=v2", "--branch", "-z", "--no-renames", "--ignore-submodules=dirty", untracked]
        status = _status(self._read_git(["status", *options]).stdout)
        wanted = [*status.changed, *filter(compiled(tuple(selected)), status.untracked)]
        if status.commit and not wanted and not status.staged:
            return None
        tree = self._stage(wanted)
        if status.commit and tree == self._tree_of(status.commit):
            return None
        return self._listed(Version(commit=status.commit, tree=tree, label="work tree", dirty=True))

    def blobs(self, oids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (object id, bytes) in the order asked, through one ``cat-file --batch``."""
        for oid in oids:
            _oid(oid)
        for start in range(0, len(oids), _PAGE):
            page = oids[start : start + _PAGE]
            found = self.objects(page)
            if missing := [oid for oid, one in zip(page, found, strict=True) if one is None]:
                self._obtain(missing)
                found = self.objects(page)
            for oid, one in zip(page, found, strict=True):
                if one is None:
                    raise GitError(f"object {oid} is not in this repository, and no remote has it")
                yield oid, one.data

    def object(self, name: str) -> "Object | None":
        """Return what the name (a revision, ``commit:path``) stands for; None: nothing."""
        return self.objects([name])[0]

    def objects(self, names: Sequence[str]) -> "list[Object | None]":
        """Return what each name stands for, all through the one git process that stays open."""
        with self._batch_lock:
            if self._batch is None or not self._batch.alive():
                self._batch = _Batch(
                    self._command(["cat-file", "--batch"]), self.top, {**self._environ, **self._reading()}
                )
            return self._batch.ask(names)

    def entries(self, treeish: str) -> Mapping[str, TreeEntry] | None:
        """Return one level of a tree by name; None: there is no such tree."""
        return self.all_entries([treeish])[0]

    def all_entries(self, treeishes: Sequence[str]) -> list[Mapping[str, TreeEntry] | None]:
        """Return one level of several trees, asked at once."""
        width = 32 if self._format == "sha256" else 20
        found = self.objects([f"{name}^{{tree}}" if _OID.fullmatch(name) else name for name in treeishes])
        return [_parse_tree(one.data, width) if one and one.kind == "tree" else None for one in found]

    def remote_url(self, remote: str) -> str | None:
        """Return where the user's remote points, without any credentials; None: there is no such remote."""
        done = self._read_git(["remote", "get-url", "--", remote], check=False)
        if done.returncode:
            return None
        return _CREDENTIALS.sub(r"\1", os.fsdecode(done.stdout).splitlines()[0])

    # Acts, on the private repository and on remotes alone

    def fetch(self, remote: str, refspec: str, *, whole: bool = False) -> str | None:
        """Fetch one ref into the private repository and return its commit; None: the remote has no such ref.

        For a shallow clone only the tip is fetched, unless the ``whole`` history is asked for.
        """
        ref = refspec.removeprefix("+")
        if not _REF.fullmatch(ref):
            raise GitError(f"{ref!r} is no name of a ref")
        kept = self.fetched_ref(remote, ref)
        # Filters of a partial clone would leave out what we are about to read.
        args = [*_FETCH, "--no-filter"]
        if not whole and self._shallow():
            args.append("--depth=1")
        with locked(self._lock):
            done = self._connect([*args, "--", remote, f"+{ref}:{kept}"], remote)
        if done.returncode:
            if "couldn't find remote ref" in _said(done):
                return None
            raise _service_error(f"cannot fetch {ref} from {remote}", done)
        return self.fetched(remote, ref)

    def fetched(self, remote: str, ref: str) -> str | None:
        """Return the commit of a ref as it was last fetched, without asking the remote."""
        name = self.fetched_ref(remote, ref)
        # Nothing here packs refs, so that one small file answers; git is asked only when it does not.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            text = (self._store / name).read_text(encoding="ascii", errors="replace").strip()
            if _OID.fullmatch(text):
                return text
        if not (self._store / "packed-refs").exists():
            return None
        done = self._act(["rev-parse", "-q", "--verify", f"{name}^{{commit}}"], check=False)
        return os.fsdecode(done.stdout).strip() or None

    def remember(self, remote: str, ref: str, commit: str) -> None:
        """Note where a push has moved a ref, as if it had been fetched."""
        replace_file(self._store / self.fetched_ref(remote, ref), f"{_oid(commit)}\n".encode())

    @staticmethod
    def fetched_ref(remote: str, ref: str) -> str:
        """Return the private name of a remote's ref."""
        return f"refs/gitops-ml/remotes/{remote}/{ref.removeprefix('refs/')}"

    def write_commit(self, files: Mapping[str, bytes], *, parent: str | None, message: str) -> str:
        """Write a commit whose tree is the parent's with the files added or replaced, and return its id."""
        ref = f"refs/gitops-ml/writing/{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}"
        author, committer = (_identity(self._environ, role) for role in ("AUTHOR", "COMMITTER"))
        text = message.encode()
        stream = [b"feature done\ncommit %s\nmark :1\n" % ref.encode()]
        stream.append(b"author %s\ncommitter %s\ndata %d\n%s\n" % (author, committer, len(text), text))
        if parent is not None:
            stream.append(b"from %s\n" % _oid(parent).encode())
        for path, data in sorted(files.items()):
            stream.append(b"M 100644 inline %s\ndata %d\n" % (_quoted(_tree_path(path)), len(data)))
            stream += [data, b"\n"]
        # The commit needs no name here: it is pushed by its id, and nothing prunes the private store.
        nothing = b"0" * (64 if self._format == "sha256" else 40)
        stream.append(b"get-mark :1\nreset %s\nfrom %s\n\ndone\n" % (ref.encode(), nothing))
        done = self._act(["fast-import", "--quiet", "--date-format=raw"], stdin=b"".join(stream))
        return os.fsdecode(done.stdout).strip()

    def push(self, remote: str, commit: str, ref: str, *, expected: str | None) -> None:
        """Move the remote's ref to the commit, only if it still is at ``expected`` (None: does not exist).

        Raises:
            RejectedError: it moved.
            RefusedError: refused for another reason.
            ServiceError: not reachable; whether the remote took it is not known.
        """
        if expected is not None and expected not in self.parents(commit) and not self.is_ancestor(expected, commit):
            raise GitError(f"{commit[:12]} does not continue {expected[:12]}; {ref} is only ever appended to")
        # A lease on a fast-forward is a compare-and-swap: nothing is ever rewritten.
        lease = f"--force-with-lease={ref}:{expected or ''}"
        done = self._connect([*_PUSH, lease, "--", remote, f"{_oid(commit)}:{ref}"], remote)
        if done.returncode == 0:
            return
        if refused := _refusals(done).get(ref):
            if any(word in refused for word in _MOVED):
                raise RejectedError(refused)
            raise RefusedError(f"{remote} refused {ref}: {refused}{_hints(done)}")
        raise _service_error(f"cannot push {ref} to {remote}", done)

    def push_commits(self, remote: str, commits: Sequence[str]) -> Mapping[str, str]:
        """Push each commit as ``refs/gitops-ml/commits/<sha>``, and return what was refused and why."""
        refs = {f"refs/gitops-ml/commits/{_oid(commit)}": commit for commit in commits}
        if not refs:
            return {}
        done = self._connect([*_PUSH, "--", remote, *(f"{commit}:{ref}" for ref, commit in refs.items())], remote)
        if done.returncode == 0:
            return {}
        refused = _refusals(done)
        if not refused:
            refused = dict.fromkeys(refs, _said(done))
        return {refs[ref]: why for ref, why in refused.items() if ref in refs}

    # The private repository

    @functools.cached_property
    def _layout(self) -> "_Layout":
        done = self._run(["rev-parse", *_LAYOUT], cwd=self.top, env={})
        return _layout(os.fsdecode(done.stdout).split("\n"))

    @property
    def _format(self) -> str:
        return self._layout.object_format

    @functools.cached_property
    def _store(self) -> Path:
        """The private repository, made when first needed and mended when the user's has moved."""
        self._refuse_tracked_state()
        state_folder(self.state)
        store = self.state / "git"
        if not store.is_dir():
            _make_store(store)
        # Rewritten whenever they differ: the clone may have moved, and nothing of it may come from elsewhere.
        _write_if_different(store / "config", _CONFIG[self._format])
        alternate = os.fsencode(self._layout.objects)
        if b"\n" in alternate or alternate.startswith((b'"', b"#")):
            alternate = _quoted(alternate)
        _write_if_different(store / "objects/info/alternates", alternate + b"\n")
        self._adopt_shallow(store)
        return store

    @property
    def _lock(self) -> Path:
        """Held while refs and the shallow boundary of the private repository change."""
        return self._store / "gitops-ml.lock"

    def _refuse_tracked_state(self) -> None:
        """A change that brings its own ``.gitops-ml`` could plant objects, settings and results."""
        if self.state.is_symlink():
            raise UserError(f"{self.state} is a symbolic link; it must be a folder of its own: remove it")
        if self.state.is_dir():
            done = self._run(["ls-files", "-z", "--", STATE], cwd=self.top, env={})
            if done.stdout:
                first = os.fsdecode(done.stdout.split(b"\0")[0])
                raise UserError(f"{first} is tracked by git; {STATE}/ is private to each clone: git rm -r {STATE}")

    def _reading(self) -> dict[str, str]:
        return {"GIT_OBJECT_DIRECTORY": str(self._store / "objects")}

    def _read_git(
        self, args: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: bytes = b"", check: bool = True
    ) -> "subprocess.CompletedProcess[bytes]":
        return self._run(args, cwd=self.top, env={**self._reading(), **(env or {})}, stdin=stdin, check=check)

    def _act(
        self, args: Sequence[str], *, stdin: bytes = b"", check: bool = True
    ) -> "subprocess.CompletedProcess[bytes]":
        return self._run(args, cwd=self.top, env={"GIT_DIR": str(self._store)}, stdin=stdin, check=check)

    def _connect(
        self, args: Sequence[str], remote: str, *, partial: bool = False, stdin: bytes = b""
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a command that talks to the remote, with the user's settings for it."""
        if not _REMOTE.fullmatch(remote):
            raise GitError(f"{remote!r} is no name of a remote")
        extra = list(self._connection)
        if not any(key.startswith(f"remote.{remote}.") for key, _ in extra) and self.remote_url(remote) is None:
            raise GitError(f"there is no remote called {remote!r}: git remote add {remote} URL")
        if partial:
            # Said here, fetch need not write it to the config, which other processes read at the same time.
            extra += [(f"remote.{remote}.promisor", "true"), (f"remote.{remote}.partialclonefilter", "tree:0")]
        env = {"GIT_DIR": str(self._store), **_with_config(self._environ, extra)}
        return self._run(args, cwd=self.top, env=env, stdin=stdin, check=False, network=True)

    @functools.cached_property
    def _connection(self) -> tuple[tuple[str, str], ...]:
        """The user's settings that a connection needs and that the private repository does not see by itself.

        Compared entry by entry, because conditions (``includeIf.gitdir``) may show global files to the one and not
        to the other; actions/checkout hands its token over in that way.
        """
        theirs = _settings(self._run(_LIST_CONFIG, cwd=self.top, env={}).stdout)
        ours = Counter(_settings(self._act(_LIST_CONFIG).stdout))
        extra = []
        for entry in theirs:
            if ours[entry]:
                ours[entry] -= 1
            elif _CONNECTION.fullmatch(entry[0]):
                extra.append(entry)
        return tuple(extra)

    # History that is not all here

    def _adopt_shallow(self, store: Path) -> None:
        """Carry changes of the user's shallow boundary over to ours, which may meanwhile lie deeper."""
        theirs = _lines(self._layout.shallow)
        seen = _lines(store / "gitops-ml-shallow")
        if theirs == seen:
            return
        with locked(store / "gitops-ml.lock"):
            mine = (_lines(store / "shallow") - (seen - theirs)) | (theirs - seen)
            replace_file(store / "shallow", "".join(f"{oid}\n" for oid in sorted(mine)).encode())
            replace_file(store / "gitops-ml-shallow", "".join(f"{oid}\n" for oid in sorted(theirs)).encode())

    def _shallow(self) -> frozenset[str]:
        return _lines(self._store / "shallow")

    def _boundary(self, tips: Sequence[str], base: str | None) -> list[str]:
        """Return the commits between the tips and the base whose parents are not here."""
        shallow = self._shallow()
        if not shallow:
            return []
        without = [f"^{base}"] if base else []
        commits = os.fsdecode(self._act(["rev-list", *map(_oid, tips), *without, "--"]).stdout).split()
        return sorted(shallow.intersection(commits))

    def _deepen(self, boundary: Sequence[str], commits: int) -> None:
        """Fetch more of the commit graph, without trees and files, behind the boundary."""
        with locked(self._lock):
            still = sorted(self._shallow().intersection(boundary))
            if not still:
                return
            depth = f"--deepen={commits}" if commits else "--depth=2147483647"
            remote = self._any_remote()
            done = self._connect([*_FETCH, "--filter=tree:0", depth, "--", remote, *still], remote, partial=True)
        if done.returncode:
            raise _service_error(
                f"this clone is shallow, and the history that the baseline needs cannot be fetched from {remote} "
                "(clone with the full history, such as fetch-depth: 0, or mend the remote)",
                done,
            )

    def _obtain(self, oids: Sequence[str], filter_spec: str = "blob:limit=1m") -> None:
        """Fetch objects that a shallow or partial clone lacks into the private store."""
        if not self._incomplete():
            raise GitError(f"object {oids[0]} is not in this repository")
        remote = self._any_remote()
        # As git itself does for partial clones: no negotiation, or the server would leave out what our commits imply.
        args = ["-c", "fetch.negotiationAlgorithm=noop", *_FETCH, f"--filter={filter_spec}", "--stdin", remote]
        done = self._connect(args, remote, partial=True, stdin="".join(f"{oid}\n" for oid in oids).encode())
        if done.returncode:
            raise _service_error(f"cannot fetch {len(oids)} objects that this clone lacks from {remote}", done)

    def _incomplete(self) -> bool:
        """Say whether objects may be missing: a shallow or partial clone, or commits alone from deepening one."""
        packs = (self._layout.objects / "pack", self._store / "objects/pack")
        return self._layout.shallow.exists() or any(True for pack in packs for _ in pack.glob("*.promisor"))

    def _any_remote(self) -> str:
        names = os.fsdecode(self._read_git(["remote"]).stdout).split()
        if not names:
            raise GitError("this clone is shallow or partial and has no remote to fetch the rest from: git remote add")
        return "origin" if "origin" in names else names[0]

    # Trees

    def _commit_lines(self, commit: str) -> list[str]:
        found = self.object(_oid(commit))
        if found is None:
            self._obtain([commit], "tree:0")
            found = self.object(commit)
        if found is None or found.kind != "commit":
            raise GitError(f"{commit} is no commit of this repository")
        return os.fsdecode(found.data.partition(b"\n\n")[0]).splitlines()

    def _tree_of(self, commit: str) -> str:
        return self._commit_lines(commit)[0].removeprefix("tree ")

    def _listed(self, version: Version) -> Tree:
        args = ["ls-tree", "-r", "-z", "--full-tree", _oid(version.tree)]
        done = self._read_git(args, check=False)
        if done.returncode and self._incomplete():
            self._obtain([version.tree])
            done = self._read_git(args, check=False)
        if done.returncode:
            raise GitError(f"git cannot list {version.commit[:12] or version.label}: {_said(done)}")
        files = {}
        for line in os.fsdecode(done.stdout).split("\0")[:-1]:
            head, _, path = line.partition("\t")
            mode, _, oid = head.split(" ")
            files[path] = TreeFile(path, mode, oid)
        return Tree(version=version, files=files, read=functools.partial(self._blob, files))

    def _blob(self, files: Mapping[str, TreeFile], oid: str) -> bytes:
        found = self.object(_oid(oid))
        if found is None:
            # Whoever reads one spec reads its neighbours next: fetch the folder at once.
            folders = {path.rpartition("/")[0] for path, file in files.items() if file.oid == oid}
            near = {f.oid for path, f in files.items() if path.rpartition("/")[0] in folders and f.mode != "160000"}
            lacking = sorted(name for name, one in zip(near, self.objects([*near]), strict=True) if one is None)
            self._obtain([oid, *(name for name in lacking if name != oid)])
            found = self.object(oid)
        if found is None:
            raise GitError(f"object {oid} is not in this repository, and no remote has it")
        return found.data

    def _stage(self, paths: Sequence[str]) -> str:
        """Return the tree of the user's index with the paths as they are on disk."""
        scratch = self.state / "tmp"
        scratch.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            index = Path(folder, "index")
            with contextlib.suppress(FileNotFoundError):
                # With its time: git trusts entries only that are older than the index.
                shutil.copy2(self._layout.index, index)
            env = {"GIT_INDEX_FILE": str(index)}
            if paths:
                args = ["update-index", "--add", "--remove", "--replace", "-z", "--stdin"]
                self._read_git(args, env=env, stdin=b"".join(os.fsencode(path) + b"\0" for path in paths))
            return os.fsdecode(self._read_git(["write-tree", "--missing-ok"], env=env).stdout).strip()

    # Processes

    def _command(self, args: Sequence[str]) -> list[str]:
        store_lfs = f"lfs.storage={self.state / 'git' / 'lfs'}"
        return ["git", *_OVERRIDES, "-c", store_lfs, *args]

    def _run(
        self,
        args: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdin: bytes = b"",
        check: bool = True,
        network: bool = False,
    ) -> "subprocess.CompletedProcess[bytes]":
        limit_s = NETWORK_LIMIT_S if network else LOCAL_LIMIT_S
        done = _finish(self._command(args), cwd, {**self._environ, **env}, stdin, limit_s, network=network)
        if check and done.returncode:
            raise GitError(f"git {args[0]} failed: {_said(done)}")
        return done


@dataclasses.dataclass(frozen=True, slots=True)
class Object:
    """A git object: its id, kind (blob, tree, commit, tag) and bytes."""

    oid: str
    kind: str
    data: bytes


class _Batch:
    """One ``git cat-file --batch`` that stays open."""

    # A page of names fits into any pipe's buffer, so that neither side waits for the other to read.
    PAGE = 100

    def __init__(self, command: list[str], cwd: Path, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.close = weakref.finalize(self, _end, self._process)

    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, names: Sequence[str]) -> list[Object | None]:
        found: list[Object | None] = []
        try:
            for start in range(0, len(names), self.PAGE):
                page = names[start : start + self.PAGE]
                assert self._process.stdin
                self._process.stdin.write(b"".join(os.fsencode(name) + b"\n" for name in page))
                self._process.stdin.flush()
                found += [self._answer() for _ in page]
        except BaseException:
            # Interrupted between question and answer: the next answer would be to the wrong question.
            self.close()
            raise
        return found

    def _answer(self) -> Object | None:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise GitError("git cat-file ended early; the repository may be damaged: git fsck")
        words = line.rsplit(b" ", 2)
        if len(words) != 3 or not words[2].strip().isdigit():
            return None
        size = int(words[2])
        data = self._process.stdout.read(size + 1)
        if len(data) != size + 1:
            raise GitError("git cat-file ended early; the repository may be damaged: git fsck")
        return Object(words[0].decode(), words[1].decode(), data[:-1])


def _end(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    process.kill()
    process.wait()


# Files of the state folder


def state_folder(state: Path) -> None:
    """Make the ``.gitops-ml`` folder, which hides itself from git."""
    state.mkdir(exist_ok=True)
    if not (state / ".gitignore").exists():
        replace_file(state / ".gitignore", b"*\n")


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, so that it is still there after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 a descriptor
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)  # noqa: PTH105 beside its try
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108
        raise


@contextlib.contextmanager
def locked(path: Path, *, limit_s: float = NETWORK_LIMIT_S * 2) -> Iterator[None]:
    """Hold a lock among the processes of this clone; a process that dies lets go of it.

    Raises:
        GitError: another process held it longer than the limit.
    """
    import fcntl

    with path.open("ab") as file:
        deadline = time.monotonic() + limit_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise GitError(f"another gitops-ml has held {path} for {limit_s:.0f} s; is it stuck?") from None
                time.sleep(0.02)
        yield


def _write_if_different(path: Path, data: bytes) -> None:
    try:
        if path.read_bytes() == data:
            return
    except FileNotFoundError:
        pass
    replace_file(path, data)


def _make_store(store: Path) -> None:
    """Make the bare repository beside its place and move it there; whoever comes second keeps the first one."""
    fresh = Path(tempfile.mkdtemp(dir=store.parent, prefix=".git-new-"))
    for folder in ("objects/info", "objects/pack", "refs/heads"):
        (fresh / folder).mkdir(parents=True)
    (fresh / "HEAD").write_text("ref: refs/heads/none\n", encoding="ascii")
    try:
        fresh.rename(store)
    except OSError:
        shutil.rmtree(fresh)
        if not store.is_dir():
            raise


_SETTINGS = """\
\tbare = true
\tlogallrefupdates = false
\thooksPath = /dev/null
[gc]
\tauto = 0
[maintenance]
\tauto = false
"""
_CONFIG = {
    "sha1": f"[core]\n\trepositoryformatversion = 0\n{_SETTINGS}".encode(),
    "sha256": (f"[core]\n\trepositoryformatversion = 1\n{_SETTINGS}[extensions]\n\tobjectformat = sha256\n".encode()),
}


# How git is called

_LAYOUT = (
    "--path-format=absolute",
    "--show-toplevel",
    "--show-object-format",
    *("--git-path", "objects"),
    *("--git-path", "shallow"),
    *("--git-path", "index"),
)
_LAYOUT_LINES = 5


@dataclasses.dataclass(frozen=True, slots=True)
class _Layout:
    top: Path
    object_format: str
    objects: Path
    shallow: Path
    index: Path


def _layout(lines: Sequence[str]) -> _Layout:
    return _Layout(Path(lines[0]), lines[1], Path(lines[2]), Path(lines[3]), Path(lines[4]))


# On the command line they win over every configuration, the user's and the environment's.
_OVERRIDES = tuple(
    word
    for setting in (
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "core.splitIndex=false",
        "core.untrackedCache=keep",
        "core.quotePath=false",
        "core.pager=cat",
        "gc.auto=0",
        "maintenance.auto=false",
        "submodule.recurse=false",
        "push.pushOption=",
        "advice.detachedHead=false",
    )
    for word in ("-c", setting)
)
_FETCH = (
    "fetch",
    "--quiet",
    "--no-tags",
    "--no-write-fetch-head",
    "--no-auto-maintenance",
    "--no-recurse-submodules",
    "--no-prune",
    "--refmap=",
)
_PUSH = (
    "push",
    "--porcelain",
    "--no-verify",
    "--no-signed",
    "--no-follow-tags",
    "--recurse-submodules=no",
)
_LIST_CONFIG = ("config", "--list", "-z", "--includes")
# What else a user's configuration may hold about a remote (mirror, prune, refspecs) would change what our commands do.
_CONNECTION = re.compile(
    r"(remote\..*\.(url|pushurl|proxy|proxyauthmethod|uploadpack|receivepack|vcs|serveroption|promisor)"
    r"|(http|credential|url|ssh|protocol)\..*|core\.(sshcommand|askpass|gitproxy)|transfer\.credentialsinurl)",
    re.DOTALL,
)
_KEPT_VARIABLES = re.compile(
    r"GIT_(SSH|SSH_COMMAND|SSH_VARIANT|ASKPASS|PROXY_COMMAND|PROXY_SSL_.*|SSL_.*|HTTP_.*|CURL_.*|ALLOW_PROTOCOL|PROTOCOL"
    r"|PROTOCOL_FROM_USER|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|PARAMETERS|COUNT|KEY_\d+|VALUE_\d+)|EXEC_PATH"
    r"|CEILING_DIRECTORIES|DISCOVERY_ACROSS_FILESYSTEM|(AUTHOR|COMMITTER)_(NAME|EMAIL|DATE)|TEST_.*)"
)
_OID = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_REF = re.compile(r"(?!.*(\.\.|//|@\{|\.lock(/|$)|/\.|/$|\.$))[^\x00-\x20\x7f~^:?*\[\\.+/-][^\x00-\x20\x7f~^:?*\[\\]*")
_REMOTE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
_PAGE = 256
_DEEPEN = (50, 500, 0)
"""How far to deepen, step by step; 0: all of it."""
_MOVED = ("stale info", "fetch first", "non-fast-forward", "cannot lock ref", "failed to update ref", "already exists",
          "incorrect old value", "failed to lock", "remote ref updated")  # fmt: skip


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what would point git elsewhere, make it wait, or make it speak otherwise."""
    kept = {k: v for k, v in environ.items() if not k.startswith("GIT_") or _KEPT_VARIABLES.fullmatch(k)}
    return {
        "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
        "GIT_HTTP_LOW_SPEED_TIME": "60",
        **kept,
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GCM_INTERACTIVE": "never",
        "LC_ALL": "C",
        "LANGUAGE": "C",
    }


def _with_config(environ: Mapping[str, str], extra: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the variables that hand over settings, before those that the caller's environment hands over."""
    count = environ.get("GIT_CONFIG_COUNT", "0")
    own = [(environ.get(f"GIT_CONFIG_KEY_{i}"), environ.get(f"GIT_CONFIG_VALUE_{i}")) for i in range(_number(count))]
    env = {"GIT_CONFIG_COUNT": str(len(extra) + len(own))}
    for number, (key, value) in enumerate([*extra, *own]):
        env[f"GIT_CONFIG_KEY_{number}"] = key or ""
        env[f"GIT_CONFIG_VALUE_{number}"] = value or ""
    return env


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _finish(
    command: Sequence[str], cwd: Path, env: Mapping[str, str], stdin: bytes, limit_s: float, *, network: bool
) -> "subprocess.CompletedProcess[bytes]":
    try:
        # A connection gets its own session: no terminal to ask for a password, and ssh and helpers end with it.
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=network,
        )
    except FileNotFoundError as error:
        raise UserError("git is not installed, or not on the PATH; gitops-ml needs git 2.31 or newer") from error
    with process:
        try:
            out, err = process.communicate(stdin, timeout=limit_s)
        except BaseException as error:
            if network:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                name = next((word for word in command[1:] if word in ("fetch", "push", "status", "fast-import")), "")
                kind = ServiceError if network else GitError
                raise kind(f"git {name} did not end within {limit_s:.0f} s") from None
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


# What git says


def redacted(text: str) -> str:
    """Return the text without passwords and tokens."""
    text = _CREDENTIALS.sub(r"\1***@", text)
    text = re.sub(r"(?i)(authorization: *\w+ +|private-token: *|job-token: *)\S+", r"\1***", text)
    return re.sub(r"\b(gh[a-z]_|github_pat_|gl[a-z]{2,6}-)[\w.-]{6,}", "***", text)


_CREDENTIALS = re.compile(r"(\bhttps?://)[^/\s]+@")


def _said(done: "subprocess.CompletedProcess[bytes]") -> str:
    lines = [line.strip() for line in os.fsdecode(done.stderr).splitlines() if not line.startswith("hint:")]
    text = "; ".join(line for line in lines if line)[-2000:]
    return redacted(text) or f"exit status {done.returncode}"


def _hints(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Return what the server itself said (hooks, rulesets)."""
    lines = [
        line.removeprefix("remote:").strip() for line in os.fsdecode(done.stderr).splitlines() if "remote:" in line
    ]
    text = redacted("; ".join(line for line in lines if line))[:1000]
    return f" ({text})" if text else ""


_HOPELESS = re.compile(
    r"(?i)authentication failed|permission denied|access denied|\b40[134]\b|could not read (username|password)"
    r"|not found|host key verification failed|does not appear to be a git repository|no such remote|protected"
)


def _service_error(what: str, done: "subprocess.CompletedProcess[bytes]") -> ServiceError:
    said = _said(done)
    kind = RefusedError if _HOPELESS.search(said) else ServiceError
    return kind(f"{what}: {said}")


def _refusals(done: "subprocess.CompletedProcess[bytes]") -> dict[str, str]:
    """Return why each ref was not pushed, from the lines ``!<TAB>from:to<TAB>summary (reason)``."""
    refused = {}
    for line in os.fsdecode(done.stdout).splitlines():
        parts = line.split("\t")
        if len(parts) == 3 and parts[0] == "!" and not parts[2].startswith("[remote failure]"):
            refused[parts[1].partition(":")[2]] = redacted(parts[2])
    return refused


@dataclasses.dataclass(frozen=True, slots=True)
class _Status:
    commit: str
    staged: bool
    changed: tuple[str, ...]
    """Tracked files whose work tree differs from the index."""
    untracked: tuple[str, ...]


def _status(out: bytes) -> _Status:
    """Parse ``status --porcelain=v2 --branch -z --no-renames``."""
    commit, staged, changed, untracked = "", False, [], []
    for line in os.fsdecode(out).split("\0")[:-1]:
        kind, _, rest = line.partition(" ")
        if kind == "#":
            name, _, value = rest.partition(" ")
            if name == "branch.oid" and _OID.fullmatch(value):
                commit = value
        elif kind == "?":
            # A folder here is a repository of its own: no business of ours.
            if not rest.endswith("/"):
                untracked.append(rest)
        elif kind in "1u":
            fields = rest.split(" ", 7 if kind == "1" else 9)
            staged = staged or fields[0][0] != "."
            if fields[0][1] != ".":
                changed.append(fields[-1])
    return _Status(commit, staged, tuple(changed), tuple(untracked))


def _parse_tree(data: bytes, width: int) -> dict[str, TreeEntry]:
    entries = {}
    at = 0
    while at < len(data):
        space = data.index(b" ", at)
        end = data.index(b"\0", space)
        oid = data[end + 1 : end + 1 + width].hex()
        entries[os.fsdecode(data[space + 1 : end])] = TreeEntry(mode=data[at:space].decode().zfill(6), oid=oid)
        at = end + 1 + width
    return entries


def _settings(out: bytes) -> list[tuple[str, str]]:
    entries = []
    for line in os.fsdecode(out).split("\0")[:-1]:
        key, equals, value = line.partition("\n")
        # A key without a value is true, which an environment variable cannot leave out.
        entries.append((key, value if equals else "true"))
    return entries


def _lines(path: Path) -> frozenset[str]:
    try:
        return frozenset(path.read_text(encoding="ascii").split())
    except FileNotFoundError:
        return frozenset()


def _branch(name: str) -> str | None:
    return name.removeprefix("refs/heads/") if name.startswith("refs/heads/") else None


def _oid(text: str) -> str:
    if not _OID.fullmatch(text):
        raise GitError(f"{text!r} is no git object id; give all of its hexadecimal digits")
    return text


# What is committed


def _tree_path(path: str) -> bytes:
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") or part.lower() == ".git" for part in parts) or "\0" in path:
        raise GitError(f"{path!r} cannot be the path of a committed file")
    return os.fsencode(path)


def _quoted(path: bytes) -> bytes:
    """Return the path in C's quotes, as git reads it in streams and in ``alternates``."""
    escaped = path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'"' + escaped + b'"'


def _identity(environ: Mapping[str, str], role: str) -> bytes:
    name, email = AUTHOR.removesuffix(">").split(" <")
    name = environ.get(f"GIT_{role}_NAME") or name
    email = environ.get(f"GIT_{role}_EMAIL") or email
    when, zone = _date(environ.get(f"GIT_{role}_DATE", ""))
    plain = [re.sub(r"[<>\n\0]", "", text).strip() for text in (name, email)]
    return f"{plain[0]} <{plain[1]}> {when} {zone}".encode()


def _date(text: str) -> tuple[int, str]:
    if not text:
        return int(time.time()), "+0000"
    if match := re.fullmatch(r"@?(\d+)(?: ([+-]\d{4}))?", text):
        return int(match[1]), match[2] or "+0000"
    try:
        return int(datetime.fromisoformat(text).timestamp()), "+0000"
    except ValueError:
        raise GitError(f"GIT_*_DATE is {text!r}; give it as `@SECONDS` or as 2026-01-31T12:00:00+00:00") from None
