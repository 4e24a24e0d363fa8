"""``gc``: find what outlived its deadline, and end it when asked to.

Only what carries this repository's name is looked at. Nothing is ended without ``--end``. Exit code 1: something is
there and was left; 5: something could not be ended.
"""

import argparse
import json
from collections.abc import Sequence

from gitops_ml import wording
from gitops_ml.backends.base import Leftover
from gitops_ml.commands._jobs import add_look_arguments, backend_names
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.tools import Tools


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--end", action="store_true", help="end what is found; without it, it is only shown")
    add_look_arguments(parser, default="`local` and those that gitops-ml.yaml names")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Show what is left, end it if that is asked for, and look again."""
    found = leftovers_of(args.backends, tools)
    errors = [end(one) if args.end else None for one in found]
    failed = [f"{identity_of(one)}: {error}" for one, error in zip(found, errors, strict=True) if error is not None]
    # What its end was asked for twice, or came back, is still there: only a second look tells.
    still = leftovers_of(args.backends, tools) if args.end and found else found
    if args.format == "text" and not found:
        tools.say("nothing to do: nothing outlived its deadline")
    elif args.format == "json":
        left = {(one.kind, one.identity) for one in still}
        rows = [_json(one, ended=args.end and (one.kind, one.identity) not in left) for one in found]
        tools.say(json.dumps(rows, indent=1))
    else:
        _say([one for one, error in zip(found, errors, strict=True) if error is None], tools, ended=args.end)
        for one in still if args.end else ():
            tools.say(f"still there: {identity_of(one)}")
    for line in failed:
        tools.note(f"could not end {line}")
    if not args.end:
        return ExitCode.FINDINGS if found else ExitCode.OK
    return ExitCode.SERVICE if failed or still else ExitCode.OK


def leftovers_of(names: Sequence[str], tools: Tools) -> list[Leftover]:
    """Return what outlived its deadline, oldest first; no names: of all backends that the project uses."""
    now = tools.now()
    found = [one for name in dict.fromkeys(names or backend_names(tools)) for one in tools.backend(name).leftovers(now)]
    return sorted(found, key=lambda one: (one.since, one.kind, one.identity))


def end(one: Leftover) -> str | None:
    """End it and return why that failed; None: it did not."""
    try:
        one.end()
    except UserError as error:
        return str(error)
    return None


def _say(found: Sequence[Leftover], tools: Tools, *, ended: bool) -> None:
    verb = "ended" if ended else "found"
    for one in found:
        key = f", of {one.key[:12]}" if one.key else ""
        tools.say(f"{verb} {identity_of(one)}{key}, overdue since {one.since:%Y-%m-%d %H:%M} UTC")
    if not ended:
        tools.say(f"{len(found)} left; `gitops-ml gc --end` ends {'it' if len(found) == 1 else 'them'}")


def identity_of(one: Leftover) -> str:
    """Return what it is called, for people."""
    return f"{one.kind} {wording.clean(one.identity, 200)}"


def _json(one: Leftover, *, ended: bool) -> dict[str, object]:
    return {
        "kind": one.kind,
        "identity": one.identity,
        "key": one.key,
        "since": one.since.isoformat(timespec="seconds"),
        "ended": ended,
    }
