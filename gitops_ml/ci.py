"""Which CI runs us, what happened there, and what is to be done about it.

GitHub: https://docs.github.com/en/actions/reference/workflows-and-actions/variables
GitLab: https://docs.gitlab.com/ci/variables/predefined_variables/
Payloads: https://docs.github.com/en/webhooks/webhook-events-and-payloads

Servers and repository are taken from the variables, so that GitHub Enterprise Server and self-managed GitLab work as
they are. Everything in a payload may have been chosen by a stranger: names are only compared, commits have their form.
"""

import dataclasses
import enum
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gitops_ml.errors import UserError
from gitops_ml.records import json_document
from gitops_ml.values import dataclass

# In order: the first variable that is set and not empty is used. A job token comes last: it cannot write comments.
TOKEN_VARIABLES = {
    "github": ("GITHUB_TOKEN", "GH_TOKEN"),
    "gitlab": ("GITLAB_TOKEN", "CI_JOB_TOKEN"),
}


class CIKind(enum.StrEnum):
    """The CI systems that are told apart; their names are those of the forges."""

    GITHUB = "github"
    GITLAB = "gitlab"


@dataclass(frozen=True, slots=True, kw_only=True)
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

    @property
    def whole_run_url(self) -> str | None:
        """The page of the run with all its jobs, which is what is over or not; None: the run is not known."""
        if not self.run_id:
            return None
        below = "actions/runs" if self.kind is CIKind.GITHUB else "-/pipelines"
        return f"{self.server_url}/{self.repository}/{below}/{self.run_id}"


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


# What happened


MAX_PAYLOAD_BYTES = 25 * 2**20
"""GitHub sends no larger payload."""
APPROVAL_LABEL = "gitops-ml/run"
"""Approves the head it was put on. Whoever pushes afterwards needs it put on anew: only the event counts."""


class EventKind(enum.StrEnum):
    """What can happen, as far as it makes a difference."""

    PUSH = "push"
    CHANGE = "change"
    """A change was opened, reopened, declared ready, or has a new head."""
    CLOSED = "closed"
    LABEL = "label"
    COMMENT = "comment"
    SCHEDULE = "schedule"
    MERGE_QUEUE = "merge-queue"
    MANUAL = "manual"
    AFTER_RUN = "after-run"
    """A run without credentials is over (GitHub's ``workflow_run``): the half that may publish begins."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happened. None: the event does not say, and the forge has to be asked."""

    kind: EventKind
    name: str = ""
    """What the CI calls it, for people."""
    head: str | None = None
    """The commit that was pushed, never the forge's test merge."""
    branch: str | None = None
    """The branch that was pushed, or the change's."""
    target: str | None = None
    """The branch that a change wants to go to; otherwise the default branch."""
    default: str | None = None
    """The repository's default branch, whose policy holds for changes to any branch."""
    before: str | None = None
    """Where the pushed branch stood before; None also when it was made by the push."""
    change: int | None = None
    fork: bool | None = None
    draft: bool = False
    at: datetime | None = None
    """When it happened, as the CI itself says it."""
    actor: str = ""
    """Who set it off. For words only: it never decides what may be done."""
    author: str = ""
    """Who wrote the comment or put on the label, as the payload says: theirs is the permission to look at."""
    label: str = ""
    comment: str = ""
    deleted: bool = False


def event(environ: Mapping[str, str]) -> Event | None:
    """Return what happened, or None outside of a CI that we know.

    Raises:
        UserError: the event's payload cannot be read.
    """
    if context(environ) is None:
        return None
    return _gitlab_event(environ) if environ.get("GITLAB_CI") == "true" else _github_event(environ)


def default_branch(environ: Mapping[str, str]) -> str | None:
    """Return the repository's default branch as the CI says it; None: it does not."""
    try:
        found = event(environ)
    except UserError:  # an event that cannot be read is no one's business who did not ask for it
        return None
    return found.default if found else None


