"""Unpack a bundle without trusting it: nothing is written outside the folder."""

import hashlib
import shutil
import tarfile
from pathlib import Path, PurePosixPath


class BundleError(Exception):
    """The bundle is not the one that was submitted, or holds what no bundle holds."""


def unpack(bundle: Path, into: Path, *, digest: str | None = None) -> tuple[str, ...]:
    """Unpack the tar and return the paths of its files and links.

    Args:
        bundle: the tar.
        into: a new folder.
        digest: the SHA-256 that the tar must have; None: not checked.

    Raises:
        BundleError: another digest, a path or link that leads outside, or neither file, folder nor link.
    """
    if digest is not None and (found := sha256(bundle)) != digest:
        raise BundleError(f"the bundle has the digest {found}, not {digest}")
    into.mkdir(parents=True, exist_ok=True)
    links: list[tuple[Path, str]] = []
    paths = []
    try:
        with tarfile.open(bundle) as tar:
            for member in tar:
                target = into / _inside(member.name)
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                if member.issym():
                    _inside(str(PurePosixPath(member.name).parent / member.linkname))
                    links.append((target, member.linkname))
                elif member.isfile():
                    source = tar.extractfile(member)
                    assert source is not None
                    with source, target.open("xb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)
                    target.chmod(0o755 if member.mode & 0o100 else 0o644)
                else:
                    raise BundleError(f"{member.name} is neither file, folder nor link")
                paths.append(member.name)
        # Last, so that no file is ever written through a link.
        for target, to in links:
            target.symlink_to(to)
    except (tarfile.TarError, FileExistsError, NotADirectoryError) as error:
        raise BundleError(f"the bundle is broken: {error}") from error
    return tuple(paths)


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _inside(name: str) -> str:
    """Return the path; one that leads out of where it starts is refused."""
    depth = 0
    for part in PurePosixPath(name).parts:
        depth += -1 if part == ".." else 1
        if part == "/" or depth < 0:
            raise BundleError(f"{name} leads out of the bundle")
    return name
