"""``comment``: show the comparison where the change is reviewed, and set the status that gates it.

In CI the forge, the change and the servers come from the environment. What cannot be published is said once, stays in
the job summary and in ``.gitops-ml/comment.md``, and never changes the verdict; ``--strict`` makes it exit code 5.

``--from DIR`` publishes later, or from a job that has the artifact alone: without a repository there are charts that
the forge draws instead of pictures, and no link to the ledger but ``--report-url``.
"""

import argparse
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from gitops_ml import ci, markdown, plots, reports, wording
from gitops_ml.commands.compare import comparison_for
from gitops_ml.commands.plan import add_plan_arguments
from gitops_ml.commands.report import folder_for, matrices_of
from gitops_ml.comparison import Comparison, GateResult
from gitops_ml.errors import ExitCode, NoRepositoryError, ServiceError, UserError
from gitops_ml.forges.base import CommentRef, Forge, Image, State
from gitops_ml.git import Head, Repository
from gitops_ml.planning import Tree
from gitops_ml.project import Project
from gitops_ml.tools import Tools
from gitops_ml.values import dataclass

MAX_COMPARISON_BYTES = 256 * 2**20
# GitHub refuses a job summary over 1 MiB, and the job stays green.
MAX_SUMMARY_BYTES = 1_000_000
_STATES = {GateResult.PASS: State.SUCCESS, GateResult.WARN: State.SUCCESS, GateResult.FAIL: State.FAILURE}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_plan_arguments(parser)
    parser.add_argument("--forge", metavar="NAME", help="github, gitlab or local (default: the CI's, else local)")
    parser.add_argument("--change", metavar="N", type=int, help="number of the pull or merge request (default: found)")
    parser.add_argument("--id", dest="identity", default="default", help="keeps several comments apart")
    parser.add_argument("--from", dest="source", metavar="DIR", type=Path, help="publish what `report --out DIR` left")
    parser.add_argument("--report-url", metavar="URL", help="where the full report stands (default: on the ledger)")
    parser.add_argument("--pending", action="store_true", help="only set the statuses, to pending: training starts")
    parser.add_argument("--strict", action="store_true", help="exit 5 when something could not be published")
    parser.add_argument("--dry-run", action="store_true", help="print the comment, change nothing")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Render, publish, set statuses."""
    try:
        marker = markdown.marker(args.identity)
    except ValueError as error:
        raise UserError(str(error)) from error
    comparison = load(tools.cwd / args.source) if args.source else comparison_for(args, tools)
    alone = args.source is not None and _is_alone(tools)
    if args.dry_run:
        tools.say(markdown.comment(comparison, identity=args.identity, report_url=args.report_url).rstrip("\n"))
        return ExitCode.OK
    context = ci.context(tools.environ)
    name = args.forge or (context.kind.value if context else "local")
    forge = tools.forge(name)
    ledger = None if name == "local" or args.pending or alone else ledger_tree(tools)
    url = args.report_url or report_page(comparison, forge, ledger)
    failures: list[str] = []
    reference = None
    if not args.pending:
        try:
            reference = _comment(args, tools, forge, comparison, marker=marker, ledger=ledger, url=url)
        except ServiceError as error:
            failures.append(f"the comment could not be posted: {error}")
    try:
        if not _is_old(reference, args, tools, forge, comparison):
            set_statuses(comparison, forge, url, pending=args.pending)
    except ServiceError as error:
        failures.append(f"the status could not be set: {error}")
    for failure in failures:
        tools.note(failure)
    if failures and not args.pending:
        leave_behind(comparison, tools, identity=args.identity, report_url=url, failures=failures)
    return ExitCode.SERVICE if failures and args.strict else ExitCode.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class _NoRepository:
    """What a forge asks a repository for, in a job that has an artifact and checks nothing out."""

    state: Path

    def head(self) -> Head:
        return Head(commit=None, branch=None)

    def remote_url(self, remote: str) -> None:  # noqa: ARG002 there is none of any name
        return None

    def close(self) -> None:
        pass


def _is_alone(tools: Tools) -> bool:
    """Whether there is no repository; then the forge's names come from the CI, and nothing is known of settings."""
    try:
        tools.repository  # noqa: B018 it is looked for
    except NoRepositoryError:
        tools.repository = cast("Repository", _NoRepository(state=tools.cwd / ".gitops-ml"))
        # What the settings say of pictures is not known, so none leaves this machine.
        tools.project = Project(images="mermaid")
        return True
    return False


