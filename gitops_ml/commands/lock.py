"""``gitops-ml lock``: pin data outside of the repository, by writing its version into the specs.

    gitops-ml lock                        # what has no version yet, in all specs
    gitops-ml lock --update train         # take what `train` is now, in every spec that has it
    gitops-ml lock --check                # in CI: 1 if something is not pinned, or is no longer what was pinned

Comments and layout stay as they are. What is read to learn its digest is kept in this clone's cache, so that a training
here does not fetch it again.
"""

import argparse
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gitops_ml.commands.validate import WorkTree, spec_files
from gitops_ml.diagnostics import FORMATS, Diagnostic, Severity, counted
from gitops_ml.errors import ExitCode, ServiceError, UserError
from gitops_ml.git import replace_file, state_folder
from gitops_ml.locking import Entry, entries, with_versions
from gitops_ml.pins import content
from gitops_ml.schema import nearest_or_all
from gitops_ml.source import Source, read_source
from gitops_ml.tools import Tools
from gitops_ml.validation import in_order, load, not_pinned

_MENDED_HERE = frozenset({"data-not-pinned", "data-version"})


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("paths", nargs="*", metavar="SPEC", help="spec files, or folders of them; none: all specs")
    parser.add_argument(
        "--update",
        metavar="NAME",
        action="append",
        default=[],
        help="take what this data entry is now, although it is pinned; may be repeated",
    )
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if data is not pinned, or has moved")
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        help="how to print what --check finds (default: github in GitHub Actions, else text)",
    )


def run(args: argparse.Namespace, tools: Tools, *, wait: Callable[[float], None] = time.sleep) -> int:
    """Pin the data, or say what is not pinned."""
    if args.check and args.update:
        raise UserError("--check changes nothing, so --update has no meaning with it; leave one out")
    specs = {path: (file, file.read_bytes()) for path, file in spec_files(args.paths, tools).items()}
    sources = {path: read_source(text, path) for path, (_, text) in specs.items()}
    tree = WorkTree(tools.repository.top)
    broken = [
        finding
        for path, (_, text) in specs.items()
        for finding in load(text, path, tree)[1]
        if finding.severity is Severity.ERROR and finding.code not in _MENDED_HERE
    ]
    if broken:
        tools.say(FORMATS[_form(args, tools)](in_order(broken)))
        tools.note("mend this first: only a spec that is otherwise valid is pinned")
        return ExitCode.FINDINGS
    listed = {path: entries(source) for path, source in sources.items()}
    names = {entry.name for of in listed.values() for entry in of}
    for name in args.update:
        if name not in names:
            known = nearest_or_all(name, sorted(names)) if names else "; no spec has any"
            raise UserError(f"--update: no data outside of the repository is called `{name}`{known}")
    if args.check:
        return _check(args, sources, listed, _Now(tools, wait), tools)
    return _pin(args, specs, sources, listed, _Now(tools, wait), tools)


def _pin(
    args: argparse.Namespace,
    specs: Mapping[str, tuple[Path, bytes]],
    sources: Mapping[str, Source],
    listed: Mapping[str, Sequence[Entry]],
    now: "_Now",
    tools: Tools,
) -> int:
    files = pinned = 0
    for path, of in listed.items():
        found = load(specs[path][1], path)[1]
        unpinned = {f.position for f in found if f.code in _MENDED_HERE}
        versions = {}
        for entry in of:
            places = [sources[path].position(("data", entry.index, key)) for key in ("uri", "version")]
            if entry.name not in args.update and unpinned.isdisjoint(places):
                continue
            version = now.version(entry.uri)
            if version != entry.version:
                versions[entry.index] = version
                was = f" (was {entry.version})" if entry.version else ""
                tools.say(f"{path}: {entry.name}: {version}{was}")
        if versions:
            file, text = specs[path]
            _write(file, with_versions(text, path, versions))
            files, pinned = files + 1, pinned + len(versions)
    if pinned:
        tools.note(f"{counted(pinned, 'version')} written into {counted(files, 'spec')}; review and commit them")
    else:
        total = sum(map(len, listed.values()))
        tools.note(f"nothing to do: {counted(total, 'source')} outside of the repository, all pinned")
    return ExitCode.OK


def _check(
    args: argparse.Namespace,
    sources: Mapping[str, Source],
    listed: Mapping[str, Sequence[Entry]],
    now: "_Now",
    tools: Tools,
) -> int:
    found = []
    for path, of in listed.items():
        for entry in of:

            def report(key: str, code: str, message: str, path: str = path, entry: Entry = entry) -> None:
                position = sources[path].position(("data", entry.index, key))
                found.append(Diagnostic(file=path, position=position, code=code, message=message))

            if entry.version is None:
                report("uri", "data-not-pinned", not_pinned(entry.uri))
                continue
            try:
                version = now.version(entry.uri, like=entry.version)
            except ServiceError:
                raise
            except UserError as error:
                report("uri", "data-gone", f"`{entry.name}` cannot be had any more: {error}")
                continue
            if version != entry.version and content(version) != content(entry.version):
                message = (
                    f"`{entry.name}` has moved: {entry.uri} is {version or 'without versions'} now, and "
                    f"{entry.version} is pinned; `gitops-ml lock --update {entry.name}` takes it"
                )
                report("version", "data-moved", message)
    form = _form(args, tools)
    ordered = in_order(found)
    if text := FORMATS[form](ordered):
        tools.say(text)
    total = sum(map(len, listed.values()))
    words = f"{len(found)} to be looked at" if found else "all pinned, and as they were"
    (tools.say if form in ("text", "github") else tools.note)(
        f"{counted(total, 'source')} outside of the repository: {words}"
    )
    return ExitCode.FINDINGS if found else ExitCode.OK


class _Now:
    """What data is now; each source is asked once, however many specs name it."""

    def __init__(self, tools: Tools, wait: Callable[[float], None]) -> None:
        self._tools = tools
        self._wait = wait
        self._known: dict[tuple[str, str], str] = {}

    def version(self, uri: str, *, like: str = "") -> str:
        """Return the version that pins the data as it is now.

        Raises:
            ServiceError: its source does not answer.
            UserError: it is not there, or may not be read.
        """
        from gitops_ml.agent.cache import DataCache, limit_from
        from gitops_ml.datasets import for_uri
        from gitops_ml.datasets.base import DatasetError, Outside, UnreachableError

        if (uri, like) not in self._known:
            tools = self._tools
            state_folder(tools.repository.state)
            try:
                cache = DataCache(
                    tools.repository.state / "cache",
                    limit_bytes=limit_from(tools.environ),
                    wait=self._wait,
                    say=tools.note,
                )
                outside = Outside(environ=tools.environ, cache=cache, wait=self._wait, say=tools.note)
                self._known[uri, like] = for_uri(uri, outside).resolve(uri, like=like)
                cache.trim()
            except UnreachableError as error:
                raise ServiceError(str(error)) from error
            except DatasetError as error:
                raise UserError(str(error)) from error
        return self._known[uri, like]


def _write(file: Path, text: bytes) -> None:
    mode = stat.S_IMODE(file.stat().st_mode)
    replace_file(file, text)
    os.chmod(file, mode)  # noqa: PTH101 beside its stat


def _form(args: argparse.Namespace, tools: Tools) -> str:
    return args.format or ("github" if tools.environ.get("GITHUB_ACTIONS") == "true" else "text")
