"""``gitops-ml status``: how jobs stand."""

import argparse
import json
from collections.abc import Sequence

from gitops_ml.backends.base import Job
from gitops_ml.commands._jobs import Known, jobs_named
from gitops_ml.errors import ExitCode
from gitops_ml.progress import harmless
from gitops_ml.tools import Tools
from gitops_ml.wording import money


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("names", nargs="*", metavar="KEY|EXPERIMENT", help="which jobs; none: all")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print them (default: text)")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Print the jobs, oldest first."""
    jobs = jobs_named(args.names, tools)
    if args.format == "json":
        tools.say(json.dumps([_json(known) for known in jobs], indent=2))
        return ExitCode.OK
    if not jobs:
        tools.say("no jobs are known here")
        return ExitCode.OK
    points = _points([k.job for k in jobs])
    rows = [
        (
            k.job.key[:12],
            harmless(" ".join((k.job.experiment, *points[k.job.key], f"seed {k.job.seed}"))),
            k.backend_name,
            str(k.status.state),
            _words(k),
        )
        for k in jobs
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [f"{text:<{width}}" for text, width in zip(row, widths)]
        tools.say("  ".join([*cells, row[4]]).rstrip())
    return ExitCode.OK


def _points(jobs: Sequence[Job]) -> dict[str, list[str]]:
    """Return by key the parameters in which a job differs from others of its experiment, as ``lr=0.1``."""
    values: dict[tuple[str, str], set[str]] = {}
    for job in jobs:
        for name, value in job.params.items():
            values.setdefault((job.experiment, name), set()).add(str(value))
    return {
        job.key: [f"{name}={value}" for name, value in job.params.items() if len(values[job.experiment, name]) > 1]
        for job in jobs
    }


def _words(known: Known) -> str:
    status = known.status
    words = harmless(status.reason or status.progress)
    cost = f"{money(status.cost_usd)}" if status.cost_usd else ""
    attempt = f"(attempt {status.attempt})" if status.attempt > 1 else ""
    return "  ".join(filter(None, (" ".join(filter(None, (words, attempt))), cost)))


def _json(known: Known) -> dict[str, object]:
    status = known.status
    return {
        "key": known.job.key,
        "experiment": known.job.experiment,
        "seed": known.job.seed,
        "params": dict(known.job.params),
        "backend": known.backend_name,
        "state": str(status.state),
        "reason": status.reason,
        "exit_code": status.exit_code,
        "attempt": status.attempt,
        "submitted_at": known.job.submitted_at.isoformat(timespec="seconds"),
        "started_at": status.started_at.isoformat(timespec="seconds") if status.started_at else None,
        "ended_at": status.ended_at.isoformat(timespec="seconds") if status.ended_at else None,
        "cost_usd": status.cost_usd,
        "progress": status.progress,
    }
