"""Asking for a machine: however often, from wherever, whatever EC2 answers, there is one, or a reason why not."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.aws import Cloud
from tests.fakes.aws.checkouts import Checkout, Said
from tests.fakes.trials import until

NO_CAPACITY = "InsufficientInstanceCapacity"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with Cloud(tmp_path / "machines", execute=False) as cloud:
        yield cloud
        assert cloud.violations == []


@pytest.fixture
def checkout(tmp_path: Path, cloud: Cloud) -> Checkout:
    checkout = Checkout(tmp_path / "there", cloud)
    checkout.experiment()
    checkout.commit()
    return checkout


def launches(cloud: Cloud) -> list[tuple[str | None, str | None, str | None]]:
    """Return zone, market and error of all requests for a machine."""
    return [(call.zone, call.market, call.fault) for call in cloud.calls if call.action == "RunInstances"]


def with_spec(checkout: Checkout, **values: str) -> None:
    checkout.experiment(**values)
    checkout.commit()


def test_submit__twice__is_one_machine(cloud, checkout):
    first, second = checkout.run("run", "--detach"), checkout.run("run", "--detach")

    assert (first.code, second.code) == (0, 0), first.text + second.text
    assert len(cloud.instances()) == 1
    assert len(launches(cloud)) == 1


def test_submit__by_eight_clones_at_once__is_one_machine(cloud, checkout):
    places = [checkout.clone(f"clone-{number}") for number in range(8)]

    commands = [checkout.start("run", "--detach", place=place) for place in places]
    ended = [command.ended() for command in commands]

    assert [said.code for said in ended] == [0] * 8, "\n".join(said.text for said in ended)
    assert len(cloud.instances()) == 1


def test_submit__by_eight_processes_of_one_checkout__is_one_machine(cloud, checkout):
    ended = [command.ended() for command in [checkout.start("run", "--detach") for _ in range(8)]]

    assert [said.code for said in ended] == [0] * 8, "\n".join(said.text for said in ended)
    assert len(cloud.instances()) == 1


@pytest.mark.parametrize("how", ["connection breaks", "server error"])
def test_submit__answer_lost_after_acceptance__is_one_machine(how, cloud, checkout):
    if how == "connection breaks":
        cloud.fault("RunInstances", kind="reset", when="after")
    else:
        cloud.fault("RunInstances", "InternalError", status=500, when="after")

    done = checkout.run("run", "--detach")

    assert done.code == 0, done.text
    assert len(cloud.instances()) == 1
    tokens = {call.parameters["ClientToken"] for call in cloud.calls if call.action == "RunInstances"}
    assert (len(launches(cloud)), len(tokens)) == (2, 1), "the same request again"


def test_submit__another_process_while_the_answer_is_on_its_way__waits_for_it(cloud, checkout):
    place = checkout.clone("other")
    with cloud.held("RunInstances") as held:
        first = checkout.start("run", "--detach")
        assert held.reached(60)
        second = checkout.start("run", "--detach", place=place).ended()
        assert second.code == 0, second.text
        assert len(cloud.instances()) == 1
    assert first.ended().code == 0
    assert len(cloud.instances()) == 1


def test_capacity__in_the_third_zone__is_used(cloud, checkout):
    cloud.fault("RunInstances", NO_CAPACITY, status=500, times=2)

    done = checkout.run("run", "--detach")

    assert done.code == 0, done.text
    assert len(cloud.live()) == 1
    asked = launches(cloud)
    assert [fault for _, _, fault in asked] == [NO_CAPACITY, NO_CAPACITY, None]
    assert len({zone for zone, _, _ in asked}) == 3


def test_capacity__nowhere__ends_within_max_wait_and_lists_the_tries(cloud, checkout):
    cloud.no_capacity(zone="us-east-1[a-e]")
    cloud.no_capacity(code="Unsupported", zone="us-east-1f")
    with_spec(checkout, budget="max_duration: 10m, max_wait: 2s, max_cost: 100 USD")

    done = checkout.run("run")

    assert done.code == 4, done.text
    assert cloud.instances() == []
    tried = {zone for zone, _, _ in launches(cloud)}
    assert len(tried) >= 3
    for zone in tried:
        assert re.search(rf"g5\.xlarge .*{zone}.*", done.text), (zone, done.text)
    assert NO_CAPACITY in done.text


def test_quota__of_spot_used_up__is_tried_on_demand(cloud, checkout):
    cloud.fault("RunInstances", "MaxSpotInstanceCountExceeded", times=None, where={"market": "spot"})
    with_spec(checkout, resources="gpu: {type: [A10G]}, spot: prefer")

    done = checkout.run("run", "--detach")

    assert done.code == 0, done.text
    asked = [(market, fault) for _, market, fault in launches(cloud)]
    assert asked == [("spot", "MaxSpotInstanceCountExceeded"), ("on-demand", None)], "no other zone would help"


def test_quota__smaller_than_the_machine__is_refused_with_the_number_to_ask_for(cloud, checkout):
    cloud.fault("RunInstances", "VcpuLimitExceeded", times=None)
    cloud.settings(quotas={"L-DB2E81BA": 0})

    done = checkout.run("run", "--detach")

    assert done.code != 0
    assert "4 vCPUs" in done.text
    assert "L-DB2E81BA" in done.text
    assert len(launches(cloud)) == 1


@pytest.mark.parametrize(
    ("code", "status", "exit_code", "says"),
    [
        ("InvalidAMIID.Unavailable", 400, 2, "InvalidAMIID.Unavailable"),
        ("InvalidParameterCombination", 400, 2, "InvalidParameterCombination"),
        ("OptInRequired", 401, 2, "OptInRequired"),
        ("Blocked", 400, 2, "Blocked"),
        ("VolumeLimitExceeded", 400, 2, "VolumeLimitExceeded"),
        ("UnauthorizedOperation", 403, 5, "ec2:RunInstances"),
        ("RequestExpired", 400, 5, "RequestExpired"),
    ],
)
def test_refusal__that_nothing_else_would_help_against__stops_at_once(code, status, exit_code, says, cloud, checkout):
    cloud.fault("RunInstances", code, status=status, times=None)

    done = checkout.run("run", "--detach")

    assert done.code == exit_code, done.text
    assert says in done.text
    assert "Traceback" not in done.text
    assert cloud.instances() == []
    assert len({call.zone for call in cloud.calls if call.action == "RunInstances"}) == 1
    cloud.clear_faults()
    again = checkout.run("run", "--detach")
    assert again.code == 0, again.text
    assert len(cloud.live()) == 1


def test_throttled__same_request_again(cloud, checkout):
    cloud.fault("RunInstances", "RequestLimitExceeded", status=503)

    done = checkout.run("run", "--detach")

    assert done.code == 0, done.text
    asked = [call for call in cloud.calls if call.action == "RunInstances"]
    assert [call.fault for call in asked] == ["RequestLimitExceeded", None]
    assert asked[0].parameters == asked[1].parameters


def test_token__whose_machine_is_gone__is_followed_by_the_next_attempt(cloud, checkout):
    cloud.fault("RunInstances", kind="reset", when="after", times=None)
    with cloud.held("RunInstances", skip=1, when="before") as held:
        command = checkout.start("run", "--detach")
        assert held.reached(60)
        (lost,) = cloud.instances()
        cloud.pull_plug(lost.identity)
        command.kill()
    cloud.clear_faults()

    first = checkout.run("run", "--detach")
    second = checkout.run("run", "--detach")

    assert len(cloud.live()) == 1, first.text + second.text
    assert [instance.tags["gitops-ml:attempt"] for instance in cloud.instances()] == ["1", "2"]


def test_cancel__ends_the_machine_and_says_so(cloud, checkout):
    assert checkout.run("run", "--detach").code == 0
    (machine,) = cloud.live()
    key = machine.tags["gitops-ml:key"]

    done: Said = checkout.run("cancel", key[:12])

    assert done.code == 0, done.text
    until(lambda: not cloud.live())
    assert cloud.instances()[0].reason == "Client.UserInitiatedShutdown"


def test_tags__are_there_at_birth_on_all_that_is_made(cloud, checkout):
    with_spec(checkout, resources="gpu: {type: [A10G]}, spot: only")

    assert checkout.run("run", "--detach").code == 0

    (machine,) = cloud.instances()
    names = ("repo", "key", "attempt", "expires-at", "owner", "storage")
    wanted = {f"gitops-ml:{name}" for name in names}
    made = machine.parameters["TagSpecifications"]
    assert {each["ResourceType"] for each in made} == {
        "instance",
        "volume",
        "network-interface",
        "spot-instances-request",
    }
    for each in made:
        assert {tag["Key"] for tag in each["Tags"]} >= wanted
    asked = machine.parameters
    assert asked["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert asked["MetadataOptions"]["HttpTokens"] == "required"
    assert all(disk["Ebs"]["DeleteOnTermination"] and disk["Ebs"]["Encrypted"] for disk in asked["BlockDeviceMappings"])
