"""The metadata service: version 2, with tokens that run out, and silence."""

from collections.abc import Iterator

import pytest

from gitops_ml.agent.imds import Imds, ImdsError
from tests.fakes.far import MetadataService, metadata_service


@pytest.fixture
def service() -> Iterator[MetadataService]:
    with metadata_service() as running:
        yield running


def test_get__token_has_run_out__asks_for_another(service: MetadataService) -> None:
    assert service.imds.get("instance-id") == "i-0123456789abcdef0"
    service.token = "token-2"

    assert service.imds.get("instance-type") == "g6.xlarge"
    assert service.imds.get("no/such/thing") is None


def test_machine__some_is_not_known__is_left_out(service: MetadataService) -> None:
    del service.values["placement/availability-zone"]

    assert service.imds.machine() == {
        "id": "i-0123456789abcdef0",
        "type": "g6.xlarge",
        "image": "ami-0123456789abcdef0",
        "market": "spot",
    }


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        (None, None),
        ("", None),
        ("{", None),
        ("[]", None),
        ('{"action": "terminate", "time": "2026-11-26T22:00:00Z"}',
         {"action": "terminate", "time": "2026-11-26T22:00:00Z"}),
    ],
)  # fmt: skip
def test_notice__as_it_is_said__is_read(service: MetadataService, text: str | None, notice: object) -> None:
    if text is not None:
        service.values["spot/instance-action"] = text

    assert service.imds.notice() == notice


def test_anything__nobody_answers__is_an_error_or_nothing() -> None:
    nobody = Imds({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9"}, timeout_s=0.5)

    with pytest.raises(ImdsError, match="the metadata service does not answer"):
        nobody.get("instance-id")
    assert nobody.machine() == {}
    assert nobody.notice() is None
