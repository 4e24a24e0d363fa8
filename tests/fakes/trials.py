"""Trials made by hand, small enough to be trained in some tens of milliseconds, and waiting without sleeping."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from gitops_ml.planning import Trial, TreeFile
from gitops_ml.records import Version
from gitops_ml.spec import Experiment

VERSION = Version(commit="c" * 40, tree="d" * 40, label="main")
WRITES = "mkdir -p out; echo '{\"accuracy\": 0.5}' > out/metrics.json"
_T = TypeVar("_T")


class Objects:
    """Git objects in memory; ``blobs`` is what ``git.Repository.blobs`` is."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}

    def file(self, path: str, content: str | bytes = "", mode: str = "100644") -> TreeFile:
        data = content.encode() if isinstance(content, str) else content
        oid = hashlib.sha1(data).hexdigest()
        self._held[oid] = data
        return TreeFile(path, mode, oid)

    def blobs(self, oids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        return ((oid, self._held[oid]) for oid in oids)


def trial(
    run: str | tuple[str, ...] = "true",
    files: Sequence[TreeFile] = (),
    *,
    seed: int = 0,
    params: Mapping[str, object] | None = None,
    **fields: object,
) -> Trial:
    """A trial whose key is a digest of all that is given."""
    defaults: dict[str, object] = {"path": "experiments/digits.yaml", "name": "digits", "params": params or {}}
    experiment = Experiment(run=run, **{**defaults, **fields})
    document = {"run": run, "files": [[f.path, f.mode, f.oid] for f in files], "seed": seed, "fields": repr(fields)}
    return Trial(
        key=hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest(),
        document={"format": "gitops-ml-key/1", "run": run, "seed": seed},
        experiment=experiment,
        version=VERSION,
        point={},
        params=experiment.params,
        seed=seed,
        files=tuple(files),
    )


def until(question: Callable[[], _T], *, seconds: float = 30) -> _T:
    """Return the answer as soon as it is true; a test that waits in vain fails."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (answer := question()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {seconds} s: {question}")
        pause.wait(0.01)
    return answer
