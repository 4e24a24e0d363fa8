"""``gitops-ml logs``: a job's log."""

import argparse

from gitops_ml.commands._jobs import jobs_named
from gitops_ml.errors import ExitCode
from gitops_ml.progress import harmless
from gitops_ml.tools import Tools


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("name", metavar="KEY|EXPERIMENT", help="whose log; of an experiment, the newest job's")
    parser.add_argument("--follow", "-f", action="store_true", help="go on until the job is over")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Print the log of the newest job that fits."""
    newest = jobs_named([args.name], tools)[-1]
    job = newest.job
    tools.note(f"{job.experiment} seed {job.seed} ({job.key[:12]}): {newest.status.state}")
    for line in newest.backend.logs(job.key, follow=args.follow):
        tools.say(harmless(line))
    return ExitCode.OK
