"""Clients for AWS, made the same way by the caller and on the training machine.

Credentials are boto3's business: the environment, a web identity, an instance's role. Where they are looked for can be
handed in, so that nothing here depends on the process's own environment.
"""

from collections.abc import Mapping
from typing import Any


def client(
    service: str,
    environ: Mapping[str, str],
    *,
    region: str | None = None,
    total_attempts: int = 5,
    connect_s: float = 5,
    read_s: float = 60,
) -> Any:
    """Return a boto3 client of its own session.

    Args:
        service: as boto3 names it, such as ``s3``.
        environ: the environment to take keys, region and ``AWS_ENDPOINT_URL`` from; without keys in it boto3 goes on
            to its other sources.
        region: instead of the environment's.
        total_attempts: how often boto3 sends a request before it gives up; 1: never again, the caller decides.
        connect_s: seconds until a connection must stand.
        read_s: seconds without a byte until a request has failed.
    """
    import boto3
    from botocore.config import Config

    key = environ.get("AWS_ACCESS_KEY_ID")
    session = boto3.session.Session(
        aws_access_key_id=key,
        aws_secret_access_key=environ.get("AWS_SECRET_ACCESS_KEY") if key else None,
        aws_session_token=environ.get("AWS_SESSION_TOKEN") if key else None,
        region_name=region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION"),
    )
    own = environ.get(f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_')}")
    return session.client(
        service,
        endpoint_url=own or environ.get("AWS_ENDPOINT_URL"),
        config=Config(
            connect_timeout=connect_s,
            read_timeout=read_s,
            retries={"mode": "standard", "total_max_attempts": total_attempts},
            user_agent_extra="gitops-ml",
        ),
    )
