"""``gitops-ml validate``: check specs and gitops-ml.yaml, every finding with its place."""

import argparse
import functools
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from gitops_ml.diagnostics import FORMATS, Diagnostic, Severity, counted, summary
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.globs import compiled, folder_of, is_glob
from gitops_ml.project import PROJECT_FILE, Project, project_from
from gitops_ml.source import MAX_BYTES
from gitops_ml.spec import Experiment
from gitops_ml.tools import Tools
from gitops_ml.validation import Files, TreeFiles, in_order, linked, load, same_names


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("paths", nargs="*", metavar="PATH", help="spec files, or folders of them; none: all specs")
    parser.add_argument("--at", metavar="COMMIT", help="look at a commit instead of the work tree")
    parser.add_argument(
        "--format", choices=tuple(FORMATS), help="how to print findings (default: github in GitHub Actions, else text)"
    )


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Print the findings; 1 if one is an error."""
    if args.at is None:
        checked, found = _work_tree(args.paths, tools)
    else:
        checked, found = _commit(args.paths, args.at, tools)
    form = args.format or ("github" if tools.environ.get("GITHUB_ACTIONS") == "true" else "text")
    if text := FORMATS[form](found):
        tools.say(text)
    # The last line says what was looked at; a form that a program reads stays clean of it.
    (tools.say if form in ("text", "github") else tools.note)(summary(found, checked))
    return ExitCode.FINDINGS if any(it.severity is Severity.ERROR for it in found) else ExitCode.OK


def findings_at(revision: str, tools: Tools) -> Sequence[Diagnostic]:
    """Return all findings on gitops-ml.yaml and the specs at a commit."""
    return _commit((), revision, tools)[1]


def spec_files(paths: Sequence[str], tools: Tools) -> Mapping[str, Path]:
    """Return the specs of the repository that are meant, by their path in it: files, those below folders, or all.

    Raises:
        UserError: one is not there, not in the repository, or a symbolic link.
    """
    top = tools.repository.top
    specs = tools.project.specs
    found: list[str] = [] if paths else _select(WorkTree(top), specs)
    for given in paths:
        path = Path(os.path.abspath(tools.cwd / given))  # noqa: PTH100 a symlink keeps its own name
        if not path.is_relative_to(top):
            raise UserError(f"{given} is not in the repository at {top}")
        if path.is_dir():
            found += _below(path, given, top)
        elif path.is_file():
            found.append(path.relative_to(top).as_posix())
        else:
            raise UserError(f"there is no file {given}")
    if links := [path for path in found if (top / path).is_symlink()]:
        raise UserError(f"{links[0]}: {linked(links[0]).message}")
    return {path: top / path for path in dict.fromkeys(found)}


class WorkTree:
    """The files on disk below a folder, as ``Files``."""

    def __init__(self, top: Path) -> None:
        self._top = os.path.realpath(top)
        self.kind = functools.cache(self._kind)

    def _kind(self, path: str) -> str | None:
        real = os.path.realpath(posixpath.join(self._top, path))
        if real != self._top and not real.startswith(self._top.rstrip(os.sep) + os.sep):
            return "outside" if os.path.lexists(posixpath.join(self._top, path)) else None
        return "folder" if os.path.isdir(real) else "file" if os.path.exists(real) else None  # noqa: PTH110, PTH112 hot

    def children(self, folder: str) -> Sequence[str]:
        """Return the names in the folder."""
        try:
            return sorted(os.listdir(posixpath.join(self._top, folder)))  # noqa: PTH208
        except OSError:
            return ()

    def any(self, glob: str) -> bool:
        """Say whether the glob selects a file."""
        return next(self.matching(glob), None) is not None

    def matching(self, glob: str) -> Iterator[str]:
        """Yield the files that the glob selects, sorted within each folder."""
        if not is_glob(glob):
            if os.path.lexists(posixpath.join(self._top, glob)):
                yield glob
            return
        folder = folder_of(glob)
        start = "" if folder == "." else folder
        # A commit has nothing behind a symlink, so neither has the work tree.
        if os.path.realpath(posixpath.join(self._top, folder)) == posixpath.normpath(posixpath.join(self._top, folder)):
            yield from filter(compiled((glob,)), self._walk(start))

    def _walk(self, folder: str) -> Iterator[str]:
        try:
            with os.scandir(posixpath.join(self._top, folder)) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            return
        for entry in listed:
            path = posixpath.join(folder, entry.name)
            if not entry.is_dir(follow_symlinks=False):
                yield path
            elif entry.name not in (".git", ".gitops-ml"):
                yield from self._walk(path)


def _work_tree(paths: Sequence[str], tools: Tools) -> tuple[str, Sequence[Diagnostic]]:
    top = _top(tools.cwd)
    if not paths:
        return _discovered(top)
    specs: dict[str, tuple[bytes, Files]] = {}
    found: list[Diagnostic] = []
    trees: dict[Path, WorkTree] = {}
    for given in paths:
        path = Path(os.path.abspath(tools.cwd / given))  # noqa: PTH100 a symlink keeps its own name
        if path.is_dir():
            specs |= _below(path, given, top)
            continue
        text = _read(path, given)
        root = top if path.is_relative_to(top) else _top(path.parent)
        name = path.relative_to(root).as_posix() if root == top else given
        if path == root / PROJECT_FILE:
            found += project_from(text, name)[1]
        else:
            specs[name] = text, trees.setdefault(root, WorkTree(root))
    return counted(len(specs), "spec"), in_order([*found, *_findings(specs)])


def _discovered(top: Path) -> tuple[str, Sequence[Diagnostic]]:
    """Check gitops-ml.yaml and all specs; with a broken gitops-ml.yaml, those of the default globs."""
    found: list[Diagnostic] = []
    project: Project | None = Project()
    settings = top / PROJECT_FILE
    if os.path.lexists(settings):
        project, problems = project_from(_read(settings, PROJECT_FILE))
        found += problems
    tree = WorkTree(top)
    globs = (project or Project()).specs
    selected = _select(tree, globs)
    links = [path for path in selected if (top / path).is_symlink()]
    found += [linked(path) for path in links]
    texts = {path: (_read(top / path, path), tree) for path in selected if path not in links}
    note = "" if selected else f" (none matches {', '.join(globs)})"
    return counted(len(selected), "spec") + note, in_order([*found, *_findings(texts)])


def _below(folder: Path, given: str, top: Path) -> dict[str, tuple[bytes, Files]]:
    root = top if folder.is_relative_to(top) else _top(folder)
    project = project_from(_read(root / PROJECT_FILE, PROJECT_FILE))[0] if (root / PROJECT_FILE).exists() else Project()
    tree = WorkTree(root)
    inside = folder.relative_to(root).as_posix()
    paths = [
        path for path in _select(tree, (project or Project()).specs) if inside == "." or path.startswith(f"{inside}/")
    ]
    if not paths:
        raise UserError(f"there is no spec in {given}; which files are specs says `specs` in {PROJECT_FILE}")
    return {path: (_read(root / path, path), tree) for path in paths}


def _select(tree: WorkTree, globs: Iterable[str]) -> list[str]:
    return sorted({path for glob in globs for path in tree.matching(posixpath.normpath(glob))})


def _commit(paths: Sequence[str], revision: str, tools: Tools) -> tuple[str, Sequence[Diagnostic]]:
    repository = tools.repository
    commit = repository.resolve(revision)
    if commit is None:
        raise UserError(f"`{revision}` names no commit here; is it fetched?")
    tree = repository.tree(commit, revision)
    links = {file.path: file.oid for file in tree.files.values() if file.mode == "120000"}
    files = TreeFiles(tree.files, {path: os.fsdecode(tree.read(oid)) for path, oid in links.items()})
    found: list[Diagnostic] = []
    project: Project | None = Project()
    if PROJECT_FILE in tree.files:
        project, problems = project_from(tree.read(tree.files[PROJECT_FILE].oid))
        found += problems
    if paths:
        inside = [Path(os.path.abspath(tools.cwd / given)) for given in paths]  # noqa: PTH100
        if lost := [str(path) for path in inside if not path.is_relative_to(repository.top)]:
            raise UserError(f"{lost[0]} is not in the repository at {repository.top}")
        wanted = [path.relative_to(repository.top).as_posix() for path in inside]
        selected = _named(wanted, revision, tree.files, project or Project())
    else:
        selected = list(filter(compiled((project or Project()).specs), tree.files))
    texts: dict[str, tuple[bytes, Files]] = {
        path: (tree.read(tree.files[path].oid), files)
        for path in selected
        if path != PROJECT_FILE and path not in links
    }
    found += [linked(path) for path in selected if path in links]
    checked = f"{counted(len(selected), 'spec')} at {commit[:12]}"
    return checked, in_order([*found, *_findings(texts)])


def _named(wanted: Iterable[str], revision: str, known: Mapping[str, object], project: Project) -> list[str]:
    selected: dict[str, None] = {}
    specs = compiled(project.specs)
    for path in wanted:
        here = (
            [path]
            if path in known
            else [it for it in known if specs(it) and (path == "." or it.startswith(f"{path}/"))]
        )
        if not here:
            raise UserError(f"there is no spec {path} at {revision}")
        selected |= dict.fromkeys(here)
    return list(selected)


def _findings(specs: Mapping[str, tuple[bytes, Files]]) -> Iterator[Diagnostic]:
    valid: list[tuple[Experiment, bytes]] = []
    for path, (text, files) in specs.items():
        experiment, found = load(text, path, files)
        yield from found
        if experiment is not None:
            valid.append((experiment, text))
    yield from same_names(valid)


def _top(folder: Path) -> Path:
    """Return the folder of the repository around this one, without asking git; else this one."""
    for candidate in (folder, *folder.parents):
        if (candidate / ".git").exists() or (candidate / PROJECT_FILE).exists():
            return candidate
    return folder


def _read(path: Path, given: str) -> bytes:
    try:
        if not path.is_file():
            raise UserError(f"{given} is no file" if path.exists() else f"there is no file {given}")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{given} cannot be read: {error.strerror}") from error