def _github_event(environ: Mapping[str, str]) -> Event:
    name = environ.get("GITHUB_EVENT_NAME", "")
    payload = _payload(environ.get("GITHUB_EVENT_PATH"))
    read = _GITHUB.get(name)
    default = _text(payload, "repository", "default_branch") or None
    if default is None and name == "schedule":
        default = environ.get("GITHUB_REF_NAME") or None  # it runs on the default branch alone
    found = read(payload) if read else Event(kind=EventKind.OTHER)
    action = _text(payload, "action")
    return dataclasses.replace(
        found,
        name=f"{name}/{action}" if action and read else name,
        actor=_text(payload, "sender", "login") or environ.get("GITHUB_ACTOR", ""),
        # A schedule and a dispatch have no commit in their payload.
        head=found.head or (_commit(environ.get("GITHUB_SHA")) if found.kind in _AT_REF else None),
        branch=found.branch or (environ.get("GITHUB_REF_NAME") if found.kind in _AT_REF else None),
        target=found.target or default,
        default=default,
    )


_AT_REF = frozenset({EventKind.SCHEDULE, EventKind.MANUAL})
_CHANGED = frozenset({"opened", "synchronize", "reopened", "ready_for_review", "edited"})


def _push(payload: Any) -> Event:
    ref = _text(payload, "ref")
    if not ref.startswith("refs/heads/"):
        return Event(kind=EventKind.OTHER)
    return Event(
        kind=EventKind.PUSH,
        head=_real(_text(payload, "after")),
        at=_time(_at(payload, "repository", "pushed_at")),
        branch=ref.removeprefix("refs/heads/"),
        before=_real(_text(payload, "before")),
        fork=False,
        deleted=_at(payload, "deleted") is True,
    )


def _pull_request(payload: Any) -> Event:
    action = _text(payload, "action")
    kind = EventKind.CHANGE if action in _CHANGED else EventKind.OTHER
    kind = {"closed": EventKind.CLOSED, "converted_to_draft": EventKind.CHANGE, "labeled": EventKind.LABEL}.get(
        action, kind
    )
    pull = _at(payload, "pull_request")
    home, whole = _at(pull, "head", "repo", "id"), _at(payload, "repository", "id")
    return Event(
        kind=kind,
        head=_commit(_text(pull, "head", "sha")),
        branch=_text(pull, "head", "ref") or None,
        target=_text(pull, "base", "ref") or None,
        change=_whole(_at(pull, "number")),
        # A fork that was deleted has no repository any more. Names can be changed, numbers cannot.
        fork=not (isinstance(home, int) and home == whole),
        at=_time(_at(pull, "updated_at")),
        draft=_at(pull, "draft") is True,
        label=_text(payload, "label", "name"),
        author=_text(payload, "sender", "login") if action == "labeled" else "",
    )


def _issue_comment(payload: Any) -> Event:
    # An edited comment is no new command, and one below an issue has no change.
    if _text(payload, "action") != "created" or _at(payload, "issue", "pull_request") is None:
        return Event(kind=EventKind.OTHER)
    return Event(
        kind=EventKind.COMMENT,
        change=_whole(_at(payload, "issue", "number")),
        at=_time(_at(payload, "comment", "created_at")),
        comment=_text(payload, "comment", "body"),
        author=_text(payload, "comment", "user", "login"),
    )


def _merge_group(payload: Any) -> Event:
    return Event(
        kind=EventKind.MERGE_QUEUE if _text(payload, "action") == "checks_requested" else EventKind.OTHER,
        head=_commit(_text(payload, "merge_group", "head_sha")),
        branch=_text(payload, "merge_group", "head_ref").removeprefix("refs/heads/") or None,
        target=_text(payload, "merge_group", "base_ref").removeprefix("refs/heads/") or None,
        fork=False,
    )


def _workflow_run(payload: Any) -> Event:
    home, whole = _at(payload, "workflow_run", "head_repository", "id"), _at(payload, "repository", "id")
    return Event(
        kind=EventKind.AFTER_RUN if _text(payload, "action") == "completed" else EventKind.OTHER,
        head=_commit(_text(payload, "workflow_run", "head_sha")),
        branch=_text(payload, "workflow_run", "head_branch") or None,
        fork=not (isinstance(home, int) and home == whole),
    )


_GITHUB: Mapping[str, Callable[[Any], Event]] = {
    "push": _push,
    "pull_request": _pull_request,
    "issue_comment": _issue_comment,
    "merge_group": _merge_group,
    "workflow_run": _workflow_run,
    "schedule": lambda _: Event(kind=EventKind.SCHEDULE, fork=False),
    "workflow_dispatch": lambda _: Event(kind=EventKind.MANUAL, fork=False),
}


