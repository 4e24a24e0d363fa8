"""What a repository shows of a training: script, options, lock file, data, metrics files. For ``init``.

Files are looked at, never run. What is guessed is written into a spec that its author reads, never applied
silently. Files that are no ordinary ones (links, pipes), and names that a spec could not hold as they are, are passed
over.
"""

import ast
import math
import os
import posixpath
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from gitops_ml.errors import UserError
from gitops_ml.globs import is_glob
from gitops_ml.values import dataclass

_SKIPPED = frozenset(
    {"node_modules", "venv", "env", "site-packages", "__pycache__", "build", "dist", "tests", "test", "docs"}
)
_MOST_FILES = 20_000
_MOST_METRICS = 8
_MOST_SCRIPT_BYTES = 2**20
_SEEDS = ("seed", "random_seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A command line option of the script that takes a value."""

    name: str
    option: str
    default: str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A file that looks like data; ``role`` is train or eval."""

    name: str
    path: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric found in a file that lies about; ``goal`` None when the name does not tell."""

    name: str
    goal: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that was found; paths from the workdir, with forward slashes."""

    script: str
    params: tuple[Parameter, ...]
    seed_option: str | None
    code: tuple[str, ...]
    """Globs of what the script uses; empty: the script could not be read."""
    lock: str | None
    data: tuple[DataFile, ...]
    metrics_files: tuple[str, ...]
    metrics: tuple[Metric, ...]
    ci: str | None
    """github or gitlab, by the CI files that are there; None: neither or both."""
    advice: tuple[str, ...]
    workdir: str | None = None
    """Where the script has to be started to find the files that it names; None: at the repository's root."""


def look(top: Path, *, script: str | None = None) -> Findings:
    """Look at the repository.

    Args:
        top: its root.
        script: the training script from the root; None: the likeliest one is taken.

    Raises:
        UserError: no training script is found, or the named one is not there.
    """
    files = sorted(_files(top))
    chosen = _script(files, top, script)
    tree = _parsed(top / chosen)
    nodes = tuple(ast.walk(tree)) if tree is not None else ()
    options = tuple(_options(nodes))
    seed = next((option.option for option in options if option.name in _SEEDS), None)
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    lists = [name for name in files if re.search(r"requirements[^/]*\.(txt|lock)$", name)]
    locks = [name for name in lists if b"--hash=sha256:" in _head(top / name)]
    workdir = _workdir(chosen, files, strings)
    where = top
    if workdir is not None:
        where, chosen = top / workdir, chosen.rpartition("/")[2]
        files = [path.removeprefix(f"{workdir}/") for path in files if path.startswith(f"{workdir}/")]
        lists, locks = ([posixpath.relpath(name, workdir) for name in names] for names in (lists, locks))
    metrics_files = _metrics_files(files, strings, nodes)
    data = tuple(_data(files, strings))
    advice = []
    if tree is None:
        advice.append(f"{chosen} cannot be read as Python: write its options into `run` and `params` yourself")
    elif not options:
        advice.append(f"{chosen} declares no option that argparse or click would show: see `run` and `params`")
    if not locks and lists:
        advice.append(
            f"{lists[0]} has no hashes: `pip-compile --generate-hashes` makes a lock file to name in the spec"
        )
    if not metrics_files:
        advice.append("no metrics file was found: let the training write one, and name it under `metrics.read`")
    if seed is None:
        advice.append(f"{chosen} takes no --seed: with three seeds a difference can be tested")
    return Findings(
        script=chosen,
        params=tuple(option for option in options if option.name not in _SEEDS),
        seed_option=seed,
        code=_code(chosen, files, where, strings, {item.path for item in data}) if tree is not None else (),
        lock=locks[0] if locks else None,
        data=data,
        metrics_files=metrics_files,
        metrics=_metrics(where, metrics_files),
        ci=_ci(top),
        advice=tuple(advice),
        workdir=workdir,
    )


def _workdir(script: str, files: Sequence[str], strings: set[str]) -> str | None:
    """Return the script's folder if it names files or folders that stand there, and none that stand at the root."""
    folder = script.rpartition("/")[0]
    named = {text.rstrip("/") for text in strings if _is_plain_path(text.rstrip("/"))}

    def stand_in(place: str) -> bool:
        there = [path.removeprefix(place) for path in files if path.startswith(place) and path != script]
        parents = {str(parent) for path in there for parent in PurePosixPath(path).parents} - {"."}
        # A word such as "data" may mean anything; a path or a file's name does not.
        return bool(named & set(there)) or any("/" in text and text in parents for text in named)

    return folder if folder and stand_in(f"{folder}/") and not stand_in("") else None


def goal_of(name: str) -> str | None:
    """Guess a metric's goal from its name; None: the name does not tell."""
    for word in reversed(re.split(r"[^a-z0-9]+", name.lower())):
        if _LOWER.fullmatch(word):
            return "minimize"
        if _HIGHER.fullmatch(word):
            return "maximize"
    return None


_LOWER = re.compile(
    "loss|error|err|rmse|mae|mse|mape|perplexity|ppl|wer|cer|fid|latency|time|runtime|memory|size|cost|ece|brier|nll"
)
_HIGHER = re.compile(
    "acc|accuracy|f1|auc|ap|map|iou|dice|precision|recall|bleu|rouge|r2|reward|throughput|psnr|ssim|top1|top5"
)


def _files(top: Path) -> Iterator[str]:
    """Yield the ordinary files whose names a spec can hold, as they are and unmistaken for a glob."""
    seen = 0
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _SKIPPED)
        for name in sorted(names):
            seen += 1
            if seen > _MOST_FILES:
                return
            path = Path(folder, name)
            shown = path.relative_to(top).as_posix()
            if not name.startswith(".") and _writable(shown) and path.is_file() and not path.is_symlink():
                yield shown


