"""GitLab, also self-managed: notes on merge requests, commit statuses, images.

Needs ``pip install 'gitops-ml[gitlab]'`` and a project access token (role Developer, scope ``api``) in
``GITLAB_TOKEN``: the pipeline's own job token may only read. In a pipeline::

    comment:
      rules: [{if: $CI_PIPELINE_SOURCE == "merge_request_event"}]
      script: gitops-ml comment

Project and servers come from the pipeline's variables, elsewhere from the remote ``origin``.

Images are uploaded to the project. Anyone who knows the address of an upload can read it unless the project says
otherwise (Settings > General > Visibility > "Require authentication to view media files"); ``doctor`` looks at that.
"""

import datetime
import functools
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gitops_ml import ci
from gitops_ml.diagnostics import Check
from gitops_ml.errors import ServiceError, UserError
from gitops_ml.forges._calls import Patience, TransientError, field
from gitops_ml.forges._comments import HEADER_BYTES, Order, OwnComment, Seen, told, upsert
from gitops_ml.forges._gitlab_api import JOB_TOKEN, GitlabApi
from gitops_ml.forges._gitlab_checks import GitlabChecks
from gitops_ml.forges.base import (
    CannotPublishError,
    Change,
    CommentRef,
    Image,
    LeftByJob,
    Permission,
    Standing,
    State,
    Told,
)

if TYPE_CHECKING:
    from gitops_ml.git import Repository

# GitLab takes notes of a million characters, and renders none over its limit for Markdown of 1 MiB.
MAX_COMMENT_BYTES = 1_000_000 - HEADER_BYTES
MAX_STATUS_CHARACTERS = 255

_STATES = {
    State.PENDING: "running",
    State.SUCCESS: "success",
    State.FAILURE: "failed",
    State.ERROR: "failed",
}
_STANDINGS = {
    "success": State.SUCCESS,
    "failed": State.FAILURE,
    "canceled": State.ERROR,
    "skipped": State.ERROR,
}
# https://docs.gitlab.com/ci/jobs/#available-job-statuses
_OVER = frozenset({"success", "failed", "canceled", "skipped", "manual"})
# https://docs.gitlab.com/api/members/#roles
_ROLES = ((50, Permission.ADMIN), (40, Permission.MAINTAIN), (30, Permission.WRITE), (5, Permission.READ))
_UPLOAD = re.compile(r"/uploads/[0-9a-f]{32}/([A-Za-z0-9._-]{1,255})")


