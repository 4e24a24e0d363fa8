"""A secret reaches the training's environment and nothing else; the shipped policies are enough, no action too many."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.aws import Cloud
from tests.fakes.aws.checkouts import Checkout
from tests.fakes.repositories import git

ACCOUNT = "123456789012"
CANARY = "canary-7f3e9a51c2"
NAME = "/gitops-ml/acme/digits/HF_TOKEN"
POLICIES = Path(__file__).parents[2] / "action" / "aws"

TRAIN = """
import hashlib, os, pathlib, subprocess, sys

token = os.environ["HF_TOKEN"]
print("token is", token, flush=True)
print("half", token[:9], end="", flush=True)
print(token[9:], flush=True)
sys.stderr.write(f"https://user:{token}@example.invalid/\\n")
pathlib.Path("out").mkdir(exist_ok=True)
found = [file.read_bytes().replace(b"\\0", b" ") for file in pathlib.Path("/proc").glob("[0-9]*/cmdline")]
pathlib.Path("out/processes.txt").write_bytes(b"\\n".join(found))
pathlib.Path("out/digest.txt").write_text(hashlib.sha256(token.encode()).hexdigest())
if len(sys.argv) > 1:
    raise SystemExit(f"cannot log in with {token}")
pathlib.Path("out/metrics.json").write_text('{"accuracy": 0.5}')
"""


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with Cloud(tmp_path / "machines") as cloud:
        yield cloud
        assert cloud.violations == []


@pytest.fixture
def checkout(tmp_path: Path, cloud: Cloud) -> Checkout:
    checkout = Checkout(tmp_path / "there", cloud)
    checkout.open_gate()
    return checkout


def put_secret(cloud: Cloud) -> None:
    cloud.client("ssm").put_parameter(Name=NAME, Type="SecureString", Value=CANARY)


def everything(cloud: Cloud, checkout: Checkout) -> Iterator[tuple[str, bytes]]:
    """Yield all that is left anywhere, with the name of its place."""
    for instance in cloud.instances():
        yield f"user data of {instance.identity}", instance.user_data
        yield f"request for {instance.identity}", json.dumps(instance.parameters).encode()
        yield f"console of {instance.identity}", cloud.console(instance.identity).encode()
    for name, data in cloud.objects().items():
        yield f"object {name}", data
    for call in cloud.calls:
        if call.action != "PutParameter":
            yield f"call {call.number} {call.action}", json.dumps(call.parameters).encode()
    for file in [*checkout.folder.glob("said-*"), *(checkout.top / ".gitops-ml").rglob("*")]:
        if file.is_file():
            yield str(file), file.read_bytes()
    for line in git(checkout.remote, "rev-list", "--objects", "--all").splitlines():
        kind = git(checkout.remote, "cat-file", "-t", line.split()[0])
        if kind == "blob":
            yield f"blob {line}", git(checkout.remote, "cat-file", "blob", line.split()[0]).encode()


@pytest.mark.parametrize("fails", [False, True])
def test_secret__of_the_spec__is_in_the_training_and_nowhere_else(fails, cloud, checkout):
    put_secret(cloud)
    checkout.write({"train.py": TRAIN.lstrip()})
    checkout.experiment(environment=", secrets: [HF_TOKEN]")
    if fails:
        spec = (checkout.top / "experiments/digits.yaml").read_text()
        checkout.write({"experiments/digits.yaml": spec.replace(f"train.py {checkout.gate}", "train.py fails")})
    else:
        spec = (checkout.top / "experiments/digits.yaml").read_text()
        run = f"train.py {checkout.gate}"
        artifacts = "artifacts: [{path: out/processes.txt}, {path: out/digest.txt}]\n"
        checkout.write({"experiments/digits.yaml": spec.replace(run, "train.py") + artifacts})
    checkout.commit()
    # The caller has it too, as on a laptop; and what else must not travel.
    more = {"HF_TOKEN": CANARY, "PIP_INDEX_URL": f"https://user:{CANARY}@example.invalid/simple", "OTHER": CANARY}

    ran = checkout.run("run", "--logs", **more)
    reported = checkout.run("report", "--push", **more)

    assert (ran.code, reported.code) == ((4, 0) if fails else (0, 0)), ran.text + reported.text
    found = dict(everything(cloud, checkout))
    assert [name for name, data in found.items() if CANARY.encode() in data] == []
    logs = b"".join(data for name, data in found.items() if "/1/logs/" in name)
    assert b"token is ***" in logs
    if not fails:
        seen = next(data for name, data in found.items() if name.endswith("out/processes.txt"))
        assert b"train.py" in seen
        digest = next(data for name, data in found.items() if name.endswith("out/digest.txt"))
        assert digest.decode() == hashlib.sha256(CANARY.encode()).hexdigest(), "the training had it"


def test_secret__that_is_not_there__is_refused_before_anything_is_rented(cloud, checkout):
    checkout.experiment(environment=", secrets: [HF_TOKEN]")
    checkout.commit()

    ran = checkout.run("run")

    assert ran.code == 2, ran.text
    assert f"there is no SSM parameter {NAME} in us-east-1" in ran.text
    assert cloud.instances() == []


def policy(name: str) -> dict[str, object]:
    """Return a shipped policy, filled in as its page says."""
    text = (POLICIES / name).read_text()
    for word, value in (
        ("DATA-BUCKET", "gitops-ml-data"),
        ("BUCKET", "gitops-ml-fake"),
        ("ORG/REPO", "acme/digits"),
        ("ACCOUNT", ACCOUNT),
    ):
        text = text.replace(word, value)
    return json.loads(text)


def without(document: dict[str, object], action: str) -> dict[str, object]:
    """Return the policy without an action."""
    text = json.loads(json.dumps(document))
    for each in text["Statement"]:
        actions = each["Action"] if isinstance(each["Action"], list) else [each["Action"]]
        each["Action"] = [one for one in actions if one != action]
    text["Statement"] = [each for each in text["Statement"] if each["Action"]]
    return text


def test_policies__as_shipped__are_enough_from_the_push_to_the_report(cloud, checkout):
    put_secret(cloud)
    cloud.enforce(caller=[policy("ci-policy.json")], machine=[policy("worker-policy.json")])
    checkout.experiment(resources="gpu: {type: [A10G]}, spot: prefer", environment=", secrets: [HF_TOKEN]")
    checkout.commit()

    ran = checkout.run("run")
    swept = checkout.call("gc")

    assert (ran.code, swept.code) == (0, 0), ran.text + swept.text
    denied = [call for call in cloud.calls if call.status == 403]
    assert [f"{call.who} {call.action}" for call in denied] == []
    assert len(checkout.records()) == 1


@pytest.mark.parametrize(
    "action",
    [
        "ec2:DescribeImages",
        "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeInstances",
        "ec2:DescribeSubnets",
        "ec2:RunInstances",
        "ec2:CreateTags",
        "iam:PassRole",
        "ssm:GetParameter",
        "s3:GetObject",
        "s3:PutObject",
        "s3:ListBucket",
    ],
)
def test_policies__without_an_action_of_the_caller__its_name_is_said_and_no_machine_stays(action, tmp_path):
    with Cloud(tmp_path / "machines", execute=False) as cloud:
        checkout = Checkout(tmp_path / "there", cloud)
        checkout.experiment()
        checkout.commit()
        cloud.enforce(caller=[without(policy("ci-policy.json"), action)], machine=[])

        ran = checkout.run("run", "--detach")
        if action == "ec2:DescribeInstances":  # nobody has to look at a machine that has only just been asked for
            assert ran.code == 0, ran.text
            ran = checkout.run("status")

        assert ran.code != 0, ran.text
        assert action in ran.text, ran.text
        assert "Traceback" not in ran.text
        assert cloud.instances() == [] or action == "ec2:DescribeInstances"


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:PutObject", "ssm:GetParameters"])
def test_policies__without_an_action_of_the_machine__it_ends_and_says_what_was_denied(action, tmp_path):
    with Cloud(tmp_path / "machines", nap_s=0.1) as cloud:
        put_secret(cloud)
        checkout = Checkout(tmp_path / "there", cloud)
        budget = "max_duration: 10m, max_wait: 1m, retries: {preempted: 0}"
        checkout.experiment(environment=", secrets: [HF_TOKEN]", budget=budget)
        checkout.commit()
        cloud.enforce(caller=[policy("ci-policy.json")], machine=[without(policy("worker-policy.json"), action)])

        ran = checkout.run("run")

        assert ran.code == 4, ran.text
        assert cloud.live() == []
        assert action in ran.text
