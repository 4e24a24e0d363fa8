"""Schema and cross-field checks: text -> diagnostics and experiments.

All that can be known offline is checked, and all findings are given at once, in order of place. What this version
cannot do yet is refused here, never silently ignored.
"""

import bisect
import dataclasses
import functools
import math
import posixpath
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from gitops_ml import pins, plugins
from gitops_ml.diagnostics import Diagnostic, Position, Severity
from gitops_ml.globs import compiled, folder_of, is_glob, rooted
from gitops_ml.pointers import dvc_files
from gitops_ml.schema import findings, nearest, nearest_or_all, sound_part
from gitops_ml.source import Path, Source, read_source, shown, strings
from gitops_ml.spec import (
    Data,
    Experiment,
    Gate,
    Goal,
    Range,
    SummaryKind,
    Track,
    experiment_from,
)
from gitops_ml.templates import NAMESPACES, TRIAL_NAMES, Malformed, Reference, data_variable, references

MAX_TRIALS = 10_000
"""More points times seeds than this are a mistake, not an experiment."""


class Files(Protocol):
    """The repository's files, in a work tree or at a commit; paths are from its root."""

    def kind(self, path: str) -> str | None:
        """Return ``file``, ``folder``, or ``outside`` for what a symlink leads out of the repository; None: none."""

    def children(self, folder: str) -> Sequence[str]:
        """Return the names in the folder."""

    def any(self, glob: str) -> bool:
        """Say whether the glob selects a file."""


class TreeFiles:
    """The files of a git tree: paths, and what its symlinks hold."""

    def __init__(self, paths: Iterable[str], links: Mapping[str, str]) -> None:
        self._paths = frozenset(paths)
        self._links = links

    @functools.cached_property
    def _folders(self) -> Mapping[str, list[str]]:
        folders: dict[str, dict[str, None]] = {"": {}}
        for path in sorted(self._paths):
            while path:
                folder, _, name = path.rpartition("/")
                folders.setdefault(folder, {})[name] = None
                path = folder
        return {folder: list(names) for folder, names in folders.items()}

    def kind(self, path: str) -> str | None:
        """Return what the path is, symlinks followed."""
        rest = [part for part in path.split("/") if part != "."]
        done = ""
        for _ in range(1000):  # a loop of symlinks leads nowhere
            if not rest:
                return "folder" if done in self._folders else "file" if done in self._paths else None
            done = posixpath.join(done, rest.pop(0))
            if done in self._links:
                target = rooted(posixpath.dirname(done), self._links[done])
                if target is None:
                    return "outside"
                rest, done = [part for part in target.split("/") if part != "."] + rest, ""
        return None

    def children(self, folder: str) -> Sequence[str]:
        """Return the names in the folder."""
        return self._folders.get("" if folder == "." else folder, ())

    def any(self, glob: str) -> bool:
        """Say whether the glob selects a file."""
        return any(map(compiled((glob,)), self._paths))


def load(text: bytes, path: str, files: Files | None = None) -> tuple[Experiment | None, tuple[Diagnostic, ...]]:
    """Return the experiment that the text describes, and all findings in order of place.

    Args:
        text: the content of the spec's file, whatever it is.
        path: the spec's file, from the repository's root.
        files: what the spec's paths are looked up in; None: they are not.

    Returns:
        No experiment if one of the findings is an error.
    """
    source = read_source(text, path)
    found = list(source.problems)
    if source.complete:
        # One finding per place: what the loader said there explains what the schema would say.
        said = {problem.position for problem in found}
        found += [finding for finding in findings("experiment.v1", source) if finding.position not in said]
    broken = _broken(source, found)
    experiment = _experiment(source, found, broken)
    if experiment is not None:
        found += _Checks(source, experiment, files).all(broken)
    if any(finding.severity is Severity.ERROR for finding in found):
        experiment = None
    return experiment, in_order(found)