class GitlabForge:
    """One project on GitLab."""

    max_comment_bytes = MAX_COMMENT_BYTES

    def __init__(
        self,
        repository: "Repository",
        environ: Mapping[str, str],
        *,
        patience: Patience | None = None,
        now: Callable[[], float] = time.time,
        timeout_s: float = 15,
        answer_s: float = 60,
        archive_s: float = 900,
    ) -> None:
        """Nothing is sent before the first question.

        Args:
            repository: asked for ``origin`` where the CI does not name the project.
            environ: the variables of the pipeline, and the token.
            patience: what failing calls may cost; by default 60 s in all.
            now: seconds since 1970, as rate limits name their end.
            timeout_s: for one connection, and for each part of an answer.
            answer_s: for a whole answer.
            archive_s: for what a job has left, which may be large.
        """
        self._now = now
        self._archive_s = archive_s
        self._context = _gitlab_context(environ)
        self._server_url, api_url, self.name = _place(self._context, repository)
        variable = ci.token_variable("gitlab", environ)
        self._patience = patience or Patience()
        self._api = GitlabApi(
            api_url=api_url,
            project=self.name,
            token=environ.get(variable, "") if variable else "",
            token_variable=variable or "GITLAB_TOKEN",
            now=now,
            timeout_s=timeout_s,
            answer_s=answer_s,
            remaining_s=self._patience.remaining_s,
        )
        self._has_token = variable is not None
        self._pipelines: dict[tuple[str, str], int] = {}
        """Which pipeline a status that was read belongs to: set without it, it would be another beside it."""

    def __repr__(self) -> str:
        return f"GitlabForge({self._server_url}/{self.name})"

    def close(self) -> None:
        """Give the connection back."""
        self._api.close()

    # Questions

    def check(self, *, ledger_branch: str = "gitops-ml/reports") -> Iterator[Check]:
        """Look at token, permissions and settings, for ``doctor``. Changes nothing."""
        yield from GitlabChecks(self._api, self._patience, has_token=self._has_token).checks(ledger_branch)

    def change(self, number: int) -> Change:
        """Return one merge request."""
        doing = f"read merge request {number}"
        return self._patience.keep_trying(lambda: _change(self._api.get(f"/merge_requests/{number}", doing=doing)))

    def change_for(self, commit: str) -> Change | None:
        """Return the open merge request whose head is the commit."""
        path = f"/repository/commits/{quote(commit)}/merge_requests"
        doing = f"find the merge request of {commit[:12]}"
        found = self._patience.keep_trying(
            lambda: [_change(one) for one in self._api.pages(path, doing=doing, query={})]
        )
        return next((change for change in found if change.open and change.head == commit), None)

    def open_changes(self) -> Iterator[Change]:
        """Yield all open merge requests."""
        doing, query = "list the open merge requests", {"state": "opened"}
        yield from self._patience.keep_trying(
            lambda: [_change(one) for one in self._api.pages("/merge_requests", doing=doing, query=query)]
        )

    def permission(self, user: str) -> Permission:
        """Return what the user may do in the project, inherited roles included."""
        doing = f"read {user}'s role"

        def ask() -> Permission:
            _, users = self._api.request("GET", "/users", doing=doing, query={"username": user})
            if not isinstance(users, list):
                raise TransientError(f"cannot {doing}: the answer is no list")
            ids = [field(one, "id", int) for one in users if field(one, "username", str).lower() == user.lower()]
            if not ids:
                return Permission.NONE
            member = self._api.get(f"/members/all/{ids[0]}", doing=doing, allow=(404,))
            if member is None:
                return Permission.NONE
            level = field(member, "access_level", int)
            active = member.get("state", "active") == "active"
            return next((role for least, role in _ROLES if active and level >= least), Permission.NONE)

        return self._patience.keep_trying(ask)

    # Acts

    def publish_image(self, image: Image, *, how: str = "auto") -> str | None:
        """Upload the PNG to the project; the same picture is not uploaded twice for one merge request."""
        if how == "commit":
            if not (image.ledger_commit and image.ledger_path):
                return None
            return f"{self._server_url}/{self.name}/-/raw/{image.ledger_commit}/{quote(image.ledger_path)}?inline=true"
        if not self._has_token or self._api.token_variable == JOB_TOKEN:
            return None
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", image.name.removesuffix(".png").removesuffix(".svg")).strip("-")[:80]
        version = image.version or hashlib.sha256(image.png()).hexdigest()
        name = f"{stem or 'plot'}-{version[:16]}.png"
        if name in self._uploaded:
            return self._uploaded[name]
        files = {"file": (name, image.png(), "image/png")}
        try:
            # One try: an upload whose answer is lost would be uploaded twice, and the comment can do without.
            _, answer = Patience(cap_s=0).keep_trying(
                lambda: self._api.write("POST", "/uploads", doing="upload a plot", files=files)
            )
        except ServiceError:
            return None
        found = _UPLOAD.fullmatch(str(answer.get("url"))) if isinstance(answer, Mapping) else None
        return found[0] if found else None

    def page_url(self, commit: str, path: str) -> str:
        """Return the file's page."""
        return f"{self._server_url}/{self.name}/-/blob/{commit}/{quote(path)}"

    def upsert_comment(self, number: int, *, marker: str, body: str, commit: str | None = None) -> CommentRef:
        """Leave exactly one comment of ours with this marker, holding ``body``."""
        if len(body.encode()) > self.max_comment_bytes:
            raise CannotPublishError(
                f"the comment has {len(body.encode())} bytes, GitLab takes {self.max_comment_bytes}"
            )
        context = self._context
        return upsert(
            self._thread(number),
            marker=marker,
            body=body,
            order=Order(
                run=context.run_id if context else 0, attempt=context.run_attempt if context else 1, commit=commit
            ),
            nonce=secrets.token_hex(8),
            patience=self._patience,
        )

    def told(self, number: int, *, marker: str) -> Told | None:
        """Return what our comment with this marker reports on."""
        return told(self._thread(number), marker=marker, patience=self._patience)

    def set_status(self, commit: str, *, context: str, state: State, text: str, url: str | None) -> None:
        """Set the commit's status. A repeated write is the same status again, so this one is simply tried again."""
        short = text if len(text) <= MAX_STATUS_CHARACTERS else text[: MAX_STATUS_CHARACTERS - 1] + "…"
        body: dict[str, Any] = {"state": _STATES[state], "name": context, "description": short}
        if url is not None:
            body["target_url"] = url
        # Several pipelines may run for one commit, for its branch and for its merge request.
        if (commit, context) in self._pipelines:
            body["pipeline_id"] = self._pipelines[commit, context]
        elif self._context and self._context.run_id and self._context.commit == commit:
            body["pipeline_id"] = self._context.run_id
        doing = f"set the status `{context}`"

        def write() -> None:
            status, answer = self._api.write("POST", f"/statuses/{quote(commit)}", doing=doing, body=body, allow=(400,))
            # The state that it has is refused as a transition, and is what we want.
            if status == 400 and not re.search(
                rf"Cannot transition status via :\w+ from :{_STATES[state]}\b", str(answer)
            ):
                raise CannotPublishError(f"cannot {doing}: GitLab says 400: {answer}")

        self._patience.keep_trying(write)

    def statuses(self, commit: str) -> Mapping[str, Standing]:
        """Return the newest status of each context, the pipelines' own jobs among them."""
        path, doing = f"/repository/commits/{quote(commit)}/statuses", f"read the statuses of {commit[:12]}"

        def ask() -> dict[str, Standing]:
            found: dict[str, tuple[int, Standing]] = {}
            for one in self._api.pages(path, doing=doing, query={}):
                name, number = field(one, "name", str), field(one, "id", int)
                if number > found.get(name, (0, None))[0]:
                    found[name] = number, _standing(one)
                    if isinstance(one.get("pipeline_id"), int):
                        self._pipelines[commit, name] = one["pipeline_id"]
            return {name: standing for name, (_, standing) in found.items()}

        return self._patience.keep_trying(ask)

    def run_is_over(self, url: str) -> bool | None:
        """Ask for the pipeline's jobs: a status that is pending keeps the pipeline itself from being over."""
        found = re.fullmatch(rf"{re.escape(f'{self._server_url}/{self.name}')}/-/pipelines/([0-9]{{1,18}})", url)
        if found is None:
            return None
        path, doing = f"/pipelines/{found[1]}/jobs", f"read the jobs of pipeline {found[1]}"
        return self._patience.keep_trying(
            lambda: all(field(one, "status", str) in _OVER for one in self._api.pages(path, doing=doing, query={}))
        )

    def left_by_job(self, name: str, folder: Path, *, limit_bytes: int) -> LeftByJob:
        """Bring the archive of the pipeline's newest job of that name into the folder."""
        pipeline = self._context.run_id if self._context else 0
        if not pipeline:
            raise UserError(f"there is no `CI_PIPELINE_ID` of a pipeline in which the job `{name}` could have been")
        path, doing = f"/pipelines/{pipeline}/jobs", f"find the job `{name}` of pipeline {pipeline}"

        def look() -> Mapping[int, tuple[str, Any]]:
            named = [one for one in self._api.pages(path, doing=doing, query={}) if field(one, "name", str) == name]
            return {field(one, "id", int): (field(one, "status", str), one) for one in named}

        found = self._patience.keep_trying(look)
        if not found:
            raise UserError(f"pipeline {pipeline} has no job `{name}`, or it cannot be seen with this token")
        number = max(found)  # one that was repeated has a higher number
        status, job = found[number]
        expired = _is_over(job.get("artifacts_expire_at"), self._now())
        doing = f"download what the job `{name}` ({number}) has left"
        patience = self._patience.apart(total_s=self._archive_s)
        archive = patience.keep_trying(
            lambda: self._api.download(
                f"/jobs/{number}/artifacts",
                folder,
                doing=doing,
                limit_bytes=limit_bytes,
                limit_s=patience.remaining_s(),
            )
        )
        if archive is None and job.get("artifacts_file") and not expired:
            raise ServiceError(f"cannot {doing}: GitLab lists it, and does not give it")
        return LeftByJob(status=status, archive=archive, expired=archive is None and expired)

    def _thread(self, number: int) -> "_MergeRequest":
        return _MergeRequest(self._api, number, user=lambda: self._user)

    @functools.cached_property
    def _user(self) -> int:
        return field(self._api.request("GET", "/user", doing="find out whose token this is")[1], "id", int)

    @functools.cached_property
    def _uploaded(self) -> Mapping[str, str]:
        """Pictures that our own comments on this merge request show: address by file name."""
        change = self._context.change if self._context else None
        if change is None:
            return {}
        try:
            seen = Patience(cap_s=0).keep_trying(self._thread(change).look)
        except ServiceError:
            return {}
        return {found[1]: found[0] for comment in seen.own for found in _UPLOAD.finditer(comment.text)}


