"""``gitops-ml board DIR``: the ledger as a static site, for Pages, an artifact or the file system.

    gitops-ml board public        # then open public/index.html, or publish the folder

Written into a folder of its own. Reports never change, so a page that is there is not made again: after the first time
only what is new takes time.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gitops_ml import __version__, board, reports, wording
from gitops_ml.commands._tracked import tracked
from gitops_ml.entries import ReportEntry
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.history import rows
from gitops_ml.tools import Tools
from gitops_ml.trends import trends

STAMP = ".gitops-ml-board"
FORM = 1
"""Of the pages; with another one they are all made again."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="where to write it: a new folder, or an earlier board")
    parser.add_argument("--title", metavar="TEXT", help="shown at the top (default: the repository's name)")
    parser.add_argument("--ref", metavar="BRANCH", help="whose history trends follow (default: the default branch)")
    parser.add_argument("--offline", action="store_true", help="do not fetch the ledger; use what was fetched last")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Write the site and say where it is."""
    folder = tools.cwd / args.folder
    fresh = _begin(folder)
    if not args.offline:
        tools.results.refresh()
    entries, every = tools.results.entries()
    known = [report for report in every if board.is_report(report.folder)]
    found = rows(entries, known)
    written, paged = 0, set()
    for report in known:
        if not fresh and (folder / board.page_path(report.folder)).is_file():
            paged.add(report.folder)
            continue
        if files := _report_files(report, tools):
            _write(folder, files)
            paged.add(report.folder)
            written += 1
    branch = _branch(args.ref if args.ref is not None else tools.default_branch, tools)
    specs = tracked(found, known, tools)
    wanted = {name: metrics for name, (metrics, _) in board.deciding(found, known, specs).items()}
    content = board.Content(
        title=args.title if args.title is not None else _name(tools),
        ledger=tools.results.tip or "",
        rows=found,
        reports=known,
        tracked=specs,
        paged=frozenset(paged),
        records=len(entries),
        branch=branch,
        trends=trends(entries, known, [commit for commit, _ in branch.commits], wanted),
    )
    # Last, so that what it links to is there.
    _write(folder, {"index.html": board.index(content).encode(), STAMP: _stamp()})
    counted = wording.count(len(known), "report")
    tools.say(f"board: {folder / 'index.html'} ({counted}, {wording.count(written, 'new page')})")
    return ExitCode.OK


def _begin(folder: Path) -> bool:
    """Return whether all pages are to be made.

    Raises:
        UserError: the folder holds something else.
    """
    try:
        stamp = (folder / STAMP).read_bytes()
    except FileNotFoundError:
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(
                f"{folder} holds other files; give a new folder, or one that `board` wrote before"
            ) from None
        return True
    except NotADirectoryError:
        raise UserError(f"{folder} is no folder") from None
    return stamp != _stamp()


def _stamp() -> bytes:
    return f"gitops-ml {__version__} board {FORM}\n".encode()


def _report_files(report: ReportEntry, tools: Tools) -> Mapping[str, bytes]:
    """Return a report's page with its plots; nothing if it cannot be read."""
    files = tools.results.report_files(report.folder) or {}
    try:
        comparison = reports.comparison_from(files.get("report.json", b""), report.folder)
    except UserError as error:
        tools.note(f"warning: {error}")
        return {}
    plots = {name: data for name, data in files.items() if board.is_plot(name) and board.is_harmless(data)}
    page = board.report_page(comparison, plots).encode()
    # Its page last: once it is there, all of it is.
    return {**{f"{report.folder}/{name}": data for name, data in plots.items()}, board.page_path(report.folder): page}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        file = folder / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".new-", delete=False) as new:
                new.write(data)
            Path(new.name).chmod(0o644)
            os.replace(new.name, file)  # noqa: PTH105 whole or not at all
        except OSError as error:
            raise UserError(f"cannot write {file}: {error.strerror}") from error


def _branch(ref: str, tools: Tools) -> board.Branch:
    repository = tools.repository
    tip = repository.resolve_ref(ref, tools.project.ledger.remote)
    if tip is None:
        tools.note(f"note: there is no branch `{ref[:80]}` here, so there are no trends; --ref names one")
        return board.Branch(name=ref, commits=())
    commits = repository.line(tip)
    positions = {commit: position for position, (commit, _) in enumerate(commits)}
    releases = sorted((positions[oid], name) for name, oid in repository.tags().items() if oid in positions)
    return board.Branch(name=ref, commits=commits, releases=releases)


def _name(tools: Tools) -> str:
    url = tools.repository.remote_url(tools.project.ledger.remote) or str(tools.repository.top)
    return url.rstrip("/").rpartition("/")[2].removesuffix(".git")
