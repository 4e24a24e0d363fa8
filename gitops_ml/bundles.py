"""Turn a trial into what the agent gets: its orders, and a tar of exactly the objects that were keyed."""

import contextlib
import dataclasses
import hashlib
import io
import os
import posixpath
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gitops_ml import datasets, templates
from gitops_ml.agent import orders
from gitops_ml.backends.base import Bundle
from gitops_ml.errors import UserError
from gitops_ml.globs import rooted
from gitops_ml.planning import TreeFile, Trial
from gitops_ml.pointers import LfsPointer, lfs_pointer
from gitops_ml.records import Version

Blobs = Callable[[Sequence[str]], Iterator[tuple[str, bytes]]]
"""Object ids -> (id, bytes) in the order asked; ``git.Repository.blobs``."""


class Elsewhere(Protocol):
    """What a repository's own objects do not hold; ``elsewhere.Elsewhere``."""

    @property
    def environ(self) -> Mapping[str, str]:
        """The caller's environment."""

    def lfs_store(self, version: Version) -> str:
        """Return the address of the LFS store as that version has it; empty: there is none."""

    def lfs_file(self, path: str, pointer: LfsPointer, version: Version) -> contextlib.AbstractContextManager[Path]:
        """Yield a file with the content that a pointer stands for."""

    def submodule(self, path: str, commit: str) -> Iterator[tuple[TreeFile, bytes | Path]]:
        """Yield the files of a submodule and of those in it, paths from its own root, with their content."""


