"""What git stores and how it is written down: objects, trees, states of the work tree, paths, names of people."""

import contextlib
import os
import re
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from gitops_ml.errors import GitError
from gitops_ml.planning import TreeFile
from gitops_ml.values import dataclass

AUTHOR = "gitops-ml <gitops-ml@noreply.invalid>"
OID = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True, slots=True)
class Object:
    """A git object: its id, kind (blob, tree, commit, tag) and bytes."""

    oid: str
    kind: str
    data: bytes


class Batch:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEntry:
    """One line of a tree object: a file, folder or submodule."""

    mode: str
    oid: str


def parse_tree(data: bytes, width: int) -> dict[str, TreeEntry]:
    entries = {}
    at = 0
    while at < len(data):
        space = data.index(b" ", at)
        end = data.index(b"\0", space)
        oid = data[end + 1 : end + 1 + width].hex()
        entries[os.fsdecode(data[space + 1 : end])] = TreeEntry(mode=data[at:space].decode().zfill(6), oid=oid)
        at = end + 1 + width
    return entries


def parse_listing(out: bytes) -> list[TreeFile]:
    """Parse ``ls-tree -r -z``."""
    files = []
    for line in os.fsdecode(out).split("\0")[:-1]:
        head, _, path = line.partition("\t")
        mode, _, oid = head.split(" ")
        files.append(TreeFile(path, mode, oid))
    return files


@dataclass(frozen=True, slots=True)
class _Status:
    commit: str
    staged: bool
    changed: tuple[str, ...]
    """Tracked files whose work tree differs from the index."""
    untracked: tuple[str, ...]


def parse_status(out: bytes) -> _Status:
    """Parse ``status --porcelain=v2 --branch -z --no-renames``."""
    commit, staged, changed, untracked = "", False, [], []
    for line in os.fsdecode(out).split("\0")[:-1]:
        kind, _, rest = line.partition(" ")
        if kind == "#":
            name, _, value = rest.partition(" ")
            if name == "branch.oid" and OID.fullmatch(value):
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


# Texts that git takes


def checked_oid(text: str) -> str:
    if not OID.fullmatch(text):
        raise GitError(f"{text!r} is no git object id; give all of its hexadecimal digits")
    return text


def tree_path(path: str) -> bytes:
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") or part.lower() == ".git" for part in parts) or "\0" in path:
        raise GitError(f"{path!r} cannot be the path of a committed file")
    return os.fsencode(path)


def quoted(path: bytes) -> bytes:
    """Return the path in C's quotes, as git reads it in streams and in ``alternates``."""
    escaped = path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'"' + escaped + b'"'


def identity(environ: Mapping[str, str], role: str) -> bytes:
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
