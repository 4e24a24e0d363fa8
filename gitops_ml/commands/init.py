"""``gitops-ml init``: a first spec, ``gitops-ml.yaml`` and the CI file, from what the repository shows.

Nothing is overwritten, nothing of the repository is run, and what was written validates as it stands. What was
guessed (parameters, metrics, their goals) is for its author to read.
"""

import argparse
import json
import re
import shlex
from pathlib import Path

from gitops_ml import __version__, ci, scouting
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.scouting import Findings
from gitops_ml.tools import Tools

PROJECT = "gitops-ml/gitops-ml"
"""Where gitops-ml is developed, on GitHub."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("script", nargs="?", metavar="SCRIPT", help="the training script; none: the likeliest one")
    parser.add_argument("--name", help="the experiment's name; none: from the folder or the repository")
    parser.add_argument(
        "--ci",
        choices=("github", "gitlab", "none"),
        help="which CI to write a file for (default: by the remote `origin`, else by the CI files that are there)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the files instead of writing them")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Write what is missing, and say what was found and what to do next."""
    top = tools.repository.top
    if args.name is not None and not re.fullmatch(_NAME, args.name):
        raise UserError(f"--name: {args.name!r} is no name; use lower-case letters, digits and `-`, at most 63")
    found = scouting.look(top, script=args.script)
    name = args.name or _name(found, top)
    kind = args.ci or _ci_kind(tools.repository.remote_url("origin"), found)
    own = ci_files(kind, tools.repository.default_branch("origin"))
    spec = spec_text(name, found, _branch(tools))
    files = {f"experiments/{name}.yaml": spec, "gitops-ml.yaml": PROJECT_TEXT, **own}
    if args.dry_run:
        for path, text in files.items():
            tools.say(f"# --- {path}\n{text}")
    else:
        for path, text in files.items():
            tools.say(_written(top, path, text))
    advice = [*found.advice, *_ci_advice(kind, top)]
    for line in advice:
        tools.note(f"  {line}")
    if not args.dry_run:
        tools.say("next: read the spec, then `gitops-ml validate`, `git add` and commit it, `gitops-ml run`")
    return ExitCode.OK


_PLAIN_BRANCH = r"[A-Za-z0-9_][A-Za-z0-9_./-]*"

PROJECT_TEXT = """\
# Settings of gitops-ml; all are optional, these are the defaults. In CI they are read from the target branch.
specs: ["experiments/**/*.yaml", experiment.yaml]
backend: local                         # the CI runner, or this machine
ledger: {branch: gitops-ml/reports, remote: origin}
"""


def _branch(tools: Tools) -> str | None:
    """Return the default branch for the spec to name; None: it is `main`, which is meant wherever nothing tells it."""
    known = tools.default_branch
    return known if known != "main" and re.fullmatch(_PLAIN_BRANCH, known) else None


def spec_text(name: str, found: Findings, branch: str | None = None) -> str:
    """Return a spec with comments; it is valid as it stands."""
    lines = ["version: 1", f"name: {_scalar(name)}", f"run: {_scalar(_run_line(found))}"]
    if found.workdir is not None:
        lines += [f"workdir: {_scalar(found.workdir)}  # the script names files from here; so do all paths below"]
    lines.append("")
    if found.code:
        lines += [
            "code:                  # a change here means a new training, which sees these files and no others",
            "  include:",
            *(f"    - {_scalar(glob)}" for glob in found.code),
            "",
        ]
    lines += _environment_lines(found)
    if found.data:
        lines += ["data:                  # a changed `eval` set makes versions incomparable"]
        for item in found.data:
            lines.append(f"  - {{name: {_scalar(item.name)}, uri: {_scalar(item.path)}, role: {item.role}}}")
        lines.append("")
    if found.params:
        lines += ["params:", *(f"  {it.name}: {_scalar(it.default)}" for it in found.params)]
    if found.seed_option:
        lines += ["seeds: [0, 1, 2]       # three runs per side: differences are tested, not guessed"]
    else:
        lines += ["seeds: [0]             # one run per side is shown but not tested; let the script take a seed"]
    lines += ["budget: {max_duration: 2h}", "", *_metrics_lines(found)]
    if branch is not None:
        lines += ["", f"baseline: {{ref: {_scalar(branch)}}}", f"triggers: {{push: [{_scalar(branch)}]}}"]
    return "\n".join(lines) + "\n"


def ci_files(kind: str | None, default: str | None = None) -> dict[str, str]:
    """Return the CI's file by its path; none for another CI. ``default``: the default branch, if it is known."""
    if kind == "github":
        # Branches are globs there; a name that could be one is left for its owner to write.
        plain = default not in (None, "main", "master") and re.fullmatch(_PLAIN_BRANCH, default or "")
        branches = _scalar(default) if plain and default else "main, master"
        return {
            ".github/workflows/gitops-ml.yml": _GITHUB.replace("BRANCHES", branches).replace("VERSION", _tag()),
            ".github/workflows/gitops-ml-reconcile.yml": _GITHUB_RECONCILE.replace("VERSION", _tag()),
        }
    if kind == "gitlab":
        return {".gitlab-ci.yml": _GITLAB.replace("VERSION", _tag())}
    return {}


