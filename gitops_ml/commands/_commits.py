"""Commits by their id, also those whose branch is gone: ``report --push`` leaves them on the remote."""

import re

from gitops_ml.errors import ServiceError
from gitops_ml.tools import Tools


def obtained(commit: str, tools: Tools, *, offline: bool) -> str | None:
    """Return the commit if it is here or can be fetched from the ledger's remote; None: it is nowhere."""
    repository, remote = tools.repository, tools.project.ledger.remote
    if (here := repository.resolve(commit)) is not None:
        return here
    if offline or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", commit) or repository.remote_url(remote) is None:
        return None
    try:
        if (kept := repository.fetch(remote, f"refs/gitops-ml/commits/{commit}")) is not None:
            return kept
    except ServiceError as error:
        tools.note(f"warning: {error}")
        return None
    try:
        # Forges give what some ref of theirs still reaches, such as a merged change's own.
        return repository.fetch(remote, commit)
    except ServiceError:
        return None
