"""One connection to GitLab's API through python-gitlab: what is sent, what is followed, and what a refusal means."""

import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from gitops_ml import __version__
from gitops_ml.errors import ServiceError, UserError
from gitops_ml.forges._calls import TransientError, said, within
from gitops_ml.forges.base import CannotPublishError

if TYPE_CHECKING:
    import requests
    from gitlab import Gitlab

# The job token of a pipeline may read notes; to write notes, uploads and statuses is not open to it
# (https://docs.gitlab.com/ci/jobs/ci_job_token/, gitlab-org/gitlab issues 464591 and 545150).
JOB_TOKEN = "CI_JOB_TOKEN"  # noqa: S105 the variable's name
MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REFUSAL_BYTES = 64 * 1024
_CHUNK_BYTES = 1 << 20
HOW_TO_ALLOW = (
    "create one: Settings > Access tokens (role Developer, scope `api`) and add it under Settings > CI/CD > "
    "Variables as the masked variable `GITLAB_TOKEN`"
)


class GitlabApi:
    """Requests to one project, each sent once: who repeats a write must look first.

    Args:
        api_url: ends in ``/api/v4``.
        project: its full path.
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
        project: str,
        token: str,
        token_variable: str,
        now: Callable[[], float],
        timeout_s: float,
        answer_s: float,
        remaining_s: Callable[[], float],
    ) -> None:
        self.project = project
        self.token_variable = token_variable
        self._api_url = api_url
        self._token = token
        self._now = now
        self._timeout_s = timeout_s
        self._answer_s = answer_s
        self._remaining_s = remaining_s
        self._responses: list[requests.Response] = []

    @property
    def host(self) -> str:
        """The server's name, for messages."""
        return urlsplit(self._api_url).netloc

    @functools.cached_property
    def client(self) -> "Gitlab":
        """python-gitlab, which takes 0.2 s to import."""
        if not self._token:
            raise CannotPublishError(f"no GitLab token: {HOW_TO_ALLOW}")
        try:
            import gitlab
        except ModuleNotFoundError as error:
            raise UserError(
                f"the forge `gitlab` needs the module `{error.name}`; install it with `pip install 'gitops-ml[gitlab]'`"
            ) from error
        job = self.token_variable == JOB_TOKEN
        client = gitlab.Gitlab(
            self._api_url.removesuffix("/api/v4"),
            timeout=self._timeout_s,
            user_agent=f"gitops-ml/{__version__}",
            session=_session(self._api_url),
            private_token=None if job else self._token,
            job_token=self._token if job else None,
        )
        # python-gitlab's exceptions carry no headers, and rate limits speak through them. A list of its own: a request
        # that was left behind may still be answered.
        responses: list[requests.Response] = []
        self._responses = responses

        def remember(response: "requests.Response", *_: object, **__: object) -> None:
            responses[:] = [response]

        client.session.hooks["response"].append(remember)
        return client

    def close(self) -> None:
        """Give the connection back."""
        if "client" in self.__dict__:
            self.client.session.close()

    def get(self, path: str, *, doing: str, allow: tuple[int, ...] = ()) -> Any:
        """Return the answer to a question about the project; None: one of the statuses in ``allow``."""
        status, answer = self.request("GET", self.of_project(path), doing=doing, allow=allow)
        return answer if status < 300 else None

    def pages(self, path: str, *, doing: str, query: Mapping[str, str]) -> Iterator[Any]:
        """Yield the elements of all pages."""
        page: str | None = "1"
        while page:
            _, answer = self.request(
                "GET", self.of_project(path), doing=doing, query={**query, "per_page": "100", "page": page}
            )
            if not isinstance(answer, list):
                raise TransientError(f"cannot {doing}: the answer is no list")
            yield from answer
            page = self._headers.get("X-Next-Page")

    def of_project(self, path: str) -> str:
        """Return the path of something that belongs to the project."""
        return f"/projects/{quote(self.project, safe='')}{path}"

    def write(
        self,
        verb: str,
        path: str,
        *,
        doing: str,
        body: Any = None,
        files: Mapping[str, Any] | None = None,
        allow: tuple[int, ...] = (),
    ) -> tuple[int, Any]:
        """Change something of the project.

        Raises:
            TransientError: it may work later; it is not known whether it took effect.
            CannotPublishError: GitLab refuses.
        """
        if self._token and self.token_variable == JOB_TOKEN:
            raise CannotPublishError(
                f"cannot {doing}: GitLab lets a job token read only. A project access token is needed: {HOW_TO_ALLOW}"
            )
        return self.request(verb, self.of_project(path), doing=doing, body=body, files=files, allow=allow)

    def request(
        self,
        verb: str,
        path: str,
        *,
        doing: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        files: Mapping[str, Any] | None = None,
        allow: tuple[int, ...] = (),
    ) -> tuple[int, Any]:
        """Send one request, once, and return status and answer."""
        client = self.client
        import gitlab.exceptions
        import requests

        try:
            response = within(
                min(self._answer_s, self._remaining_s()),
                lambda: client.http_request(
                    verb.lower(),
                    path,
                    query_data=dict(query or {}),
                    post_data=body,
                    files=dict(files) if files else None,
                    obey_rate_limit=False,
                    retry_transient_errors=False,
                ),
            )
        except TimeoutError:
            del self.client
            raise TransientError(f"cannot {doing}: {self.host} did not finish its answer in time") from None
        except gitlab.exceptions.RedirectError as error:
            raise ServiceError(
                f"cannot {doing}: {self.host} redirects the request; is the project still at {self.project}?"
            ) from error
        except gitlab.exceptions.GitlabError as error:
            status = error.response_code or 500
            if status in allow:
                return status, self._said(error.error_message)
            # Without the cause: it quotes the service word for word.
            raise self._refusal(status, error.error_message, doing=doing, headers=self._headers) from None
        except requests.RequestException as error:
            reason = "did not answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
            raise TransientError(f"cannot {doing}: {self.host} {reason} ({type(error).__name__})") from error
        if not response.content:
            return response.status_code, None
        try:
            return response.status_code, response.json()
        except ValueError:
            raise TransientError(f"cannot {doing}: {self.host} answered with something that is no JSON") from None

    def download(self, path: str, folder: Path, *, doing: str, limit_bytes: int, limit_s: float) -> Path | None:
        """Bring something large into a file of the folder's, new for each try; None: there is none.

        GitLab may send us on to where it keeps such things. The token goes along on GitLab's own host alone, and not
        any more once that was left.

        Raises:
            TransientError: it may work later.
            ServiceError: it is larger than the limit, or GitLab sends us where we do not go.
            CannotPublishError: GitLab refuses.
        """
        if not self._token:
            raise CannotPublishError(f"no GitLab token: {HOW_TO_ALLOW}")
        url = f"{self._api_url}{self.of_project(path)}"
        try:
            return within(limit_s, lambda: self._brought(url, folder, doing=doing, limit_bytes=limit_bytes))
        except TimeoutError:
            raise TransientError(f"cannot {doing}: it did not come within {limit_s:.0f} s") from None

    def _brought(self, url: str, folder: Path, *, doing: str, limit_bytes: int) -> Path | None:
        import requests

        secret = {"JOB-TOKEN" if self.token_variable == JOB_TOKEN else "PRIVATE-TOKEN": self._token}
        try:
            with _unled() as session:
                for _ in range(MAX_REDIRECTS + 1):
                    if _origin(url) != _origin(self._api_url):
                        secret = {}
                    with session.get(
                        url,
                        # Bytes as they are kept: what is unpacked on the way has no limit.
                        headers={"User-Agent": f"gitops-ml/{__version__}", "Accept-Encoding": "identity", **secret},
                        auth=lambda request: request,  # else what ~/.netrc says of the host would be sent
                        stream=True,
                        timeout=self._timeout_s,
                    ) as answer:
                        if answer.status_code in _REDIRECTS:
                            url = self._onward(url, answer.headers.get("Location"), doing=doing)
                        elif answer.status_code == 200:
                            return _kept(answer, folder, doing=doing, limit_bytes=limit_bytes)
                        elif not secret:
                            # Such as an address that is good for some minutes: GitLab makes another one.
                            raise TransientError(f"cannot {doing}: {_origin(url)[1]} says {answer.status_code}")
                        elif answer.status_code == 404:
                            return None
                        else:
                            message = _message(answer)
                            raise self._refusal(answer.status_code, message, doing=doing, headers=answer.headers)
        except requests.RequestException as error:
            # Without the cause, which quotes the address: that may be signed, and so a key.
            reason = "did not answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
            raise TransientError(f"cannot {doing}: {_origin(url)[1]} {reason} ({type(error).__name__})") from None
        raise ServiceError(f"cannot {doing}: {self.host} redirects more than {MAX_REDIRECTS} times")

    def _onward(self, url: str, location: str | None, *, doing: str) -> str:
        """Return where a redirect leads.

        Raises:
            ServiceError: nowhere, or where everybody can listen.
        """
        try:
            target = urljoin(url, location or "")
            scheme, host = _origin(target)
        except ValueError:
            scheme, host = "", ""
        if not location or not host or scheme not in ("http", "https"):
            raise ServiceError(f"cannot {doing}: {_origin(url)[1]} redirects to something that is no address")
        if scheme == "http" and _origin(url)[0] == "https":
            raise ServiceError(f"cannot {doing}: {_origin(url)[1]} redirects from https to http, at {host}")
        return target

    @property
    def _headers(self) -> Mapping[str, str]:
        """Those of the last answer."""
        return self._responses[0].headers if self._responses else {}

    def _said(self, message: object) -> str:
        return said(message.decode("utf-8", "replace") if isinstance(message, bytes) else message, secret=self._token)

    def _refusal(self, status: int, message: object, *, doing: str, headers: Mapping[str, str]) -> Exception:
        text = f"cannot {doing}: {self.host} says {status}: {self._said(message)}"
        if status == 429:
            after = _number(headers.get("Retry-After"))
            reset = _number(headers.get("RateLimit-Reset"))
            if after is None and reset is not None:
                after = max(0.0, reset - self._now()) + 1.0
            return TransientError(text, wait_s=after)
        if status >= 500 or status in (408, 409):
            return TransientError(text)
        if status == 401:
            return CannotPublishError(
                f"{text}. The token in `{self.token_variable}` has expired or was revoked; {HOW_TO_ALLOW}"
            )
        if status in (403, 404):
            # GitLab hides what a token may not see: 404 is said where 403 is meant.
            return CannotPublishError(
                f"{text}. The token in `{self.token_variable}` needs the scope `api` and at least the role Developer; "
                f"{HOW_TO_ALLOW}"
            )
        return CannotPublishError(text)


