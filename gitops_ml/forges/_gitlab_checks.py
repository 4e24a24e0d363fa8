"""What ``doctor`` asks GitLab: the token, its scope and role, and the settings that keep plots and ledger safe."""

from collections.abc import Iterator, Mapping
from urllib.parse import quote

from gitops_ml.diagnostics import Check
from gitops_ml.errors import ServiceError
from gitops_ml.forges._calls import Patience
from gitops_ml.forges._gitlab_api import HOW_TO_ALLOW, JOB_TOKEN, GitlabApi

_DEVELOPER = 30


class GitlabChecks:
    """Questions only: nothing is written to find out whether it could be."""

    def __init__(self, api: GitlabApi, patience: Patience, *, has_token: bool) -> None:
        self._api = api
        self._patience = patience
        self._has_token = has_token

    def checks(self, ledger_branch: str) -> Iterator[Check]:
        """Yield one line for each thing that was looked at."""
        if not self._has_token:
            yield Check(subject="GitLab token", ok=False, found="none", fix=HOW_TO_ALLOW)
            return
        if self._api.token_variable == JOB_TOKEN:
            found = "a job token, which may read only: no comment, status or upload"
            yield Check(subject="GitLab token", ok=False, found=found, fix=HOW_TO_ALLOW)
        else:
            yield self._token()
        try:
            project = self._patience.keep_trying(lambda: self._api.get("", doing="read the project"))
        except ServiceError as error:
            fix = f"check that the token may read {self._api.project}"
            yield Check(subject="GitLab project", ok=False, found=str(error), fix=fix)
            return
        visibility = str(project.get("visibility", "unknown"))
        yield Check(subject="GitLab project", ok=True, found=f"{self._api.project}, {visibility}")
        yield self._role(project)
        yield self._media(project, visibility)
        yield self._forks(project)
        yield self._variables(project)
        yield self._ledger(ledger_branch)

    def _token(self) -> Check:
        subject = "GitLab token"
        try:
            status, answer = self._patience.keep_trying(
                lambda: self._api.request(
                    "GET", "/personal_access_tokens/self", doing="read the token", allow=(403, 404)
                )
            )
        except ServiceError as error:
            return Check(subject=subject, ok=False, found=str(error), fix=HOW_TO_ALLOW)
        if status != 200 or not isinstance(answer, Mapping):
            return Check(subject=subject, ok=None, found=f"`{self._api.token_variable}`, of a kind that tells nothing")
        scopes = answer.get("scopes")
        words = ", ".join(str(scope) for scope in scopes) if isinstance(scopes, list) else "unknown"
        found = f"`{self._api.token_variable}`, scopes {words}, expires {answer.get('expires_at') or 'never'}"
        return Check(subject=subject, ok=isinstance(scopes, list) and "api" in scopes, found=found, fix=HOW_TO_ALLOW)

    def _role(self, project: Mapping[str, object]) -> Check:
        subject = "role of the token"
        permissions = project.get("permissions")
        accesses = permissions.values() if isinstance(permissions, Mapping) else ()
        levels = [one.get("access_level") for one in accesses if isinstance(one, Mapping)]
        level = max((one for one in levels if isinstance(one, int)), default=0)
        fix = f"give it the role Developer ({_DEVELOPER}): statuses need it; {HOW_TO_ALLOW}"
        return Check(subject=subject, ok=level >= _DEVELOPER, found=f"access level {level}", fix=fix)

    def _media(self, project: Mapping[str, object], visibility: str) -> Check:
        subject = "plots in comments"
        if visibility == "public":
            return Check(subject=subject, ok=True, found="the project is public, and so are its uploads")
        guarded = project.get("enforce_auth_checks_on_uploads")
        fix = "Settings > General > Visibility > turn on `Require authentication to view media files`"
        if guarded is None:
            return Check(subject=subject, ok=None, found="the setting is not shown to this token", fix=fix)
        found = "uploads ask for a login" if guarded else "who knows an upload's address can read it"
        return Check(subject=subject, ok=guarded is True, found=found, fix=fix)

    def _forks(self, project: Mapping[str, object]) -> Check:
        subject = "pipelines of forks"
        allowed = project.get("ci_allow_fork_pipelines_to_run_in_parent_project")
        fix = (
            "`PUT projects/:id?ci_allow_fork_pipelines_to_run_in_parent_project=false`: otherwise a member can run a "
            "fork's CI file with this project's variables"
        )
        if allowed is None:
            return Check(subject=subject, ok=None, found="the setting is not shown to this token", fix=fix)
        found = "may run in this project, with its variables" if allowed else "run in the fork"
        return Check(subject=subject, ok=allowed is False, found=found, fix=fix)

    def _variables(self, project: Mapping[str, object]) -> Check:
        subject = "variables of a pipeline"
        role = project.get("ci_pipeline_variables_minimum_override_role")
        fix = (
            "Settings > CI/CD > Variables > `Minimum role to use pipeline variables`: no one. They can name another "
            "program to the job with the token, and a training can start a pipeline in the name of who pushed it"
        )
        if not isinstance(role, str):
            return Check(subject=subject, ok=None, found="the setting is not shown to this token", fix=fix)
        allowed = role != "no_one_allowed"
        found = f"may be set by the role {role} and above" if allowed else "nobody may set any"
        return Check(subject=subject, ok=not allowed, found=found, fix=fix)

    def _ledger(self, branch: str) -> Check:
        subject = f"protection of the ledger branch `{branch}`"
        fix = (
            f"Settings > Repository > Protected branches: add `{branch}`, allowed to push: only the token's user, "
            "allowed to force push: off"
        )
        path = f"/protected_branches/{quote(branch, safe='')}"
        try:
            answer = self._patience.keep_trying(
                lambda: self._api.get(path, doing="read the branch's protection", allow=(404,))
            )
        except ServiceError:
            return Check(subject=subject, ok=None, found="the token cannot read it", fix=fix)
        if not isinstance(answer, Mapping):
            return Check(subject=subject, ok=False, found="not protected", fix=fix)
        forced = answer.get("allow_force_push") is not False
        found = "protected, but force pushes are allowed" if forced else "protected, no force push"
        return Check(subject=subject, ok=not forced, found=found, fix=fix)
