"""Which files a training leaves, and bringing exactly those together. The training is not trusted with links."""

import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from gitops_ml.agent.orders import Orders
from gitops_ml.agent.unpack import sha256
from gitops_ml.globs import compiled

OUTPUT = "out"
"""``${trial.output}``, from the workdir: all that is new in it is kept, so ``metrics.read`` can name files in it."""


def remove_stale(workdir: Path, orders: Orders) -> list[str]:
    """Remove what stands in the code tree under the name of an output, and return the paths.

    A committed ``out/metrics.json`` would otherwise pass for the result of a training that wrote none.
    """
    selected = compiled(_globs(orders))
    stale = [path for path in _files(workdir) if selected(path)]
    for path in stale:
        (workdir / path).unlink()
    return stale


def has_metrics(workdir: Path, orders: Orders) -> bool:
    """Say whether a file matches ``metrics.read``; a spec that reads none is content with none."""
    if not orders.metrics:
        return True
    selected = compiled(orders.metrics)
    return any(selected(path) for path in _files(workdir))


def gather(workdir: Path, orders: Orders, *, before: Collection[str], into: Path) -> list[dict[str, Any]]:
    """Move the outputs into a folder and return what they are: path, SHA-256 and size, sorted by path.

    Args:
        workdir: where the training ran.
        orders: which outputs are declared.
        before: the paths that the bundle brought, from the workdir.
        into: a folder on the same file system; it is made new.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    declared = compiled((*_globs(orders), *_neighbours(orders.metrics)))
    found = []
    for path in sorted(_files(workdir)):
        if not declared(path) and (not path.startswith(f"{OUTPUT}/") or path in before):
            continue
        source, target = workdir / path, into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            # A link is taken as the file that it leads to, if that is part of the tree and not, say, ~/.ssh.
            real = source.resolve()
            if not real.is_file() or not real.is_relative_to(workdir.resolve()):
                continue
            shutil.copyfile(real, target)
        else:
            source.replace(target)
        found.append({"path": path, "sha256": sha256(target), "size_bytes": target.stat().st_size})
    return found


def _globs(orders: Orders) -> tuple[str, ...]:
    """Return the declared globs; one that names a folder means all in it."""
    return tuple(form for glob in (*orders.metrics, *orders.outputs) for form in (glob, f"{glob.rstrip('/')}/**"))


def _neighbours(metrics: Sequence[str]) -> Iterator[str]:
    # A reader also looks at the neighbours of a file: DVCLive keeps its series in `plots/metrics`.
    for glob in metrics:
        folder = glob.rpartition("/")[0]
        prefix = f"{folder}/" if folder else ""
        yield f"{prefix}plots/metrics/**"
        yield f"{prefix}params.yaml"


def _files(workdir: Path) -> Iterator[str]:
    """Yield the paths of all regular files and links below the folder."""
    for folder, _, names in os.walk(workdir):
        for name in names:
            path = Path(folder, name)
            if path.is_symlink() or path.is_file():
                yield path.relative_to(workdir).as_posix()