def _session(api_url: str) -> "requests.Session":
    import requests

    class OneHost(requests.Session):
        """Follows redirects on GitLab's own host alone: requests would take PRIVATE-TOKEN along to any other."""

        def get_redirect_target(self, resp: requests.Response) -> str | None:
            target = super().get_redirect_target(resp)
            if target is None:
                return None
            host = urlsplit(api_url).netloc
            try:
                place = urlsplit(target)
            except ValueError:
                resp.close()
                raise ServiceError(f"{host} redirects to something that is no address") from None
            if place.netloc and place[:2] != urlsplit(api_url)[:2]:
                resp.close()
                raise ServiceError(
                    f"{host} redirects to {said(place.netloc, secret='')}; the token is not sent there. Is the project "
                    "still where `CI_PROJECT_PATH` or `origin` says?"
                )
            return target

    return OneHost()


def _origin(url: str) -> tuple[str, str]:
    """Return scheme and host, which are what a token belongs to; the host is shown, and so has no control characters.

    Raises:
        ValueError: it is no URL.
    """
    parts = urlsplit(url)
    return parts.scheme.lower(), said(parts.netloc.rpartition("@")[2].lower(), secret="") if parts.netloc else ""


def _kept(answer: "requests.Response", folder: Path, *, doing: str, limit_bytes: int) -> Path:
    """Write the body into a new file."""
    import requests

    length = answer.headers.get("Content-Length", "")
    announced = int(length) if length.isascii() and length.isdecimal() and len(length) <= 18 else None
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise ServiceError(f"cannot {doing}: it comes in an encoding that was not asked for")
    size_bytes = 0
    try:
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            for chunk in answer.iter_content(_CHUNK_BYTES):
                size_bytes += len(chunk)
                if max(size_bytes, announced or 0) > limit_bytes:
                    raise ServiceError(f"cannot {doing}: it has more than {limit_bytes} bytes")
                file.write(chunk)
    except requests.RequestException:  # which is an OSError too
        raise
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}") from error
    if announced is not None and size_bytes != announced:
        raise TransientError(f"cannot {doing}: {size_bytes} of {announced} bytes came")
    return Path(file.name)


def _message(answer: "requests.Response") -> object:
    """Return what a refusal says, as far as it can be read."""
    text = next(answer.iter_content(_MAX_REFUSAL_BYTES), b"")
    try:
        return json.loads(text)
    except ValueError:
        return text


def _unled() -> "requests.Session":
    import requests

    class Unled(requests.Session):
        """Follows no redirect and does not look at where one leads: for that it would read the whole answer."""

        def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 as requests declares it
            return None

    return Unled()


def _number(text: object) -> float | None:
    return float(text) if isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= 12 else None
