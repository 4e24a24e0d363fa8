"""What ``doctor`` asks GitHub: the token, each permission, and the settings that keep the ledger safe."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from gitops_ml.diagnostics import Check
from gitops_ml.errors import ServiceError
from gitops_ml.forges._calls import Patience, field
from gitops_ml.forges._github_api import GithubApi, need
from gitops_ml.forges.base import CannotPublishError

TOKEN_KINDS = {
    "ghs_": "installation token (such as the workflow's own)",
    "ghp_": "classic personal access token",
    "github_pat_": "fine-grained personal access token",
    "gho_": "OAuth token",
    "ghu_": "token of a GitHub App's user",
}


class GithubChecks:
    """Permissions to write are found out by writes that cannot take effect."""

    def __init__(self, api: GithubApi, patience: Patience, *, token_kind: str | None, change: int | None) -> None:
        """``token_kind``: None without a token. ``change``: the pull request that the CI job runs for."""
        self._api = api
        self._patience = patience
        self._token_kind = token_kind
        self._change = change

    def checks(self, ledger_branch: str) -> Iterator[Check]:
        """Yield one line for each thing that was looked at."""
        if self._token_kind is None:
            fix = "set `GITHUB_TOKEN`; in a workflow: `env: {GITHUB_TOKEN: '${{ github.token }}'}`"
            yield Check(subject="GitHub token", ok=False, found="none", fix=fix)
            return
        variable = self._api.token_variable
        yield Check(subject="GitHub token", ok=True, found=f"{self._token_kind} in `{variable}`")
        try:
            repository = self._patience.keep_trying(lambda: self._api.get("", doing="read the repository"))
        except ServiceError as error:
            fix = f"check `{variable}` and that it may read {self._api.repository}"
            yield Check(subject="GitHub repository", ok=False, found=str(error), fix=fix)
            return
        visibility = "private" if repository.get("private") is True else "public"
        yield Check(subject="GitHub repository", ok=True, found=f"{self._api.repository}, {visibility}")
        # No commit has the id 0: who may write statuses gets 422, who may not 403.
        # Nor can a branch be made that points to it.
        yield self._may(
            "reports on the ledger",
            "contents-write",
            "/git/refs",
            {"ref": f"refs/heads/{ledger_branch}-doctor", "sha": "0" * 40},
        )
        yield self._may(
            "commit statuses", "statuses", f"/statuses/{'0' * 40}", {"state": "pending", "context": "gitops-ml/doctor"}
        )
        if self._change is None:
            found = "cannot be tried outside of a pull request's job"
            yield Check(subject="comments on pull requests", ok=None, found=found, fix=f"needs {need('pull-requests')}")
        else:
            # An empty comment is refused after the permission was looked at.
            yield self._may(
                "comments on pull requests", "pull-requests", f"/issues/{self._change}/comments", {"body": ""}
            )
        yield self._fork_setting()
        yield self._ledger_rules(ledger_branch)

    def _may(self, subject: str, permission: str, path: str, body: Mapping[str, str]) -> Check:
        def ask() -> int:
            return self._api.request(
                "POST", path, doing=f"try {subject}", permission=permission, body=body, allow=(422,)
            )[0]

        try:
            status = self._patience.keep_trying(ask)
        except CannotPublishError as error:
            return Check(subject=subject, ok=False, found=str(error), fix=f"give the token {need(permission)}")
        except ServiceError as error:
            return Check(subject=subject, ok=None, found=str(error))
        return Check(subject=subject, ok=status == 422 or None, found="the token may write them")

    def _fork_setting(self) -> Check:
        subject = "approval for workflows of forks"
        fix = (
            "Settings > Actions > General > Approval for running fork pull request workflows: "
            "`Require approval for all external contributors`"
        )
        answer = self._optional("/actions/permissions/fork-pr-contributor-approval", doing="read the fork setting")
        if answer is None:
            return Check(subject=subject, ok=None, found="only an administrator's token can read it", fix=fix)
        policy = field(answer, "approval_policy", str)
        return Check(subject=subject, ok=policy == "all_external_contributors", found=policy, fix=fix)

    def _ledger_rules(self, branch: str) -> Check:
        subject = f"rules for the ledger branch `{branch}`"
        answer = self._optional(f"/rules/branches/{quote(branch, safe='')}", doing="read the branch's rules")
        if not isinstance(answer, list):
            return Check(subject=subject, ok=None, found="the token cannot read them")
        present = {rule.get("type") for rule in answer if isinstance(rule, Mapping)}
        wanted = {
            "update": "Restrict updates (with CI as the only bypass)",
            "deletion": "Restrict deletions",
            "non_fast_forward": "Block force pushes",
        }
        missing = [words for kind, words in wanted.items() if kind not in present]
        if not missing:
            return Check(subject=subject, ok=True, found=", ".join(sorted(wanted)))
        fix = f"Settings > Rules > Rulesets > New branch ruleset for `{branch}`: {', '.join(missing)}"
        return Check(subject=subject, ok=False, found=f"{len(missing)} of {len(wanted)} are missing", fix=fix)

    def _optional(self, path: str, *, doing: str) -> Any:
        try:
            status, answer = self._patience.keep_trying(
                lambda: self._api.request("GET", path, doing=doing, allow=(403, 404))
            )
        except ServiceError:
            return None
        return answer if status == 200 else None
