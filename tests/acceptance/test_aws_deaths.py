"""Whoever dies, whenever: no machine is left, none is doubled, and the next run finishes the trial."""

import itertools
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.fakes.aws import Cloud
from tests.fakes.aws.checkouts import Checkout
from tests.fakes.aws.cloud import Call
from tests.fakes.trials import until

# What differs from trial to trial, and from run to run, in the names of what is stored.
_VARIES = {"KEY": "[0-9a-f]{64}", "CURSOR": "[0-9]{15}"}


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with Cloud(tmp_path / "machines") as cloud:
        yield cloud
        assert cloud.violations == []


@pytest.fixture
def checkout(tmp_path: Path, cloud: Cloud) -> Checkout:
    return Checkout(tmp_path / "there", cloud)


def at_work(cloud: Cloud) -> str:
    """Wait until a training is in its third epoch, saved, and return its machine."""
    until(lambda: any("/checkpoints/manifests/" in name for name in cloud.names("acme/digits/jobs")))
    (live,) = cloud.live()
    return live.identity


def never_two_at_once(cloud: Cloud) -> bool:
    """Whether no key ever had two machines at the same time."""
    by_key: dict[str, list[tuple[float, float]]] = {}
    for one in cloud.instances():
        span = one.launched_at, one.ended_at or float("inf")
        by_key.setdefault(one.tags["gitops-ml:key"], []).append(span)
    return all(
        first[1] <= second[0] for spans in by_key.values() for first, second in itertools.pairwise(sorted(spans))
    )


def finished(checkout: Checkout, trials: int = 1) -> None:
    """The next run finishes the trials, and nothing is left that costs money."""
    checkout.open_gate()
    again = checkout.run("run")
    assert again.code == 0, again.text
    assert len(checkout.records()) == trials
    assert checkout.cloud.live() == []
    assert never_two_at_once(checkout.cloud)


def kind(call: Call) -> tuple[str, str]:
    """Return what a call is about, apart from which trial it is for and how far its log is."""
    name = call.parameters.get("Key") or call.parameters.get("Prefix") or ""
    for word, pattern in _VARIES.items():
        name = re.sub(pattern, word, name)
    return call.action, name


def moments(calls: Sequence[Call]) -> tuple[list[tuple[str, str, int]], list[tuple[str, str, int]]]:
    """Return after which calls to kill: every one up to the launch of the machine, then the first of each kind.

    Each as action, pattern of the name, and how many of its kind come before it.
    """
    before: list[tuple[str, str, int]] = []
    after: list[tuple[str, str, int]] = []
    seen: list[tuple[str, str]] = []
    for call in calls:
        is_about = kind(call)
        launched = ("RunInstances", "") in seen
        if not launched or is_about not in seen:
            pattern = re.escape(is_about[1])
            for word, varies in _VARIES.items():
                pattern = pattern.replace(word, varies)
            (after if launched else before).append((call.action, pattern, seen.count(is_about)))
        seen.append(is_about)
    return before, after


def as_never_used(cloud: Cloud) -> None:
    """Take away what only the first run puts into a storage, so that the next one puts it there again."""
    storage = cloud.client("s3")
    for name in [*cloud.names("acme/digits/agents/"), "acme/digits/conditional-writes"]:
        storage.delete_object(Bucket=cloud.bucket, Key=name)


@pytest.mark.parametrize("half", [0, 1])
def test_run__killed_after_every_call__one_machine_each_and_the_next_run_finishes_all(half, cloud, checkout):
    names = [f"digits-{number}" for number in range(60)]
    for number, name in enumerate(names):
        budget = "max_duration: 10m, max_wait: 30m, max_cost: 100 USD"
        checkout.experiment(name, seeds=str(number), budget=budget)
    checkout.commit()
    checkout.open_gate()
    probe = checkout.run("run", names[0])
    assert probe.code == 0, probe.text
    before, after = moments(cloud.calls_by("caller"))
    assert before[-1][0] == "RunInstances"
    ways = [*before, *after]
    assert 10 < len(ways) < len(names), ways
    killed = {}
    for name, way in list(zip(names[1:], ways))[half::2]:
        action, pattern, skip = way
        if way in before:
            as_never_used(cloud)
        named = {"Prefix" if action == "ListObjectsV2" else "Key": pattern} if pattern else {}
        with cloud.held(action, skip=skip, where={"who": "caller", **named}) as held:
            command = checkout.start("run", name)
            while not held.reached(0.1) and command.alive:
                pass
            if command.alive:
                killed[way] = name
            command.kill()

    again = checkout.run("run", *killed.values())

    assert [way for way in before[half::2] if way not in killed] == [], "every run makes the same calls up to here"
    assert [way for way in after if way in killed], "what is seen of a training, and how often, is a matter of time"
    assert again.code == 0, again.text
    assert cloud.live() == []
    assert never_two_at_once(cloud)
    keys = [instance.tags["gitops-ml:key"] for instance in cloud.instances()]
    assert len(set(keys)) == len(keys), "the machine that a killed run asked for is the trial's"
    assert len(checkout.records()) >= len(killed) + 1


def agent_killed(cloud: Cloud, machine: str) -> None:
    assert cloud.kill(machine, "-m gitops_ml.agent ")


def courier_killed(cloud: Cloud, machine: str) -> None:
    assert cloud.kill(machine, "s3://")


def machine_frozen(cloud: Cloud, machine: str) -> None:
    cloud.freeze(machine)
    assert cloud.pass_deadline(machine) == 22, "max_duration and 20 min for all else"


def plug_pulled(cloud: Cloud, machine: str) -> None:
    cloud.pull_plug(machine)


