"""A GitLab that keeps state, on loopback: held to a schema written from its documentation, with paging and roles.

What the documentation says beside the schema is kept too: notes come newest first with 20 to a page, a job token may
read only, an unknown project is 404, a status that is set again to what it is answers 400 "Cannot transition status".
"""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import jsonschema

from tests.fakes.openapi.gitlab import ROUTES
from tests.fakes.server import Answer, Call, Server

PROJECT = "acme/research/vision"
PROJECT_ID = 42
HEAD = "a" * 40


@dataclasses.dataclass(kw_only=True)
class Token:
    """Who a token speaks for: its user's id, the role in the project, and its scopes."""

    user: int
    level: int = 30
    scopes: tuple[str, ...] = ("api",)
    valid: bool = True
    job: bool = False


@dataclasses.dataclass(kw_only=True)
class Note:
    number: int
    request: int
    user: int
    body: str
    system: bool = False


@dataclasses.dataclass(kw_only=True)
class MergeRequest:
    number: int
    head: str = HEAD
    state: str = "opened"
    draft: bool = False
    title: str = "Try a larger rate"
    branch: str = "larger-rate"
    source_project: int | None = PROJECT_ID
    author: int = 1


@dataclasses.dataclass(kw_only=True)
class Job:
    """One job of a pipeline. ``archive``: what it has left, or who makes it; None: nothing."""

    number: int
    name: str
    status: str = "success"
    archive: bytes | Callable[[], bytes | None] | None = None
    expires: str | None = "2100-01-01T00:00:00.000Z"
    listed: bool = True
    """Whether the list of jobs names what it has left."""

    def left(self) -> bytes | None:
        return self.archive() if callable(self.archive) else self.archive


_ROUTES = [
    (method, re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(route)) + "$"), route)
    for method, route in ROUTES
]


