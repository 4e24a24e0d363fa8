"""What the job that trained has left with the forge, for a job that must not get it by its runner.

On GitLab a runner that brings the artifacts of another job also sets the variables that this one has reported (dotenv),
and a training can report some with its job's own token: where the forge is, or what the shell runs first. So the job
with the forge's token needs no artifacts of it, and fetches the archive itself. The digest lies in it too: here it only
says that the job came to its end. That no other job made the archive says the forge, which is asked for that one's.

https://docs.gitlab.com/ci/variables/dotenv_variables/#exclude-dotenv-variables
"""

import re
from collections.abc import Callable
from pathlib import Path

from gitops_ml.errors import UserError
from gitops_ml.forges.base import Forge, KeepsArtifacts
from gitops_ml.handover import MAX_ARCHIVE_BYTES, unpack

FOLDER = "gitops-ml-raw"
"""The ``--out`` of the job that trains, at the top of what it leaves."""
DOTENV = "gitops-ml.env"
"""Its ``--dotenv``."""
_MAX_DOTENV_BYTES = 64 * 1024


def fetched(forge: Forge, job: str, place: Path, note: Callable[[str], None]) -> tuple[Path, str] | None:
    """Bring what the job handed over into an empty folder; return where it lies, and the digest that the job said.

    None: it handed nothing over, and why was said.

    Raises:
        HandoverError: the archive is not what a job of ours leaves.
        ServiceError: it cannot be had.
    """
    if not isinstance(forge, KeepsArtifacts):
        raise UserError("`--from-job` is for GitLab; elsewhere the CI brings a folder, which `--from` names")
    left = forge.left_by_job(job, place, limit_bytes=MAX_ARCHIVE_BYTES)
    if left.archive is None:
        expired = "what it left has expired; run it again if results are missing"
        note(f"nothing is taken from the job `{job}` ({left.status}): {expired if left.expired else 'it left nothing'}")
        return None
    into = place / "unpacked"
    unpack(left.archive, into, names=(FOLDER, DOTENV))
    left.archive.unlink()
    digest = _digest(into / DOTENV)
    if digest is None:
        note(f"nothing is taken from the job `{job}` ({left.status}): it says no digest, so it did not come to its end")
        return None
    return into / FOLDER, digest


def _digest(file: Path) -> str | None:
    """Return the last digest that the job said."""
    if not file.is_file():
        return None
    with file.open("rb") as source:
        text = source.read(_MAX_DOTENV_BYTES)
    found = re.findall(rb"(?m)^DIGEST=([0-9a-f]{64})$", text)
    return found[-1].decode() if found else None