_GITHUB = f"""\
# Plans and trains what a change needs, compares it with the target branch and says so in the pull request.
# docs: https://github.com/{PROJECT}/blob/VERSION/docs/github.md
name: gitops-ml
on:
  push:
    branches: [BRANCHES]
  pull_request:
    types: [opened, synchronize, reopened, ready_for_review, labeled, closed]
  issue_comment: # zizmor: ignore[dangerous-triggers] the change is never checked out, and its author is no approver
    types: [created]

permissions: {{}}

jobs:
  gitops-ml:
    # Comments below issues, and those that are no command, start nothing.
    if: >-
      github.event_name != 'issue_comment' ||
      (github.event.issue.pull_request && startsWith(github.event.comment.body, '/gitops-ml'))
    permissions:               # what the jobs may have at most; each takes less
      contents: write          # publish: the ledger branch
      pull-requests: write     # publish: the comment
      statuses: write          # publish: the gate
    uses: {PROJECT}/.github/workflows/gitops-ml.yml@VERSION
"""

_GITHUB_RECONCILE = f"""\
# Puts right what jobs that were killed have left behind: reports, comments, statuses that stay pending.
# docs: https://github.com/{PROJECT}/blob/VERSION/docs/github.md
name: gitops-ml reconcile
on:
  schedule:
    - cron: "23 */6 * * *"     # four times a day; the minutes are counted on private repositories
  workflow_dispatch:

permissions: {{}}

jobs:
  reconcile:
    permissions:
      contents: write          # the ledger branch
      pull-requests: write     # the comments
      statuses: write          # the gates
      actions: read            # whether the run behind a pending status is over
    uses: {PROJECT}/.github/workflows/gitops-ml-reconcile.yml@VERSION
"""

_GITLAB = f"""\
# Plans and trains what a change needs, compares it with the target branch and says so in the merge request.
# docs: https://github.com/{PROJECT}/blob/VERSION/docs/gitlab.md
# The comment needs a project access token in the variable GITLAB_TOKEN: a job token cannot write notes.
include:
  - {{remote: "https://raw.githubusercontent.com/{PROJECT}/VERSION/action/gitlab-ci.yml", inputs: {{version: VERSION}}}}
"""


def _tag() -> str:
    """Return the tag of this version; a version under development has none, and takes its code from main."""
    return "main" if "dev" in __version__ else f"v{__version__}"


def _ci_kind(url: str | None, found: Findings) -> str | None:
    place = ci.repository_at(url) if url else None
    if place is not None:
        for kind in ("github", "gitlab"):
            if kind in place[0].lower().split("."):
                return kind
    return found.ci


def _ci_advice(kind: str | None, top: Path) -> list[str]:
    if kind is None:
        return [
            "neither GitHub nor GitLab is known here: `gitops-ml init --ci github` or `--ci gitlab` writes its file"
        ]
    if kind == "gitlab" and (file := top / ".gitlab-ci.yml").is_file():
        try:
            with file.open("rb") as opened:
                if PROJECT.encode() not in opened.read(2**20):
                    include = ci_files(kind)[".gitlab-ci.yml"].partition("include:\n")[2].strip()
                    return [f"add to the `include` of .gitlab-ci.yml: {include}"]
        except OSError as error:
            raise UserError(f"cannot read .gitlab-ci.yml: {error.strerror}") from error
    return []


def _run_line(found: Findings) -> str:
    words = ["python", shlex.quote(found.script)]
    words += [f"{parameter.option} ${{params.{parameter.name}}}" for parameter in found.params]
    if found.seed_option:
        words.append(f"{found.seed_option} ${{trial.seed}}")
    return " ".join(words)


def _environment_lines(found: Findings) -> list[str]:
    if found.lock is not None:
        return ["environment:", f"  requirements: {_scalar(found.lock)}", ""]
    return [
        "# environment:         # without it: the Python that gitops-ml runs in, on this machine only",
        "#   requirements: requirements.lock   # with hashes: pip-compile --generate-hashes",
        "",
    ]


def _metrics_lines(found: Findings) -> list[str]:
    if not found.metrics_files:
        return [
            "# metrics:             # name what the training writes, such as:",
            "#   read: [metrics.json]",
            "#   track:",
            "#     - {name: accuracy, goal: maximize, tolerance: 0.5%, gate: fail, primary: true}",
        ]
    lines = ["metrics:", "  read:", *(f"    - {_scalar(glob)}" for glob in found.metrics_files)]
    if not found.metrics:
        return [*lines, "  # track: [{name: accuracy, goal: maximize, tolerance: 0.5%, gate: fail}]"]
    lines.append("  track:               # goals are guessed from the names: check them")
    for number, metric in enumerate(found.metrics):
        gate = f", tolerance: 1%, gate: {'fail' if number == 0 else 'warn'}" if metric.goal else ""
        primary = ", primary: true" if number == 0 and metric.goal else ""
        lines.append(f"    - {{name: {_scalar(metric.name)}, goal: {metric.goal or 'none'}{gate}{primary}}}")
    return lines


def _written(top: Path, path: str, text: str) -> str:
    file = top / path
    try:
        # `experiments` may be a link that leads elsewhere.
        if not file.parent.resolve().is_relative_to(top.resolve()):
            raise UserError(f"{path} would be written outside of the repository: a folder in it is a link")
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8", newline="\n") as opened:
            opened.write(text)
    except FileExistsError:
        return f"kept     {path} (it is there already)"
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return f"written  {path}"


_NAME = r"[a-z0-9][a-z0-9-]{0,62}"


def _name(found: Findings, top: Path) -> str:
    folder = Path(found.workdir or "", found.script).parent.name or top.name
    return re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-")[:63] or "experiment"


# What YAML reads as text without quotes, whatever stands around it; for all else JSON's strings are YAML's too.
_PLAIN = re.compile(r"(?!(?:null|true|false)\Z)[A-Za-z_][A-Za-z0-9_./-]*", re.IGNORECASE)


def _scalar(value: str | float) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
