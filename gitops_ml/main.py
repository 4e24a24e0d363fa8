"""argv -> command -> exit code; the one place that catches ``UserError``."""

import argparse
import contextlib
import importlib
import io
import os
import platform
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from gitops_ml import __version__
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.tools import Tools

# Only the named command is imported, so that `validate` never pays for what `report` needs.
COMMANDS = {
    "init": "write a spec, gitops-ml.yaml and the CI workflow, from what the repository shows",
    "validate": "check specs and gitops-ml.yaml: every finding with its place",
    "plan": "what would run, be reused and cost; nothing is spent",
    "run": "carry out the plan: reuse, train, collect",
    "status": "how jobs stand",
    "logs": "a job's log",
    "cancel": "end jobs",
    "compare": "head against its baseline; exit 1 if a gate fails",
    "report": "write the report; --push commits it to the ledger",
    "comment": "show the comparison where the change is reviewed",
    "ci": "all of it, by what the CI event says",
    "show": "one record or report in full",
    "schema": "print a schema",
    "doctor": "look at each part's set-up, with the exact fix",
    "demo": "the whole loop in a throw-away repository",
}


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the argument parser; with a command, its options are filled in."""
    top = argparse.ArgumentParser(
        prog="gitops-ml",
        description="Experiments reviewed like code: validate, plan, run, compare, report, comment.",
        epilog="exit codes: 0 fine, 1 findings, 2 usage or configuration, 3 a bug of ours, 4 a trial failed, "
        "5 a service refused, 6 denied by policy, 130 interrupted",
    )
    top.add_argument("--version", action="version", version=f"gitops-ml {__version__}")
    top.add_argument("-C", dest="cwd", metavar="DIR", type=Path, default=Path(), help="run as if started in DIR")
    verbs = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        verb = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == command:
            module = importlib.import_module(f"gitops_ml.commands.{name}")
            module.configure(verb)
            verb.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str], tools: Tools) -> int:
    """Run one command line and return its exit code."""
    named = next((word for word in argv if word in COMMANDS), None)
    try:
        args = parser(named).parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        tools.cwd = (tools.cwd / args.cwd).resolve()
        with contextlib.closing(tools):
            return int(args.run(args, tools))
    except UserError as error:
        tools.note(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        tools.note("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception:  # noqa: BLE001 a bug of ours: say so, with all that a report needs
        tools.note(
            f"{traceback.format_exc()}\nThis is a bug in gitops-ml {__version__} "
            f"(Python {platform.python_version()}, {platform.platform()}). Please report it with the text above."
        )
        return ExitCode.BUG


def entry_point() -> None:
    """``gitops-ml`` on the command line."""
    # A terminal of another encoding shows a name's odd characters as escapes; it stops nothing.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:], Tools(cwd=Path.cwd(), environ=os.environ)))
