"""GitHub and GitHub Enterprise Server: comment on pull requests, commit statuses, images.

Needs ``pip install 'gitops-ml[github]'`` and a token in ``GITHUB_TOKEN`` (or ``GH_TOKEN``). In a workflow::

    permissions: {pull-requests: write, statuses: write}
    steps:
      - run: gitops-ml comment
        env: {GITHUB_TOKEN: "${{ github.token }}"}

Repository and servers come from the workflow's own variables, elsewhere from the remote ``origin``.

Images are linked where the ledger holds them, by commit, on the same host: who may read the repository sees them.
GitHub's attachment upload keeps images private too, but takes neither the workflow's own token nor requests on
Enterprise Server; it is used only where it can work. Nothing is ever sent to another host.
"""

import io
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gitops_ml import ci
from gitops_ml.diagnostics import Check
from gitops_ml.errors import ServiceError, UserError
from gitops_ml.forges._calls import Patience, TransientError, field
from gitops_ml.forges._comments import HEADER_BYTES, Order, OwnComment, Seen, told, upsert
from gitops_ml.forges._github_api import GithubApi
from gitops_ml.forges._github_checks import TOKEN_KINDS, GithubChecks
from gitops_ml.forges.base import CannotPublishError, Change, CommentRef, Image, Permission, Standing, State, Told

if TYPE_CHECKING:
    from gitops_ml.git import Repository

# GitHub refuses a comment over 65,536 characters; a character is at least one byte.
MAX_COMMENT_BYTES = 65_536 - HEADER_BYTES
MAX_STATUS_CHARACTERS = 140

# One query answers who we are, whether the change is open, which commit is its head, and what its newest comments are.
# REST has no way to ask for the newest comments first, and no `user` for the workflow's own token.
_LOOK = """
query($owner: String!, $name: String!, $number: Int!, $before: String) {
  viewer { login }
  repository(owner: $owner, name: $name) {
    pullRequest(number: $number) {
      headRefOid state url
      comments(last: 100, before: $before) {
        nodes { fullDatabaseId url body author { __typename login } }
        pageInfo { hasPreviousPage startCursor }
      }
    }
  }
}
"""

# Measured for the attachment upload of `gh`: every other kind is answered 404.
_MAY_ATTACH = ("ghp_", "github_pat_", "gho_", "ghu_")


