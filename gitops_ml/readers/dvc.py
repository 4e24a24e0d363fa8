"""DVC: the metrics files that ``dvc.yaml`` names, at its top and in its stages, read as one.

Needs no DVC. Each file is JSON, YAML or TOML, or belongs to a DVCLive folder. A name that two of them have is
written ``file:name``. ``params.yaml`` beside it gives the parameters. Paths with ``${...}`` and paths that lead out
of the folder are reported and not read.

    metrics: {read: [dvc.yaml]}
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gitops_ml.readers import mapping
from gitops_ml.readers.base import Reader, UnreadableError, merge
from gitops_ml.readers.dvclive import DvcliveReader
from gitops_ml.readers.findings import Findings
from gitops_ml.records import Reading

MAX_FILES = 1000
_BY_SUFFIX: Mapping[str, Callable[[], Reader]] = {
    ".json": mapping.JsonReader,
    ".yaml": mapping.YamlReader,
    ".yml": mapping.YamlReader,
    ".toml": mapping.TomlReader,
}


class DvcReader(Reader):
    """One ``dvc.yaml``."""

    rank = 20

    def detect(self, file: Path, head: bytes) -> bool:  # noqa: ARG002
        """By its name."""
        return file.name == "dvc.yaml" and file.is_file()

    def read(self, file: Path, name: str) -> Reading:
        """Return what all the named files hold."""
        findings = Findings(name, "dvc")
        with findings.guarded():
            data = mapping.read_yaml(file)
            if not isinstance(data, dict):
                raise UnreadableError("", "holds no mapping")
            paths = list(dict.fromkeys(_paths(data)))
            if not paths:
                findings.problem("metrics", "names no metrics files")
            if len(paths) > MAX_FILES:
                raise UnreadableError("metrics", f"names {len(paths):,} files; at most {MAX_FILES:,} are read")
            _add_files(findings, file.parent, paths)
        params = file.parent / "params.yaml"
        if params.is_file():
            with findings.guarded("params.yaml"):
                found = mapping.read_yaml(params)
                findings.param_tree(found if isinstance(found, dict) else {})
        return findings.reading()


def _paths(data: dict[Any, Any]) -> Iterator[str]:
    """Yield the metrics files: a list of paths, or of mappings from a path to its settings."""
    stages = data.get("stages")
    parts = [data, *(stages.values() if isinstance(stages, dict) else ())]
    for part in parts:
        if not isinstance(part, dict):
            continue
        done = part.get("do")  # of a stage with `foreach`
        body: dict[Any, Any] = done if isinstance(done, dict) else part
        folder = body.get("wdir") if part is not data else None
        prefix = f"{folder}/" if isinstance(folder, str) and folder != "." else ""
        entries = body.get("metrics")
        for entry in entries if isinstance(entries, list) else [entries]:
            if isinstance(entry, str):
                yield prefix + entry
            elif isinstance(entry, dict):
                yield from (prefix + str(path) for path in entry)


def _add_files(findings: Findings, folder: Path, paths: list[str]) -> None:
    root = folder.resolve()
    readings: dict[Path, Reading] = {}
    dvclive = DvcliveReader()
    for path in paths:
        file = folder / path
        kind = _BY_SUFFIX.get(file.suffix.lower())
        if "${" in path:
            findings.problem(path, "is a template of DVC's; name the file itself under `metrics.read`")
        elif "\0" in path or not file.resolve().is_relative_to(root):
            findings.problem(path, "leads out of the folder of dvc.yaml; it is not read")
        elif dvclive.detect(file, b""):
            unit = dvclive.unit(file)
            readings.setdefault(unit, dvclive.read(unit, unit.relative_to(folder).as_posix()))
        elif kind is not None:
            readings.setdefault(file, kind().read(file, path))
        else:
            findings.problem(path, "is neither JSON, YAML nor TOML; name it under `metrics.read` with its format")
    scalars, series, _ = merge(readings.values())
    for scalar in scalars:
        findings.scalar(scalar.name, scalar.value, stderr=scalar.stderr, count=scalar.count)
    for curve in series:
        findings.series(curve.name, curve.steps, curve.values, curve.times)
    for reading in readings.values():
        findings.adopt(reading.problems)
        for words in reading.ignored:
            findings.ignore_words(f"{reading.file}: {words}")
        findings.params.update(reading.params)