def _gitlab_event(environ: Mapping[str, str]) -> Event:
    ours = context(environ)
    assert ours is not None
    source = environ.get("CI_PIPELINE_SOURCE", "")
    if ours.change is not None:
        train = environ.get("CI_MERGE_REQUEST_EVENT_TYPE") == "merge_train"
        kind = EventKind.MERGE_QUEUE if train else EventKind.CHANGE
    elif environ.get("CI_COMMIT_TAG"):
        kind = EventKind.OTHER
    else:
        kind = {"push": EventKind.PUSH, "schedule": EventKind.SCHEDULE, "web": EventKind.MANUAL}.get(
            source, EventKind.OTHER
        )
    return Event(
        kind=kind,
        name=source,
        head=ours.commit,
        branch=environ.get("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME") or environ.get("CI_COMMIT_BRANCH") or None,
        target=environ.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME") or environ.get("CI_DEFAULT_BRANCH") or None,
        default=environ.get("CI_DEFAULT_BRANCH") or None,
        before=_real(environ.get("CI_COMMIT_BEFORE_SHA", "")),
        at=_time(environ.get("CI_PIPELINE_CREATED_AT")),
        change=ours.change,
        fork=ours.fork if ours.change is not None else False,
        draft=environ.get("CI_MERGE_REQUEST_DRAFT") == "true",
        actor=environ.get("GITLAB_USER_LOGIN", ""),
    )


def _payload(path: str | None) -> Mapping[str, Any]:
    if not path:
        return {}
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_PAYLOAD_BYTES + 1)
    except OSError as error:
        raise UserError(f"GITHUB_EVENT_PATH: cannot read {path}: {error.strerror}") from error
    if len(content) > MAX_PAYLOAD_BYTES:
        raise UserError(f"GITHUB_EVENT_PATH: {path} is larger than {MAX_PAYLOAD_BYTES} bytes; no event of GitHub is")
    try:
        return json_document(content)
    except UserError as error:
        raise UserError(f"GITHUB_EVENT_PATH: {path}: {error}") from error


