"""Trainings on a fake AWS whose machines really run: what is pushed is trained elsewhere, and nothing stays."""

import html
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.aws import Cloud
from tests.fakes.aws.checkouts import PYTHON, Checkout, image_with_numpy
from tests.fakes.ci_jobs import World
from tests.fakes.repositories import git
from tests.fakes.trials import until

DIGITS = Path(__file__).parents[2] / "examples" / "digits"

# The example as it is, but for what an interruption needs: every epoch is saved, and an own file says when to go on.
_BEFORE = """        for epoch in range(1, args.epochs + 1):
            order"""
_AFTER = """        import os, pickle, threading
        saved = Path(os.environ["GITOPS_ML_CHECKPOINTS"]) / "epoch.pickle"
        begin = 0
        if saved.exists():
            begin, weights, velocity, rows_so_far, state = pickle.loads(saved.read_bytes())
            random.bit_generator.state = state
            file.write(rows_so_far)
            print(f"goes on from epoch {begin}", flush=True)
        for epoch in range(begin + 1, args.epochs + 1):
            if epoch > begin + 1:
                file.flush()
                state = (epoch - 1, weights, velocity, (out / "curves.csv").read_text().split("\\n", 1)[1],
                         random.bit_generator.state)
                saved.with_suffix(".part").write_bytes(pickle.dumps(state))
                saved.with_suffix(".part").replace(saved)
            while epoch == 10 and not Path("GATE").exists():
                threading.Event().wait(0.05)
            order"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_with_numpy(tmp_path_factory.mktemp("image") / "python")


@pytest.fixture
def cloud(tmp_path: Path, image: Path) -> Iterator[Cloud]:
    with Cloud(tmp_path / "machines", python=image) as cloud:
        yield cloud
        assert cloud.violations == []
        for instance in cloud.instances():
            assert len(instance.user_data) < 3 * 1024
            assert instance.user_data.startswith(b"#!/bin/sh\nshutdown -h +")


def digits(checkout: Checkout, *, seeds: str = "[0]", resources: str = "gpu: {type: [A10G]}") -> None:
    """Put the digits example into the repository, to be trained on AWS."""
    train = (DIGITS / "train.py").read_text()
    assert _BEFORE in train
    train = train.replace(_BEFORE, _AFTER).replace("GATE", str(checkout.gate))
    spec = (DIGITS / "experiment.yaml").read_text()
    for before, after in (
        ("seeds: [0, 1, 2]", f"seeds: {seeds}"),
        ("environment:\n", f'environment:\n  python: "{PYTHON}"\n'),
        ("budget: {", f"resources: {{{resources}}}\n\nbudget: {{max_cost: 10 USD, max_wait: 1m, "),
    ):
        assert before in spec
        spec = spec.replace(before, after)
    data = {f"data/{file.name}": file.read_bytes() for file in (DIGITS / "data").glob("*.gz")}
    checkout.commit({"train.py": train, "experiment.yaml": spec, **data})


def test_digits__trained_on_aws__leave_records_a_report_and_no_machine(tmp_path, cloud):
    checkout = Checkout(tmp_path / "there", cloud)
    digits(checkout, seeds="[0, 1]")
    checkout.open_gate()

    ran = checkout.run("run")

    assert ran.code == 0, ran.text
    assert cloud.live() == []
    assert len(cloud.instances()) == 2
    records = checkout.records()
    machines = {(i.identity, i.zone, i.type) for i in cloud.instances()}
    uses = [record["attempt"]["usage"] for record in records]
    assert {(use["instance_id"], use["zone"], use["instance_type"]) for use in uses} == machines
    assert {use["final_state"] for use in uses} == {"terminated"}
    assert all(record["attempt"]["cost_usd"] > 0 for record in records)
    again = checkout.run("run")
    assert (again.code, len(cloud.instances())) == (0, 2), again.text
    reported = checkout.run("report", "--push")
    assert reported.code == 0, reported.text
    ledger = git(checkout.remote, "ls-tree", "-r", "--name-only", "gitops-ml/reports").splitlines()
    assert sum(path.endswith("/record.json") for path in ledger) == 2
    (page,) = [path for path in ledger if path.startswith("reports/") and path.endswith(".md")]
    text = html.unescape(git(checkout.remote, "show", f"gitops-ml/reports:{page}"))
    for instance in cloud.instances():
        assert instance.identity in text, "who reads the report can look for the machine"
    assert text.count("terminated") == 2
    assert "USD" in text


def test_digits__pushed_to_main__are_trained_by_ci_and_reported(tmp_path, cloud):
    checkout = Checkout(tmp_path / "there", cloud)
    digits(checkout)
    checkout.open_gate()
    names = [
        "gitops-ml.yaml",
        "train.py",
        "experiment.yaml",
        *(f"data/{f.name}" for f in (DIGITS / "data").glob("*.gz")),
    ]
    project = (checkout.top / "gitops-ml.yaml").read_text()
    checkout.write({"gitops-ml.yaml": f"{project}policy: {{auto_run_below: 5 USD}}\n"})
    world = World(tmp_path, {name: (checkout.top / name).read_bytes() for name in names})

    done = world.pushed(world.main(), **cloud.environ)

    assert (done.code, done.trained) == (0, 1), done.out + done.err
    assert [instance.live for instance in cloud.instances()] == [False]
    assert {path.rpartition("/")[2] for path in world.ledger()} >= {"record.json", "report.json"}
    assert "digits-mlp" in done.summary


def test_digits__spot_machine_taken_away__resumed_elsewhere_and_bit_equal(tmp_path, image):
    kept = []
    for interrupted in (False, True):
        folder = tmp_path / ("interrupted" if interrupted else "whole")
        with Cloud(folder / "machines", python=image) as cloud:
            checkout = Checkout(folder / "there", cloud)
            checkout.gate = tmp_path / "gate"  # it is part of the code
            digits(checkout, resources="gpu: {type: [A10G]}, spot: prefer")
            if not interrupted:
                checkout.open_gate()
            command = checkout.start("run")
            if interrupted:
                checkout.gate.unlink()
                until(lambda: any("/checkpoints/manifests/" in name for name in cloud.names("acme/digits/jobs")))
                (first,) = cloud.instances()
                cloud.notice(first.identity, seconds=20)
                until(lambda: len(cloud.instances()) == 2)
                checkout.open_gate()
            ran = command.ended()
            assert ran.code == 0, ran.text
            assert cloud.live() == []
            machines = cloud.instances()
            assert [machine.market for machine in machines] == ["spot"] * (2 if interrupted else 1)
            assert [machine.tags["gitops-ml:attempt"] for machine in machines] == ["1", "2"][: len(machines)]
            if interrupted:
                assert machines[0].zone != machines[1].zone, "a zone that took one away is asked last"
                assert machines[0].ended_at is not None
                assert machines[0].ended_at <= machines[1].launched_at
                logs = b"".join(
                    data for name, data in cloud.objects("acme/digits/jobs").items() if "/2/logs/" in name
                ).decode()
                assert "goes on from epoch 9" in logs
            (record,) = checkout.records()
            (series,) = (checkout.top / ".gitops-ml").rglob("series.csv")
            kept.append((record["key"], record["scalars"], record["files"], series.read_bytes()))

    assert kept[0] == kept[1]