def _broken(source: Source, found: Sequence[Diagnostic]) -> frozenset[str]:
    """Return the top-level keys under which something was found: no check may build on them."""
    if not found or not source.data or not isinstance(source.data, dict):
        return frozenset()
    keys = sorted(source.data, key=lambda key: source.key_position((key,)))
    places = [source.key_position((key,)) for key in keys]
    broken = {keys[max(0, bisect.bisect_right(places, finding.position) - 1)] for finding in found}
    import difflib

    # A misspelled key means another one, which therefore is not known either.
    meant = [near for key in broken - _KEYS for near in difflib.get_close_matches(key, _KEYS, n=1)]
    return frozenset(broken | {*meant})


def _experiment(source: Source, found: Sequence[Diagnostic], broken: frozenset[str]) -> Experiment | None:
    """Return what the sound part of the spec describes, which may be all of it; None: there is too little of it."""
    if not isinstance(source.data, dict):
        return None
    if not found:
        return experiment_from(source.data, source.file)
    required = {"version": 1, "name": "unknown", "run": "unknown"}
    # What the loader refused may be half there, and nothing in it says so.
    left_out = _broken(source, source.problems) | (broken & required.keys())
    sound = sound_part("experiment.v1", required | {key: source.data[key] for key in source.data.keys() - left_out})
    return None if sound is None else experiment_from(sound, source.file)


_KEYS = frozenset(field.name for field in dataclasses.fields(Experiment)) - {"path"} | {"version"}


def not_pinned(uri: str) -> str:
    """Return what is said about data outside of the repository without a version."""
    return f"{shown(uri)} is outside the repository and needs a `version`; `gitops-ml lock` writes it"


def linked(path: str) -> Diagnostic:
    """Return the finding on a spec that is a symbolic link: what it shows could lie anywhere on the machine."""
    message = "a spec is a file of its own, not a symbolic link; put the text here, or leave the link out of `specs`"
    return Diagnostic(file=path, position=Position(1, 1), code="symlink", message=message)


