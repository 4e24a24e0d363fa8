"""One connection to GitHub's API through PyGithub: what is sent, what is followed, and what a refusal means."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from gitops_ml import __version__
from gitops_ml.errors import ServiceError, UserError
from gitops_ml.forges._calls import Result, TransientError, said, within
from gitops_ml.forges.base import CannotPublishError

if TYPE_CHECKING:
    from github import Github

_NEEDS = {
    "pull-requests": "`pull-requests: write` (`permissions:` in the workflow; for a token of your own: Pull requests, "
    "read and write)",
    "statuses": "`statuses: write` (`permissions:` in the workflow; for a token of your own: Commit statuses, read and "
    "write)",
    "contents": "`contents: read`",
    "contents-write": "`contents: write` (`permissions:` in the workflow; for a token of your own: Contents, read and "
    "write)",
    "actions": "`actions: read` (`permissions:` in the workflow; for a token of your own: Actions, read)",
}


def need(permission: str) -> str:
    """Return how the permission is called where it is given."""
    return _NEEDS[permission]


class GithubApi:
    """Requests to one repository, each sent once: who repeats a write must look first.

    Args:
        api_url: of github.com or of an Enterprise Server.
        repository: ``owner/name``.
        token: never shown; ``token_variable`` is its name in messages.
        now: seconds since 1970, as rate limits name their end.
        timeout_s: for the connection, and for each part of an answer.
        answer_s: for a whole answer.
        remaining_s: what is left of the time for all answers together; raises ``ServiceError`` when nothing is.
    """

    def __init__(
        self,
        *,
        api_url: str,
        repository: str,
        token: str,
        token_variable: str,
        now: Callable[[], float],
        timeout_s: int,
        answer_s: float,
        remaining_s: Callable[[], float],
    ) -> None:
        self.repository = repository
        self.token_variable = token_variable
        self._api_url = api_url
        self._token = token
        self._now = now
        self._timeout_s = timeout_s
        self._answer_s = answer_s
        self._remaining_s = remaining_s

    @functools.cached_property
    def client(self) -> "Github":
        """PyGithub, which takes 0.2 s to import."""
        if not self._token:
            raise CannotPublishError(
                "no GitHub token: set `GITHUB_TOKEN` (in a workflow: `env: {GITHUB_TOKEN: '${{ github.token }}'}`)"
            )
        try:
            import github
        except ModuleNotFoundError as error:
            raise UserError(
                f"the forge `github` needs the module `{error.name}`; install it with `pip install 'gitops-ml[github]'`"
            ) from error
        return github.Github(
            auth=github.Auth.Token(self._token),
            base_url=self._api_url,
            timeout=self._timeout_s,
            retry=None,
            seconds_between_requests=None,
            seconds_between_writes=None,
            user_agent=f"gitops-ml/{__version__}",
        )

    @property
    def host(self) -> str:
        """The server's name, for messages."""
        return urlsplit(self._api_url).netloc

    def close(self) -> None:
        """Give the connection back."""
        if "client" in self.__dict__:
            self.client.close()

    def get(self, path: str, *, doing: str) -> Any:
        return self.request("GET", path, doing=doing, permission="contents")[1]

    def pages(self, path: str, *, doing: str, query: str = "") -> Iterator[Any]:
        page = 1
        while True:
            answer = self.get(f"{path}?{query}per_page=100&page={page}", doing=doing)
            if not isinstance(answer, list):
                raise TransientError(f"cannot {doing}: the answer is no list")
            yield from answer
            if len(answer) < 100:
                return
            page += 1

    def request(
        self,
        verb: str,
        path: str,
        *,
        doing: str,
        permission: str = "contents",
        body: Any = None,
        allow: tuple[int, ...] = (),
    ) -> tuple[int, Any]:
        """Send one request, once.

        Raises:
            TransientError: it may work later; of a write it is not known whether it took effect.
            CannotPublishError: GitHub refuses.
            ServiceError: it answers from elsewhere.
        """
        url = self.client.requester.graphql_url if path == "graphql" else f"/repos/{quote(self.repository)}{path}"
        status, headers, text = self._send(verb, url, body, doing=doing)
        if status in (307, 308):
            # A renamed repository. PyGithub follows 301 alone, on the same host.
            status, headers, text = self._send(verb, self._followed(headers, doing=doing), body, doing=doing)
        if 300 <= status < 400:
            self._followed(headers, doing=doing)
            raise ServiceError(f"cannot {doing}: {self.host} redirects in a circle ({status})")
        try:
            answer = json.loads(text) if text else None
        except ValueError:
            if status < 300:
                raise TransientError(f"cannot {doing}: {self.host} answered with something that is no JSON") from None
            answer = None
        if status < 300 or status in allow:
            return status, answer
        raise self.refusal(status, headers, answer, doing=doing, permission=permission)

    def timed(self, act: Callable[["Github"], Result]) -> Result:
        """Send one request with the client, within the time for a whole answer.

        Raises:
            TimeoutError: it did not end in time; the next request uses a client of its own.
        """
        client = self.client
        try:
            return within(min(self._answer_s, self._remaining_s()), lambda: act(client))
        except TimeoutError:
            del self.client
            raise

    def _send(self, verb: str, url: str, body: Any, *, doing: str) -> tuple[int, Mapping[str, Any], str]:
        import requests

        try:
            return self.timed(lambda client: client.requester.requestJson(verb, url, input=body))
        except TimeoutError:
            raise TransientError(f"cannot {doing}: {self.host} did not finish its answer in time") from None
        except requests.RequestException as error:
            reason = "did not answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
            raise TransientError(f"cannot {doing}: {self.host} {reason} ({type(error).__name__})") from error
        except (UnicodeDecodeError, ValueError) as error:
            raise TransientError(f"cannot {doing}: {self.host} answered with something unreadable") from error
        except RuntimeError as error:
            # PyGithub's word for a redirect to another host, or scheme; the token did not go there.
            raise ServiceError(f"cannot {doing}: {said(str(error), secret=self._token)}") from error

    def _followed(self, headers: Mapping[str, Any], *, doing: str) -> str:
        """Return where a redirect leads, as a path on the same server."""
        target = str(headers.get("location", ""))
        ours, theirs = urlsplit(self._api_url), urlsplit(target)
        if theirs[:2] != ours[:2]:
            elsewhere = said(urlsplit(target).netloc or "nowhere", secret=self._token)
            raise ServiceError(
                f"cannot {doing}: {self.host} redirects to {elsewhere}; the token is not sent there. Is the repository "
                "still where `GITHUB_REPOSITORY` or `origin` says?"
            )
        if not theirs.path.startswith(f"{ours.path}/"):
            raise ServiceError(f"cannot {doing}: {self.host} redirects out of its API; is `GITHUB_API_URL` right?")
        return target

    def refusal(
        self, status: int, headers: Mapping[str, Any], answer: Any, *, doing: str, permission: str
    ) -> Exception:
        words = said(answer, secret=self._token)
        text = f"cannot {doing}: {self.host} says {status}: {words}"
        after = _number(headers.get("retry-after"))
        if status == 429 or (status == 403 and (after is not None or "rate limit" in words.lower())):
            if after is None and headers.get("x-ratelimit-remaining") == "0":
                reset = _number(headers.get("x-ratelimit-reset"))
                after = None if reset is None else max(0.0, reset - self._now()) + 1.0
            elif after is None and status == 403:
                # GitHub's advice for a secondary limit without the header: "wait for at least one minute".
                after = 60.0
            return TransientError(text, wait_s=after)
        if status >= 500 or status in (408, 409):
            return TransientError(text)
        if status == 401:
            return CannotPublishError(
                f"{text}. The token in `{self.token_variable}` has expired or was revoked (a workflow's own token "
                "ends with its job); publish again with a fresh one"
            )
        if status in (403, 404):
            # GitHub hides what a token may not see: 404 is said where 403 is meant.
            return CannotPublishError(f"{text}. The token in `{self.token_variable}` needs {_NEEDS[permission]}")
        return CannotPublishError(text)


def _number(text: object) -> float | None:
    return float(text) if isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= 12 else None
