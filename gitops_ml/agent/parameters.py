"""Secrets from AWS Systems Manager: read by the machine's own role, into memory only."""

from collections.abc import Mapping

from gitops_ml import aws

_AT_ONCE = 10


class ParameterError(Exception):
    """A secret could not be had; the text names it, never its value."""


def values(places: Mapping[str, str], environ: Mapping[str, str], region: str | None) -> dict[str, str]:
    """Return name -> value for name -> SSM parameter.

    Raises:
        ParameterError: one is not there, or the role may not read it.
    """
    if not places:
        return {}
    from botocore.exceptions import BotoCoreError, ClientError

    client = aws.client("ssm", environ, region=region)
    found: dict[str, str] = {}
    wanted = sorted(set(places.values()))
    try:
        for start in range(0, len(wanted), _AT_ONCE):
            answer = client.get_parameters(Names=wanted[start : start + _AT_ONCE], WithDecryption=True)
            found.update((entry["Name"], entry["Value"]) for entry in answer["Parameters"])
    except (BotoCoreError, ClientError) as error:
        details = getattr(error, "response", {}).get("Error", {})
        why = details.get("Code") or type(error).__name__
        raise ParameterError(
            f"the secrets {', '.join(sorted(places))} cannot be read from SSM ({why}); allow ssm:GetParameters on "
            f"{', '.join(wanted)}, and kms:Decrypt for their key, to the machine's role"
        ) from None
    finally:
        client.close()
    if missing := [f"{name} ({place})" for name, place in sorted(places.items()) if place not in found]:
        raise ParameterError(
            f"SSM has no parameter for the secrets {', '.join(missing)}; put it there, as SecureString"
        )
    return {name: found[place] for name, place in places.items()}