def _at(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text(value: Any, *names: str) -> str:
    found = _at(value, *names)
    return found if isinstance(found, str) else ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**12 else None


def _time(value: Any) -> datetime | None:
    """Return the moment that a forge names, in text or in seconds (``pushed_at`` of a push)."""
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
            return found if found.tzinfo is not None else None
        if isinstance(value, int) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def _real(text: str) -> str | None:
    """Return a commit, or None for the zeros that stand for none."""
    return _commit(text) if text.strip("0") else None


# What to do about it


class Spend(enum.StrEnum):
    """Whether trials may be trained."""

    NEVER = "never"
    POLICY = "policy"
    """As far as the target branch's policy lets it happen by itself."""
    APPROVED = "approved"
    """Somebody asked for it, whose permission is to be looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What is to be done, in this order; ``why`` says it in words."""

    why: str
    cancel: bool = False
    reconcile: bool = False
    help: bool = False
    plan: bool = False
    """Validate, plan, and decide by policy."""
    run: Spend = Spend.NEVER
    force: bool = False
    report: bool = False
    """Compare, and commit the report to the ledger."""
    comment: bool = False
    status: bool = False
    publish_only: bool = False
    """Only publish what a run without credentials has left."""

    @property
    def nothing(self) -> bool:
        """Nothing is to be done."""
        return self == Steps(why=self.why)


def steps_for(event: Event, *, ledger_branch: str = "gitops-ml/reports") -> Steps:
    """Return what is to be done about an event.

    What a comment or label asks for is still to be checked: who may ask is a question to the forge, what may be spent
    one to the policy.
    """
    if event.kind is EventKind.PUSH:
        return _push_steps(event, ledger_branch)
    if event.kind in (EventKind.CHANGE, EventKind.LABEL):
        return _change_steps(event)
    if event.kind is EventKind.COMMENT:
        return _comment_steps(event)
    return {
        EventKind.CLOSED: Steps(why="the change is closed: its trainings are ended", cancel=True),
        EventKind.SCHEDULE: Steps(why="on schedule: collect what has ended", reconcile=True, report=True),
        EventKind.MERGE_QUEUE: Steps(
            why="in the merge queue: the verdict rests on results that are there", plan=True, report=True, status=True
        ),
        EventKind.MANUAL: Steps(
            why="started by hand", plan=True, run=Spend.POLICY, report=True, comment=True, status=True
        ),
        EventKind.AFTER_RUN: Steps(
            why="a run without credentials is over: publish what it left", comment=True, status=True, publish_only=True
        ),
    }.get(event.kind, Steps(why=f"nothing to do for the event {event.name or event.kind}"))


def _push_steps(event: Event, ledger_branch: str) -> Steps:
    if event.deleted or event.head is None:
        return Steps(why="nothing to do: the branch was deleted")
    if event.branch == ledger_branch:
        return Steps(why="nothing to do: this is the ledger")
    if event.branch is not None and event.branch == event.target:
        why = "pushed to the target branch: promote by key, train only what has no record"
        return Steps(why=why, plan=True, run=Spend.POLICY, report=True, status=True)
    return Steps(why="pushed to a branch: plan only, open a change to train", plan=True)


def _change_steps(event: Event) -> Steps:
    if event.fork is not False:
        return Steps(why="from a fork: plan only, with no credential", plan=True)
    if event.kind is EventKind.LABEL:
        if event.label != APPROVAL_LABEL:
            return Steps(why=f"nothing to do: another label than {APPROVAL_LABEL}")
        why = f"the label {APPROVAL_LABEL} was put on this head"
        return Steps(why=why, plan=True, run=Spend.APPROVED, report=True, comment=True, status=True)
    if event.draft:
        return Steps(why="a draft: plan only, nothing is trained", plan=True, comment=True)
    why = "a change: plan, train what policy allows, compare"
    return Steps(why=why, plan=True, run=Spend.POLICY, report=True, comment=True, status=True)


def _comment_steps(event: Event) -> Steps:
    command = command_in(event.comment)
    if command is None:
        return Steps(why="nothing to do: the comment is no command for gitops-ml")
    if command.verb is Verb.HELP:
        return Steps(why=command.problem or "help was asked for", help=True)
    if command.verb is Verb.CANCEL:
        return Steps(why="cancel was asked for", cancel=True)
    if command.verb is Verb.PLAN:
        return Steps(why="a plan was asked for", plan=True, comment=True)
    again = command.verb is Verb.RERUN
    why = "training again was asked for" if again else "training was asked for"
    return Steps(why=why, plan=True, run=Spend.APPROVED, force=again, report=True, comment=True, status=True)


# Comment commands


class Verb(enum.StrEnum):
    """What a comment can ask for."""

    RUN = "run"
    PLAN = "plan"
    CANCEL = "cancel"
    RERUN = "rerun"
    HELP = "help"


COMMANDS_HELP = """/gitops-ml run [EXPERIMENT ...] [--sha COMMIT]     train what the plan says, at this head
/gitops-ml rerun [EXPERIMENT ...] [--sha COMMIT]   train again what has a record
/gitops-ml plan                                    plan again
/gitops-ml cancel [EXPERIMENT ...]                 end the trainings of this change
/gitops-ml help                                    this text"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a comment asks for. ``problem``: why it became a call for help."""

    verb: Verb
    experiments: tuple[str, ...] = ()
    sha: str | None = None
    problem: str = ""


def command_in(comment: str) -> Command | None:
    """Return the command in a comment's first line that is not blank; None: there is none.

    A commit has to be given whole: of a short one, somebody can make a second that begins alike.
    """
    first = next((line.strip() for line in comment[:65_536].splitlines() if line.strip()), "")
    words = first[:1000].split()
    if words[:1] != ["/gitops-ml"]:
        return None
    if len(words) == 1:
        return Command(verb=Verb.HELP)
    if words[1] not in set(Verb):
        return Command(verb=Verb.HELP, problem=f"there is no command `{_shown(words[1])}`")
    verb, rest = Verb(words[1]), words[2:]
    sha = None
    names: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--sha" or word.startswith("--sha="):
            value = word.removeprefix("--sha=") if "=" in word else rest.pop(0) if rest else ""
            sha = _commit(value)
            if sha is None:
                return Command(verb=Verb.HELP, problem="`--sha` takes a whole commit of 40 or 64 hexadecimal digits")
        elif re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", word):
            names.append(word)
        else:
            return Command(verb=Verb.HELP, problem=f"`{_shown(word)}` is neither an experiment nor an option")
    return Command(verb=verb, experiments=tuple(dict.fromkeys(names)), sha=sha)


def _shown(word: str) -> str:
    return re.sub(r"[^A-Za-z0-9_=./-]", "?", word[:40])