def in_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Return the findings by place, each once."""
    return tuple(sorted(dict.fromkeys(diagnostics), key=lambda it: (it.file, it.position, it.code, it.message)))


def same_names(specs: Iterable[tuple[Experiment, bytes]]) -> tuple[Diagnostic, ...]:
    """Return a finding at the name of every experiment, given with its text, that an earlier file names too."""
    first: dict[str, str] = {}
    found = []
    for experiment, text in sorted(specs, key=lambda spec: spec[0].path):
        if experiment.name in first:
            message = f"the name `{experiment.name}` is already that of {first[experiment.name]}; choose another"
            position = read_source(text, experiment.path).position(("name",))
            found.append(Diagnostic(file=experiment.path, position=position, code="same-name", message=message))
        first.setdefault(experiment.name, experiment.path)
    return tuple(found)


# What the schema accepts and this version does not do: what is used, at which path, in which words. Each line goes
# when its work is done.
_NOT_SUPPORTED: tuple[tuple[Callable[[Experiment], bool], Path, str], ...] = (
    (lambda spec: spec.resources.nodes > 1, ("resources", "nodes"), "trials on several nodes"),
    (lambda spec: spec.triggers.schedule != "never", ("triggers", "schedule"), "schedules"),
)
# The first command of `run`, where it is a script of the repository. Nothing before it can have made the file.
_SCRIPT = re.compile(r"\s*(?:python[0-9.]*|bash|sh)(?:\s+-[BEIOPSbeuvx]+)*\s+(\w[\w./-]*\.(?:py|sh))(?=[\s;&|]|$)")
_SCHEMES = ("s3", "https", "hf")

_DIGEST = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")
# The beginnings of tokens that services hand out, so that a spec with one in it is stopped before it is pushed.
_TOKEN = re.compile(
    r"\b(gh[pousr]_[A-Za-z0-9]{20}|github_pat_|glpat-|hf_[A-Za-z0-9]{20}|sk-[A-Za-z0-9_-]{20}|xox[abp]-|"
    r"(AKIA|ASIA)[A-Z0-9]{16}\b)|-----BEGIN [A-Z ]*PRIVATE KEY"
)


class _Checks:
    """The cross-field checks of one spec that the schema accepts."""

    def __init__(self, source: Source, spec: Experiment, files: Files | None) -> None:
        self.source = source
        self.spec = spec
        self.files = files

    def all(self, broken: frozenset[str]) -> Iterator[Diagnostic]:
        """Yield the findings of all checks, but those that would take what is broken for what is not there."""
        for needs, check in (
            ((), self.unsupported),
            ((), self.secrets),
            ((), self.environment),
            (("workdir",), self.data),
            (("workdir",), self.paths),
            (("run", "workdir", "code", "data"), self.script),
            (("params", "data", "checkpoints"), self.template),
            (("params", "seeds"), self.parameters),
            (("budget", "checkpoints"), self.budget),
            (("metrics",), self.metrics),
            ((), self.plugin_names),
        ):
            if broken.isdisjoint(needs):
                yield from check()

    def error(self, path: Path, code: str, message: str) -> Diagnostic:
        return Diagnostic(file=self.source.file, position=self.source.position(path), code=code, message=message)

    def unsupported(self) -> Iterator[Diagnostic]:
        for used, path, words in _NOT_SUPPORTED:
            if used(self.spec):
                yield self.error(path, "not-supported-yet", f"{words} are not supported yet; remove `{path[-1]}`")

    def secrets(self) -> Iterator[Diagnostic]:
        suspicious = strings(self.source.data) if self.source.contains(_TOKEN) else ()
        for path, text in suspicious:
            if _TOKEN.search(text):
                message = "this looks like a secret; revoke it, and name its variable in `environment.secrets` instead"
                yield self.error(path, "secret-value", message)
        for name in self.spec.environment.env.keys() & {*self.spec.environment.secrets}:
            yield self.error(
                ("environment", "secrets", self.spec.environment.secrets.index(name)),
                "secret-value",
                f"`{name}` is also in `environment.env`; a secret's value never stands in a spec",
            )

    def environment(self) -> Iterator[Diagnostic]:
        environment = self.spec.environment
        place = ("environment", "image")
        if environment.image is not None:
            if not _DIGEST.fullmatch(environment.image):
                message = f"{shown(environment.image)} has no digest; write it as `name@sha256:...`"
                yield self.error(place, "image-digest", message)
            for other in ("python", "requirements"):
                if getattr(environment, other) is not None:
                    message = f"`{other}` has no meaning with an `image`; remove one of them"
                    yield self.error(("environment", other), "image-excludes", message)
        for name in (*environment.env, *environment.secrets):
            if name.upper().startswith("GITOPS_ML_"):
                holder = "env" if name in environment.env else "secrets"
                part = name if holder == "env" else environment.secrets.index(name)
                yield Diagnostic(
                    file=self.source.file,
                    position=self.source.key_position(("environment", holder, part)),
                    code="reserved-name",
                    message=f"`{name}`: names that start with GITOPS_ML_ are set by gitops-ml",
                )

    def data(self) -> Iterator[Diagnostic]:
        variables: dict[str, str] = {}
        for index, entry in enumerate(self.spec.data):
            place: Path = ("data", index, "name")
            variable = data_variable(entry.name)
            if variable in variables:
                other = variables[variable]
                words = f"`{entry.name}` is there twice"
                if other != entry.name:
                    words = f"`{entry.name}` and `{other}` would both be the variable {variable}"
                yield self.error(place, "same-data-name", f"{words}; choose another name")
            variables.setdefault(variable, entry.name)
            yield from self._uri(("data", index), entry)

    def _uri(self, path: Path, entry: Data) -> Iterator[Diagnostic]:
        scheme, separator, _ = entry.uri.partition("://")
        place = (*path, "uri")
        if separator and scheme in _SCHEMES:
            if wrong := _uri_problem(entry.uri):
                yield self.error(place, "data-uri", wrong)
            elif entry.version is None:
                yield self.error(place, "data-not-pinned", not_pinned(entry.uri))
            elif wrong := pins.problem(entry.uri, entry.version):
                message = f"{shown(entry.version)} pins nothing here: {wrong}; `gitops-ml lock` writes it"
                yield self.error((*path, "version"), "data-version", message)
        elif separator:
            accepted = ", ".join(f"{known}://" for known in _SCHEMES)
            advice = nearest(scheme, _SCHEMES)
            message = f"`{shown(scheme)[1:-1]}://` is no kind of data; accepted are: a path, {accepted}{advice}"
            yield self.error(place, "unknown-scheme", message)
        else:
            if entry.version is not None:
                message = "a path in the repository is pinned by its commit; remove `version`"
                yield self.error((*path, "version"), "version-in-repository", message)
            at = rooted(self.spec.workdir, entry.uri)
            if not (self.files and at and self._kept_by_dvc(at)):
                yield from self._exists(place, entry.uri, folder=True)

    def _kept_by_dvc(self, at: str) -> bool:
        """Say whether DVC may have the path: beside it is a file of DVC's, or above it one of a pipeline's outputs."""
        if self.files is None or self.files.kind(at) is not None:
            return False
        return any(self.files.kind(place) == "file" for place in dvc_files(at.rstrip("/")))

    def paths(self) -> Iterator[Diagnostic]:
        spec = self.spec
        workdir = rooted(".", spec.workdir)
        if workdir is None:
            yield self._outside(("workdir",), spec.workdir)
            return
        kind = self.files.kind(workdir) if self.files else "folder"
        if kind == "outside":
            yield self._outside(("workdir",), spec.workdir)
            return
        if kind != "folder":
            message = f"there is no folder {shown(spec.workdir)}{self._near(workdir)}"
            yield self.error(("workdir",), "missing-file", message)
            return
        for index, glob in enumerate(spec.code.include or ()):
            yield from self._exists(("code", "include", index), glob)
        for index, glob in enumerate(spec.metrics.evaluation):
            yield from self._exists(("metrics", "evaluation", index), glob)
        if spec.environment.requirements is not None:
            yield from self._exists(("environment", "requirements"), spec.environment.requirements)
        for path, output in self._outputs():
            yield from self._inside(path, output)
        for index, glob in enumerate(spec.code.exclude):
            yield from self._inside(("code", "exclude", index), glob)

    def _outputs(self) -> Iterator[tuple[Path, str]]:
        for index, read in enumerate(self.spec.metrics.read):
            place: Path = ("metrics", "read", index)
            given = self.source.data["metrics"]["read"][index]
            yield (place if isinstance(given, str) else (*place, "path")), read.path
        if self.spec.metrics.predictions is not None:
            yield ("metrics", "predictions"), self.spec.metrics.predictions
        if self.spec.checkpoints is not None:
            yield ("checkpoints", "path"), self.spec.checkpoints
        for index, artifact in enumerate(self.spec.artifacts):
            yield ("artifacts", index, "path"), artifact.path

    def _inside(self, path: Path, text: str) -> Iterator[Diagnostic]:
        at = rooted(self.spec.workdir, text)
        if at is None or at == ".git" or at.startswith(".git/"):
            yield self._outside(path, text)
        elif "\\" in text:
            yield self.error(path, "backslash", f"{shown(text)} has a backslash; write paths with `/`")
        elif self.files and self.files.kind(folder_of(at)) == "outside":
            yield self._outside(path, text)

    def _exists(self, path: Path, text: str, *, folder: bool = False) -> Iterator[Diagnostic]:
        wrong = list(self._inside(path, text))
        yield from wrong
        at = rooted(self.spec.workdir, text)
        if wrong or self.files is None or at is None:
            return
        if is_glob(at) and not (folder and self.files.kind(at.rstrip("/"))):
            if folder:
                yield self.error(path, "missing-file", f"there is no {shown(at)}; data is one file or folder, no glob")
            elif not self.files.any(at):
                yield self.error(path, "missing-file", f"no file matches {shown(at)}{self._near(folder_of(at))}")
            return
        match self.files.kind(at.rstrip("/")):
            case "outside":
                yield self._outside(path, text)
            case "folder" if not folder:
                yield self.error(path, "is-folder", f"{shown(text)} is a folder; write `{_plain(text)}/**`")
            case None:
                yield self.error(path, "missing-file", f"there is no file {shown(at)}{self._near(at)}")

    def _outside(self, path: Path, text: str) -> Diagnostic:
        return self.error(path, "outside", f"{shown(text)} leads out of the repository; paths stay inside it")

    def _near(self, at: str) -> str:
        """Name what stands beside the deepest folder of the path that exists, if it is spelled almost like it."""
        if self.files is None or self.files.kind(at) is not None:
            return ""
        folder, name = posixpath.split(at)
        near = nearest(name, self.files.children(folder or "."), likeness=0.75)
        return near if near or not folder else self._near(folder)

    def script(self) -> Iterator[Diagnostic]:
        """Warn of a script that the training will not find; what a submodule holds is not known here."""
        run = self.spec.run if isinstance(self.spec.run, str) else " ".join(self.spec.run[:2])
        found = _SCRIPT.match(run)
        at = rooted(self.spec.workdir, found[1]) if found else None
        if found is None or at is None or self.files is None:
            return
        data = [path for entry in self.spec.data for path in (entry.uri, f"{entry.uri}/**")]
        seen = (rooted(self.spec.workdir, path) for path in (*(self.spec.code.include or ()), *data))
        if self.files.kind(at) is None:
            message = f"there is no file {shown(at)} for `run` to start{self._near(at)}"
        elif self.spec.code.include is not None and not compiled(tuple(path for path in seen if path))(at):
            message = f"`run` starts {shown(at)}, which the training does not see; add it to `code.include`"
        else:
            return
        place: Path = ("run",) if isinstance(self.spec.run, str) else ("run", 1)
        yield Diagnostic(
            file=self.source.file,
            position=self.source.position_in(place, found[1], 0),
            code="missing-script",
            message=message,
            severity=Severity.WARNING,
        )

    def template(self) -> Iterator[Diagnostic]:
        run = self.spec.run
        if isinstance(run, str):
            yield from self._references(("run",), run, in_shell=True)
            yield from self._misspelt(("run",), run)
        else:
            for index, argument in enumerate(run):
                yield from self._references(("run", index), argument, in_shell=False)
            if not run[0].strip():
                yield self.error(("run", 0), "empty", "the first item of `run` is the program and must not be empty")

    def _misspelt(self, path: Path, template: str) -> Iterator[Diagnostic]:
        """Warn of what no shell can read and is almost a placeholder; in quotes it may be a program's own."""
        for found in re.finditer(r"\$\{([A-Za-z_]+)\.[^}$]*\}", template):
            if found[1] not in NAMESPACES and (near := nearest(found[1], NAMESPACES, likeness=0.75)):
                yield Diagnostic(
                    file=self.source.file,
                    position=self.source.position_in(path, found[0], template.count(found[0], 0, found.start())),
                    code="unknown-placeholder",
                    message=f"{shown(found[0])} is no placeholder and goes to the shell{near}",
                    severity=Severity.WARNING,
                )

    def _references(self, path: Path, template: str, *, in_shell: bool) -> Iterator[Diagnostic]:
        said = set()
        for found in references(template):
            text = found.text if isinstance(found, Malformed) else f"${{{found.namespace}.{found.name}}}"
            problem = self._reference(found, text, in_shell=in_shell)
            if problem is None or (text, problem) in said:
                continue
            said.add((text, problem))
            position = self.source.position_in(path, text, template.count(text, 0, found.offset))
            code, message = problem
            yield Diagnostic(file=self.source.file, position=position, code=code, message=message)

    def _reference(self, found: Reference | Malformed, text: str, *, in_shell: bool) -> tuple[str, str] | None:
        if isinstance(found, Malformed):
            return (
                "malformed-placeholder",
                f"{shown(text)} is no placeholder; write it like ${{params.NAME}}, without `$` or backslash before it",
            )
        known: Iterable[str] = {
            "params": self.spec.params,
            "data": [entry.name for entry in self.spec.data],
            "trial": TRIAL_NAMES,
        }[found.namespace]
        if found.name not in known:
            advice = nearest_or_all(found.name, known) if known else f"; `{found.namespace}` is empty"
            return "unknown-placeholder", f"unknown placeholder {shown(text)}{advice}"
        if found.namespace == "trial" and found.name == "checkpoints" and self.spec.checkpoints is None:
            return "unknown-placeholder", f"{shown(text)} needs the key `checkpoints`, which says where they are"
        if in_shell and found.quoted:
            return (
                "quoted-placeholder",
                f"{shown(text)} stands in a {found.context}, where its value would be quoted twice; put it outside"
                if found.context == "here-document"
                else f"{shown(text)} stands in {found.context}, where its value would be quoted twice; "
                "remove the quotes or use double ones",
            )
        return None

    def parameters(self) -> Iterator[Diagnostic]:
        sweep = self.spec.sweep
        points = 1
        if sweep is not None:
            yield from self._swept()
            points = (
                math.prod(map(len, (sweep.grid or {}).values()))
                if sweep.grid
                else len(sweep.list or ()) or (sweep.random.n if sweep.random else 1)
            )
            for index, seed in enumerate(sweep.confirm):
                if seed in self.spec.seeds:
                    message = f"the seed {seed} is also in `seeds`; the winner is confirmed on fresh ones"
                    yield self.error(("sweep", "confirm", "seeds", index), "seed-not-fresh", message)
        trials = points * len(self.spec.seeds)
        if trials > MAX_TRIALS:
            place: Path = ("sweep",) if sweep else ("seeds",)
            number = f"{trials:,}" if trials < 10**12 else "more than 10^12"
            message = f"points times seeds are {number} trials; at most {MAX_TRIALS:,} are accepted"
            yield self.error(place, "too-many-trials", message)

    def _swept(self) -> Iterator[Diagnostic]:
        sweep = self.spec.sweep
        assert sweep is not None
        named: list[Path] = [("sweep", "grid", name) for name in sweep.grid or ()]
        named += [("sweep", "list", index, name) for index, point in enumerate(sweep.list or ()) for name in point]
        if sweep.random is not None:
            named += [("sweep", "random", "space", name) for name in sweep.random.space]
            for name, space in sweep.random.space.items():
                place: Path = ("sweep", "random", "space", name)
                if isinstance(space, Range):
                    if space.low >= space.high:
                        message = f"`low` is {space.low}, which is not less than `high`, {space.high}"
                        yield self.error((*place, "low"), "empty-range", message)
                    elif space.log and space.low <= 0:
                        message = f"`low` is {space.low}; with `log` it must be more than 0"
                        yield self.error((*place, "low"), "empty-range", message)
        for path in named:
            name = str(path[-1])
            if name not in self.spec.params:
                yield Diagnostic(
                    file=self.source.file,
                    position=self.source.key_position(path),
                    code="undeclared-parameter",
                    message=f"`{name}` is not in `params`"
                    f"{nearest(name, self.spec.params) or '; declare it there with its usual value'}",
                )

    def budget(self) -> Iterator[Diagnostic]:
        budget = self.spec.budget
        if budget.no_output_s and budget.max_duration_s and budget.no_output_s > budget.max_duration_s:
            message = "`no_output` is longer than `max_duration`, so it would never end a training; make it shorter"
            yield self.error(("budget", "no_output"), "budget", message)
        if self.spec.resources.spot == "only" and budget.retries_preempted == 0 and budget.max_wait_s is None:
            message = "`spot: only` without retries may never end well; allow `budget.retries.preempted`"
            yield self.error(("resources", "spot"), "budget", message)
        if self.spec.resources.spot != "never" and self.spec.checkpoints is None:
            yield Diagnostic(
                file=self.source.file,
                position=self.source.position(("resources", "spot")),
                code="spot-from-scratch",
                message="without `checkpoints` a training begins anew whenever its spot machine is taken away, "
                "and a long one may never end; declare where it saves its state",
                severity=Severity.WARNING,
            )

    def metrics(self) -> Iterator[Diagnostic]:
        metrics = self.spec.metrics
        if not metrics.track:
            where = "`metrics.track`" if "metrics" in self.source.data else "`metrics`"
            yield Diagnostic(
                file=self.source.file,
                position=self.source.key_position(("metrics",)),
                code="nothing-to-compare",
                message=f"there is no {where}, so there is nothing to compare",
                severity=Severity.WARNING,
            )
        elif not metrics.read:
            message = "metrics are tracked but never read; add `read` with the files that the training writes"
            yield self.error(("metrics",), "nothing-to-read", message)
        goals = {track.name: track.goal for track in metrics.track}
        primary = [index for index, track in enumerate(metrics.track) if track.primary]
        for index in primary[1:]:
            message = f"`{metrics.track[primary[0]].name}` is primary already; at most one metric is"
            yield self.error(("metrics", "track", index, "primary"), "several-primary", message)
        seen: set[str] = set()
        for index, track in enumerate(metrics.track):
            place: Path = ("metrics", "track", index)
            if track.name in seen:
                message = f"{shown(track.name)} is tracked twice; remove one"
                yield self.error((*place, "name"), "same-metric", message)
            seen.add(track.name)
            if track.goal is Goal.NONE:
                yield from self._goalless(place, track)
            of = track.summary.of
            if of is not None and track.summary.at is SummaryKind.BEST and goals.get(of, Goal.NONE) is Goal.NONE:
                if of not in goals:
                    message = f"{shown(of)} is not tracked with a `goal`, so its best is not known{nearest(of, goals)}"
                else:
                    message = f"{shown(of)} has no goal, so its best is not known; add one, or write `at: min` or `max`"
                yield self.error((*place, "summary", "of"), "unknown-best", message)

    def _goalless(self, place: Path, track: Track) -> Iterator[Diagnostic]:
        add = "add `goal: maximize` or `goal: minimize`"
        if track.gate is not Gate.OFF:
            yield self.error((*place, "gate"), "no-goal", f"a gate needs a goal; {add}")
        if track.floor is not None:
            yield self.error((*place, "floor"), "no-goal", f"a floor needs a goal; {add}")
        if track.summary.kind is SummaryKind.BEST:
            yield self.error((*place, "summary"), "no-goal", f"`best` needs a goal; {add}")

    def plugin_names(self) -> Iterator[Diagnostic]:
        if self.spec.backend is not None:
            yield from self._plugin("backend", ("backend",), self.spec.backend)
        for index, read in enumerate(self.spec.metrics.read):
            if read.format is not None:
                yield from self._plugin("reader", ("metrics", "read", index, "format"), read.format)

    def _plugin(self, family: str, path: Path, name: str) -> Iterator[Diagnostic]:
        known = plugins.known(family)
        if name not in known:
            advice = nearest_or_all(name, known)
            yield self.error(path, f"unknown-{family}", f"no {family} is called {shown(name)}{advice}")