def hardware_failed(cloud: Cloud, machine: str) -> None:
    cloud.pull_plug(machine, code="Server.InternalError")


def gpu_lost(cloud: Cloud, machine: str) -> None:
    cloud.lose_gpu(machine)


def s3_refuses(cloud: Cloud, machine: str) -> None:
    cloud.refuse_s3(who="i-.*")
    cloud.pass_deadline(machine)


def role_expired(cloud: Cloud, machine: str) -> None:
    cloud.fault(".*", "ExpiredToken", times=None, where={"who": "i-.*"})
    cloud.pass_deadline(machine)


DEATHS = [
    agent_killed,
    courier_killed,
    machine_frozen,
    plug_pulled,
    hardware_failed,
    gpu_lost,
    s3_refuses,
    role_expired,
]


@pytest.mark.parametrize("death", DEATHS)
def test_machine__dies_in_the_middle__is_gone_in_time_and_the_next_run_finishes(
    death: Callable[[Cloud, str], None], cloud, checkout
):
    checkout.experiment(budget="max_duration: 2m, max_wait: 1m, max_cost: 100 USD, retries: {preempted: 0}")
    checkout.commit()
    command = checkout.start("run")
    machine = at_work(cloud)

    death(cloud, machine)

    until(lambda: not cloud.live())
    ended = command.ended()
    assert ended.code == 4, ended.text
    cloud.clear_faults()
    finished(checkout)
    logs = b"".join(data for name, data in cloud.objects("acme/digits/jobs").items() if "/2/logs/" in name)
    assert b"from epoch 3" in logs, "it goes on where the last one was"


def test_machine__refused_by_s3_from_the_start__is_gone_in_time_and_the_next_run_finishes(cloud, checkout):
    checkout.experiment(budget="max_duration: 2m, max_wait: 1m, max_cost: 100 USD, retries: {preempted: 0}")
    checkout.commit()
    cloud.refuse_s3(who="i-.*")
    command = checkout.start("run")
    until(lambda: any(call.fault for call in cloud.calls_by("machines")))

    (machine,) = cloud.live()
    cloud.pass_deadline(machine.identity)

    ended = command.ended()
    assert ended.code == 4, ended.text
    assert cloud.live() == []
    cloud.clear_faults()
    finished(checkout)


@pytest.mark.parametrize("budget", ["max_duration: 8s", "max_duration: 10m, no_output: 5s"])
def test_training__hangs__is_ended_in_time_and_the_next_run_finishes(budget, cloud, checkout):
    checkout.experiment(budget=f"{budget}, max_wait: 1m, max_cost: 100 USD")
    checkout.commit()

    ended = checkout.run("run")

    assert ended.code == 4, ended.text
    assert cloud.live() == []
    finished(checkout)


def test_caller__credentials_expire__machine_goes_on_and_the_next_run_finishes(cloud, checkout):
    checkout.experiment()
    checkout.commit()
    command = checkout.start("run")
    at_work(cloud)

    cloud.expire("caller")
    ended = command.ended()

    assert ended.code == 5, ended.text
    assert "expired" in ended.text.lower()
    assert len(cloud.live()) == 1
    cloud.renew("caller")
    finished(checkout)
    assert len(cloud.instances()) == 1


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_machine__clock_off_by_an_hour__trains_all_the_same(seconds, cloud, checkout):
    cloud.skew(seconds)
    checkout.experiment()
    checkout.commit()

    finished(checkout)

    (record,) = checkout.records()
    assert record["attempt"]["duration_s"] < 60, "times are the storage's, not the machine's"


def test_gc__machine_that_cannot_end_itself__is_ended_after_its_deadline_and_no_other(tmp_path):
    with Cloud(tmp_path / "machines", execute=False) as cloud:
        checkout = Checkout(tmp_path / "there", cloud)
        checkout.experiment()
        checkout.commit()
        assert checkout.run("run", "--detach").code == 0
        (ours,) = cloud.instances()
        cloud.client("ec2").run_instances(
            ImageId=cloud.images["us-east-1"],
            InstanceType="g5.xlarge",
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": "gitops-ml:repo", "Value": "acme/other"}]}
            ],
        )
        early = checkout.call("gc", "--end")
        assert len(cloud.live()) == 2, early.text

        look = checkout.call("gc", hours_later=12)
        assert ours.identity in look.text
        assert len(cloud.live()) == 2, "it looks only, unless told to end"
        done = checkout.call("gc", "--end", hours_later=12)

        assert [instance.identity for instance in cloud.instances() if not instance.live] == [ours.identity], done.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run__told_to_stop__ends_its_machine_and_the_next_run_goes_on_from_there(number, cloud, checkout):
    checkout.experiment()
    checkout.commit()
    command = checkout.start("run")
    at_work(cloud)

    command.signal(number)
    ended = command.ended()

    assert ended.code == 130, ended.text
    until(lambda: not cloud.live())
    finished(checkout)
    assert [instance.tags["gitops-ml:attempt"] for instance in cloud.instances()] == ["1", "2"]


def test_release__machine_that_takes_its_time__is_waited_for(cloud, checkout):
    checkout.experiment()
    checkout.commit()
    checkout.open_gate()
    cloud.linger()
    command = checkout.start("run")

    until(lambda: any(name.endswith("/result.json") for name in cloud.names("acme/digits/jobs")))
    until(lambda: [instance.state for instance in cloud.instances()] == ["shutting-down"])
    asked = len(cloud.calls)
    until(lambda: sum(call.action == "DescribeInstances" for call in cloud.calls[asked:]) >= 2)
    assert command.alive, "its machine may still cost money"
    assert checkout.records() == []
    cloud.linger(False)

    ended = command.ended()
    assert ended.code == 0, ended.text
