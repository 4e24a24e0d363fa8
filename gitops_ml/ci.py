"""Which CI runs us: the repository, its servers, the commit and the change, from the environment alone.

GitHub: https://docs.github.com/en/actions/reference/workflows-and-actions/variables
GitLab: https://docs.gitlab.com/ci/variables/predefined_variables/

Everything is taken from the variables, so that GitHub Enterprise Server and self-managed GitLab work as they are.
"""

import dataclasses
import enum
import re
from collections.abc import Mapping

# In order: the first variable that is set and not empty is used. A job token comes last: it cannot write comments.
TOKEN_VARIABLES = {
    "github": ("GITHUB_TOKEN", "GH_TOKEN"),
    "gitlab": ("GITLAB_TOKEN", "CI_JOB_TOKEN"),
}


class CIKind(enum.StrEnum):
    """The CI systems that are told apart; their names are those of the forges."""

    GITHUB = "github"
    GITLAB = "gitlab"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CIContext:
    """What one CI job says of itself. URLs have no slash at their end."""

    kind: CIKind
    server_url: str
    api_url: str
    repository: str
    """``owner/name``; on GitLab the full path with its groups."""
    commit: str | None
    """The commit that was pushed; None where the variables name only the forge's test merge."""
    change: int | None
    """Number of the pull or merge request, if the job runs for one."""
    fork: bool | None
    """Whether the change comes from a fork; None: the variables do not say."""
    run_id: int
    """Rises with every run of the repository; 0: not known."""
    run_attempt: int
    run_url: str | None
    token_variable: str | None
    """Name of the variable that holds the forge token; None: there is none."""


def context(environ: Mapping[str, str]) -> CIContext | None:
    """Return what the CI says, or None outside of one that we know."""
    if environ.get("GITHUB_ACTIONS") == "true" and environ.get("GITHUB_REPOSITORY"):
        return _github(environ)
    if environ.get("GITLAB_CI") == "true" and environ.get("CI_PROJECT_PATH"):
        return _gitlab(environ)
    return None


def token_variable(kind: str, environ: Mapping[str, str]) -> str | None:
    """Return the name of the variable that holds a token for the forge."""
    return next((name for name in TOKEN_VARIABLES[kind] if environ.get(name)), None)


def _github(environ: Mapping[str, str]) -> CIContext:
    server = environ.get("GITHUB_SERVER_URL", "https://github.com").rstrip("/")
    repository = environ["GITHUB_REPOSITORY"]
    run = environ.get("GITHUB_RUN_ID")
    # `pull_request` jobs have the test merge in GITHUB_SHA: the pushed commit is in the event's payload only.
    change = re.fullmatch(r"refs/pull/([0-9]{1,9})/(?:merge|head)", environ.get("GITHUB_REF", ""))
    return CIContext(
        kind=CIKind.GITHUB,
        server_url=server,
        api_url=environ.get("GITHUB_API_URL", "https://api.github.com").rstrip("/"),
        repository=repository,
        commit=None if change else _commit(environ.get("GITHUB_SHA")),
        change=int(change[1]) if change else None,
        fork=None,
        run_id=_number(run) or 0,
        run_attempt=_number(environ.get("GITHUB_RUN_ATTEMPT")) or 1,
        run_url=f"{server}/{repository}/actions/runs/{run}" if run else None,
        token_variable=token_variable("github", environ),
    )


def _gitlab(environ: Mapping[str, str]) -> CIContext:
    server = environ.get("CI_SERVER_URL", "https://gitlab.com").rstrip("/")
    source = environ.get("CI_MERGE_REQUEST_SOURCE_PROJECT_ID")
    # In a merged-results pipeline CI_COMMIT_SHA is the test merge; the source branch's commit has its own variable.
    pushed = environ.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA") or environ.get("CI_COMMIT_SHA")
    return CIContext(
        kind=CIKind.GITLAB,
        server_url=server,
        api_url=environ.get("CI_API_V4_URL", f"{server}/api/v4").rstrip("/"),
        repository=environ["CI_PROJECT_PATH"],
        commit=_commit(pushed),
        change=_number(environ.get("CI_MERGE_REQUEST_IID")),
        fork=None if source is None else source != environ.get("CI_PROJECT_ID"),
        # A retried job keeps its pipeline and gets a higher job id, which so serves as the attempt.
        run_id=_number(environ.get("CI_PIPELINE_ID")) or 0,
        run_attempt=_number(environ.get("CI_JOB_ID")) or 1,
        run_url=environ.get("CI_JOB_URL") or environ.get("CI_PIPELINE_URL"),
        token_variable=token_variable("gitlab", environ),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else None


def _commit(text: str | None) -> str | None:
    return text if text and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) else None


def repository_at(url: str) -> tuple[str, str] | None:
    """Return (host, path) of the repository that a git remote's URL names; None: it is no URL of a forge."""
    found = re.fullmatch(r"(?:https?|ssh|git)://(?:[^/@]*@)?([^/:@]+)(?::[0-9]+)?/(.+?)(?:\.git)?/?", url)
    found = found or re.fullmatch(r"(?:[^/@:]+@)?([^/:@]{2,}):(?!/)(.+?)(?:\.git)?/?", url)
    return (found[1], found[2]) if found else None