class GithubForge:
    """One repository on GitHub."""

    max_comment_bytes = MAX_COMMENT_BYTES

    def __init__(
        self,
        repository: "Repository",
        environ: Mapping[str, str],
        *,
        patience: Patience | None = None,
        now: Callable[[], float] = time.time,
        timeout_s: int = 15,
        answer_s: float = 60,
        uploads_url: str | None = None,
    ) -> None:
        """Nothing is sent before the first question.

        Args:
            repository: asked for ``origin`` where the CI does not name the repository.
            environ: the variables of the workflow, and the token.
            patience: what failing calls may cost; by default 60 s in all.
            now: seconds since 1970, as rate limits name their end.
            timeout_s: for one connection, and for each part of an answer.
            answer_s: for a whole answer.
            uploads_url: where attachments go; by default GitHub's own, and nowhere on Enterprise Server.
        """
        self._context = _github_context(environ)
        self._server_url, api_url, self.name = _place(self._context, repository)
        variable = ci.token_variable("github", environ)
        self._token = environ.get(variable, "") if variable else ""
        self._patience = patience or Patience()
        self._api = GithubApi(
            api_url=api_url,
            repository=self.name,
            token=self._token,
            token_variable=variable or "GITHUB_TOKEN",
            now=now,
            timeout_s=timeout_s,
            answer_s=answer_s,
            remaining_s=self._patience.remaining_s,
        )
        if uploads_url is None and self._server_url == "https://github.com":
            uploads_url = "https://uploads.github.com"
        self._uploads_url = uploads_url

    def __repr__(self) -> str:
        return f"GithubForge({self._server_url}/{self.name})"

    def close(self) -> None:
        """Give the connection back."""
        self._api.close()

    # Questions

    def check(self, *, ledger_branch: str = "gitops-ml/reports") -> Iterator[Check]:
        """Look at token, permissions and settings, for ``doctor``. Changes nothing."""
        kind = next((kind for start, kind in TOKEN_KINDS.items() if self._token.startswith(start)), "token")
        checks = GithubChecks(
            self._api,
            self._patience,
            token_kind=kind if self._token else None,
            change=self._context.change if self._context else None,
        )
        yield from checks.checks(ledger_branch)

    def change(self, number: int) -> Change:
        """Return one pull request."""
        return self._patience.keep_trying(
            lambda: _change(self._api.get(f"/pulls/{number}", doing=f"read pull request {number}"))
        )

    def change_for(self, commit: str) -> Change | None:
        """Return the open pull request whose head is the commit.

        All are gone through: to ask for a commit's own answers nothing for the head of a fork.
        """
        doing = f"find the pull request of {commit[:12]}"

        def ask() -> Change | None:
            open_ones = (_change(one) for one in self._api.pages("/pulls", doing=doing, query="state=open&"))
            return next((change for change in open_ones if change.open and change.head == commit), None)

        return self._patience.keep_trying(ask)

    def open_changes(self) -> Iterator[Change]:
        """Yield all open pull requests."""
        doing = "list the open pull requests"
        yield from self._patience.keep_trying(
            lambda: [_change(one) for one in self._api.pages("/pulls", doing=doing, query="state=open&")]
        )

    def permission(self, user: str) -> Permission:
        """Return what the user may do, by the repository's own answer: ``author_association`` hides private members."""
        path = f"/collaborators/{quote(user, safe='')}/permission"

        def ask() -> Permission:
            status, answer = self._api.request("GET", path, doing=f"read {user}'s permission", allow=(404,))
            if status == 404:
                return Permission.NONE
            role = answer.get("role_name") if isinstance(answer, Mapping) else None
            known = {"read": "READ", "triage": "READ", "write": "WRITE", "maintain": "MAINTAIN", "admin": "ADMIN"}
            # An organization's own role says nothing by its name: `permission` is the standard role that it extends.
            name = known.get(str(role)) or known.get(field(answer, "permission", str), "NONE")
            return Permission[name]

        return self._patience.keep_trying(ask)

    # Acts

    def publish_image(self, image: Image, *, how: str = "auto") -> str | None:
        """Link the image on the ledger, or upload it where that can work."""
        if how in ("auto", "commit") and image.ledger_commit and image.ledger_path:
            # By commit, not by branch: GitHub's image cache keeps what it has once seen under a URL.
            return f"{self.page_url(image.ledger_commit, image.ledger_path)}?raw=true"
        if how in ("auto", "upload"):
            return self._attach(image)
        return None

    def page_url(self, commit: str, path: str) -> str:
        """Return the file's page."""
        return f"{self._server_url}/{self.name}/blob/{commit}/{quote(path)}"

    def upsert_comment(self, number: int, *, marker: str, body: str, commit: str | None = None) -> CommentRef:
        """Leave exactly one comment of ours with this marker, holding ``body``."""
        if len(body.encode()) > self.max_comment_bytes:
            raise CannotPublishError(
                f"the comment has {len(body.encode())} bytes, GitHub takes {self.max_comment_bytes}"
            )
        context = self._context
        return upsert(
            _PullRequest(self._api, number),
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
        return told(_PullRequest(self._api, number), marker=marker, patience=self._patience)

    def set_status(self, commit: str, *, context: str, state: State, text: str, url: str | None) -> None:
        """Set the commit's status. A repeated write is the same status again, so this one is simply tried again."""
        short = text if len(text) <= MAX_STATUS_CHARACTERS else text[: MAX_STATUS_CHARACTERS - 1] + "…"
        body = {"state": state.value, "context": context, "description": short}
        if url is not None:
            body["target_url"] = url
        doing = f"set the status `{context}`"
        self._patience.keep_trying(
            lambda: self._api.request(
                "POST", f"/statuses/{quote(commit)}", doing=doing, permission="statuses", body=body
            )
        )

    def statuses(self, commit: str) -> Mapping[str, Standing]:
        """Return the newest status of each context; GitHub keeps every one that was ever set."""
        doing = f"read the statuses of {commit[:12]}"

        def ask() -> dict[str, Standing]:
            found: dict[str, Standing] = {}
            for one in self._api.pages(f"/commits/{quote(commit)}/statuses", doing=doing):
                # Newest first.
                found.setdefault(field(one, "context", str), _standing(one))
            return found

        return self._patience.keep_trying(ask)

    def run_is_over(self, url: str) -> bool | None:
        """Ask for the workflow run; the token needs `actions: read`."""
        found = re.fullmatch(rf"{re.escape(f'{self._server_url}/{self.name}')}/actions/runs/([0-9]{{1,18}})", url)
        if found is None:
            return None
        path, doing = f"/actions/runs/{found[1]}", f"read the workflow run {found[1]}"

        def ask() -> bool:
            status, answer = self._api.request("GET", path, doing=doing, permission="actions", allow=(404,))
            # A run that was deleted does nothing any more.
            return status == 404 or field(answer, "status", str) == "completed"

        return self._patience.keep_trying(ask)

    def _attach(self, image: Image) -> str | None:
        if self._uploads_url is None or not self._token.startswith(_MAY_ATTACH):
            return None
        import github

        def probe() -> tuple[int, bool]:
            answer = self._api.get("", doing="read the repository")
            return field(answer, "id", int), field(field(answer, "permissions", dict), "push", bool)

        try:
            identity, may_push = Patience(cap_s=0).keep_trying(probe)
        except ServiceError:
            return None
        if not may_push:
            return None
        png = image.png()
        parameters = {
            "name": f"{image.name}.png",
            "content_type": "image/png",
            "repository_id": str(identity),
        }
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(png))}
        try:
            # One try: an upload whose answer is lost would be uploaded twice, and the comment can do without.
            _, asset = self._api.timed(
                lambda client: client.requester.requestMemoryBlobAndCheck(
                    "POST", f"{self._uploads_url}/user-attachments/assets", parameters, headers, io.BytesIO(png)
                )
            )
        except (github.GithubException, OSError, ServiceError, ValueError, RuntimeError, AssertionError):
            return None
        url = asset.get("url") if isinstance(asset, Mapping) else None
        # The link goes into the comment: only GitHub's own host may stand in it.
        same = isinstance(url, str) and url.startswith(f"{self._server_url}/user-attachments/")
        return url if same else None


