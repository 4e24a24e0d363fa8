"""Files in the repository that stand for content kept elsewhere: Git LFS pointers, and what DVC writes.

Their forms are those of https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md and of ``dvc`` 2 and 3. Anybody may
have written them: what does not have the form is no pointer, or a ``UserError`` that says which file it is.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gitops_ml.errors import UserError
from gitops_ml.globs import folders_above
from gitops_ml.values import dataclass

LFS_POINTER_BYTES = 1024
_LFS = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*oid sha256:([0-9a-f]{64})\nsize ([0-9]{1,18})\n"
)
_FILE_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class LfsPointer:
    """What Git LFS commits in the place of a file."""

    oid: str
    """SHA-256 of the content."""
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DvcOut:
    """What DVC has written down about one file or folder."""

    md5: str
    """With ``.dir`` at the end for a folder."""
    layout: str
    """Where caches and remotes keep it: ``files/md5``, or empty before DVC 3.0."""
    remote: str | None = None
    """The remote that it is in; None: the default one."""


def lfs_pointer(content: bytes) -> LfsPointer | None:
    """Return what a committed file points to, if it is a pointer of Git LFS."""
    found = _LFS.fullmatch(content) if len(content) < LFS_POINTER_BYTES else None
    return LfsPointer(oid=found[1].decode(), size_bytes=int(found[2])) if found else None


def dvc_files(path: str) -> list[str]:
    """Return where DVC may have written down a path: beside it, or in a pipeline's lock above it; the nearest first."""
    return [f"{path}.dvc", *(posixpath.join(folder, "dvc.lock") for folder in folders_above(path))]


def dvc_out(content: bytes, file: str, path: str) -> DvcOut | None:
    """Return what a file of DVC's says about a path; None: nothing.

    Args:
        content: of a ``.dvc`` file or a ``dvc.lock``.
        file: its path.
        path: whose content is asked for.

    Raises:
        UserError: the file is broken, or the path is kept in a way that cannot be read without DVC.
    """
    for out, folder in _outs(_loaded(content, file), posixpath.dirname(file)):
        named = out.get("path")
        if not isinstance(named, str) or posixpath.normpath(posixpath.join(folder, named)) != path:
            continue
        md5 = out.get("md5")
        if not isinstance(md5, str) or not re.fullmatch(r"[0-9a-f]{32}(\.dir)?", md5):
            kept = "by the versions of a cloud's bucket" if "files" in out or "cloud" in out else "without an MD5"
            raise UserError(f"{file}: DVC keeps {path} {kept}, which only DVC can read; name its s3:// URI instead")
        remote = out.get("remote")
        return DvcOut(
            md5=md5,
            layout="files/md5" if out.get("hash") == "md5" else "",
            remote=remote if isinstance(remote, str) else None,
        )
    return None


def dvc_remote(content: bytes, file: str, name: str | None) -> Mapping[str, str]:
    """Return where a DVC remote is: ``remote``, and ``endpoint`` and ``region`` of one in S3; empty: there is none.

    Args:
        content: of ``.dvc/config``.
        file: its path, which a remote's folder is relative to.
        name: of the remote; None: the default one.

    Raises:
        UserError: the file is broken.
    """
    import configparser

    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    try:
        parser.read_string(content.decode())
        name = name or parser.get("core", "remote", fallback=None)
        section = f"'remote \"{name}\"'"
        if name is None or not parser.has_section(section):
            return {}
        found = dict(parser.items(section))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file} is broken: {str(error).splitlines()[0]}") from error
    url = found.get("url", "")
    if not url:
        return {}
    if "://" not in url:
        # A folder beside the repository is only known relative to it.
        url = url if url.startswith("/") else posixpath.normpath(posixpath.join(posixpath.dirname(file), url))
    optional = {"endpoint": found.get("endpointurl"), "region": found.get("region")}
    return {"remote": url, **{key: value for key, value in optional.items() if value}}


def _loaded(content: bytes, file: str) -> Any:
    if len(content) > _FILE_BYTES:
        raise UserError(f"{file} is larger than {_FILE_BYTES} bytes, which no file of DVC's is")
    import yaml

    try:
        # Every scalar stays text: what looks like a number is a digest.
        return yaml.load(content, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))  # noqa: S506 plain data only
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file} is no YAML, and so no file of DVC's") from error


def _outs(data: Any, folder: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield (output, the folder that its path starts in) of a ``.dvc`` file or a ``dvc.lock``."""
    if not isinstance(data, dict):
        return
    stages = data.get("stages")
    for holder in [data, *(stages.values() if isinstance(stages, dict) else ())]:
        outs = holder.get("outs") if isinstance(holder, dict) else None
        wdir = holder.get("wdir", "") if isinstance(holder, dict) else ""
        for out in outs if isinstance(outs, list) else ():
            if isinstance(out, dict):
                yield out, posixpath.join(folder, wdir if isinstance(wdir, str) else "")
