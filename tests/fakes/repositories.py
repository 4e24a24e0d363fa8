"""Real git repositories in a temporary folder, small and quick to make."""

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

# Nothing of the machine's own settings, and commits that are the same on each run.
ENVIRON = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "A. Author",
    "GIT_AUTHOR_EMAIL": "author@example.org",
    "GIT_AUTHOR_DATE": "@1700000000 +0000",
    "GIT_COMMITTER_NAME": "C. Mitter",
    "GIT_COMMITTER_EMAIL": "committer@example.org",
    "GIT_COMMITTER_DATE": "@1700000000 +0000",
}


def git(folder: Path, *args: str) -> str:
    """Run git in the folder and return what it printed."""
    done = subprocess.run(["git", *args], cwd=folder, env=ENVIRON, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"git {' '.join(args)}: {done.stderr}"
    return done.stdout.strip()


def make_remote(folder: Path) -> Path:
    """Make a bare repository that answers like a server: any object may be asked for, filters are known."""
    git(folder.parent, "init", "-q", "--bare", "-b", "main", str(folder))
    git(folder, "config", "uploadpack.allowFilter", "true")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    return folder


def make_repository(
    folder: Path, files: Mapping[str, str | bytes] | None = None, *, remote: Path | None = None
) -> Path:
    """Make a repository with the files committed on ``main``, pushed if there is a remote."""
    git(folder.parent, "init", "-q", "-b", "main", str(folder))
    if remote is not None:
        git(folder, "remote", "add", "origin", remote.as_uri())
    if files is not None:
        commit(folder, files)
        if remote is not None:
            git(folder, "push", "-q", "-u", "origin", "main")
    return folder


def write(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files into the work tree."""
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)


def commit(folder: Path, files: Mapping[str, str | bytes], message: str = "change") -> str:
    """Commit the files on what is checked out, and return the commit."""
    write(folder, files)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def clone(remote: Path, folder: Path, *options: str) -> Path:
    """Clone over the pack protocol, as from a server."""
    git(folder.parent, "clone", "-q", *options, remote.as_uri(), str(folder))
    return folder


def fingerprint(folder: Path) -> str:
    """Return a digest of the whole clone, ``.git`` and work tree, less what is ours."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder)
        if path.parts[0] == ".gitops-ml":
            continue
        content = os.fsencode(file.readlink()) if file.is_symlink() else file.read_bytes() if file.is_file() else b""
        digest.update(os.fsencode(path) + b"\0%o\0" % file.lstat().st_mode + content + b"\0")
    return digest.hexdigest()