@contextlib.contextmanager
def bundle(trial: Trial, blobs: Blobs, elsewhere: Elsewhere | None = None) -> Iterator[Bundle]:
    """Yield the trial's bundle. Equal trials give equal bytes: sorted, without times and owners.

    A Git LFS pointer in the code is replaced by what it stands for. One that is a data entry of its own stays out: the
    agent fetches that file, once for all trials of its machine.

    Raises:
        UserError: a link that leads out of the repository, or a submodule or LFS file that is not to be had.
    """
    files = sorted(trial.files, key=lambda file: file.path)
    pointers = dict(_data_pointers(trial, files, blobs))
    store = elsewhere.lfs_store(trial.version) if elsewhere is not None and pointers else ""
    made = orders_for(trial, {name: _lfs_source(pointer, store) for name, (_, pointer) in pointers.items()})
    kinds = {datasets.kind_of(entry.uri, entry.source) for entry in made.data}
    if elsewhere is not None and made.data:
        made = dataclasses.replace(made, settings=datasets.settings(kinds, elsewhere.environ))
    left_out = {path for path, _ in pointers.values()}
    files = [file for file in files if file.path not in left_out]
    with tempfile.NamedTemporaryFile(prefix="gitops-ml-", suffix=".tar") as spool:
        with tarfile.open(fileobj=spool, mode="w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, "trial.json", orders.to_json(made), mode=0o644)
            own = blobs([file.oid for file in files if file.mode != _SUBMODULE])
            for file in files:
                if file.mode == _SUBMODULE:
                    _add_submodule(tar, trial, file, elsewhere)
                else:
                    _add_file(tar, trial, file, next(own)[1], elsewhere)
        spool.flush()
        spool.seek(0)
        digest = hashlib.file_digest(spool, "sha256").hexdigest()
        path = Path(spool.name)
        yield Bundle(digest=digest, open=lambda: path.open("rb"), variables=datasets.variables(kinds))


_SUBMODULE = "160000"


def _data_pointers(
    trial: Trial, files: Sequence[TreeFile], blobs: Blobs
) -> Iterator[tuple[str, tuple[str, LfsPointer]]]:
    """Yield (name, (path, pointer)) of the data entries that are one file which Git LFS keeps."""
    by_path = {file.path: file for file in files if file.mode in ("100644", "100755")}
    for entry in trial.experiment.data:
        path = None if "://" in entry.uri else rooted(trial.experiment.workdir, entry.uri)
        if path in by_path:
            ((_, content),) = blobs([by_path[path].oid])
            if (pointer := lfs_pointer(content)) is not None:
                yield entry.name, (path, pointer)


def _lfs_source(pointer: LfsPointer, store: str) -> Mapping[str, str]:
    return {"kind": "lfs", "oid": pointer.oid, "size": str(pointer.size_bytes), "url": store}


def orders_for(trial: Trial, sources: Mapping[str, Mapping[str, str]] | None = None) -> orders.Orders:
    """Return what the agent is to do for the trial; ``sources``: of data whose pointer was found by now, by name."""
    where = {**trial.sources, **(sources or {})}
    experiment = trial.experiment
    command = templates.render(experiment.run, trial.params, trial.seed, trial.key)
    metrics = experiment.metrics
    predictions = (metrics.predictions,) if metrics.predictions else ()
    return orders.Orders(
        key=trial.key,
        experiment=experiment.name,
        seed=trial.seed,
        shell=command.shell,
        arguments=tuple(
            tuple(part if isinstance(part, str) else orders.Hole(kind=part.kind, name=part.name) for part in argument)
            for argument in command.arguments
        ),
        workdir=experiment.workdir,
        params={name: list(v) if isinstance(v, tuple) else v for name, v in trial.params.items()},
        python=experiment.environment.python,
        requirements=experiment.environment.requirements,
        image=experiment.environment.image,
        env=dict(experiment.environment.env),
        secrets=experiment.environment.secrets,
        data=tuple(
            orders.DataOrder(name=d.name, uri=d.uri, version=d.version, source=where.get(d.name, {}))
            for d in experiment.data
        ),
        gpus=experiment.resources.gpu.count if experiment.resources.gpu else 0,
        max_duration_s=experiment.budget.max_duration_s,
        max_wait_s=experiment.budget.max_wait_s,
        no_output_s=experiment.budget.no_output_s,
        metrics=tuple(_below(read.path) for read in metrics.read),
        outputs=tuple(_below(path) for path in (*(a.path for a in experiment.artifacts), *predictions)),
        checkpoints=experiment.checkpoints,
    )


def _below(path: str) -> str:
    """Return a path of the workdir in its plain form."""
    plain = posixpath.normpath(path) + ("/" if path.endswith("/") else "")
    if plain.startswith(("../", "/")) or plain in ("..", "."):
        raise UserError(f"{path} is no output below the workdir")
    return plain


def _add_file(
    tar: tarfile.TarFile, trial: Trial, file: TreeFile, content: bytes | Path, elsewhere: Elsewhere | None
) -> None:
    name = f"code/{file.path}"
    if file.mode == "120000" and isinstance(content, bytes):
        target = content.decode(errors="surrogateescape")
        if target.startswith("/") or posixpath.normpath(f"{posixpath.dirname(file.path)}/{target}").startswith("../"):
            raise UserError(f"{trial.experiment.path}: the link {file.path} leads out of the repository, to {target}")
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o777
        tar.addfile(member)
        return
    pointer = lfs_pointer(content) if isinstance(content, bytes) else None
    if pointer is not None:
        if elsewhere is None:
            raise UserError(f"{trial.experiment.path}: {file.path} is kept by Git LFS, and there is no clone to ask")
        with elsewhere.lfs_file(file.path, pointer, trial.version) as found:
            _add(tar, name, found, mode=0o755 if file.mode == "100755" else 0o644)
        return
    _add(tar, name, content, mode=0o755 if file.mode == "100755" else 0o644)


def _add_submodule(tar: tarfile.TarFile, trial: Trial, module: TreeFile, elsewhere: Elsewhere | None) -> None:
    if elsewhere is None:
        raise UserError(f"{trial.experiment.path}: {module.path} is a submodule, and there is no clone to ask")
    files = sorted(elsewhere.submodule(module.path, module.oid), key=lambda found: found[0].path)
    for file, content in files:
        _add_file(tar, trial, dataclasses.replace(file, path=f"{module.path}/{file.path}"), content, None)


def _add(tar: tarfile.TarFile, name: str, content: bytes | Path, *, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.mode = mode
    if isinstance(content, Path):
        with content.open("rb") as file:
            member.size = os.fstat(file.fileno()).st_size
            tar.addfile(member, file)
        return
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
