"""Secrets from SSM, as moto keeps them: into memory, by name, and never into an error."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gitops_ml.agent.parameters import ParameterError, values
from gitops_ml.spec import Environment
from gitops_ml.storage import opened
from tests.fakes.far import Attempt, Running, around, submit
from tests.fakes.s3 import BUCKET, S3, serving
from tests.fakes.trials import WRITES, trial

CANARY = "canary-3f9a-canary"


@pytest.fixture(scope="module")
def cloud() -> Iterator[S3]:
    with serving() as server:
        ssm: Any = server.client("ssm")
        for number in range(12):
            name, value = f"/gitops-ml/acme/digits/S{number}", f"{CANARY}-{number}"
            ssm.put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True)
        ssm.close()
        yield server


def places(*names: str) -> dict[str, str]:
    return {name: f"/gitops-ml/acme/digits/{name}" for name in names}


def test_values__more_than_one_answer_holds__all(cloud: S3) -> None:
    names = [f"S{number}" for number in range(12)]

    assert values(places(*names), cloud.environ, "us-east-1") == {f"S{n}": f"{CANARY}-{n}" for n in range(12)}


def test_values__none_asked__asks_nobody() -> None:
    assert values({}, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, None) == {}


def test_values__missing__names_it_and_its_place(cloud: S3) -> None:
    with pytest.raises(ParameterError) as caught:
        values(places("S1", "NONE"), cloud.environ, "us-east-1")

    assert str(caught.value) == (
        "SSM has no parameter for the secrets NONE (/gitops-ml/acme/digits/NONE); put it there, as SecureString"
    )


def test_values__denied__names_the_permission(cloud: S3) -> None:
    cloud.faults.append(lambda _: (400, "AccessDeniedException", {}))
    try:
        with pytest.raises(ParameterError) as caught:
            values(places("S1"), cloud.environ, "us-east-1")
    finally:
        cloud.faults.clear()

    assert str(caught.value) == (
        "the secrets S1 cannot be read from SSM (AccessDeniedException); allow ssm:GetParameters on "
        "/gitops-ml/acme/digits/S1, and kms:Decrypt for their key, to the machine's role"
    )


def test_run__secret__reaches_the_training_and_no_object(cloud: S3, tmp_path: Path) -> None:
    storage = opened(f"s3://{BUCKET}/acme", tmp_path, cloud.environ)
    of = trial(
        f"echo $S1; echo $S1 | base64; {WRITES}; echo ${{#S1}} >out/length", environment=Environment(secrets=("S1",))
    )
    environ = {**cloud.environ, "PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[3])}
    machine = around(tmp_path / "work", environ, region="us-east-1")

    result = Running(storage, submit(storage, of, secrets=places("S1")), machine).end()

    assert result["outcome"] == "succeeded"
    assert Attempt(storage, of.key).log.startswith("***\n")
    assert Attempt(storage, of.key).get("outputs/out/length") == b"20\n"
    for name in storage.names(""):
        assert CANARY.encode() not in (storage.get(name) or b""), name
    for file in (tmp_path / "work").rglob("*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes(), file
