"""``doctor``: look at each part's set-up, and say the exact setting to change.

It changes nothing. Exit code 2 when something is not as it should be.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence

from gitops_ml import ci, wording
from gitops_ml.commands import _ci_identity as identity
from gitops_ml.commands._jobs import add_look_arguments
from gitops_ml.diagnostics import Check
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.tools import Tools

_MARKS = {True: "ok", False: "MEND", None: "?"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--forge", metavar="NAME", help="github, gitlab or local (default: the CI's, else local)")
    add_look_arguments(parser, default="those that gitops-ml.yaml names")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Look at everything, print it, and say whether something is to be mended."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(UserError):  # found again, as a finding
            stack.enter_context(identity.kept_fresh(tools.environ, tools.note))
        parts = list(look(args, tools))
    checks = [check for _, found in parts for check in found]
    if args.format == "json":
        shown = [{"part": part, **dataclasses.asdict(check)} for part, found in parts for check in found]
        tools.say(json.dumps(shown, indent=1))
    else:
        for part, found in parts:
            tools.say(part)
            for line in lines(found):
                tools.say(f"  {line}")
        wrong = sum(check.ok is False for check in checks)
        tools.say(f"{wrong} to mend" if wrong else "nothing to mend")
    return ExitCode.USAGE if any(check.ok is False for check in checks) else ExitCode.OK


def look(args: argparse.Namespace, tools: Tools) -> Iterator[tuple[str, Sequence[Check]]]:
    """Yield each part's name and what was found; a part that cannot be connected is a finding, not the end."""
    context = ci.context(tools.environ)
    yield "here", [_python(), _git()]
    yield "project", _checks("project", lambda: _project(tools))
    if identity.at_hand(tools.environ) or tools.environ.get(identity.FILE):
        yield "identity", _checks("identity token", lambda: _identity(tools.environ))
    try:
        project = tools.project
    except UserError:
        return
    if context is not None:
        yield "CI job", _checks("CI job", lambda: _job(tools, context))
    for name in args.backends or sorted({project.backend, *project.backends}):
        yield f"backend {name}", _checks(f"backend {name}", functools.partial(_backend, tools, name))
    name = args.forge or (context.kind.value if context else "local")
    branch = project.ledger.branch
    yield f"forge {name}", _checks(f"forge {name}", lambda: tools.forge(name).check(ledger_branch=branch))


def lines(checks: Sequence[Check]) -> Iterator[str]:
    """Yield the lines for the checks: one each, and the fix below what is not as it should be."""
    width = max((len(check.subject) for check in checks), default=0)
    for check in checks:
        found = wording.clean(check.found, 400)
        yield f"{_MARKS[check.ok]:4}  {check.subject.ljust(width)}  {found}".rstrip()
        if check.ok is not True and check.fix:
            yield f"      -> {wording.clean(check.fix, 2000)}"


def _checks(part: str, ask: Callable[[], Iterator[Check]]) -> list[Check]:
    found: list[Check] = []
    try:
        found.extend(ask())
    except UserError as error:
        found.append(Check(subject=part, ok=False, found=str(error)))
    except OSError as error:  # a folder that cannot be written to is what it is asked to find
        place = f"{error.filename}: " if error.filename else ""
        found.append(
            Check(subject=part, ok=False, found=f"{place}{error.strerror}", fix="make it readable and writable")
        )
    return found


def _python() -> Check:
    return Check(subject="Python", ok=True, found=f"{platform.python_version()} on {platform.platform(terse=True)}")


def _git() -> Check:
    found = shutil.which("git")
    return Check(subject="git", ok=found is not None, found=found or "not found", fix="install git 2.30 or newer")


def _project(tools: Tools) -> Iterator[Check]:
    repository = tools.repository
    yield Check(subject="repository", ok=True, found=str(repository.top))
    project = tools.project
    yield Check(subject="gitops-ml.yaml", ok=True, found=f"backend {project.backend}, ledger {project.ledger.branch}")
    remote = project.ledger.remote
    url = repository.remote_url(remote)
    fix = f"`git remote add {remote} URL`; until then results stay on this machine"
    # An address may hold a password: only that there is one is said.
    yield Check(subject=f"remote {remote}", ok=True if url else None, found="there" if url else "none", fix=fix)


def _identity(environ: Mapping[str, str]) -> Iterator[Check]:
    """Say whom this job's token names to a cloud, and what a role has to trust for it."""
    claims = identity.claims(identity.token(environ))
    issuer = str(claims.get("iss", "")).removeprefix("https://")
    subject, audience = str(claims.get("sub", "")), claims.get("aud")
    # Whoever can push a branch gets a token with any other subject.
    guarded = ":environment:" in subject or ":environment_protected:true" in subject
    fix = (
        "let the job work in an environment that is protected, and the role trust that alone: docs/aws.md, "
        "`The policies as files`"
    )
    yield Check(subject="identity token", ok=guarded or None, found=subject, fix=fix)
    trusted = {"StringEquals": {f"{issuer}:aud": audience, f"{issuer}:sub": subject}}
    fix = f'its "Condition" has to say: {json.dumps(trusted)}'
    yield Check(subject="trust policy", ok=None, found="cannot be read from here", fix=fix)


def _job(tools: Tools, context: ci.CIContext) -> Iterator[Check]:
    """Look at what only a CI job has: how much of the history, and what stands beside what it trains."""
    setting = (
        "`fetch-depth: 0` of actions/checkout" if context.kind is ci.CIKind.GITHUB else 'the variable `GIT_DEPTH: "0"`'
    )
    shallow = tools.repository.is_shallow
    yield Check(
        subject="history",
        ok=not shallow,
        found="a part of it" if shallow else "all of it",
        fix=f"check out with {setting}: the baseline is a commit of the past, and an event's head may be missing",
    )
    if identity.at_hand(tools.environ) and tools.project.backend == "local":
        fix = "take `id-token: write` (GitHub) or `id_tokens` (GitLab) from the job, or name a cloud backend"
        yield Check(subject="training here", ok=False, found="refused beside an identity token", fix=fix)


def _backend(tools: Tools, name: str) -> Iterator[Check]:
    return tools.backend(name).check()