class _MergeRequest:
    """The notes of one merge request."""

    def __init__(self, api: GitlabApi, number: int, *, user: Callable[[], int]) -> None:
        self._api = api
        self._number = number
        self._user = user

    def look(self) -> Seen:
        doing = f"read the comments of merge request {self._number}"
        user = self._user()
        request = self._api.get(f"/merge_requests/{self._number}", doing=doing)
        url = field(request, "web_url", str)
        # Newest first: what is added between two pages moves notes to a later page, where they are seen again.
        query = {"order_by": "created_at", "sort": "desc"}
        notes = {field(note, "id", int): note for note in self._api.pages(self._notes, doing=doing, query=query)}
        own = [
            OwnComment(number=number, url=f"{url}#note_{number}", text=field(note, "body", str))
            for number, note in notes.items()
            if note.get("system") is not True and (note.get("author") or {}).get("id") == user
        ]
        return Seen(
            url=url,
            # A merge request whose branch was just made may have no commit yet.
            head=str(request.get("sha") or ""),
            open=field(request, "state", str) == "opened",
            own=tuple(own),
        )

    def create(self, text: str) -> None:
        doing = f"comment on merge request {self._number}"
        _, answer = self._api.write("POST", self._notes, doing=doing, body={"body": text})
        field(answer, "id", int)

    def edit(self, comment: OwnComment, text: str) -> bool:
        path = f"{self._notes}/{comment.number}"
        status, answer = self._api.write("PUT", path, doing="edit our comment", body={"body": text}, allow=(404,))
        if status == 404:
            return False
        field(answer, "id", int)
        return True

    def delete(self, comment: OwnComment) -> None:
        self._api.write("DELETE", f"{self._notes}/{comment.number}", doing="remove our surplus comment", allow=(404,))

    @property
    def _notes(self) -> str:
        return f"/merge_requests/{self._number}/notes"