class _PullRequest:
    """The comments of one pull request."""

    def __init__(self, api: GithubApi, number: int) -> None:
        self._api = api
        self._number = number

    def look(self) -> Seen:
        doing = f"read the comments of pull request {self._number}"
        owner, _, name = self._api.repository.partition("/")
        own: list[OwnComment] = []
        before = None
        while True:
            variables = {"owner": owner, "name": name, "number": self._number, "before": before}
            query = {"query": _LOOK, "variables": variables}
            _, answer = self._api.request("POST", "graphql", doing=doing, permission="pull-requests", body=query)
            data = self._data(answer, doing)
            viewer = field(field(data, "viewer", dict), "login", str)
            pull = field(field(data, "repository", dict), "pullRequest", dict)
            comments = field(pull, "comments", dict)
            own += [
                _own(node) for node in field(comments, "nodes", list) if node and _is_by(viewer, node.get("author"))
            ]
            page = field(comments, "pageInfo", dict)
            if not field(page, "hasPreviousPage", bool):
                break
            before = field(page, "startCursor", str)
        return Seen(
            url=field(pull, "url", str),
            head=field(pull, "headRefOid", str),
            open=field(pull, "state", str) == "OPEN",
            own=tuple(own),
        )

    def _data(self, answer: Any, doing: str) -> Any:
        errors = answer.get("errors") if isinstance(answer, Mapping) else None
        if errors:
            first = errors[0] if isinstance(errors, list) else errors
            kind = first.get("type") if isinstance(first, Mapping) else None
            refusal = self._api.refusal(
                {"NOT_FOUND": 404, "FORBIDDEN": 403, "RATE_LIMITED": 429}.get(str(kind), 502),
                {}, first, doing=doing, permission="pull-requests",
            )  # fmt: skip
            raise refusal
        return field(answer, "data", dict)

    def create(self, text: str) -> None:
        path = f"/issues/{self._number}/comments"
        self._write("POST", path, {"body": text}, doing=f"comment on pull request {self._number}")

    def edit(self, comment: OwnComment, text: str) -> bool:
        path = f"/issues/comments/{comment.number}"
        return self._write("PATCH", path, {"body": text}, doing="edit our comment", allow=(404,)) != 404

    def delete(self, comment: OwnComment) -> None:
        self._write(
            "DELETE", f"/issues/comments/{comment.number}", None, doing="remove our surplus comment", allow=(404,)
        )

    def _write(self, verb: str, path: str, body: Any, *, doing: str, allow: tuple[int, ...] = ()) -> int:
        status, answer = self._api.request(verb, path, doing=doing, permission="pull-requests", body=body, allow=allow)
        if status in (200, 201):
            # An answer that is not the comment tells nothing: what was written shows when it is looked at again.
            field(answer, "id", int)
        return status


