"""A GitHub that keeps state, on loopback: held to GitHub's own documents, with its limits, paging and permissions.

What the documents do not say is as GitHub behaves: an installation token has no REST ``user``, a missing permission is
403 "Resource not accessible by integration", an unknown repository 404, comments come in rising id, a comment over
65,536 characters is 422, a status's description over 140 is 422. The attachment endpoint is not in the documents: it is
as `internal/attachments/client.go` of cli/cli uses it.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import graphql

from tests.fakes import openapi
from tests.fakes.server import Answer, Call, Server

OWNER, NAME = "acme", "vision"
HEAD = "a" * 40
MAX_COMMENT = 65_536
MAX_DESCRIPTION = 140
_WHEN = "2026-11-23T12:00:00Z"


@dataclasses.dataclass(kw_only=True)
class Token:
    """Who a token speaks for, and what it ``may``: ``administration`` is what the Actions token never has."""

    login: str
    bot: bool = False
    may: frozenset[str] = frozenset({"actions", "contents", "pull-requests", "statuses", "push"})
    valid: bool = True
    server: bool = False
    """An installation token (`ghs_`), as the Actions token is."""


@dataclasses.dataclass(kw_only=True)
class Comment:
    number: int
    pull: int
    login: str
    bot: bool
    body: str


@dataclasses.dataclass(kw_only=True)
class Pull:
    number: int
    head: str = HEAD
    state: str = "open"
    draft: bool = False
    title: str = "Try a larger rate"
    head_ref: str = "larger-rate"
    head_repository: str | None = f"{OWNER}/{NAME}"
    author: str = "dana"


class FakeGitHub(Server):
    """The state is public: tests set it up and look at it."""

    def __init__(self) -> None:
        super().__init__()
        self.repository = f"{OWNER}/{NAME}"
        self.renamed_from: str | None = None
        self.prefix = ""
        """`/api/v3` on Enterprise Server, whose GraphQL stands beside it at `/api/graphql`."""
        self.private = False
        self.tokens = {
            "ghs_canary0": Token(login="github-actions[bot]", bot=True, server=True),
            "ghp_canary1": Token(
                login="dana", may=frozenset({"contents", "pull-requests", "statuses", "push", "administration"})
            ),
        }
        self.pulls = {7: Pull(number=7)}
        self.comments: list[Comment] = []
        self.statuses: list[dict[str, Any]] = []
        self.runs: dict[int, str] = {}
        """Status of each workflow run."""
        self.permissions = {"dana": "admin", "rob": "write", "stranger": "read"}
        self.rules: dict[str, list[dict[str, Any]]] = {}
        self.fork_approval = "first_time_contributors"
        self.attachments: dict[str, bytes] = {}
        # Past 2^31, as GitHub's are: the 32-bit `databaseId` of GraphQL is null for them.
        self._numbers = itertools.count(3_000_000_001)
        self._schema = graphql.build_schema((openapi.HERE / "github.graphql").read_text())

    @contextmanager
    def running(self) -> Iterator["FakeGitHub"]:
        with super().running():
            yield self
        assert self.violations == [], "\n".join(self.violations)

    def add_comment(self, body: str, *, login: str = "rob", bot: bool = False, pull: int = 7) -> Comment:
        """Put a comment there, as if someone had written it."""
        with self.lock:
            comment = Comment(number=next(self._numbers), pull=pull, login=login, bot=bot, body=body)
            self.comments.append(comment)
            return comment

    def by(self, login: str) -> list[Comment]:
        """Return someone's comments."""
        return [comment for comment in self.comments if comment.login == login]

    def handle(self, call: Call) -> Answer:
        found = re.fullmatch(r"(?:Bearer|token) (\S+)", call.headers.get("authorization", ""))
        token = self.tokens.get(found[1]) if found else None
        if any(secret in call.path + str(call.query) + call.body.decode("utf-8", "replace") for secret in self.tokens):
            self.violations.append(f"{call.method} {call.path}: the token is outside of the header")
        if token is None or not token.valid:
            return Answer(status=401, body=_error("Bad credentials"))
        if call.path == "/user-attachments/assets":
            return self._attach(call, token)
        if call.path == self.prefix.removesuffix("/v3") + "/graphql":
            return self._graphql(call, token)
        if not call.path.startswith(f"{self.prefix}/"):
            return Answer(status=404, body=_error("Not Found"))
        call = dataclasses.replace(call, path=call.path.removeprefix(self.prefix))
        if self.renamed_from and call.path.startswith(f"/repos/{self.renamed_from}"):
            target = f"{self.url}/repos/{self.repository}" + call.path.removeprefix(f"/repos/{self.renamed_from}")
            status = 301 if call.method == "GET" else 307
            return Answer(status=status, body={**_error("Moved"), "url": target}, headers={"Location": target})
        return self._rest(call, token)

    # REST

    def _rest(self, call: Call, token: Token) -> Answer:
        document = openapi.github()
        found = document.find(call.method, call.path)
        if found is None:
            self.violations.append(f"{call.method} {call.path} is not in GitHub's document, or not in our slice")
            return Answer(status=404, body=_error("Not Found"))
        route, at = found
        problems = document.request_problems(call.method, route, call.query, call.json())
        if call.headers.get("user-agent", "") == "":
            problems.append("no User-Agent")
        if problems:
            self.violations += [f"{call.method} {call.path}: {problem}" for problem in problems]
            return Answer(status=422, body=_error("Validation Failed"))
        if f"{at['owner']}/{at['repo']}" != self.repository:
            return Answer(status=404, body=_error("Not Found"))
        act = getattr(self, "_" + call.method.lower() + "_" + re.sub(r"\W+", "_", route.split("{repo}")[1]).strip("_"))
        answer = act(call, token, at)
        bad = document.answer_problems(call.method, route, answer.status, answer.body)
        # Of a fork that was deleted the head has no repository; the document says that it always has.
        bad = [problem for problem in bad if not problem.endswith("head.repo: None is not of type 'object'")]
        self.violations += [f"the fake's answer to {call.method} {call.path}: {problem}" for problem in bad]
        return answer

    def _get_(self, call: Call, token: Token, at: Any) -> Answer:
        body = openapi.github().example("GET", "/repos/{owner}/{repo}", 200)
        body.update(id=4711, full_name=self.repository, name=NAME, private=self.private)
        # The document's example lacks a field that its schema requires, here and in the related repositories.
        body = {key: value for key, value in body.items() if key not in ("parent", "source")} | {"language": "Python"}
        body["permissions"] = {"admin": "administration" in token.may, "push": "push" in token.may, "pull": True}
        return Answer(body=body)

    def _get_actions_permissions_fork_pr_contributor_approval(self, call: Call, token: Token, at: Any) -> Answer:
        if "administration" not in token.may:
            return _forbidden(token)
        return Answer(body={"approval_policy": self.fork_approval})

    def _get_environments(self, call: Call, token: Token, at: Any) -> Answer:
        return Answer(body={"total_count": 0, "environments": []})

    def _get_rules_branches_branch(self, call: Call, token: Token, at: Any) -> Answer:
        return Answer(body=self.rules.get(at["branch"].replace("%2F", "/"), []))

    def _get_collaborators_username_permission(self, call: Call, token: Token, at: Any) -> Answer:
        if "push" not in token.may:
            return Answer(status=403, body=_error("Must have push access to view collaborator permission."))
        role = self.permissions.get(at["username"], "none")
        if at["username"] not in self.permissions and not re.fullmatch(r"[A-Za-z0-9-]+", at["username"]):
            return Answer(status=404, body=_error("Not Found"))
        body = openapi.github().example("GET", "/repos/{owner}/{repo}/collaborators/{username}/permission", 200)
        body.update(permission={"maintain": "write", "triage": "read"}.get(role, role), role_name=role)
        body["user"]["role_name"] = role
        return Answer(body=body)

    def _get_pulls(self, call: Call, token: Token, at: Any) -> Answer:
        wanted = call.query.get("state", "open")
        pulls = [pull for pull in self.pulls.values() if wanted in ("all", pull.state)]
        pulls.sort(key=lambda pull: -pull.number)
        return self._page(call, [self._simple(pull) for pull in pulls])

    def _get_commits_commit_sha_pulls(self, call: Call, token: Token, at: Any) -> Answer:
        # Of the repository's own branches alone: a fork's head is answered with an empty list, open or not.
        own = [pull for pull in self.pulls.values() if pull.head_repository == self.repository]
        pulls = [pull for pull in own if pull.head == at["commit_sha"]]
        return self._page(call, [self._simple(pull) for pull in pulls])

    def _get_pulls_pull_number(self, call: Call, token: Token, at: Any) -> Answer:
        pull = self.pulls.get(int(at["pull_number"]))
        if pull is None:
            return Answer(status=404, body=_error("Not Found"))
        body = openapi.github().example("GET", "/repos/{owner}/{repo}/pulls/{pull_number}", 200)
        return Answer(body={**body, **self._fields(pull, body)})

    def _simple(self, pull: Pull) -> dict[str, Any]:
        body = openapi.github().example("GET", "/repos/{owner}/{repo}/pulls", 200)[0]
        return {**body, **self._fields(pull, body)}

    def _fields(self, pull: Pull, body: dict[str, Any]) -> dict[str, Any]:
        head = {**body["head"], "sha": pull.head, "ref": pull.head_ref}
        head["repo"] = pull.head_repository and {**body["base"]["repo"], "full_name": pull.head_repository}
        base = {**body["base"], "ref": "main", "repo": {**body["base"]["repo"], "full_name": self.repository}}
        return {
            "requested_teams": [],  # the document's example has one that breaks its own schema
            "number": pull.number,
            "state": pull.state,
            "draft": pull.draft,
            "title": pull.title,
            "head": head,
            "base": base,
            "user": {**body["user"], "login": pull.author},
        }

    def _get_issues_issue_number_comments(self, call: Call, token: Token, at: Any) -> Answer:
        if int(at["issue_number"]) not in self.pulls:
            return Answer(status=404, body=_error("Not Found"))
        mine = [self._shown(one) for one in self.comments if one.pull == int(at["issue_number"])]
        return self._page(call, mine)

    def _post_issues_issue_number_comments(self, call: Call, token: Token, at: Any) -> Answer:
        if "pull-requests" not in token.may:
            return _forbidden(token)
        if int(at["issue_number"]) not in self.pulls:
            return Answer(status=404, body=_error("Not Found"))
        text = call.json()["body"]
        if not 0 < len(text) <= MAX_COMMENT:
            return _invalid("IssueComment", "body", "is too long (maximum is 65536 characters)")
        comment = self.add_comment(text, login=token.login, bot=token.bot, pull=int(at["issue_number"]))
        shown = self._shown(comment)
        return Answer(status=201, body=shown, headers={"Location": shown["url"]})

    def _patch_issues_comments_comment_id(self, call: Call, token: Token, at: Any) -> Answer:
        comment = self._comment(at)
        if comment is None:
            return Answer(status=404, body=_error("Not Found"))
        if "pull-requests" not in token.may:
            return _forbidden(token)
        text = call.json()["body"]
        if not 0 < len(text) <= MAX_COMMENT:
            return _invalid("IssueComment", "body", "is too long (maximum is 65536 characters)")
        comment.body = text
        return Answer(body=self._shown(comment))

    def _delete_issues_comments_comment_id(self, call: Call, token: Token, at: Any) -> Answer:
        comment = self._comment(at)
        if comment is None:
            return Answer(status=404, body=_error("Not Found"))
        if "pull-requests" not in token.may:
            return _forbidden(token)
        self.comments.remove(comment)
        return Answer(status=204)

    def _post_git_refs(self, call: Call, token: Token, at: Any) -> Answer:
        if "contents" not in token.may:
            return _forbidden(token)
        # There are no objects here that a branch could point to.
        return Answer(status=422, body=_error("Object does not exist"))

    def _post_statuses_sha(self, call: Call, token: Token, at: Any) -> Answer:
        if "statuses" not in token.may:
            return _forbidden(token)
        wanted = call.json()
        if not any(pull.head == at["sha"] for pull in self.pulls.values()):
            return Answer(status=422, body=_error(f"No commit found for SHA: {at['sha']}"))
        if len(wanted.get("description") or "") > MAX_DESCRIPTION:
            return _invalid("Status", "description", "is too long (maximum is 140 characters)")
        if sum(one["sha"] == at["sha"] and one["context"] == wanted["context"] for one in self.statuses) >= 1000:
            return _error_answer(422, "This SHA and context has reached the maximum number of statuses.")
        self.statuses.append({**wanted, "sha": at["sha"]})
        body = openapi.github().example("POST", "/repos/{owner}/{repo}/statuses/{sha}", 201)
        body.update({key: wanted.get(key) for key in ("state", "description", "target_url", "context")})
        return Answer(status=201, body=body)

    def _get_commits_ref_statuses(self, call: Call, token: Token, at: Any) -> Answer:
        example = openapi.github().example("POST", "/repos/{owner}/{repo}/statuses/{sha}", 201)
        fields = ("state", "description", "target_url", "context")
        mine = [
            {**example, **{key: one.get(key) for key in fields}} for one in self.statuses if one["sha"] == at["ref"]
        ]
        return self._page(call, mine[::-1])

    def _get_actions_runs_run_id(self, call: Call, token: Token, at: Any) -> Answer:
        if "actions" not in token.may:
            return _forbidden(token)
        status = self.runs.get(int(at["run_id"]))
        if status is None:
            return Answer(status=404, body=_error("Not Found"))
        body = openapi.github().example("GET", "/repos/{owner}/{repo}/actions/runs/{run_id}", 200)
        return Answer(body={**body, "id": int(at["run_id"]), "status": status})

    def _comment(self, at: Any) -> Comment | None:
        return next((one for one in self.comments if one.number == int(at["comment_id"])), None)

    def _shown(self, comment: Comment) -> dict[str, Any]:
        body = openapi.github().example("POST", "/repos/{owner}/{repo}/issues/{issue_number}/comments", 201)
        user = {**body["user"], "login": comment.login, "type": "Bot" if comment.bot else "User"}
        url = f"{self.url}/repos/{self.repository}/issues/comments/{comment.number}"
        return {
            **body,
            "id": comment.number,
            "url": url,
            "html_url": self._html_url(comment),
            "body": comment.body,
            "user": user,
        }

    def _html_url(self, comment: Comment) -> str:
        return f"{self.url}/{self.repository}/pull/{comment.pull}#issuecomment-{comment.number}"

    def _page(self, call: Call, everything: list[Any]) -> Answer:
        size = min(int(call.query.get("per_page", "30")), 100)
        page = int(call.query.get("page", "1"))
        headers = {}
        if page * size < len(everything):
            headers["Link"] = f'<{self.url}{call.path}?per_page={size}&page={page + 1}>; rel="next"'
        return Answer(body=everything[(page - 1) * size : page * size], headers=headers)

    # GraphQL

    def _graphql(self, call: Call, token: Token) -> Answer:
        asked = call.json()
        document = graphql.parse(asked["query"])
        problems = graphql.validate(self._schema, document)
        if problems:
            self.violations += [f"GraphQL: {problem.message}" for problem in problems]
        root = {"viewer": {"__typename": "User", "login": token.login}, "repository": self._graphql_repository}
        result = graphql.execute(
            self._schema,
            document,
            root_value=root,
            variable_values=asked.get("variables"),
            type_resolver=lambda value, *_: value["__typename"],
        )
        self.violations += [
            f"GraphQL: {error.message}"
            for error in result.errors or ()
            if not hasattr(error.original_error, "not_found")
        ]
        body: dict[str, Any] = {"data": result.data}
        if result.errors:
            body["errors"] = [
                {"type": "NOT_FOUND", "path": error.path, "message": error.message} for error in result.errors
            ]
        return Answer(body=body)

    def _graphql_repository(self, info: Any, *, owner: str, name: str, followRenames: bool = True) -> Any:  # noqa: N803
        if f"{owner}/{name}" not in (self.repository, self.renamed_from):
            raise _NotFoundError(f"Could not resolve to a Repository with the name '{owner}/{name}'.")
        return {"pullRequest": self._graphql_pull}

    def _graphql_pull(self, info: Any, *, number: int) -> Any:
        pull = self.pulls.get(number)
        if pull is None:
            raise _NotFoundError(f"Could not resolve to a PullRequest with the number of {number}.")
        url = f"{self.url}/{self.repository}/pull/{number}"

        def comments(info: Any, *, last: int = 0, before: str | None = None, **other: Any) -> Any:
            if not 0 < last <= 100:
                self.violations.append(f"GraphQL: last={last} is not within 1 to 100")
            all_of_it = [one for one in self.comments if one.pull == number]
            if before is not None:
                all_of_it = [one for one in all_of_it if one.number < int(before.removeprefix("cursor:"))]
            page = all_of_it[-last:]
            return {
                "totalCount": len(all_of_it),
                "nodes": [self._graphql_comment(one) for one in page],
                "pageInfo": {
                    "hasPreviousPage": len(page) < len(all_of_it),
                    "startCursor": f"cursor:{page[0].number}" if page else None,
                },
            }

        return {"headRefOid": pull.head, "state": pull.state.upper(), "url": url, "comments": comments}

    def _graphql_comment(self, comment: Comment) -> dict[str, Any]:
        # GraphQL names a bot without the suffix that REST and `viewer` give it.
        author = {"__typename": "Bot" if comment.bot else "User", "login": comment.login.removesuffix("[bot]")}
        # An account that was deleted leaves comments without an author.
        return {
            "author": author if comment.login != "ghost" else None,
            "body": comment.body,
            "fullDatabaseId": str(comment.number),
            "url": self._html_url(comment),
        }

    # Attachments

    def _attach(self, call: Call, token: Token) -> Answer:
        if call.method != "POST" or set(call.query) != {"name", "content_type", "repository_id"}:
            self.violations.append("attachment: wrong method or parameters")
        if token.server or "push" not in token.may or call.query["repository_id"] != "4711":
            return Answer(status=404, body=_error("Not Found"))
        if not call.query["content_type"].startswith("image/") or not call.body.startswith(b"\x89PNG\r\n"):
            return _invalid("Asset", "content_type", "is not allowed")
        url = f"{self.url}/user-attachments/assets/{len(self.attachments)}"
        self.attachments[url] = call.body
        return Answer(status=201, body={"url": url})


