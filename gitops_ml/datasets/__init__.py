"""Where training data comes from: one file per kind of URI, behind ``base``.

Runs on the training machine too: Python 3.10 and its standard library, and boto3 where a URI is S3's.
"""

import importlib
from collections.abc import Iterable, Mapping

from gitops_ml.datasets.base import Dataset, DatasetError, Outside

_KINDS = {
    "repository": "repository.RepositoryDataset",
    "s3": "s3.S3Dataset",
    "https": "https.HttpsDataset",
    "hf": "huggingface.HuggingFaceDataset",
    "dvc": "dvc.DvcDataset",
    "lfs": "lfs.LfsDataset",
}

CREDENTIALS = frozenset({
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "GITHUB_TOKEN", "GH_TOKEN",
    "CI_JOB_TOKEN", "GITLAB_TOKEN",
})  # fmt: skip
"""Those of ``variables`` that nobody may see."""

_AWS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
)  # fmt: skip
_FORGE = ("GITHUB_TOKEN", "GH_TOKEN", "GITHUB_SERVER_URL", "CI_JOB_TOKEN", "GITLAB_TOKEN", "CI_SERVER_URL")
_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "s3": _AWS,
    "hf": ("HF_TOKEN", "HF_ENDPOINT"),
    "dvc": _AWS,
    "lfs": _FORGE,
}
_ALWAYS = ("GITOPS_ML_ALLOW_HOSTS", "GITOPS_ML_CACHE_SIZE")


def kind_of(uri: str, source: Mapping[str, str]) -> str:
    """Return the kind of a data entry, by what the caller found out about it or by its scheme.

    Raises:
        DatasetError: there is no such kind here.
    """
    scheme, separator, _ = uri.partition("://")
    kind = source.get("kind") or (scheme if separator else "repository")
    if kind not in _KINDS:
        raise DatasetError(f"{uri}: `{kind}` is no kind of data that is known here; known are: {', '.join(_KINDS)}")
    return kind


def for_uri(uri: str, outside: Outside, source: Mapping[str, str] | None = None) -> Dataset:
    """Return what resolves and fetches a data entry.

    Args:
        uri: a path of the repository, or a URI.
        outside: the world.
        source: of a path whose content lies elsewhere: the kind (``dvc``, ``lfs``), and where.

    Raises:
        DatasetError: there is no such kind here.
    """
    module, _, name = _KINDS[kind_of(uri, source or {})].partition(".")
    made: Dataset = getattr(importlib.import_module(f"gitops_ml.datasets.{module}"), name)(outside, source or {})
    return made


def settings(kinds: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a machine elsewhere is to know of the caller's settings; where AWS is it knows by itself."""
    told = set(variables(kinds)) - CREDENTIALS - set(_AWS)
    return {name: environ[name] for name in sorted(told) if environ.get(name)}


def variables(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the caller's variables that fetching needs: endpoints, allowed hosts and credentials."""
    return tuple(dict.fromkeys([*_ALWAYS, *(name for kind in kinds for name in _VARIABLES.get(kind, ()))]))