def _comment(
    args: argparse.Namespace,
    tools: Tools,
    forge: Forge,
    comparison: Comparison,
    *,
    marker: str,
    ledger: Tree | None,
    url: str | None,
) -> CommentRef | None:
    number = change_number(args, tools, forge, comparison)
    if number is None:
        tools.say(f"nothing to comment: no open change has the head {comparison.head.commit[:12]}")
        return None
    matrices = {} if args.source else {e.name: matrices_of(e, tools) for e in comparison.experiments}
    images = publish_images(comparison, forge, matrices, how=tools.project.images, ledger=ledger)
    body = markdown.comment(
        comparison,
        identity=args.identity,
        images=images,
        report_url=url,
        budget_bytes=min(markdown.COMMENT_BYTES, forge.max_comment_bytes),
    )
    reference = forge.upsert_comment(number, marker=marker, body=body, commit=comparison.head.commit)
    tools.say(f"comment {reference.action}: {reference.url}")
    return reference


def change_number(args: argparse.Namespace, tools: Tools, forge: Forge, comparison: Comparison) -> int | None:
    """Return the change that the arguments or the CI name, else the open one with this head."""
    if args.change is not None:
        return int(args.change)
    context = ci.context(tools.environ)
    if context and context.change is not None and args.forge in (None, context.kind.value):
        return context.change
    change = forge.change_for(comparison.head.commit)
    return change.number if change else None


def _is_old(
    reference: CommentRef | None, args: argparse.Namespace, tools: Tools, forge: Forge, comparison: Comparison
) -> bool:
    """Whether a newer run has spoken for this very commit, so that its status must stand."""
    if reference is None or reference.action != "outdated":
        return False
    number = change_number(args, tools, forge, comparison)
    return number is not None and forge.change(number).head == comparison.head.commit


def leave_behind(
    comparison: Comparison, tools: Tools, *, identity: str, report_url: str | None, failures: Sequence[str]
) -> None:
    """Keep what could not be posted where the job keeps things: its summary, and the folder for artifacts."""
    from gitops_ml.forges.local import LocalForge

    summary = tools.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        named = "".join(f"- {markdown.prose(failure)}\n" for failure in failures)
        text = markdown.summary(comparison, report_url=report_url, budget_bytes=MAX_SUMMARY_BYTES - len(named.encode()))
        try:
            with Path(summary).open("a", encoding="utf-8") as out:
                out.write(f"{named}\n{text}\n")
            tools.note("the comparison stands in the job summary instead")
        except OSError as error:
            tools.note(f"the job summary could not be written: {error.strerror}")
    try:
        local = LocalForge(tools.repository, tools.environ)
        body = markdown.comment(comparison, identity=identity, report_url=report_url)
        kept = local.upsert_comment(0, marker=markdown.marker(identity), body=body)
        tools.note(f"the comment is kept at {kept.url}; publish it later with `gitops-ml comment`")
    except ServiceError as error:
        tools.note(str(error))


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
                svg=functools.partial(getattr, picture, "svg"),
                png=picture.png,
                version=reports.plan_digest(experiment),
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


def report_page(comparison: Comparison, forge: Forge, ledger: Tree | None) -> str | None:
    """Return where the full report stands on the ledger; of several experiments, the page that lists them."""
    commit = ledger.version.commit if ledger else None
    reports_of_all = [f"{folder_for(experiment)}/report.md" for experiment in comparison.experiments]
    if ledger is None or commit is None or not reports_of_all or not all(one in ledger.files for one in reports_of_all):
        return None
    page = reports_of_all[0] if len(reports_of_all) == 1 else "README.md"
    return forge.page_url(commit, page) if page in ledger.files else None


def set_statuses(comparison: Comparison, forge: Forge, url: str | None, *, pending: bool = False) -> None:
    """Set one status per experiment on the head commit: what the gate rests on.

    What the change leaves as it is has one too: a status that is required and never set would block every change.
    """
    for experiment in comparison.experiments:
        head = wording.headline(experiment)
        verdict = wording.clean(f"{head.verdict}: {head.because.replace('`', '')}", 140)
        forge.set_status(
            comparison.head.commit,
            context=f"gitops-ml/{experiment.name}",
            state=State.PENDING if pending else _STATES[experiment.gate],
            text="waiting for the training" if pending else verdict,
            url=url,
        )
    for name in comparison.unchanged:
        text = "unchanged: nothing that determines the result differs"
        forge.set_status(comparison.head.commit, context=f"gitops-ml/{name}", state=State.SUCCESS, text=text, url=None)