class _NotFoundError(Exception):
    not_found = True


def _error(message: str) -> dict[str, Any]:
    return {"message": message, "documentation_url": "https://docs.github.com/rest"}


def _error_answer(status: int, message: str) -> Answer:
    return Answer(status=status, body=_error(message))


def _forbidden(token: Token) -> Answer:
    kind = "integration" if token.server else "personal access token"
    return _error_answer(403, f"Resource not accessible by {kind}")


def _invalid(resource: str, field: str, message: str) -> Answer:
    errors = [{"resource": resource, "field": field, "code": "custom", "message": f"{field} {message}"}]
    return Answer(status=422, body={**_error("Validation Failed"), "errors": errors})


def secondary_limit(retry_after: int | None) -> Answer:
    """Return GitHub's answer to too many writes."""
    headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
    text = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    return Answer(status=403, body=_error(text), headers=headers)


def primary_limit(reset: int) -> Answer:
    """Return GitHub's answer when the hour's requests are used up; ``reset``: seconds since 1970."""
    headers = {"X-RateLimit-Limit": "1000", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(reset)}
    return Answer(status=403, body=_error("API rate limit exceeded for installation ID 1."), headers=headers)


def garbled(text: str) -> Answer:
    """Return a 200 whose JSON lacks what the document promises."""
    return Answer(body=json.loads(text))
