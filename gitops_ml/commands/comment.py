"""``comment``: show the comparison where the change is reviewed, and set the status that gates it."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from gitops_ml import markdown, plots, reports, wording
from gitops_ml.commands.compare import add_compare_arguments, comparison_for
from gitops_ml.commands.report import folder_for, matrices_of
from gitops_ml.comparison import Comparison, GateResult
from gitops_ml.errors import ExitCode, ServiceError, UserError
from gitops_ml.forges.base import CannotPublishError, Forge, Image, State
from gitops_ml.planning import Tree
from gitops_ml.tools import Tools

MAX_COMPARISON_BYTES = 256 * 2**20
_STATES = {GateResult.PASS: State.SUCCESS, GateResult.WARN: State.SUCCESS, GateResult.FAIL: State.FAILURE}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_compare_arguments(parser)
    parser.add_argument("--forge", metavar="NAME", default="local", help="github, gitlab or local (default: local)")
    parser.add_argument("--change", metavar="N", type=int, help="number of the pull or merge request (default: found)")
    parser.add_argument("--id", dest="identity", default="default", help="keeps several comments apart")
    parser.add_argument("--from", dest="source", metavar="DIR", type=Path, help="publish what `report --out DIR` left")
    parser.add_argument("--report-url", metavar="URL", help="where the full report stands, for the link at the end")
    parser.add_argument("--dry-run", action="store_true", help="print the comment, change nothing")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Render, publish, set statuses. A comment that cannot be posted is said and changes no verdict."""
    try:
        marker = markdown.marker(args.identity)
    except ValueError as error:
        raise UserError(str(error)) from error
    comparison = load(tools.cwd / args.source) if args.source else comparison_for(args, tools)
    if args.dry_run:
        tools.say(markdown.comment(comparison, identity=args.identity, report_url=args.report_url).rstrip("\n"))
        return ExitCode.OK
    forge = tools.forge(args.forge)
    number = args.change
    if number is None:
        change = forge.change_for(comparison.head.commit)
        if change is None:
            tools.say(f"nothing to comment: no open change has the head {comparison.head.commit[:12]}")
            return ExitCode.OK
        number = change.number
    matrices = {} if args.source else {e.name: matrices_of(e, tools) for e in comparison.experiments}
    images = publish_images(
        comparison,
        forge,
        matrices,
        how=tools.project.images,
        ledger=None if args.forge == "local" else ledger_tree(tools),
    )
    body = markdown.comment(
        comparison,
        identity=args.identity,
        images=images,
        report_url=args.report_url,
        budget_bytes=min(markdown.COMMENT_BYTES, forge.max_comment_bytes),
    )
    try:
        reference = forge.upsert_comment(number, marker=marker, body=body, commit=comparison.head.commit)
        tools.say(f"comment {reference.action}: {reference.url}")
    except CannotPublishError as error:
        tools.note(f"the comment could not be posted: {error}")
        tools.say(body.rstrip("\n"))
    set_statuses(comparison, forge, args.report_url)
    return ExitCode.OK


def load(folder: Path) -> Comparison:
    """Return the comparison that ``report --out`` left; it is data from outside and read as such."""
    file = folder / "comparison.json"
    try:
        if file.stat().st_size > MAX_COMPARISON_BYTES:
            raise UserError(f"{file} is larger than {MAX_COMPARISON_BYTES} bytes; nothing that we write is")
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; write it with `report --out {folder}`") from error
    return reports.comparison_from(content, str(file))


def publish_images(
    comparison: Comparison,
    forge: Forge,
    matrices: Mapping[str, Sequence[plots.Matrix]],
    *,
    how: str,
    ledger: Tree | None,
) -> dict[str, dict[str, str | None]] | None:
    """Return the addresses of the pictures by experiment; None: the forge shows none, so charts are drawn instead."""
    if how in ("mermaid", "none"):
        return None if how == "mermaid" else {experiment.name: {} for experiment in comparison.experiments}
    images: dict[str, dict[str, str | None]] = {}
    for experiment in comparison.experiments:
        folder = folder_for(experiment)
        urls: dict[str, str | None] = {}
        for picture in plots.pictures(experiment, matrices.get(experiment.name, ())):
            path = f"{folder}/plots/{picture.name}.svg"
            there = ledger is not None and path in ledger.files
            image = Image(
                name=f"{experiment.name}-{picture.name}",
                alt=picture.alt,
                svg=picture.svg,
                png=picture.png() if how != "commit" and not there and ledger is not None else None,
                ledger_path=path if there else None,
                ledger_commit=ledger.version.commit if ledger and there else None,
            )
            urls[picture.name] = forge.publish_image(image, how=how)
        images[experiment.name] = urls
    shown = any(url for urls in images.values() for url in urls.values())
    return images if shown else None


def ledger_tree(tools: Tools) -> Tree | None:
    """Return the ledger's newest tree, for links to pictures by commit; None: there is none to be reached."""
    settings = tools.project.ledger
    try:
        tip = tools.repository.fetch(settings.remote, f"refs/heads/{settings.branch}")
    except ServiceError as error:
        tools.note(f"the ledger could not be read, pictures are not linked: {error}")
        return None
    return tools.repository.tree(tip, settings.branch) if tip else None


def set_statuses(comparison: Comparison, forge: Forge, url: str | None) -> None:
    """Set one status per experiment on the head commit: what the gate rests on."""
    for experiment in comparison.experiments:
        head = wording.headline(experiment)
        text = wording.clean(f"{head.verdict}: {head.because.replace('`', '')}", 140)
        forge.set_status(
            comparison.head.commit,
            context=f"gitops-ml/{experiment.name}",
            state=_STATES[experiment.gate],
            text=text,
            url=url,
        )
