"""``gitops-ml verify``: the ledger's integrity, and the first thing that is off."""

import argparse
import json

from gitops_ml import verification
from gitops_ml.diagnostics import counted
from gitops_ml.errors import ExitCode
from gitops_ml.tools import Tools
from gitops_ml.verification import Verification
from gitops_ml.wording import clean

SHOWN = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--offline", action="store_true", help="do not fetch the ledger; look at what was fetched last")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print it (default: text)")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Look at everything on the ledger; exit 1 if something is off."""
    results = tools.results
    if not args.offline:
        results.refresh()
    if results.tip is None:
        if args.format == "json":
            tools.say(json.dumps(_document(None, Verification()), indent=1))
        tools.note(f"there is no ledger yet: no branch {tools.project.ledger.branch}")
        return ExitCode.OK
    found = verification.verify(tools.repository, results.tip, results.lost_tips())
    if args.format == "json":
        tools.say(json.dumps(_document(results.tip, found), indent=1))
    else:
        for one in found.findings[:SHOWN]:
            tools.say(f"{clean(one.where, 200)}: {clean(one.message, 300)}")
        if len(found.findings) > SHOWN:
            tools.say(f"and {len(found.findings) - SHOWN} more; --format json lists all")
        for path in found.newer[:SHOWN]:
            tools.note(f"note: {clean(path, 200)} was written by a newer version and was not looked at")
        if len(found.newer) > SHOWN:
            tools.note(f"note: and {len(found.newer) - SHOWN} more of a newer version")
        tools.say(_summary(results.tip, found))
    return ExitCode.FINDINGS if found.findings else ExitCode.OK


def _summary(tip: str, found: Verification) -> str:
    looked = ", ".join(
        (
            counted(found.records, "record"),
            counted(found.attempts, "attempt"),
            counted(found.reports, "report"),
            counted(found.files, "output"),
        )
    )
    return (
        f"ledger {tip[:12]}: {looked}: {counted(len(found.findings), 'finding') if found.findings else 'nothing off'}"
    )


def _document(tip: str | None, found: Verification) -> dict[str, object]:
    return {
        "tip": tip,
        "records": found.records,
        "attempts": found.attempts,
        "reports": found.reports,
        "outputs": found.files,
        "newer": found.newer,
        "findings": [{"where": one.where, "message": one.message} for one in found.findings],
    }
