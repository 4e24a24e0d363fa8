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
import functools
import os
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from gitops_ml.errors import GitError, NoRepositoryError, UserError
from gitops_ml.git.objects import (
    OID,
    Batch,
    Object,
    TreeEntry,
    checked_oid,
    identity,
    parse_listing,
    parse_status,
    parse_tree,
    quoted,
    tree_path,
)
from gitops_ml.git.process import (
    CONNECTION,
    CREDENTIALS,
    LIST_CONFIG,
    OVERRIDES,
    RefusedError,
    RejectedError,
    clean_environment,
    parse_settings,
    redacted,
    refusals,
    remote_words,
    run,
    service_error,
    what_git_said,
    with_settings,
)
from gitops_ml.git.state import (
    STORE_CONFIG,
    lines_of,
    locked,
    make_store,
    replace_file,
    state_folder,
    write_if_different,
)
from gitops_ml.globs import compiled
from gitops_ml.planning import Tree, TreeFile
from gitops_ml.records import Version
from gitops_ml.values import dataclass

__all__ = [
    "STATE", "Head", "Object", "RefusedError", "RejectedError", "Repository", "TreeEntry", "locked", "redacted",
    "replace_file", "state_folder",
]  # fmt: skip

STATE = ".gitops-ml"
LOCAL_LIMIT_S = 600.0
NETWORK_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is checked out: ``commit`` None in a repository without commits, ``branch`` None when detached."""

    commit: str | None
    branch: str | None


class Repository:
    """The user's repository, read through the private one."""

    top: Path
    state: Path
    """The ``.gitops-ml`` folder; it ignores itself."""

    def __init__(self, top: Path, environ: Mapping[str, str]) -> None:
        self.top = top
        self.state = top / STATE
        self._environ = clean_environment(environ)
        self._fetched_tips: dict[tuple[str, str], str | None] = {}
        self._urls: dict[str, str | None] = {}
        self._batch_lock = threading.Lock()
        self._batch: Batch | None = None

    @classmethod
    def find(cls, start: Path, environ: Mapping[str, str]) -> "Repository":
        """Return the repository that holds the folder.

        Raises:
            NoRepositoryError: there is none, or git is missing.
            UserError: git is too old, or there is no work tree.
        """
        if not start.is_dir():
            raise UserError(f"{start} is no folder")
        finder = cls(start, environ)
        done = finder._run(["rev-parse", *_LAYOUT], cwd=start, env={}, check=False)
        if done.returncode:
            said = what_git_said(done)
            if "must be run in a work tree" in said:
                raise UserError(f"{start} is inside a bare repository; gitops-ml needs a work tree: git worktree add")
            if "not a git repository" in said:
                if found := _not_taken(start, environ):
                    raise GitError(f"{found} is there, but git takes it for no repository ({said}): {_damage(found)}")
                raise NoRepositoryError(f"{start} is in no git repository; specs are read from git: git init")
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

    def resolve_ref(self, ref: str, remote: str, *, beside: str | None = None) -> str | None:
        """Return the commit of a baseline ref: the remote-tracking branch, then the local one, then any revision.

        A CI checkout of one commit has none of these: then the remote's branch is fetched. A shallow clone fetches the
        history ``beside`` it along, which is that of a commit whose merge base with the branch is asked for next.
        """
        for name in (f"refs/remotes/{remote}/{ref}", f"refs/heads/{ref}", ref):
            if commit := self.resolve(name):
                return commit
        if not _REF.fullmatch(ref) or self.remote_url(remote) is None:
            return None
        if (remote, ref) not in self._fetched_tips:
            branch = f"refs/heads/{ref}"
            known = beside is not None and self._fetch_beside(remote, branch, beside)
            self._fetched_tips[remote, ref] = self.fetched(remote, branch) if known else self.fetch(remote, branch)
        return self._fetched_tips[remote, ref]

    def merge_base(self, one: str, other: str) -> str | None:
        """Return the best common ancestor; a shallow clone is deepened by the commit graph alone if need be.

        Raises:
            ServiceError: the history that is needed to answer is not here and could not be fetched.
        """
        for deepen in (*_DEEPEN, None):
            done = self._act(["merge-base", checked_oid(one), checked_oid(other)], check=False)
            if done.returncode > 1:
                raise GitError(f"git cannot compare {one[:12]} with {other[:12]}: {what_git_said(done)}")
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
            args = ["rev-list", "--first-parent", f"--max-count={_PAGE + skip}", checked_oid(start), "--"]
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

    def line(self, tip: str) -> Sequence[tuple[str, int]]:
        """Return the tip and its first-parent ancestors as far as they are here, oldest first, with commit times.

        Times are seconds since 1970 (UTC).
        """
        args = ["log", "--first-parent", "--no-show-signature", "--format=%H %ct", checked_oid(tip), "--"]
        pairs = [line.split(" ") for line in os.fsdecode(self._act(args).stdout).splitlines()]
        return [(commit, int(time_s)) for commit, time_s in reversed(pairs)]

    def tags(self) -> Mapping[str, str]:
        """Return the commit of each tag of the user's repository, by its name; tags of other things are left out."""
        form = "--format=%(objectname) %(objecttype) %(*objectname) %(*objecttype) %(refname:strip=2)"
        found = {}
        for line in os.fsdecode(self._read_git(["for-each-ref", form, "refs/tags"]).stdout).splitlines():
            oid, kind, target, target_kind, name = line.split(" ", 4)
            if "commit" in (kind, target_kind):
                found[name] = target if target_kind == "commit" else oid
        return found

    def behind(self, commit: str, tip: str) -> int | None:
        """Return how many commits of the tip are not in the commit's history; None: not known."""
        done = self._act(["rev-list", checked_oid(tip), f"^{checked_oid(commit)}", "--"], check=False)
        if done.returncode:
            return None
        commits = os.fsdecode(done.stdout).split()
        return None if self._shallow().intersection(commits) else len(commits)

    def is_ancestor(self, commit: str, tip: str) -> bool:
        """Say whether the commit is the tip or in its history, as far as that is here."""
        done = self._act(["merge-base", "--is-ancestor", checked_oid(commit), checked_oid(tip)], check=False)
        return done.returncode == 0

    def rewrites(self, tip: str, folders: Sequence[str]) -> Iterator[tuple[str, str, str]]:
        """Yield (commit, what was done, path) for each file below the folders that some commit changed or removed.

        Newest first. Against every parent: a merge that drops what one side had is found too.
        """
        args = ["log", "--format=%x01%H", "--raw", "-z", "-r", "-m", "--full-history", "--no-renames", "--no-abbrev"]
        # A file's name may be anything; a pathspec is not to be read as a pattern.
        args += [
            "--no-show-signature",
            "--diff-filter=a",
            checked_oid(tip),
            "--",
            *(f":(top,literal){f}" for f in folders),
        ]
        commit, pending = "", ""
        for word in os.fsdecode(self._act(args).stdout).split("\0"):
            if pending:
                yield commit, _REWRITES.get(pending, "changed"), word
                pending = ""
            elif word.lstrip("\n").startswith("\x01"):
                commit = word.lstrip("\n")[1:].rstrip("\n")
            elif word.lstrip("\n").startswith(":"):
                pending = word.rstrip("\n").rpartition(" ")[2][:1]

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
        status = parse_status(self._read_git(["status", *options]).stdout)
        wanted = [*status.changed, *filter(compiled(tuple(selected)), status.untracked)]
        if status.commit and not wanted and not status.staged:
            return None
        tree = self._stage(wanted)
        if status.commit and tree == self._tree_of(status.commit):
            return None
        return self._listed(Version(commit=status.commit, tree=tree, label="work tree", dirty=True))

    def untracked(self) -> tuple[str, ...]:
        """Return the files of the work tree that git neither tracks nor ignores."""
        listed = self._read_git(["ls-files", "--others", "--exclude-standard", "--full-name", "-z"]).stdout
        return tuple(os.fsdecode(name) for name in listed.split(b"\0") if name)

    def blobs(self, oids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (object id, bytes) in the order asked, through one ``cat-file --batch``."""
        for oid in oids:
            checked_oid(oid)
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
                self._batch = Batch(
                    self._command(["cat-file", "--batch"]), self.top, {**self._environ, **self._reading()}
                )
            return self._batch.ask(names)

    def entries(self, treeish: str) -> Mapping[str, TreeEntry] | None:
        """Return one level of a tree by name; None: there is no such tree."""
        return self.all_entries([treeish])[0]

    def all_entries(self, treeishes: Sequence[str]) -> list[Mapping[str, TreeEntry] | None]:
        """Return one level of several trees, asked at once."""
        width = 32 if self._format == "sha256" else 20
        found = self.objects([f"{name}^{{tree}}" if OID.fullmatch(name) else name for name in treeishes])
        return [parse_tree(one.data, width) if one and one.kind == "tree" else None for one in found]

    def remote_url(self, remote: str) -> str | None:
        """Return where the user's remote points, without any credentials; None: there is no such remote."""
        if remote not in self._urls:
            done = self._read_git(["remote", "get-url", "--", remote], check=False)
            url = None if done.returncode else os.fsdecode(done.stdout).splitlines()[0]
            self._urls[remote] = url and CREDENTIALS.sub(r"\1", url)
        return self._urls[remote]

    def default_branch(self, remote: str) -> str | None:
        """Return the remote's default branch as the clone was told; None: it was not."""
        done = self._read_git(["symbolic-ref", "-q", f"refs/remotes/{remote}/HEAD"], check=False)
        return os.fsdecode(done.stdout).strip().removeprefix(f"refs/remotes/{remote}/") or None

    def has_branch(self, name: str, remote: str) -> bool:
        """Say whether the branch is here, the remote's as it was last fetched or one's own."""
        found = self.objects([f"refs/remotes/{remote}/{name}", f"refs/heads/{name}"])
        return any(one is not None for one in found)

    @property
    def is_shallow(self) -> bool:
        """The user's clone holds a part of the history only."""
        return bool(lines_of(self._layout.shallow))

    def setting(self, name: str) -> str | None:
        """Return a setting of the user's git, without credentials in its URL; None: it is not set."""
        return _setting(self._read_git(["config", "--get", name], check=False))

    def setting_at(self, tree: str, path: str, name: str) -> str | None:
        """Return a setting in a file of a tree, without credentials in its URL; None: there is none."""
        if not tree or self.object(f"{checked_oid(tree)}:{path}") is None:
            return None
        return _setting(self._read_git(["config", "--blob", f"{tree}:{path}", "--get", name], check=False))

    def submodule(self, path: str, commit: str) -> Iterator[tuple[TreeFile, bytes, Path]]:
        """Yield (file, content, git folder) of a submodule's commit, and of the submodules in it.

        Raises:
            UserError: this clone does not have that commit.
        """
        from gitops_ml.git.submodules import module_files

        return module_files(
            self.top, self._layout.objects.parent, path, checked_oid(commit), command=self._command, env=self._environ
        )

    # Acts, on the private repository and on remotes alone

    def fetch(self, remote: str, refspec: str, *, whole: bool = False, apart: bool = False) -> str | None:
        """Fetch one ref into the private repository and return its commit; None: the remote has no such ref.

        For a shallow clone only the tip is fetched, unless the ``whole`` history is asked for. A branch that lies
        ``apart`` has no history in common with any other.
        """
        ref = refspec.removeprefix("+")
        if not _REF.fullmatch(ref):
            raise GitError(f"{ref!r} is no name of a ref")
        kept = self.fetched_ref(remote, ref)
        # Filters of a partial clone would leave out what we are about to read.
        args = [*_FETCH, "--no-filter"]
        if not whole and self._shallow():
            args.append("--depth=1")
        if apart:
            # To offer the user's commits, of which none is part of it, would take a request more.
            cloned = f"refs/remotes/{remote}/{ref.removeprefix('refs/heads/')}"
            known = self.fetched(remote, ref) or self.resolve(cloned)
            args = [*args, f"--negotiation-tip={known}"] if known else ["-c", _OFFER_NOTHING, *args]
        with locked(self._lock):
            done = self._connect([*args, "--", remote, f"+{ref}:{kept}"], remote)
        if done.returncode:
            if "couldn't find remote ref" in what_git_said(done):
                return None
            raise service_error(f"cannot fetch {ref} from {remote}", done)
        return self.fetched(remote, ref)

    def branches(self, remote: str) -> Mapping[str, str]:
        """Ask a remote for its branches and their commits."""
        done = self._connect(["ls-remote", "--quiet", "--heads", "--", remote], remote)
        if done.returncode:
            raise service_error(f"cannot list the branches of {remote}", done)
        lines = (line.partition("\t") for line in os.fsdecode(done.stdout).splitlines())
        return {ref.removeprefix("refs/heads/"): commit for commit, _, ref in lines if OID.fullmatch(commit)}

    def fetched(self, remote: str, ref: str) -> str | None:
        """Return the commit of a ref as it was last fetched, without asking the remote."""
        name = self.fetched_ref(remote, ref)
        # Nothing here packs refs, so that one small file answers; git is asked only when it does not.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            text = (self._store / name).read_text(encoding="ascii", errors="replace").strip()
            if OID.fullmatch(text):
                return text
        if not (self._store / "packed-refs").exists():
            return None
        done = self._act(["rev-parse", "-q", "--verify", f"{name}^{{commit}}"], check=False)
        return os.fsdecode(done.stdout).strip() or None

    def remember(self, remote: str, ref: str, commit: str) -> None:
        """Note where a push has moved a ref, as if it had been fetched."""
        replace_file(self._store / self.fetched_ref(remote, ref), f"{checked_oid(commit)}\n".encode())

    @staticmethod
    def fetched_ref(remote: str, ref: str) -> str:
        """Return the private name of a remote's ref."""
        return f"refs/gitops-ml/remotes/{remote}/{ref.removeprefix('refs/')}"

    def write_commit(self, files: Mapping[str, bytes], *, parent: str | None, message: str) -> str:
        """Write a commit whose tree is the parent's with the files added or replaced, and return its id."""
        ref = f"refs/gitops-ml/writing/{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}"
        author, committer = (identity(self._environ, role) for role in ("AUTHOR", "COMMITTER"))
        text = message.encode()
        stream = [b"feature done\ncommit %s\nmark :1\n" % ref.encode()]
        stream.append(b"author %s\ncommitter %s\ndata %d\n%s\n" % (author, committer, len(text), text))
        if parent is not None:
            stream.append(b"from %s\n" % checked_oid(parent).encode())
        for path, data in sorted(files.items()):
            stream.append(b"M 100644 inline %s\ndata %d\n" % (quoted(tree_path(path)), len(data)))
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
        done = self._connect([*_PUSH, lease, "--", remote, f"{checked_oid(commit)}:{ref}"], remote)
        if done.returncode == 0:
            return
        if refused := refusals(done).get(ref):
            if any(word in refused for word in _MOVED):
                raise RejectedError(refused)
            raise RefusedError(f"{remote} refused {ref}: {refused}{remote_words(done)}")
        raise service_error(f"cannot push {ref} to {remote}", done)

    def push_commits(self, remote: str, commits: Sequence[str]) -> Mapping[str, str]:
        """Push each commit as ``refs/gitops-ml/commits/<sha>``, and return what was refused and why."""
        refs = {f"refs/gitops-ml/commits/{checked_oid(commit)}": commit for commit in commits}
        if not refs:
            return {}
        done = self._connect([*_PUSH, "--", remote, *(f"{commit}:{ref}" for ref, commit in refs.items())], remote)
        if done.returncode == 0:
            return {}
        refused = refusals(done)
        if not refused:
            refused = dict.fromkeys(refs, what_git_said(done))
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
            make_store(store)
        # Rewritten whenever they differ: the clone may have moved, and nothing of it may come from elsewhere.
        write_if_different(store / "config", STORE_CONFIG[self._format])
        alternate = os.fsencode(self._layout.objects)
        if b"\n" in alternate or alternate.startswith((b'"', b"#")):
            alternate = quoted(alternate)
        write_if_different(store / "objects/info/alternates", alternate + b"\n")
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
        env = {"GIT_DIR": str(self._store), **with_settings(self._environ, extra)}
        return self._run(args, cwd=self.top, env=env, stdin=stdin, check=False, network=True)

    @functools.cached_property
    def _connection(self) -> tuple[tuple[str, str], ...]:
        """The user's settings that a connection needs and that the private repository does not see by itself.

        Compared entry by entry, because conditions (``includeIf.gitdir``) may show global files to the one and not
        to the other; actions/checkout hands its token over in that way.
        """
        theirs = parse_settings(self._run(LIST_CONFIG, cwd=self.top, env={}).stdout)
        ours = Counter(parse_settings(self._act(LIST_CONFIG).stdout))
        extra = []
        for entry in theirs:
            if ours[entry]:
                ours[entry] -= 1
            elif CONNECTION.fullmatch(entry[0]):
                extra.append(entry)
        return tuple(extra)

    # History that is not all here

    def _adopt_shallow(self, store: Path) -> None:
        """Carry changes of the user's shallow boundary over to ours, which may meanwhile lie deeper."""
        theirs = lines_of(self._layout.shallow)
        seen = lines_of(store / "gitops-ml-shallow")
        if theirs == seen:
            return
        with locked(store / "gitops-ml.lock"):
            mine = (lines_of(store / "shallow") - (seen - theirs)) | (theirs - seen)
            replace_file(store / "shallow", "".join(f"{oid}\n" for oid in sorted(mine)).encode())
            replace_file(store / "gitops-ml-shallow", "".join(f"{oid}\n" for oid in sorted(theirs)).encode())

    def _shallow(self) -> frozenset[str]:
        return lines_of(self._store / "shallow")

    def _boundary(self, tips: Sequence[str], base: str | None) -> list[str]:
        """Return the commits between the tips and the base whose parents are not here."""
        shallow = self._shallow()
        if not shallow:
            return []
        without = [f"^{base}"] if base else []
        commits = os.fsdecode(self._act(["rev-list", *map(checked_oid, tips), *without, "--"]).stdout).split()
        return sorted(shallow.intersection(commits))

    def _fetch_beside(self, remote: str, ref: str, commit: str) -> bool:
        """Fetch a branch and the history behind a shallow commit at once, with trees and all files but large ones.

        Apart, the tip, the commit graph and the merge base's files would be asked for in seven requests instead of
        three. False: it is not the first time, the clone is not shallow, or the server has to be asked in small steps.
        """
        boundary = [] if self.fetched(remote, ref) else self._boundary([commit], None)
        if not boundary:
            return False
        # To offer what is here would save some of its files, and take a request more.
        args = ["-c", _OFFER_NOTHING, *_FETCH, f"--filter={_SMALL_FILES}", f"--depth={1 + _DEEPEN[0]}"]
        with locked(self._lock):
            refs = (f"+{ref}:{self.fetched_ref(remote, ref)}", *boundary)
            done = self._connect([*args, "--", remote, *refs], remote, partial=True)
        said = what_git_said(done)
        if done.returncode and not any(oid in said for oid in boundary):
            if "couldn't find remote ref" in said:
                return True
            raise service_error(f"cannot fetch {ref} from {remote}", done)
        return done.returncode == 0

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
            raise service_error(
                f"this clone is shallow, and the history that the baseline needs cannot be fetched from {remote} "
                "(clone with the full history, such as fetch-depth: 0, or mend the remote)",
                done,
            )

    def _obtain(self, oids: Sequence[str], *options: str) -> None:
        """Fetch objects that a shallow or partial clone lacks into the private store."""
        if not self._incomplete():
            raise GitError(f"object {oids[0]} is not in this repository")
        remote = self._any_remote()
        # As git itself does for partial clones: no negotiation, or the server would leave out what our commits imply.
        args = ["-c", _OFFER_NOTHING, *_FETCH, *(options or ("--filter=blob:limit=1m",)), "--stdin", remote]
        done = self._connect(args, remote, partial=True, stdin="".join(f"{oid}\n" for oid in oids).encode())
        if done.returncode:
            raise service_error(f"cannot fetch {len(oids)} objects that this clone lacks from {remote}", done)

    def _obtain_commit(self, commit: str) -> None:
        with locked(self._lock):
            # Of a whole history all that is asked for are commits; a shallow one is not to grow by all of them.
            options = (f"--filter={_SMALL_FILES}", "--depth=1") if self._shallow() else ("--filter=tree:0",)
            self._obtain([commit], *options)

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
        found = self.object(checked_oid(commit))
        if found is None:
            self._obtain_commit(commit)
            found = self.object(commit)
        if found is None or found.kind != "commit":
            raise GitError(f"{commit} is no commit of this repository")
        return os.fsdecode(found.data.partition(b"\n\n")[0]).splitlines()

    def _tree_of(self, commit: str) -> str:
        return self._commit_lines(commit)[0].removeprefix("tree ")

    def _listed(self, version: Version) -> Tree:
        args = ["ls-tree", "-r", "-z", "--full-tree", checked_oid(version.tree)]
        done = self._read_git(args, check=False)
        if done.returncode and self._incomplete():
            self._obtain([version.tree])
            done = self._read_git(args, check=False)
        if done.returncode:
            raise GitError(f"git cannot list {version.commit[:12] or version.label}: {what_git_said(done)}")
        files = {file.path: file for file in parse_listing(done.stdout)}
        return Tree(version=version, files=files, read=functools.partial(self._blob, files))

    def _blob(self, files: Mapping[str, TreeFile], oid: str) -> bytes:
        found = self.object(checked_oid(oid))
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
        import shutil
        import tempfile

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
        return ["git", *OVERRIDES, "-c", store_lfs, *args]

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
        done = run(self._command(args), cwd, {**self._environ, **env}, stdin, limit_s, network=network)
        if check and done.returncode:
            raise GitError(f"git {args[0]} failed: {what_git_said(done)}")
        return done


_LAYOUT = (
    "--path-format=absolute",
    "--show-toplevel",
    "--show-object-format",
    *("--git-path", "objects"),
    *("--git-path", "shallow"),
    *("--git-path", "index"),
)
_LAYOUT_LINES = 5


@dataclass(frozen=True, slots=True)
class _Layout:
    top: Path
    object_format: str
    objects: Path
    shallow: Path
    index: Path


def _not_taken(start: Path, environ: Mapping[str, str]) -> Path | None:
    """Return the nearest `.git` that git looked at and went on; None: there is none."""
    ceilings = environ.get("GIT_CEILING_DIRECTORIES", "").split(os.pathsep)
    for folder in (start, *start.parents):
        if folder != start and str(folder) in ceilings:
            break
        if os.path.lexists(folder / ".git"):
            return folder / ".git"
    return None


def _damage(place: Path) -> str:
    """Say what git misses there, and what to do."""
    if not place.is_dir():
        return (
            "it is a file that names the repository's place, and there is none; `git worktree repair` or clone it again"
        )
    try:
        head = (place / "HEAD").read_bytes()[:1000]
    except OSError as error:
        return f"its HEAD cannot be read ({error.strerror}); make it readable, or clone it again"
    if not re.match(rb"ref: *refs/heads/[^\s]|[0-9a-f]{40}", head):
        return "its HEAD is damaged; write `ref: refs/heads/BRANCH` into it, with the branch that was checked out"
    lost = [name for name in ("objects", "refs") if not (place / name).is_dir()]
    return f"it has no {' and no '.join(lost) or 'repository'} in it; clone it again"


def _layout(lines: Sequence[str]) -> _Layout:
    return _Layout(Path(lines[0]), lines[1], Path(lines[2]), Path(lines[3]), Path(lines[4]))


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
_SMALL_FILES = "blob:limit=256k"
"""What comes along with history that is fetched with its files: the size that a spec may have."""
_OFFER_NOTHING = "fetch.negotiationAlgorithm=noop"
_PUSH = (
    "push",
    "--porcelain",
    "--no-verify",
    "--no-signed",
    "--no-follow-tags",
    "--recurse-submodules=no",
)
_REWRITES = {"D": "removed", "M": "changed", "T": "changed its kind"}
_REF = re.compile(r"(?!.*(\.\.|//|@\{|\.lock(/|$)|/\.|/$|\.$))[^\x00-\x20\x7f~^:?*\[\\.+/-][^\x00-\x20\x7f~^:?*\[\\]*")
_REMOTE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
_PAGE = 256
_DEEPEN = (50, 500, 0)
"""How far to deepen, step by step; 0: all of it."""
_MOVED = ("stale info", "fetch first", "non-fast-forward", "cannot lock ref", "failed to update ref", "already exists",
          "incorrect old value", "failed to lock", "remote ref updated")  # fmt: skip


def _setting(done: "subprocess.CompletedProcess[bytes]") -> str | None:
    return None if done.returncode else CREDENTIALS.sub(r"\1", os.fsdecode(done.stdout).strip())


def _branch(name: str) -> str | None:
    return name.removeprefix("refs/heads/") if name.startswith("refs/heads/") else None
