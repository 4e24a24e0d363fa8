"""The agent program: one zip that a machine with Python 3.10 runs, and nothing else needs to be installed there.

It holds our own modules for the machine, and boto3 with what it needs from the installation that makes it, pruned to
the services that a machine talks to. Equal installations make equal bytes, so that it is uploaded once.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import io
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from gitops_ml.agent import objects
from gitops_ml.storage.base import Storage

_OURS = ("__init__.py", "agent", "storage", "datasets", "aws.py", "errors.py", "globs.py", "pins.py")
_THEIRS = ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3")
PIP = "pip.zip"
"""Taken along if it is installed, since many images have none. One file, as few trials need it."""
_SERVICES = ("s3", "ssm", "sts")
_DATA = ("_retry.json", "endpoints.json", "partitions.json", "sdk-default-configuration.json")
_MAIN = b'''\
"""Unpack what we are made of, since botocore reads its data from files, and become the courier."""

import sys
import tempfile
import zipfile

if zipfile.is_zipfile(sys.path[0]):
    folder = tempfile.mkdtemp(prefix="gitops-ml-agent-")
    with zipfile.ZipFile(sys.path[0]) as packed:
        packed.extractall(folder)
    sys.path[0] = folder

from gitops_ml.agent.courier import main

main(sys.argv[1:])
'''


@dataclasses.dataclass(frozen=True)
class Agent:
    """The agent program and its SHA-256."""

    digest: str
    data: bytes = dataclasses.field(repr=False)

    def upload(self, storage: Storage) -> None:
        """Put it into the storage, unless it is there."""
        name = objects.agent(self.digest)
        if name not in storage.names(name):
            storage.put(name, self.data)


@functools.cache
def built() -> Agent:
    """Return the program, made once in a process.

    Raises:
        ImportError: boto3 is not installed.
    """
    data = _packed(_files())
    return Agent(hashlib.sha256(data).hexdigest(), data)


def _files() -> Iterator[tuple[str, bytes]]:
    yield "__main__.py", _MAIN
    package = Path(__file__).parent.parent
    for part in _OURS:
        yield from _below(package / part, f"gitops_ml/{part}")
    if importlib.util.find_spec("pip") is not None:
        yield PIP, _packed(_of("pip"))
    for name in _THEIRS:
        yield from _of(name)


def _packed(files: Iterable[tuple[str, bytes]]) -> bytes:
    spool = io.BytesIO()
    # Not compressed: zlib's output differs between its versions, and the digest is the program's name.
    with zipfile.ZipFile(spool, "w", zipfile.ZIP_STORED) as packed:
        for name, data in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, data)
    return spool.getvalue()


def _of(name: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an installed package or module."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ImportError(f"{name} is not installed, which the agent program needs")
    origin = Path(spec.origin)
    if origin.name == "__init__.py":
        yield from _below(origin.parent, name)
    else:
        yield origin.name, origin.read_bytes()


def _below(place: Path, name: str) -> Iterator[tuple[str, bytes]]:
    if place.is_file():
        yield name, place.read_bytes()
        return
    for folder, folders, files in os.walk(place):
        inside = name + folder[len(str(place)) :].replace(os.sep, "/")
        if inside == "botocore/data":  # thousands of folders for services that nobody talks to
            folders[:] = [service for service in folders if service in _SERVICES]
        for file in files:
            path = f"{inside}/{file}"
            if _wanted(path):
                yield path, Path(folder, file).read_bytes()


def _wanted(path: str) -> bool:
    if path.startswith("botocore/data/"):
        parts = path.split("/")[2:]
        return parts[0] in _DATA or (parts[0] in _SERVICES and not parts[-1].startswith("examples"))
    return path.endswith((".py", ".pem")) and not path.startswith(("boto3/examples/", "urllib3/contrib/emscripten/"))
