"""The CI job's own identity token, kept fresh in a file where a cloud's client looks for it: no key is stored anywhere.

``GITOPS_ML_IDENTITY_FILE`` names the file; the action and the GitLab include set it beside ``AWS_ROLE_ARN`` and
``AWS_WEB_IDENTITY_TOKEN_FILE``, by which boto3 takes on the role by itself, and again when the role's time is over. A
GitHub job's token lives five minutes only, so it is asked for again while the command runs; GitLab's lives as long as
the job. The file is this user's alone, and is removed at the end.

https://docs.github.com/en/actions/reference/security/oidc
https://docs.gitlab.com/ci/secrets/id_token_authentication/
"""

import base64
import contextlib
import http.client
import json
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from gitops_ml.errors import DeniedError, ServiceError, UserError

AUDIENCE = "sts.amazonaws.com"
FILE = "GITOPS_ML_IDENTITY_FILE"
GITLAB_TOKEN = "GITOPS_ML_ID_TOKEN"  # noqa: S105 a variable's name
_URL, _BEARER = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
_EVERY_S = 200.0
_TIMEOUT_S = 20
_MAX_BYTES = 64 * 1024


def at_hand(environ: Mapping[str, str]) -> bool:
    """Return whether the job can prove who it is to a cloud: nothing of a change may run beside that."""
    return bool(environ.get(_BEARER) or environ.get(GITLAB_TOKEN))


def refuse_beside_training(environ: Mapping[str, str], names: list[str]) -> None:
    """Refuse to train on this very machine in a job that can take on a cloud's role.

    Raises:
        DeniedError: what trains could take it on too.
    """
    if names and at_hand(environ):
        listed = ", ".join(f"`{name}`" for name in sorted(set(names)))
        raise DeniedError(
            f"{listed} would train in the job itself (backend `local`), and this job can take on a cloud role, which "
            "whatever trains here could do too; name a cloud backend, or train it in a job without `id-token: write`"
        )


@contextlib.contextmanager
def kept_fresh(environ: Mapping[str, str], note: Callable[[str], None], *, every_s: float = _EVERY_S) -> Iterator[None]:
    """Keep the token in the file that the environment names while the block runs; without one nothing is done.

    Raises:
        UserError: the job may not have a token.
        ServiceError: the CI does not give one.
    """
    name = environ.get(FILE)
    if not name:
        yield
        return
    file = Path(name)
    _write(file, token(environ))
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(every_s):
            try:
                _write(file, token(environ))
            except UserError as error:  # the one that is there may do until the next time
                note(f"the job's identity token was not renewed: {error}")

    thread = threading.Thread(target=renew, daemon=True)
    if not environ.get(GITLAB_TOKEN):
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join(_TIMEOUT_S)
        file.unlink(missing_ok=True)


def token(environ: Mapping[str, str], *, audience: str = AUDIENCE) -> str:
    """Return a token for the audience, as the CI gives it to this job now."""
    if given := environ.get(GITLAB_TOKEN):
        return given
    url, bearer = environ.get(_URL), environ.get(_BEARER)
    if not url or not bearer:
        raise UserError(
            "this job may have no identity token; give it `id-token: write` under `permissions:` (GitHub), or "
            f"`id_tokens: {{{GITLAB_TOKEN}: {{aud: ...}}}}` (GitLab)"
        )
    host = urlsplit(url).netloc
    joined = f"{url}{'&' if urlsplit(url).query else '?'}audience={quote(audience, safe='')}"
    headers = {"Authorization": f"bearer {bearer}", "Accept": "application/json"}
    try:
        request = urllib.request.Request(joined, headers=headers)  # noqa: S310 it is the runner's own
        with _opener().open(request, timeout=_TIMEOUT_S) as answer:
            value = json.loads(answer.read(_MAX_BYTES)).get("value")
    except urllib.error.HTTPError as error:
        error.close()
        raise ServiceError(f"{host} gives no identity token: it says {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
        raise ServiceError(f"{host} gives no identity token ({type(error).__name__})") from None
    if not isinstance(value, str) or not re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", value, re.ASCII):
        raise ServiceError(f"{host} gives no identity token: its answer holds none")
    return value


def claims(text: str) -> Mapping[str, Any]:
    """Return what a token says of the job; the signature is the cloud's to look at."""
    try:
        part = text.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError) as error:
        raise ServiceError("the identity token cannot be read") from error
    if not isinstance(found, dict):
        raise ServiceError("the identity token cannot be read")
    return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The bearer goes to the address that the runner named, and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect)


def _write(file: Path, text: str) -> None:
    """Write whole or not at all, for this user alone: a client may be reading."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = file.with_name(f".{file.name}.{os.getpid()}")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:
            out.write(text)
        part.replace(file)
    except OSError as error:
        raise UserError(f"{FILE}: cannot write {file}: {error.strerror}") from error
