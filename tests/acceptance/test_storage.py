"""A project that keeps its outputs in S3: what is large goes there, and comes back where it is needed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_loop import Checkout
from tests.fakes.s3 import BUCKET, S3, serving

TRAIN = """
import json, os, pathlib, sys
out = pathlib.Path(os.environ["GITOPS_ML_OUTPUT"])
lr = float(sys.argv[1])
rows = "".join(f"{n},{int((n * 7919) % 1000 < 800 + lr * 100)}\\n" for n in range(130_000))
out.joinpath("predictions.csv").write_text("id,correct\\n" + rows)
out.joinpath("model.bin").write_bytes(bytes(2**20 + 1))
out.joinpath("metrics.json").write_text(json.dumps({"accuracy": 0.8 + lr / 10}))
"""
SPEC = """\
version: 1
name: digits
run: python3 train.py ${params.lr}
params: {lr: 0.1}
metrics:
  read: [out/metrics.json]
  predictions: out/predictions.csv
  track: [{name: accuracy, goal: maximize}]
"""


@pytest.fixture
def s3() -> Iterator[S3]:
    with serving() as server:
        yield server


def project(folder: Path, s3: S3) -> Checkout:
    checkout = Checkout(folder)
    checkout.environ |= s3.environ
    checkout.write("train.py", TRAIN)
    checkout.write("experiments/digits.yaml", SPEC)
    checkout.write("gitops-ml.yaml", f"storage: s3://{BUCKET}/acme\n")
    checkout.commit()
    checkout.git("push", "--quiet", "origin", "main")
    checkout.git("switch", "--quiet", "--create", "change")
    checkout.replace("experiments/digits.yaml", "lr: 0.1", "lr: 0.2")
    checkout.commit()
    return checkout


def test_loop__storage_in_s3__large_outputs_go_there_and_come_back(tmp_path: Path, s3: S3) -> None:
    checkout = project(tmp_path, s3)

    code, said = checkout.call("run")
    assert code == 0, said
    stored = {path.partition("/outputs/")[2] for method, path in s3.requests if method == "PUT"}
    assert {path.partition("/")[2] for path in stored} == {
        "out/metrics.json",
        "out/model.bin",
        "out/predictions.csv",
    }
    s3.requests.clear()
    code, said = checkout.call("report", "--push")

    assert code == 0, said
    assert "130000 examples: " in said or "130000 examples: " in _report(checkout)
    assert sorted(method for method, _ in s3.requests) == ["GET", "GET"], "the predictions of both sides"
    key = next(path.split("/")[2] for path in checkout.records())
    code, said = checkout.call("show", key, "--format", "json")
    assert code == 0, said
    assert {file["path"]: file["store"] for file in json.loads(said)["files"]} == {
        "out/metrics.json": "storage",
        "out/model.bin": "storage",
        "out/predictions.csv": "storage",
    }


def test_loop__s3_refuses__says_so_and_keeps_the_records(tmp_path: Path, s3: S3) -> None:
    checkout = project(tmp_path, s3)
    s3.faults.append(lambda _: (403, "AccessDenied", {}))

    code, said = checkout.call("run")

    assert code == 0, said
    assert said.count("warning: outputs are not kept: s3://training/acme/outputs/") == 1
    assert "denied; allow s3:PutObject to this role (AccessDenied: as told)" in said
    code, said = checkout.call("report")
    assert code == 0, said
    assert "its examples are not compared" in said


def _report(checkout: Checkout) -> str:
    path = next(path for path in checkout.ledger() if path.startswith("reports/") and path.endswith("/report.md"))
    return checkout.git("--git-dir", str(checkout.remote), "show", f"gitops-ml/reports:{path}")