_SIGNED = re.compile(
    r"(?i)(?:^|&)(X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-Signature|AWSAccessKeyId|sig|signature|"
    r"(?:access_|auth_|private_)?token|api_?key)="
)


def _uri_problem(uri: str) -> str | None:
    scheme, _, rest = uri.partition("://")
    if scheme == "https":
        try:
            parts = urllib.parse.urlsplit(uri)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host:
            return f"{shown(uri)} names no host; write it as https://HOST/PATH"
        if "@" in parts.netloc:
            return "a URL in a spec holds no user and no password; remove what stands before the `@`"
        if signed := _SIGNED.search(parts.query):
            return (
                f"`{signed[1]}` in a URL is a credential, which whoever reads the spec could use; name data that needs "
                "one as s3:// or hf://"
            )
    elif scheme == "s3" and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,62}/[^/].*|[a-z0-9][a-z0-9.-]{1,62}/", rest):
        return f"{shown(uri)} names no object; write it as s3://BUCKET/KEY, or s3://BUCKET/PREFIX/ for all below it"
    elif scheme == "hf" and not re.fullmatch(r"(datasets/)?\w[\w.-]*/\w[\w.-]*(@[^/]+)?(/.*)?", rest):
        return f"{shown(uri)} names nothing on the Hub; write it as hf://datasets/ORG/NAME/PATH or hf://ORG/MODEL/PATH"
    if any(character.isspace() or not character.isprintable() for character in uri):
        return f"{shown(uri)} has a space or a control character in it"
    return None


def _plain(text: str) -> str:
    return shown(text)[1:-1].rstrip("/")