def _gitlab_context(environ: Mapping[str, str]) -> ci.CIContext | None:
    context = ci.context(environ)
    return context if context and context.kind is ci.CIKind.GITLAB else None


def _place(context: ci.CIContext | None, repository: "Repository") -> tuple[str, str, str]:
    """Return the server's URL, the API's URL and the project's full path."""
    if context:
        return context.server_url, context.api_url, context.repository
    url = repository.remote_url("origin")
    found = ci.repository_at(url) if url else None
    if found is None or "/" not in found[1]:
        raise UserError(
            "cannot tell which GitLab project this is: `origin` is not a GitLab URL, and there is no `CI_PROJECT_PATH` "
            "of a pipeline"
        )
    return f"https://{found[0]}", f"https://{found[0]}/api/v4", found[1]


def _is_over(when: Any, now: float) -> bool:
    """Return whether a time, as the API writes it, has passed; what is no time has not."""
    try:
        return datetime.datetime.fromisoformat(when).timestamp() <= now
    except (TypeError, ValueError, OverflowError):
        return False


def _standing(answer: Any) -> Standing:
    url = answer.get("target_url")
    return Standing(
        state=_STANDINGS.get(field(answer, "status", str), State.PENDING),
        text=str(answer.get("description") or ""),
        url=url if isinstance(url, str) else None,
    )


def _change(answer: Any) -> Change:
    author = answer.get("author") if isinstance(answer, Mapping) else None
    return Change(
        number=field(answer, "iid", int),
        head=str(answer.get("sha") or ""),
        head_ref=field(answer, "source_branch", str),
        base_ref=field(answer, "target_branch", str),
        # The project of a fork that was deleted is null: a fork all the same.
        fork=answer.get("source_project_id") != field(answer, "target_project_id", int),
        open=field(answer, "state", str) == "opened",
        draft=answer.get("draft") is True,
        title=field(answer, "title", str),
        author=str(author.get("username", "ghost")) if isinstance(author, Mapping) else "ghost",
    )