def _writable(path: str) -> bool:
    """Say whether a spec can hold the path: printable, no glob, no placeholder, no option."""
    return path.isprintable() and not is_glob(path) and not re.search(r"^-|\$\{|[\\]", path) and len(path) <= 500


def _script(files: Sequence[str], top: Path, named: str | None) -> str:
    if named is not None:
        path = Path(named).as_posix().removeprefix("./")
        if path not in files:
            raise UserError(
                f"no file that a spec can name is called `{named}` in {top}; give the training script's "
                "path from the repository's root"
            )
        return path
    candidates = [(_likeliness(path), path) for path in files if path.endswith(".py")]
    best = min((found for found in candidates if found[0] < _NOT_AT_ALL), default=None)
    if best is None:
        raise UserError(f"no training script was found in {top}; name it: gitops-ml init SCRIPT")
    return best[1]


_NOT_AT_ALL = 9


def _likeliness(path: str) -> int:
    """Return how likely the file is the training script: less is likelier."""
    stem, depth = Path(path).stem.lower(), path.count("/")
    for rank, pattern in enumerate((r"train", r"train[-_].*|.*[-_]train", r"main|run|fit|experiment")):
        if re.fullmatch(pattern, stem):
            return min(rank * 3 + min(depth, 2), _NOT_AT_ALL - 1)
    return _NOT_AT_ALL


def _head(file: Path, size: int = 65_536) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(size)
    except OSError:
        return b""


def _parsed(file: Path) -> ast.Module | None:
    source = _head(file, _MOST_SCRIPT_BYTES + 1)
    if len(source) > _MOST_SCRIPT_BYTES:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the user's code, which is not what was asked
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _options(nodes: Sequence[ast.AST]) -> Iterator[Parameter]:
    """Yield the options that the script declares with argparse or click and that have a plain default."""
    seen = set()
    for node in nodes:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr not in ("add_argument", "option"):
            continue
        flags = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        option = next((flag for flag in flags if re.fullmatch(r"--[A-Za-z][A-Za-z0-9_-]*", flag)), None)
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if option is None or keywords.keys() & {"action", "is_flag", "nargs", "multiple"} or _is_place(option):
            continue
        name = option.removeprefix("--").replace("-", "_")
        value = _plain_value(keywords.get("default"))
        if name in _SEEDS and value is None:
            value = 0
        if value is not None and name not in seen:
            seen.add(name)
            yield Parameter(name=name, option=option, default=value)


def _plain_value(node: ast.expr | None) -> str | int | float | None:
    try:
        value = ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    if isinstance(value, bool):
        return None  # a flag in disguise: `type=bool` takes the word False for true
    if isinstance(value, int):
        return value if abs(value) < 2**53 else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= 200 else None


_PLACES = re.compile("dir|path|file|out|output|data|root|folder|logdir|config|device|resume|checkpoint")


def _is_place(option: str) -> bool:
    return any(_PLACES.fullmatch(word) for word in re.split(r"[-_]+", option.strip("-").lower()))


