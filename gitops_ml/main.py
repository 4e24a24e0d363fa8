"""argv -> command -> exit code; the one place that catches ``UserError``."""

import argparse
import codecs
import contextlib
import errno
import gc
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

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
    "gc": "find what outlived its deadline; --end ends it",
    "compare": "head against its baseline; exit 1 if a gate fails",
    "report": "write the report; --push commits it to the ledger",
    "comment": "show the comparison where the change is reviewed",
    "ci": "all of it, by what the CI event says",
    "reconcile": "collect what has ended, sweep what was left, bring comments and statuses up to date",
    "rerun": "a past commit or record once more, with other data, parameters or seeds",
    "log": "history over the ledger, as a table",
    "show": "one record or report in full",
    "diff": "two records: parameters, code, data, environment, metrics",
    "board": "the ledger as a static site: leaderboard, trends, all reports",
    "lock": "pin data outside of the repository: write its version into the specs",
    "verify": "the ledger's integrity: keys, digests, and that it was only appended to",
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
            verb.set_defaults(run=module.run, verb=verb)
    return top


def main(argv: Sequence[str], tools: Tools) -> int:
    """Run one command line and return its exit code."""
    named = _command(argv)
    if named is not None and named not in COMMANDS:
        from gitops_ml.schema import nearest

        tools.note(f"no command is called `{named}`{nearest(named, COMMANDS) or '; known are: ' + ', '.join(COMMANDS)}")
        return ExitCode.USAGE
    try:
        return _carry_out(named, argv, tools)
    except UserError as error:
        tools.note(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        tools.note("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nobody is left to tell.
        _discard(tools.out)
        return ExitCode.OK
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            return _bug(tools)
        _discard(tools.out)
        tools.note(_machine_said(error))
        return ExitCode.USAGE
    except Exception:  # noqa: BLE001 a bug of ours: say so, with all that a report needs
        return _bug(tools)


def entry_point() -> None:
    """``gitops-ml`` on the command line."""
    # What a command makes is needed until it ends: to look for garbage a hundred times took 6 % of its time.
    gc.set_threshold(200_000)
    codecs.register_error(_SPELT_OUT, _spelt_out)
    for stream in (sys.stdout, sys.stderr):
        # There is no stream when it was closed; a test's may be of another kind.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_SPELT_OUT)
    try:
        cwd = Path.cwd()
    except FileNotFoundError:
        print("the folder that this was started in is gone; change to one that is there", file=sys.stderr)
        sys.exit(ExitCode.USAGE)
    code = main(sys.argv[1:], Tools(cwd=cwd, environ=os.environ))
    # All of it goes at once now, so that nobody need look for what refers to what.
    gc.freeze()
    sys.exit(code)


def _carry_out(named: str | None, argv: Sequence[str], tools: Tools) -> int:
    try:
        if not argv:
            tools.note(parser().format_help().rstrip())
            return ExitCode.USAGE
        args, unknown = parser(named).parse_known_args(argv)
        if unknown:
            args.verb.error(_unknown(unknown[0], args.verb))
    except SystemExit as stop:
        code = int(stop.code or 0)
    else:
        tools.cwd = (tools.cwd / args.cwd).resolve()
        with contextlib.closing(tools):
            code = int(args.run(args, tools))
    if tools.out is not None:  # closed by whoever started us
        try:
            tools.out.flush()
        except BrokenPipeError:
            # The reader had enough (`| head`), and the work was done: what it found still counts.
            _discard(tools.out)
    return code


def _unknown(word: str, verb: argparse.ArgumentParser) -> str:
    """Return what is said about a word that the command does not take."""
    from gitops_ml.schema import nearest_or_all
    from gitops_ml.source import shown

    if not word.startswith("-"):
        return f"there is one word too many: {shown(word)}"
    # Without its value, which may be a secret that was given to the wrong option.
    option = word.partition("=")[0]
    return f"there is no option {shown(option)}{nearest_or_all(option, re.findall('--[a-z-]+', verb.format_usage()))}"


def _command(argv: Sequence[str]) -> str | None:
    """Return the word that names the command."""
    words = iter(argv)
    for word in words:
        if word == "-C":
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


# What the machine refuses, whatever we do: no place, no right, no working disk, too many open files.
_OF_THE_MACHINE = {
    errno.EACCES: "change its rights, or work where you may write",
    errno.EPERM: "change its rights, or work where you may write",
    errno.EROFS: "results are kept in `.gitops-ml` at the repository's root: work in a clone that can be written to",
    errno.ENOSPC: "free some space and run it again",
    errno.EDQUOT: "free some space and run it again",
    errno.EFBIG: "raise the limit and run it again",
    errno.EIO: "look at the disk, then run it again",
    errno.EMFILE: "raise the limit (`ulimit -n`) and run it again",
    errno.ENFILE: "end other programs and run it again",
}


def _machine_said(error: OSError) -> str:
    place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return f"{place}{error.strerror}; {_OF_THE_MACHINE[error.errno or 0]}"


def _bug(tools: Tools) -> ExitCode:
    import platform
    import traceback

    tools.note(
        f"{traceback.format_exc()}\nThis is a bug in gitops-ml {__version__} "
        f"(Python {platform.python_version()}, {platform.platform()}). Please report it with the text above."
    )
    return ExitCode.BUG


def _discard(stream: TextIO) -> None:
    """Let what is still to be written go nowhere: Python would try again at its end, and complain."""
    with contextlib.suppress(OSError):  # no file is behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


_SPELT_OUT = "gitops-ml.spelt-out"
_PLAIN = {"→": "->", "←": "<-", "−": "-", "–": "-", "—": "-", "±": "+-", "×": "x", "…": "...", "↑": "^", "↓": "v"}


def _spelt_out(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write what the terminal's encoding lacks so that nothing is lost: a minus sign most of all."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end
