"""``report``: write the report of each experiment; ``--push`` commits it to the ledger."""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from gitops_ml import plots, reports
from gitops_ml.commands.compare import comparison_for
from gitops_ml.commands.plan import add_plan_arguments
from gitops_ml.comparison import Comparison, ExperimentComparison
from gitops_ml.comparison_json import comparison_to_json
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.ledger import folder_of_state, report_path
from gitops_ml.readers.confusion import read_confusion
from gitops_ml.records import FILE_LIMIT_BYTES, ConfusionMatrix, json_bytes
from gitops_ml.tools import Tools


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_plan_arguments(parser)
    parser.add_argument("--push", action="store_true", help="commit records and reports to the ledger branch")
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write one self-contained page (FILE or folder)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="leave everything in DIR too, for `comment --from DIR`")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Write the reports and say where they are."""
    comparison = comparison_for(args, tools)
    if not comparison.experiments:
        tools.say("nothing to report: no experiment is affected by this change")
    matrices = {e.name: matrices_of(e, tools) for e in comparison.experiments}
    for experiment in comparison.experiments:
        folder = folder_for(experiment)
        files = reports.build(experiment, matrices[experiment.name])
        tools.results.keep({f"{folder}/{name}": content for name, content in files.items()})
        if not args.push:
            tools.say(f"{experiment.name}: {folder_of_state(tools.repository.state) / folder}")
        if args.out:
            write_all(tools.cwd / args.out / folder, files)
    if args.out:
        whole = json_bytes(comparison_to_json(comparison, curves=True))
        write_all(tools.cwd / args.out, {"comparison.json": whole})
        tools.say(f"everything for `comment --from`: {args.out}")
    if args.html:
        file = tools.cwd / args.html
        file = file / "report.html" if file.is_dir() or not file.suffix else file
        write_all(file.parent, {file.name: reports.page(comparison, matrices).encode()})
        tools.say(f"page: {file}")
    if args.push:
        push(comparison, tools)
        # What was pushed is freed here, so the place that lasts is named.
        for experiment in comparison.experiments:
            tools.say(f"{experiment.name}: {tools.project.ledger.branch}:{folder_for(experiment)}")
    return ExitCode.OK


def folder_for(experiment: ExperimentComparison) -> str:
    """Return the report's folder on the ledger."""
    return report_path(experiment.name, experiment.head.commit, reports.plan_digest(experiment))


def matrices_of(experiment: ExperimentComparison, tools: Tools) -> Sequence[plots.Matrix]:
    """Return the confusion matrices that the first finished trial of the best point left with ``store: git``."""
    points = [p for p in experiment.points if p.point == experiment.best_head] or list(experiment.points)
    keys = [trial.key for point in points[:1] for trial in point.head_trials if trial.recorded][:1]
    found = []
    for key, record in tools.results.records(keys).items():
        wanted = [f.path for f in record.files if f.store == "git" and f.path.endswith(".json")]
        outputs: Mapping[str, bytes] = {}
        if wanted:
            outputs = tools.results.report_files(f"records/{key[:2]}/{key}/outputs") or {}
        for path in wanted:
            matrix = _confusion(outputs.get(path, b""), path)
            # An artifact may be anything; only a matrix that a picture has room for is drawn.
            if matrix is not None and len(matrix.labels) <= plots.MAX_CLASSES:
                name = path.removesuffix(".json")
                found.append(plots.Matrix(name=name, labels=matrix.labels, counts=matrix.counts))
    return found


def _confusion(content: bytes, path: str) -> ConfusionMatrix | None:
    if not 0 < len(content) <= FILE_LIMIT_BYTES:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "matrix.json")
        file.write_bytes(content)
        return read_confusion(file, path)[0]


def write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a folder that the user named."""
    for name, content in files.items():
        file = folder / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        except OSError as error:
            raise UserError(f"cannot write {file}: {error.strerror}") from error


def push(comparison: Comparison, tools: Tools) -> str | None:
    """Commit what is kept here to the ledger, and return the ledger's commit."""
    names = [experiment.name for experiment in comparison.experiments]
    title = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    message = f"Report {title or 'records'} at {comparison.head.commit[:12]}"
    pushed = tools.results.push(message, [comparison.head.commit] if not comparison.head.dirty else [])
    if pushed.added:
        tools.say(f"pushed {len(pushed.added)} files to the ledger: {pushed.commit[:12]}")
    else:
        tools.say("nothing to push: the ledger has it all")
    for key in pushed.present:
        tools.note(f"record {key[:12]} was on the ledger before; the first one stays")
    for warning in pushed.warnings:
        tools.note(f"warning: {warning}")
    return pushed.commit