def _github_context(environ: Mapping[str, str]) -> ci.CIContext | None:
    context = ci.context(environ)
    return context if context and context.kind is ci.CIKind.GITHUB else None


def _place(context: ci.CIContext | None, repository: "Repository") -> tuple[str, str, str]:
    """Return the server's URL, the API's URL and ``owner/name``."""
    if context:
        return context.server_url, context.api_url, context.repository
    url = repository.remote_url("origin")
    found = ci.repository_at(url) if url else None
    if found is None or found[1].count("/") != 1:
        raise UserError(
            "cannot tell which GitHub repository this is: `origin` is not a GitHub URL, and there is no "
            "`GITHUB_REPOSITORY` of a workflow"
        )
    host, name = found
    return f"https://{host}", "https://api.github.com" if host == "github.com" else f"https://{host}/api/v3", name


def _change(answer: Any) -> Change:
    head, base = field(answer, "head", dict), field(answer, "base", dict)
    head_repository = head.get("repo")
    return Change(
        number=field(answer, "number", int),
        head=field(head, "sha", str),
        head_ref=field(head, "ref", str),
        base_ref=field(base, "ref", str),
        # The head of a fork that was deleted has no repository: a fork all the same.
        fork=not isinstance(head_repository, Mapping)
        or head_repository.get("full_name") != field(field(base, "repo", dict), "full_name", str),
        open=field(answer, "state", str) == "open",
        draft=answer.get("draft") is True,
        title=field(answer, "title", str),
        author=str((answer.get("user") or {}).get("login", "ghost")),
    )


def _standing(answer: Any) -> Standing:
    url, state = answer.get("target_url"), field(answer, "state", str)
    return Standing(
        state=State(state) if state in set(State) else State.PENDING,
        text=str(answer.get("description") or ""),
        url=url if isinstance(url, str) else None,
    )


def _own(node: Any) -> OwnComment:
    number = str(node.get("fullDatabaseId"))
    if not number.isdecimal():
        raise TransientError("the service's answer has no `fullDatabaseId`")
    return OwnComment(number=int(number), url=field(node, "url", str), text=field(node, "body", str))


def _is_by(viewer: str, author: Any) -> bool:
    """Whether the viewer wrote it. ``viewer`` has a bot's suffix, ``author`` its type: no user can take the name."""
    if not isinstance(author, Mapping):
        return False
    if viewer.endswith("[bot]"):
        return author.get("__typename") == "Bot" and author.get("login") == viewer.removesuffix("[bot]")
    return author.get("__typename") == "User" and author.get("login") == viewer
