"""Clients for AWS, made the same way by the caller and on the training machine.

Credentials are boto3's business: the environment, a web identity, an instance's role. Where they are looked for can be
handed in, so that nothing here depends on the process's own environment.
"""

import datetime
import email.utils
import sys
import time
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
    anonymous: bool = False,
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
        anonymous: do not sign when there are no credentials at all, as public buckets want it.
    """
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    key = environ.get("AWS_ACCESS_KEY_ID")
    session = boto3.session.Session(
        aws_access_key_id=key,
        aws_secret_access_key=environ.get("AWS_SECRET_ACCESS_KEY") if key else None,
        aws_session_token=environ.get("AWS_SESSION_TOKEN") if key else None,
        region_name=region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION"),
    )
    unsigned = anonymous and session.get_credentials() is None
    own = environ.get(f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_')}")
    return session.client(
        service,
        endpoint_url=own or environ.get("AWS_ENDPOINT_URL"),
        config=Config(
            connect_timeout=connect_s,
            read_timeout=read_s,
            retries={"mode": "standard", "total_max_attempts": total_attempts},
            user_agent_extra="gitops-ml",
            **({"signature_version": UNSIGNED} if unsigned else {}),
        ),
    )


class _CorrectedClock:
    """What signers ask for the time, in place of botocore's own function: the one place that holds the correction."""

    def __init__(self, offset_s: float) -> None:
        self.offset_s = offset_s

    def __call__(self, remove_tzinfo: bool = True) -> datetime.datetime:  # noqa: FBT001 as botocore declares it
        now = datetime.datetime.fromtimestamp(time.time() + self.offset_s, datetime.timezone.utc)  # noqa: UP017 Python 3.10
        return now.replace(tzinfo=None) if remove_tzinfo else now


def clock_offset_s() -> float:
    """Return what has to be added to this machine's clock to have the right time, as far as AWS told us."""
    signers = sys.modules.get("botocore.auth")  # while it is not imported nothing was asked of AWS
    clock = getattr(signers, "get_current_datetime", None)
    return clock.offset_s if isinstance(clock, _CorrectedClock) else 0.0


def correct_clock(date: str) -> bool:
    """Sign from now on with the time in a response's ``Date``; False: it holds none, or boto3 cannot be told.

    A machine whose clock is wrong by more than 15 minutes is otherwise refused by every service.
    """
    import botocore.auth

    try:
        right = email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return False
    if not hasattr(botocore.auth, "get_current_datetime"):
        return False
    # Signers ask this function, and nothing lets a client bring its own time.
    botocore.auth.get_current_datetime = _CorrectedClock(right - time.time())
    return True
