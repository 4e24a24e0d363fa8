"""``reconcile``: bring every open change and the default branch to what their jobs have left.

    gitops-ml reconcile                                  # in one job
    gitops-ml reconcile --job collect --out raw          # two jobs: the cloud's credentials without the forge's,
    gitops-ml reconcile --job publish --from raw --digest D    # and the forge's token without the cloud's

It collects what has ended although its CI job died or was detached, keeps and pushes records, reports, comments and
sets statuses, ends statuses that stayed pending, and sweeps what outlived its deadline. Of the trainings that were left
at work in a cloud it ends those of closed changes and older heads that nobody else wants, and goes on with those that
lost their machine or found none, within `budget.retries.preempted` and what was allowed when they began. Nothing else
is trained, nothing of a change is run, and doing it twice changes nothing the second time. Run it on a schedule, on
the default branch.
"""

import argparse
import contextlib
from pathlib import Path

from gitops_ml import ci
from gitops_ml.commands._ci_console import Console
from gitops_ml.commands._ci_identity import kept_fresh
from gitops_ml.commands._ci_reconcile import Part, reconcile
from gitops_ml.commands.ci import Flow
from gitops_ml.errors import UserError
from gitops_ml.tools import Tools


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--job", choices=[str(part) for part in Part], default="all", help="which half (all)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="collect: leave what is handed over in DIR")
    parser.add_argument("--from", dest="source", metavar="DIR", type=Path, help="publish: what `--job collect` left")
    parser.add_argument("--digest", metavar="SHA256", help="publish: the `digest` that `--job collect` said itself")
    parser.add_argument("--forge", metavar="NAME", help="github, gitlab or local (default: the CI's, else local)")
    parser.add_argument("--remote", default="origin", help="where the branches are (default: origin)")
    parser.add_argument("--target", metavar="BRANCH", help="the default branch (default: the CI's, else main)")
    parser.add_argument("--id", dest="identity", default="default", help="keeps several comments apart")
    parser.add_argument("--report-url", metavar="URL", help="where the full report stands (default: on the ledger)")
    parser.add_argument("--dotenv", metavar="FILE", type=Path, help="also write the outputs as KEY=value lines")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Collect, publish, sweep."""
    console = Console(tools=tools, dotenv=tools.cwd / args.dotenv if args.dotenv else None)
    event = ci.event(tools.environ)
    if event is None and args.forge is None:
        # What it keeps counts as made in CI, which a person's machine must not say of itself by accident.
        raise UserError(
            "this is no CI that gitops-ml knows; name the forge with `--forge`. On your own machine `gitops-ml run` "
            "collects what has ended"
        )
    default = args.target or (event.default if event else None) or "main"
    with kept_fresh(tools.environ, tools.note), contextlib.ExitStack() as until_done:
        flow = Flow(args, tools, console, until_done)
        code, outputs = reconcile(flow, args, tools, default=default, part=Part(args.job))
    console.outputs(outputs)
    return code
