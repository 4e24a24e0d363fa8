"""``gitops-ml cancel``: end jobs."""

import argparse
from concurrent.futures import ThreadPoolExecutor

from gitops_ml.commands._jobs import Known, jobs_named
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.tools import Tools


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("names", nargs="*", metavar="KEY|EXPERIMENT", help="which jobs")
    parser.add_argument("--all", action="store_true", help="all jobs of this repository")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """End the jobs that are at work, and wait until they are gone."""
    if bool(args.names) == args.all:
        raise UserError("say which jobs to end: keys or experiments, or --all")
    found = jobs_named(args.names, tools)
    live = [known for known in found if not known.status.state.final]
    if not live:
        over = f"{_name(found[0])} is over: {found[0].status.state}" if len(found) == 1 else "no such job is at work"
        tools.say(f"nothing to do: {over}")
        return ExitCode.OK
    with ThreadPoolExecutor(max_workers=min(32, len(live))) as pool:
        for future in [pool.submit(known.backend.cancel, known.job.key) for known in live]:
            future.result()
    for known in live:
        tools.say(f"ended {_name(known)}")
    return ExitCode.OK


def _name(known: Known) -> str:
    return f"{known.job.experiment} seed {known.job.seed} ({known.job.key[:12]})"
