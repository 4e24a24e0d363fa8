"""What an EC2 machine can ask about itself: version 2 of the instance metadata service."""

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

_PREFIX = "X-aws-ec2-metadata-token"


class ImdsError(Exception):
    """The service did not answer."""


class Imds:
    """The metadata service of this machine, or of a test."""

    def __init__(self, environ: Mapping[str, str], *, timeout_s: float = 2.0) -> None:
        self._base = environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
        self._timeout_s = timeout_s
        self._token: str | None = None
        # Never through a proxy: it would answer for another machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str) -> str | None:
        """Return what stands below ``latest/meta-data/``; None: there is no such thing.

        Raises:
            ImdsError: no answer.
        """
        for last in (False, True):
            try:
                if self._token is None:
                    self._token = self._ask("api/token", "PUT", {"-ttl-seconds": "21600"})
                return self._ask(f"meta-data/{path}", "GET", {"": self._token})
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 404:
                    return None
                self._token = None  # it may have run out
                if last:
                    raise ImdsError(f"the metadata service answers {error.code} for {path}") from error
            except OSError as error:
                raise ImdsError(f"the metadata service does not answer: {error}") from error
        raise AssertionError

    def machine(self) -> dict[str, str]:
        """Return what identifies this machine; what is not known is left out."""
        found = {}
        with contextlib.suppress(ImdsError):
            for name, path in (
                ("id", "instance-id"),
                ("type", "instance-type"),
                ("zone", "placement/availability-zone"),
                ("image", "ami-id"),
                ("market", "instance-life-cycle"),
            ):
                if value := self.get(path):
                    found[name] = value.strip()
        return found

    def notice(self) -> dict[str, Any] | None:
        """Return the notice that this spot machine is taken away, about two minutes ahead; None: there is none."""
        try:
            text = self.get("spot/instance-action")
            data = json.loads(text) if text else None
        except (ImdsError, ValueError):
            return None  # asked again in some seconds; the cloud's own word stays as the second witness
        return data if isinstance(data, dict) else None

    def _ask(self, path: str, method: str, headers: Mapping[str, str]) -> str:
        request = urllib.request.Request(  # noqa: S310 the address is the service's own
            f"{self._base}/latest/{path}", headers={_PREFIX + k: v for k, v in headers.items()}, method=method
        )
        with self._opener.open(request, timeout=self._timeout_s) as answer:
            text: str = answer.read().decode()
        return text
