"""Trials made by hand, small enough to be trained in some tens of milliseconds, and waiting without sleeping."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from gitops_ml.planning import TreeFile, Trial
from gitops_ml.records import (
    Attempt,
    Record,
    Version,
    attempt_from_json,
    json_document,
    record_from_json,
    series_from_csv,
)
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


def until(question: Callable[[], _T], *, seconds: float = 120) -> _T:
    """Return the answer as soon as it is true; a test that waits in vain fails, also on a machine with much to do."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (answer := question()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {seconds} s: {question}")
        pause.wait(0.01)
    return answer


class Kept:
    """What ``ledger.Results`` keeps, in memory: a record that is there stays."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def attempts(self, keys: Iterable[str]) -> Mapping[str, Sequence[Attempt]]:
        found: dict[str, list[Attempt]] = {}
        for key in keys:
            paths = sorted(path for path in self.files if path.startswith(f"attempts/{key[:2]}/{key}/"))
            found[key] = [attempt_from_json(json_document(self.files[path])) for path in paths]
        return found

    def keep(self, files: Mapping[str, bytes]) -> None:
        self.files = {**files, **self.files}

    def record(self, of: Trial) -> Record:
        folder = f"records/{of.key[:2]}/{of.key}"
        csv = self.files.get(f"{folder}/series.csv")
        return record_from_json(
            json_document(self.files[f"{folder}/record.json"]), () if csv is None else series_from_csv(csv)
        )

    def records(self) -> list[str]:
        return [path for path in self.files if path.endswith("/record.json")]