def _code(script: str, files: Sequence[str], top: Path, strings: set[str], data: set[str]) -> tuple[str, ...]:
    """Return globs for the script, the modules of the repository that it uses by and by, and files that it names."""
    known = set(files)
    named = [path for path in sorted((strings & known) - data) if not _METRICS_FILE.search(path)]
    globs = {script: None, **dict.fromkeys(named)}
    folder = script.rpartition("/")[0]
    roots = ("", *((f"{folder}/",) if folder else ()), "src/")
    waiting = [script]
    while waiting:
        for name in sorted(_imported(_parsed(top / waiting.pop()))):
            for root in roots:
                module = f"{root}{name}.py"
                if module in known and module not in globs:
                    globs[module] = None
                    waiting.append(module)
                package = f"{root}{name}/"
                inside = [path for path in files if path.startswith(package) and path.endswith(".py")]
                if inside and f"{package}**" not in globs:
                    globs[f"{package}**"] = None
                    waiting += inside
    return tuple(globs)


def _imported(tree: ast.Module | None) -> set[str]:
    names = set()
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module.partition(".")[0]} if node.module else {alias.name for alias in node.names}
    return names


_METRICS_FILE = re.compile(
    r"(?:^|/)(?:[^/]*metrics[^/]*\.(?:json|jsonl|csv|tsv|ya?ml)|[^/]*results\.(?:json|csv)|trainer_state\.json"
    r"|scores?\.json|history\.(?:json|csv)|training_log\.csv)$"
)


def _metrics_files(files: Sequence[str], strings: set[str], nodes: Sequence[ast.AST]) -> tuple[str, ...]:
    """Return what to read: what the script names, where it lies if it lies about; otherwise what lies about."""
    lying = [path for path in files if _METRICS_FILE.search(path) and "/plots/metrics/" not in path]
    found = []
    for text in sorted(strings):
        if not (_METRICS_FILE.search(text) and _is_plain_path(text)):
            continue
        places = [path for path in lying if path == text or path.endswith(f"/{text}")]
        # A bare name is often joined to a folder that only the command line tells.
        found.append(places[0] if len(places) == 1 else text if "/" in text else f"**/{text}")
    calls = {getattr(node.func, "attr", getattr(node.func, "id", "")) for node in nodes if isinstance(node, ast.Call)}
    if any("tfevents" in path for path in files) or "SummaryWriter" in calls:
        found.append("**/events.out.tfevents.*")
    if "Live" in calls:
        found.append("dvclive/metrics.json")
    return tuple(dict.fromkeys(found or lying))[:5]


def _is_plain_path(text: str) -> bool:
    return re.fullmatch(r"(?!\.\.)[\w.][\w.-]*(?:/(?!\.\.)[\w.-]+)*", text, re.ASCII) is not None


def _data(files: Sequence[str], strings: set[str]) -> Iterator[DataFile]:
    names: set[str] = set()
    for path in files:
        if not re.search(r"\.(csv|tsv|npz|npy|parquet|jsonl|h5|pt|txt)(\.gz|\.zst)?$", path):
            continue
        if _METRICS_FILE.search(path) or "requirements" in path:
            continue
        if path not in strings and not path.startswith(("data/", "datasets/", "dataset/")):
            continue
        stem = re.sub(r"[^a-z0-9_]+", "-", path.rpartition("/")[2].split(".")[0].lower()).strip("-_")
        name = (stem if re.match(r"[a-z]", stem) else f"data-{stem}".rstrip("-"))[:63]
        # `a-b` and `a_b` would be the same variable of the training.
        variable = name.replace("-", "_")
        if variable not in names and len(names) < 10:
            names.add(variable)
            role = "eval" if re.search(r"test|eval|val|dev", stem) else "train"
            yield DataFile(name=name, path=path, role=role)


def _metrics(top: Path, globs: Sequence[str]) -> tuple[Metric, ...]:
    """Read the names in files that lie about, the ones with a known goal first."""
    from gitops_ml.readers.base import merge, read_outputs
    from gitops_ml.spec import Read

    scalars, series, _ = merge(read_outputs(top, [Read(path=glob) for glob in globs if (top / glob).is_file()]))
    metrics = [
        Metric(name=name, goal=goal_of(name))
        for name in dict.fromkeys([*(item.name for item in series), *(item.name for item in scalars)])
        if name.isprintable()
        and 0 < len(name) <= 200
        and not re.fullmatch(r"(?:.*/)?(step|epoch|time|timestamp)", name)
    ]
    held_out = [it for it in metrics if it.goal and re.search(r"val|test|eval|acc", it.name.lower())]
    ordered = [
        *held_out,
        *(it for it in metrics if it.goal and it not in held_out),
        *(it for it in metrics if not it.goal),
    ]
    return tuple(ordered[:_MOST_METRICS])


def _ci(top: Path) -> str | None:
    github, gitlab = (top / ".github").is_dir(), (top / ".gitlab-ci.yml").exists()
    return None if github == gitlab else "github" if github else "gitlab"
