"""Turn a trial into what the agent gets: its orders, and a tar of exactly the objects that were keyed."""

import contextlib
import hashlib
import io
import posixpath
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gitops_ml import datasets, templates
from gitops_ml.agent import orders
from gitops_ml.backends.base import Bundle
from gitops_ml.errors import NotSupportedError, UserError
from gitops_ml.planning import TreeFile, Trial

Blobs = Callable[[Sequence[str]], Iterator[tuple[str, bytes]]]
"""Object ids -> (id, bytes) in the order asked; ``git.Repository.blobs``."""

_LFS = b"version https://git-lfs.github.com/spec/"


@contextlib.contextmanager
def bundle(trial: Trial, blobs: Blobs) -> Iterator[Bundle]:
    """Yield the trial's bundle. Equal trials give equal bytes: sorted, without times and owners.

    Raises:
        NotSupportedError: a submodule, or a Git LFS pointer instead of the file.
        UserError: a link that leads out of the repository.
    """
    files = sorted(trial.files, key=lambda file: file.path)
    for file in files:
        if file.mode == "160000":
            raise NotSupportedError(
                f"{trial.experiment.path}: {file.path} is a submodule; submodules are not supported yet. "
                "Leave it out with `code.exclude`"
            )
    with tempfile.NamedTemporaryFile(prefix="gitops-ml-", suffix=".tar") as spool:
        with tarfile.open(fileobj=spool, mode="w", format=tarfile.PAX_FORMAT) as tar:
            made = orders_for(trial)
            _add(tar, "trial.json", orders.to_json(made), mode=0o644)
            for file, (_, content) in zip(files, blobs([file.oid for file in files]), strict=True):
                _add_file(tar, trial, file, content)
        spool.flush()
        spool.seek(0)
        digest = hashlib.file_digest(spool, "sha256").hexdigest()
        path = Path(spool.name)
        kinds = {datasets.kind_of(entry.uri, entry.source) for entry in made.data}
        yield Bundle(digest=digest, open=lambda: path.open("rb"), variables=datasets.variables(kinds))


def orders_for(trial: Trial) -> orders.Orders:
    """Return what the agent is to do for the trial."""
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
        env=dict(experiment.environment.env),
        secrets=experiment.environment.secrets,
        data=tuple(orders.DataOrder(name=d.name, uri=d.uri, version=d.version) for d in experiment.data),
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


def _add_file(tar: tarfile.TarFile, trial: Trial, file: TreeFile, content: bytes) -> None:
    name = f"code/{file.path}"
    if file.mode == "120000":
        target = content.decode(errors="surrogateescape")
        if target.startswith("/") or posixpath.normpath(f"{posixpath.dirname(file.path)}/{target}").startswith("../"):
            raise UserError(f"{trial.experiment.path}: the link {file.path} leads out of the repository, to {target}")
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o777
        tar.addfile(member)
        return
    if content.startswith(_LFS) and len(content) < 1024:
        raise NotSupportedError(
            f"{trial.experiment.path}: {file.path} is a Git LFS pointer; Git LFS is not supported yet. "
            "Leave it out with `code.exclude`, or commit the file itself"
        )
    _add(tar, name, content, mode=0o755 if file.mode == "100755" else 0o644)


def _add(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    tar.addfile(member, io.BytesIO(content))