class FakeGitLab(Server):
    """The state is public: tests set it up and look at it."""

    def __init__(self) -> None:
        super().__init__()
        self.project = PROJECT
        self.prefix = ""
        """Where a self-managed server stands below its host, such as `/git`."""
        self.visibility = "private"
        self.users = {1: "dana", 2: "rob", 90: "project_42_bot_0", 91: "stranger"}
        self.roles = {1: 50, 2: 30, 91: 20}
        self.tokens = {
            "glpat-canary0": Token(user=90),
            "glcbt-canary1": Token(user=1, job=True),
        }
        self.requests = {7: MergeRequest(number=7)}
        self.notes: list[Note] = []
        self.statuses: list[dict[str, Any]] = []
        self.pipelines: dict[int, str] = {}
        """State of each pipeline's jobs; one that is not named has no jobs."""
        self.jobs: dict[int, list[Job]] = {}
        """Jobs of pipelines, where they are told one by one."""
        self.artifacts_at: Callable[[Job], Answer] | None = None
        """Sends who asks for artifacts elsewhere, as GitLab does that keeps them in an object storage."""
        self.uploads: dict[str, bytes] = {}
        self.protected: dict[str, dict[str, Any]] = {}
        self.guarded_media: bool | None = False
        self.fork_pipelines: bool | None = True
        self.variables_role: str | None = "developer"
        self._numbers = itertools.count(1001)

    @contextmanager
    def running(self) -> Iterator["FakeGitLab"]:
        with super().running():
            yield self
        assert self.violations == [], "\n".join(self.violations)

    def add_comment(self, body: str, *, user: int = 2, request: int = 7, system: bool = False) -> Note:
        """Put a note there, as if someone had written it."""
        with self.lock:
            note = Note(number=next(self._numbers), request=request, user=user, body=body, system=system)
            self.notes.append(note)
            return note

    def by(self, user: int) -> list[Note]:
        """Return someone's notes."""
        return [note for note in self.notes if note.user == user]

    def handle(self, call: Call) -> Answer:
        secret = call.headers.get("private-token") or call.headers.get("job-token")
        text = call.path + str(call.query) + call.body.decode("utf-8", "replace")
        if any(known in text for known in self.tokens):
            self.violations.append(f"{call.method} {call.path}: the token is outside of the header")
        token = self.tokens.get(secret or "")
        if token is None or not token.valid or token.job != ("job-token" in call.headers):
            return Answer(status=401, body={"message": "401 Unauthorized"})
        if not call.path.startswith(f"{self.prefix}/"):
            self.violations.append(f"{call.method} {call.path} is not below {self.prefix}")
            return Answer(status=404, body={"error": "404 Not Found"})
        return self._rest(dataclasses.replace(call, path=call.path.removeprefix(self.prefix)), token)

    def _rest(self, call: Call, token: Token) -> Answer:
        found = next(
            (
                (route, match.groupdict())
                for method, pattern, route in _ROUTES
                if method == call.method and (match := pattern.match(call.path.removeprefix("/api/v4")))
            ),
            None,
        )
        if found is None or not call.path.startswith("/api/v4/"):
            self.violations.append(f"{call.method} {call.path} is not in the schema")
            return Answer(status=404, body={"error": "404 Not Found"})
        route, at = found
        schema = ROUTES[call.method, route]
        problems = [
            f"query {name}={value}"
            for name, value in call.query.items()
            if not re.fullmatch(schema.get("query", {}).get(name, "(?!)"), value)
        ]
        wanted = schema.get("body")
        if wanted == "multipart":
            problems += (
                [] if call.headers.get("content-type", "").startswith("multipart/form-data") else ["no multipart"]
            )
        elif wanted is not None:
            problems += _problems(wanted, call.json())
        elif call.body:
            problems.append("a body that is not asked for")
        if problems:
            self.violations += [f"{call.method} {call.path}: {problem}" for problem in problems]
            return Answer(status=400, body={"message": "400 Bad Request"})
        if token.job and (call.method != "GET" or route == "/user"):
            return Answer(status=401 if route == "/user" else 403, body={"message": "403 Forbidden"})
        if "id" in at and unquote(at["id"]) not in (self.project, str(PROJECT_ID)):
            return Answer(status=404, body={"message": "404 Project Not Found"})
        if call.method != "GET" and ("api" not in token.scopes or token.level < 20):
            return Answer(status=403, body={"error": "insufficient_scope", "message": "403 Forbidden"})
        name = re.sub(r"\W+", "_", re.sub(r"\{id\}", "", route)).strip("_")
        answer = getattr(self, f"_{call.method.lower()}_{name}")(call, token, at)
        if answer.status < 300:
            promised = schema["answers"].get(answer.status, {"not": {}})
            if promised is None:
                bad = [] if answer.body is None else ["a body"]
            elif promised == "file":
                bad = [] if isinstance(answer.body, bytes) else ["no file"]
            else:
                bad = _problems(promised, answer.body)
            self.violations += [f"the fake's answer to {call.method} {call.path}: {problem}" for problem in bad]
        return answer

    def _get_user(self, call: Call, token: Token, at: Any) -> Answer:
        return Answer(body=self._user(token.user))

    def _get_users(self, call: Call, token: Token, at: Any) -> Answer:
        return Answer(body=[self._user(user) for user, name in self.users.items() if name == call.query["username"]])

    def _get_personal_access_tokens_self(self, call: Call, token: Token, at: Any) -> Answer:
        body = {
            "id": 5,
            "name": "ci",
            "revoked": False,
            "active": True,
            "user_id": token.user,
            "expires_at": "2027-01-01",
        }
        return Answer(body={**body, "scopes": list(token.scopes)})

    def _get_projects(self, call: Call, token: Token, at: Any) -> Answer:
        body = {
            "id": PROJECT_ID,
            "path_with_namespace": self.project,
            "visibility": self.visibility,
            "permissions": {"project_access": {"access_level": token.level}, "group_access": None},
        }
        if self.guarded_media is not None:
            body["enforce_auth_checks_on_uploads"] = self.guarded_media
        if self.fork_pipelines is not None:
            body["ci_allow_fork_pipelines_to_run_in_parent_project"] = self.fork_pipelines
        if self.variables_role is not None:
            body["ci_pipeline_variables_minimum_override_role"] = self.variables_role
        return Answer(body=body)

    def _get_projects_protected_branches_name(self, call: Call, token: Token, at: Any) -> Answer:
        name = unquote(at["name"])
        if name not in self.protected:
            return Answer(status=404, body={"message": "404 Not found"})
        return Answer(body={"name": name, "push_access_levels": [], **self.protected[name]})

    def _get_projects_merge_requests(self, call: Call, token: Token, at: Any) -> Answer:
        wanted = call.query.get("state", "all")
        requests = [one for one in self.requests.values() if wanted in ("all", one.state)]
        return self._page(call, [self._request(one) for one in sorted(requests, key=lambda one: -one.number)])

    def _get_projects_merge_requests_iid(self, call: Call, token: Token, at: Any) -> Answer:
        request = self.requests.get(int(at["iid"]))
        return Answer(body=self._request(request)) if request else _not_found()

    def _get_projects_repository_commits_sha_merge_requests(self, call: Call, token: Token, at: Any) -> Answer:
        return self._page(call, [self._request(one) for one in self.requests.values() if one.head == at["sha"]])

    def _get_projects_merge_requests_iid_notes(self, call: Call, token: Token, at: Any) -> Answer:
        notes = [note for note in self.notes if note.request == int(at["iid"])]
        if call.query.get("sort", "desc") == "desc":
            notes.reverse()
        return self._page(call, [self._note(note) for note in notes])

    def _post_projects_merge_requests_iid_notes(self, call: Call, token: Token, at: Any) -> Answer:
        if int(at["iid"]) not in self.requests:
            return _not_found()
        return Answer(status=201, body=self._note(self.add_comment(call.json()["body"], user=token.user)))

    def _put_projects_merge_requests_iid_notes_note(self, call: Call, token: Token, at: Any) -> Answer:
        note = self._find(at)
        if note is None:
            return _not_found()
        if note.user != token.user:
            return Answer(status=403, body={"message": "403 Forbidden"})
        note.body = call.json()["body"]
        return Answer(body=self._note(note))

    def _delete_projects_merge_requests_iid_notes_note(self, call: Call, token: Token, at: Any) -> Answer:
        note = self._find(at)
        if note is None:
            return _not_found()
        self.notes.remove(note)
        return Answer(status=204)

    def _post_projects_statuses_sha(self, call: Call, token: Token, at: Any) -> Answer:
        if token.level < 30:
            return Answer(status=403, body={"message": "403 Forbidden"})
        if not any(request.head == at["sha"] for request in self.requests.values()):
            return Answer(status=404, body={"message": "404 Commit Not Found"})
        wanted = call.json()
        same = [one for one in self.statuses if (one["sha"], one["name"]) == (at["sha"], wanted["name"])]
        if same and same[-1]["state"] == wanted["state"]:
            act = {"running": "run", "success": "success", "failed": "drop"}[wanted["state"]]
            text = f"Cannot transition status via :{act} from :{wanted['state']}"
            text += f' (Reason(s): Status cannot transition via "{act}")'
            return Answer(status=400, body={"message": text})
        self.statuses.append({**wanted, "sha": at["sha"]})
        body = {"id": len(self.statuses), "sha": at["sha"], "status": wanted["state"], "name": wanted["name"]}
        return Answer(
            status=201, body={**body, "description": wanted.get("description"), "target_url": wanted.get("target_url")}
        )

    def _get_projects_repository_commits_sha_statuses(self, call: Call, token: Token, at: Any) -> Answer:
        shown = {}
        for number, one in enumerate(self.statuses, 1):
            if one["sha"] == at["sha"]:
                shown[one["name"]] = {
                    "id": number,
                    "sha": one["sha"],
                    "name": one["name"],
                    "status": one["state"],
                    "target_url": one.get("target_url"),
                    "description": one.get("description"),
                    "pipeline_id": one.get("pipeline_id", 1),
                }
        return self._page(call, list(shown.values()))

    def _get_projects_pipelines_pipeline_jobs(self, call: Call, token: Token, at: Any) -> Answer:
        state = self.pipelines.get(int(at["pipeline"]))
        jobs = [Job(number=1, name="gitops-ml:plan"), Job(number=2, name="gitops-ml:run", status=state or "")]
        jobs = self.jobs.get(int(at["pipeline"]), jobs if state else [])
        return self._page(call, [self._job(job) for job in sorted(jobs, key=lambda job: -job.number)])

    def _get_projects_jobs_job_artifacts(self, call: Call, token: Token, at: Any) -> Answer:
        job = next((job for jobs in self.jobs.values() for job in jobs if job.number == int(at["job"])), None)
        archive = job.left() if job else None
        if job is None or archive is None:
            return _not_found()
        if self.artifacts_at is not None:
            return self.artifacts_at(job)
        name = 'attachment; filename="artifacts.zip"'
        return Answer(body=archive, headers={"Content-Type": "application/zip", "Content-Disposition": name})

    def _post_projects_uploads(self, call: Call, token: Token, at: Any) -> Answer:
        found = re.search(rb'name="file"; filename="([^"\r\n]+)"\r\nContent-Type: ([^\r\n]+)\r\n\r\n', call.body)
        if found is None:
            self.violations.append("upload: no file")
            return Answer(status=400, body={"message": "400 Bad Request"})
        name = found[1].decode()
        url = f"/uploads/{hashlib.md5(str(len(self.uploads)).encode()).hexdigest()}/{name}"
        self.uploads[url] = call.body[found.end() :].split(b"\r\n--", 1)[0]
        body = {
            "id": 1,
            "alt": name,
            "url": url,
            "full_path": f"/-/project/{PROJECT_ID}{url}",
            "markdown": f"![{name}]({url})",
        }
        return Answer(status=201, body=body)

    def _get_projects_members_all_user(self, call: Call, token: Token, at: Any) -> Answer:
        user = int(at["user"])
        if user not in self.roles:
            return _not_found()
        return Answer(body={**self._user(user), "access_level": self.roles[user]})

    def _job(self, job: Job) -> dict[str, Any]:
        shown = {"id": job.number, "name": job.name, "status": job.status, "stage": "test"}
        archive = job.left() if job.listed else None
        left = {} if archive is None else {"artifacts_file": {"filename": "artifacts.zip", "size": len(archive)}}
        return {**shown, "artifacts": [], "artifacts_expire_at": job.expires, **left}

    def _find(self, at: Any) -> Note | None:
        return next((note for note in self.notes if note.number == int(at["note"])), None)

    def _user(self, user: int) -> dict[str, Any]:
        return {"id": user, "username": self.users[user], "name": self.users[user], "state": "active"}

    def _request(self, request: MergeRequest) -> dict[str, Any]:
        return {
            "id": 9000 + request.number,
            "iid": request.number,
            "state": request.state,
            "title": request.title,
            "sha": request.head,
            "source_branch": request.branch,
            "target_branch": "main",
            "draft": request.draft,
            "source_project_id": request.source_project,
            "target_project_id": PROJECT_ID,
            "author": self._user(request.author),
            "web_url": f"{self.url}/{self.project}/-/merge_requests/{request.number}",
        }

    def _note(self, note: Note) -> dict[str, Any]:
        when = "2026-11-23T12:00:00.000Z"
        return {
            "id": note.number,
            "body": note.body,
            "author": self._user(note.user),
            "created_at": when,
            "updated_at": when,
            "system": note.system,
            "noteable_iid": note.request,
            "noteable_type": "MergeRequest",
            "resolvable": False,
        }

    def _page(self, call: Call, everything: list[Any]) -> Answer:
        size = min(int(call.query.get("per_page", "20")), 100)
        page = int(call.query.get("page", "1"))
        more = page * size < len(everything)
        headers = {"X-Next-Page": str(page + 1) if more else "", "X-Page": str(page), "X-Per-Page": str(size)}
        return Answer(body=everything[(page - 1) * size : page * size], headers=headers)


def _problems(schema: Any, value: Any) -> list[str]:
    return [
        f"{error.json_path}: {error.message[-300:]}"
        for error in jsonschema.Draft202012Validator(schema).iter_errors(value)
    ]


def _not_found() -> Answer:
    return Answer(status=404, body={"message": "404 Not found"})
