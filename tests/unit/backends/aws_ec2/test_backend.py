"""The backend against an AWS whose machines do not run: what is asked for, in which order, and what becomes of it."""

import dataclasses
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from gitops_ml.agent.objects import Heartbeat, to_json
from gitops_ml.backends.aws_ec2 import AwsEc2Backend
from gitops_ml.backends.aws_ec2.cloud import Bucket
from gitops_ml.backends.base import Context, JobState, Machine
from gitops_ml.bundles import bundle
from gitops_ml.errors import ServiceError, TrialError, UserError
from gitops_ml.spec import Budget, Environment, Gpu, Resources
from gitops_ml.storage import opened
from tests.fakes.aws import Cloud
from tests.fakes.trials import Objects, trial

L4 = Resources(gpu=Gpu(type=("L4",)))
SPOT = Resources(gpu=Gpu(type=("L4",)), spot="prefer")
ONE = {"instance_types": ["g6.xlarge"]}
REFUSED = "AWS refused ec2:RunInstances in us-east-1"
HOUR = Budget(max_duration_s=3600)


class Killed(BaseException):
    """What a SIGKILL is to the code that it hits: nothing catches it."""


class Place:
    """A checkout from which jobs are submitted; its clock can be put forward."""

    def __init__(self, cloud, folder, prefix="digits", **settings):
        self.cloud = cloud
        self.folder = folder
        self.settings = settings
        self.later_s = 0.0
        self.waits = []
        self.uri = f"s3://{cloud.bucket}/{prefix}"
        self.storage = opened(self.uri, folder, cloud.environ)
        self.backend = self.connect()

    def connect(self, storage=None):
        context = Context(
            state=self.folder / "state",
            settings=self.settings,
            environ={**self.cloud.environ, "USER": "ada"},
            now=self.now,
            repository="acme/digits",
            storage_uri=self.uri,
            storage=lambda: storage or self.storage,
        )
        return AwsEc2Backend(context, wait=self.waits.append, clock=lambda: self.now().timestamp(), jitter=lambda: 1.0)

    def now(self):
        return datetime.now(UTC) + timedelta(seconds=self.later_s)

    def submit(self, of, backend=None):
        with bundle(of, Objects().blobs) as made:
            return (backend or self.backend).submit(of, made)

    def status(self, of):
        self.later_s += 10  # past what is remembered of the last look
        return self.backend.poll([of.key])[of.key]

    def leave(self, of, number, part, document):
        self.storage.put(f"jobs/{of.key}/{number}/{part}", json.dumps(document).encode())

    def asked(self):
        return [call for call in self.cloud.calls_by() if call.action == "RunInstances"]


@pytest.fixture
def cloud(tmp_path):
    with Cloud(tmp_path / "machines", execute=False) as cloud:
        yield cloud
        assert cloud.violations == []


@pytest.fixture
def here(cloud, tmp_path):
    return Place(cloud, tmp_path / "here", **ONE)


def test_submit__trial__starts_one_tagged_machine_at_a_dated_price(here, cloud):
    of = trial(resources=L4, budget=HOUR)

    status = here.submit(of)

    (machine,) = cloud.live()
    assert machine.tags["gitops-ml:key"] == of.key
    assert machine.user_data.startswith(b"#!/bin/sh\nshutdown -h +80\n")
    assert (status.state, status.machine, status.attempt) == (JobState.STARTING, Machine.LIVE, 1)
    usage = here.status(of).usage
    assert (usage.instance_id, usage.zone, usage.usd_per_hour) == (machine.identity, machine.zone, 0.8048)
    assert (usage.price_source, usage.price_date) == ("AWS price list", "2026-11-01")
    assert usage.worst_usd == 1.0944


def test_submit__many_trials__ask_little_for_each(here, cloud):
    trials = [trial(resources=L4, seed=seed) for seed in range(12)]
    here.submit(trials[0])
    before = len(cloud.calls)
    for of in trials[1:]:
        here.submit(of)
    each = (len(cloud.calls) - before) / len(trials[1:])
    here.later_s += 10
    before = len(cloud.calls)

    here.backend.poll([of.key for of in trials])

    asked = [call for call in cloud.calls[before:] if call.service == "ec2"]
    assert [call.action for call in asked] == ["DescribeInstances"]
    assert each <= 8


def test_bucket__requests__go_as_fast_as_ec2_grants():
    now, waits = [100.0], []

    def wait(seconds):
        waits.append(seconds)
        now[0] += seconds

    bucket = Bucket(5, 2, clock=lambda: now[0], wait=wait)
    for _ in range(25):
        bucket.take()

    assert waits == [0.5] * 20
    now[0] += 60
    for _ in range(5):
        bucket.take()
    assert len(waits) == 20


def test_submit__capacity_in_the_third_zone__is_found_and_the_tries_are_kept(here, cloud):
    of = trial(resources=L4)
    zones = [subnet["AvailabilityZone"] for subnet in cloud.client("ec2").describe_subnets()["Subnets"]]
    cloud.fault("RunInstances", "InsufficientInstanceCapacity", status=500, times=2)

    here.submit(of)
    (machine,) = cloud.live()
    cloud.client("ec2").terminate_instances(InstanceIds=[machine.identity])
    here.leave(of, 1, "result.json", {"outcome": "succeeded", "reason": ""})
    usage = here.status(of).usage

    assert [call.status for call in here.asked()] == [500, 500, 200]
    assert usage.final_state == "terminated"
    assert [re.sub(r" in us-east-1[a-f]: ", " in ZONE: ", one) for one in usage.tries] == [
        "g6.xlarge on-demand in ZONE: InsufficientInstanceCapacity"
    ] * 2
    assert len({call.zone for call in here.asked()}) == 3 <= len(zones)


def test_submit__spot_is_full__falls_back_to_on_demand(here, cloud):
    cloud.no_capacity(market="spot")

    here.submit(trial(resources=SPOT, checkpoints="ckpt"))

    assert [instance.market for instance in cloud.live()] == ["on-demand"]


def test_submit__spot_quota__asks_no_other_zone_on_that_market(here, cloud):
    cloud.fault("RunInstances", "MaxSpotInstanceCountExceeded", times=None, where={"market": "spot"})

    here.submit(trial(resources=SPOT, checkpoints="ckpt"))

    assert [call.market for call in here.asked()] == ["spot", "on-demand"]


def test_wait__no_capacity_anywhere__asks_again_and_ends_with_all_tries(here, cloud):
    of = trial(resources=L4, budget=Budget(max_wait_s=600))
    cloud.no_capacity()

    first = here.submit(of)
    here.later_s += 5
    too_early = here.submit(of)
    asked = len(here.asked())
    here.later_s += 60
    here.submit(of)
    again = len(here.asked())
    here.later_s += 600
    last = here.status(of)

    assert (first.state, first.machine) == (JobState.WAITING, Machine.NONE)
    assert 55 <= (first.retry_at - here.now()).total_seconds() + here.later_s <= 60
    assert too_early.state is JobState.WAITING
    assert again == 2 * asked >= 8
    assert last.state is JobState.TIMED_OUT
    assert last.reason.startswith("no machine was to be had within max_wait (10 min); tried: g6.xlarge on-demand in ")
    assert last.reason.count("InsufficientInstanceCapacity (2 times)") == asked
    assert here.connect().poll([of.key])[of.key] == last
    assert last.cost_usd == 0


def test_submit__answer_is_lost__repeats_the_request_and_finds_its_machine(here, cloud):
    cloud.fault("RunInstances", kind="reset", when="after", times=1)

    of = trial(resources=L4)
    here.submit(of)

    assert len(cloud.instances()) == 1
    assert here.status(of).usage.instance_id == cloud.live()[0].identity
    assert len({json.dumps(dict(call.parameters), sort_keys=True, default=str) for call in here.asked()}) == 1


def test_submit__no_answer_at_all__the_next_one_sends_the_same_request_first(here, cloud):
    of = trial(resources=L4)
    cloud.fault("RunInstances", kind="reset", when="after", times=1)
    cloud.fault("RunInstances", "InternalError", status=500, times=None)
    cloud.fault("DescribeInstances", "InternalError", status=500, times=None)
    with pytest.raises(ServiceError):
        here.submit(of)
    cloud.clear_faults()

    status = here.submit(of, here.connect())

    assert status.state is JobState.STARTING
    assert len(cloud.instances()) == 1
    assert len({call.parameters["ClientToken"] for call in here.asked()}) == 1


def test_submit__throttled__waits_longer_each_time_with_the_same_token(here, cloud):
    cloud.fault("RunInstances", "RequestLimitExceeded", status=503, times=3)

    here.submit(trial(resources=L4))

    assert here.waits == [2.0, 4.0, 8.0]
    assert len({call.parameters["ClientToken"] for call in here.asked()}) == 1
    assert len(cloud.live()) == 1


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("UnauthorizedOperation", ServiceError, "AWS: ec2:RunInstances is denied to this role; add to its policy:\n"),
        (
            "InvalidSubnetID.NotFound",
            UserError,
            f"{REFUSED} (InvalidSubnetID.NotFound: told to fail); mend `backends.aws-ec2` in gitops-ml.yaml; ",
        ),
        (
            "PendingVerification",
            UserError,
            f"{REFUSED} (PendingVerification: told to fail); AWS's support can unblock the account",
        ),
        (
            "ExpiredToken",
            ServiceError,
            f"{REFUSED} (ExpiredToken: told to fail); log in again, and run again: nothing is left behind",
        ),
        (
            "BrandNewCode",
            ServiceError,
            f"{REFUSED} (BrandNewCode: told to fail); see what AWS says about BrandNewCode",
        ),
    ],
)
def test_submit__refused_for_good__is_said_and_leaves_no_job(here, cloud, code, kind, said):
    of = trial(resources=L4)
    cloud.fault("RunInstances", code, times=2)

    with pytest.raises(kind) as refused:
        here.submit(of)

    assert str(refused.value).startswith(said)
    assert here.backend.poll([of.key]) == {}
    assert cloud.instances() == []
    cloud.clear_faults()
    again = here.submit(of)
    assert (again.state, again.attempt) == (JobState.STARTING, 2)


def test_submit__quota_below_one_machine__is_refused_with_the_number_to_ask_for(here, cloud):
    cloud.settings(quotas={"L-DB2E81BA": 2})
    cloud.fault("RunInstances", "VcpuLimitExceeded", times=None)

    with pytest.raises(UserError) as refused:
        here.submit(trial(resources=L4))

    assert str(refused.value) == (
        "the account's quota of on-demand G machines in us-east-1 is 2 vCPUs, and g6.xlarge has 4; ask for 4 vCPUs or "
        "more at https://us-east-1.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/L-DB2E81BA"
    )
    assert len(here.asked()) == 1


def test_submit__quota_in_use__is_waited_for(here, cloud):
    cloud.settings(quotas={"L-DB2E81BA": 64})
    cloud.fault("RunInstances", "VcpuLimitExceeded", times=None)

    assert here.submit(trial(resources=L4)).state is JobState.WAITING


def test_submit__token_was_spent__is_lost_and_the_next_attempt_has_another(here, cloud):
    of = trial(resources=L4)
    cloud.fault("RunInstances", "IdempotentInstanceTerminated", times=1)

    first = here.submit(of)
    second = here.submit(of)

    assert (first.state, first.reason) == (
        JobState.LOST,
        "its machine was started and has ended already, without a result",
    )
    assert (second.state, second.attempt) == (JobState.STARTING, 2)


class Mortal:
    """A storage whose user is killed at its n-th call, before or after it took effect."""

    def __init__(self, storage, number, *, after):
        self._storage, self._left, self._after = storage, number, after

    def __getattr__(self, name):
        call = getattr(self._storage, name)

        def made(*arguments, **options):
            self._left -= 1
            if self._left == 0 and not self._after:
                raise Killed
            answer = call(*arguments, **options)
            if self._left == 0:
                raise Killed
            return answer

        return made


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_submit__killed_at_each_call_of_the_storage__the_next_one_has_one_machine(here, cloud, after):
    cloud.fault("RunInstances", "InsufficientInstanceCapacity", status=500, times=None, where={"zone": "us-east-1[ab]"})
    died = 0
    for number in range(1, 40):
        of = trial(resources=L4, seed=number)
        try:
            here.submit(of, here.connect(Mortal(here.storage, number, after=after)))
        except Killed:
            died += 1
            status = here.submit(of, here.connect())
        else:
            break
        of_key = [machine for machine in cloud.instances() if machine.tags["gitops-ml:key"] == of.key]
        assert [machine.live for machine in of_key] == [True], f"killed at call {number}"
        assert (status.state, status.attempt) == (JobState.STARTING, 1)
    assert died >= 7


def test_submit__from_another_checkout__waits_for_the_turn_of_the_first(here, cloud, tmp_path):
    of = trial(resources=L4)
    cloud.no_capacity()
    with pytest.raises(Killed):
        here.submit(of, here.connect(Mortal(here.storage, 13, after=True)))
    asked = len(here.asked())
    there = Place(cloud, tmp_path / "there", **ONE)

    early = there.submit(of)
    assert (early.state, len(here.asked())) == (JobState.WAITING, asked)
    there.later_s += 91
    there.submit(of)

    assert len(here.asked()) > asked >= 1


def test_poll__preempted__is_so_and_the_next_attempt_avoids_the_zone(here, cloud):
    of = trial(resources=SPOT, checkpoints="ckpt")
    here.submit(of)
    (machine,) = cloud.live()
    cloud.pull_plug(machine.identity)

    status = here.status(of)
    here.submit(of)

    assert status.state is JobState.PREEMPTED
    assert status.usage.final_state == "terminated"
    (second,) = cloud.live()
    assert second.tags["gitops-ml:attempt"] == "2"
    assert second.zone != machine.zone


def test_poll__machine_says_nothing__is_given_up_and_ended(here, cloud):
    of = trial(resources=L4)
    here.submit(of)
    here.later_s += 901

    first = here.status(of)
    second = here.status(of)

    assert (first.state, first.machine) == (JobState.COLLECTING, Machine.LIVE)
    assert second.state is JobState.LOST
    assert second.reason == "its machine said nothing within 15 min of its start"
    assert cloud.live() == []


def test_poll__result_while_the_machine_lives__is_over_only_when_that_is_gone(here, cloud):
    of = trial(resources=L4)
    here.submit(of)
    (machine,) = cloud.live()
    result = {"outcome": "failed", "reason": "exit 1", "exit_code": 1, "idle_share": 0.25, "files": []}
    here.leave(of, 1, "result.json", result)
    cloud.linger()

    ending = here.status(of)
    going = here.status(of)
    cloud.linger(on=False)
    over = here.status(of)

    assert [one.state for one in (ending, going)] == [JobState.COLLECTING] * 2
    assert going.machine is Machine.RELEASING
    assert (over.state, over.reason, over.exit_code, over.machine) == (JobState.FAILED, "exit 1", 1, Machine.GONE)
    assert over.usage.instance_id == machine.identity
    assert over.usage.idle_share == 0.25
    assert over.cost_usd > 0
    assert here.connect().poll([of.key])[of.key] == over


def test_poll__two_machines_of_one_attempt__leaves_one(here, cloud):
    of = trial(resources=L4)
    here.submit(of)
    request = dict(here.asked()[0].parameters)
    cloud.client("ec2").run_instances(**{**request, "ClientToken": "another", "UserData": ""})
    assert len(cloud.live()) == 2

    here.status(of)

    # EC2 counts whole seconds, so that the first of two may not be known.
    assert len(cloud.live()) == 1


def test_attempts__together__never_outlast_what_the_plan_said(here, cloud):
    of = trial(resources=L4, budget=HOUR)
    here.submit(of)
    here.leave(of, 1, "ending.json", _ending(of, billed_s=30 * 60))

    second = here.submit(of, here.connect())

    assert second.attempt == 2
    assert cloud.live()[-1].user_data.startswith(b"#!/bin/sh\nshutdown -h +50\n")


def test_attempts__nothing_left__is_refused_with_the_reason(here, cloud):
    of = trial(resources=L4, budget=HOUR)
    here.submit(of)
    here.leave(of, 1, "ending.json", _ending(of, billed_s=70 * 60))

    with pytest.raises(TrialError) as refused:
        here.submit(of, here.connect())

    assert str(refused.value) == (
        "experiments/digits.yaml: of the 80 min of machine time that budget.max_duration allows the trial "
        f"{of.key[:12]}, 10 are left after 1 attempts; raise the budget"
    )


def _ending(of, *, billed_s):
    usage = {
        **dict.fromkeys(("provider", "region", "zone", "instance_id", "instance_type", "market", "image"), "x"),
        "usd_per_hour": 1.0,
        "price_source": "",
        "price_date": "",
        "billed_s": billed_s,
        "final_state": "terminated",
    }
    return {
        "state": "lost",
        "reason": "gone",
        "exit_code": None,
        "attempt": 1,
        "started_at": 1.0,
        "ended_at": 2.0,
        "cost_usd": 1.0,
        "hardware": None,
        "machine": "gone",
        "progress": "",
        "usage": usage,
    }


def test_cancel__known_machine__is_two_requests(here, cloud):
    of = trial(resources=L4)
    here.submit(of)
    before = len(cloud.calls)

    here.backend.cancel(of.key)

    assert sorted(call.action for call in cloud.calls[before:]) == ["PutObject", "TerminateInstances"]
    assert cloud.live() == []
    status = here.status(of)
    assert status.state is JobState.CANCELLED
    assert re.fullmatch(r"cancelled by ada at \S+", status.reason)


def test_cancel__from_another_process_while_it_waits__no_machine_comes(here, cloud):
    of = trial(resources=L4)
    cloud.no_capacity()
    here.submit(of)

    here.connect().cancel(of.key)
    cloud.clear_faults()
    here.later_s += 120
    status = here.backend.poll([of.key])[of.key]

    assert status.state is JobState.CANCELLED
    assert cloud.instances() == []


def test_cancel__ec2_does_not_answer__leaves_the_marker_for_the_machine(here, cloud):
    of = trial(resources=L4)
    here.submit(of)
    cloud.fault("TerminateInstances", "InternalError", status=500, times=None)

    here.backend.cancel(of.key)

    assert f"digits/jobs/{of.key}/1/cancel.json" in cloud.objects()


def test_leftovers__past_their_time__are_found_and_ended_one_by_one(here, cloud):
    budget = Budget(max_duration_s=60, max_wait_s=60)
    trials = [trial(resources=L4, budget=budget, seed=seed) for seed in (1, 2)]
    for of in trials:
        here.submit(of)
    ec2 = cloud.client("ec2")
    ec2.run_instances(ImageId=cloud.images["us-east-1"], InstanceType="g6.xlarge", MinCount=1, MaxCount=1)
    here.later_s += 1000
    assert list(here.backend.leftovers(here.now())) == []
    here.later_s += 1000

    found = list(here.backend.leftovers(here.now()))
    before = len(cloud.calls)
    for one in found:
        one.end()

    assert {(one.kind, one.key) for one in found} == {("machine", of.key) for of in trials}
    assert [len(call.parameters["InstanceIds"]) for call in cloud.calls[before:]] == [1, 1]
    assert [one.tags for one in cloud.live()] == [{}]  # what carries no name of ours is nobody's business
    assert list(here.backend.leftovers(here.now())) == []


def test_storages__two_that_train_one_key_at_once__know_their_own_machines_alone(here, cloud, tmp_path):
    of = trial(resources=L4, budget=HOUR)
    there = Place(cloud, tmp_path / "there", "elsewhere", **ONE)
    here.submit(of)
    cloud.fault("RunInstances", kind="reset", when="after", times=1)

    there.submit(of)

    first, second = cloud.live()
    assert first.tags["gitops-ml:storage"] != second.tags["gitops-ml:storage"]
    assert here.status(of).usage.instance_id == first.identity
    assert there.status(of).usage.instance_id == second.identity
    assert len(cloud.live()) == 2
    # Neither work that is over nor the wish to end it says anything of the other's.
    here.leave(of, 1, "result.json", {"outcome": "succeeded"})
    here.later_s = there.later_s = 1000
    assert list(there.backend.leftovers(there.now())) == []
    (left,) = here.backend.leftovers(here.now())
    left.end()
    here.connect().cancel(of.key)
    assert [one.identity for one in cloud.live()] == [second.identity]
    there.connect().cancel(of.key)
    assert cloud.live() == []


def test_leftovers__past_their_time_in_another_storage_or_of_none__are_found_too(here, cloud, tmp_path):
    of = trial(resources=L4, budget=Budget(max_duration_s=60, max_wait_s=60))
    here.submit(of)
    here.submit(trial(resources=L4, budget=Budget(max_duration_s=60, max_wait_s=60), seed=2))
    second = cloud.live()[1]
    # As an earlier version has left it.
    cloud.client("ec2").delete_tags(Resources=[second.identity], Tags=[{"Key": "gitops-ml:storage"}])
    there = Place(cloud, tmp_path / "there", "elsewhere", **ONE)
    there.later_s = 2000

    found = list(there.backend.leftovers(there.now()))
    for one in found:
        one.end()

    assert [one.kind for one in found] == ["machine", "machine"]
    assert cloud.live() == []


def test_attempt__of_a_version_that_noted_no_storage__is_attached_to(here, cloud):
    of = trial(resources=L4, budget=HOUR)
    here.submit(of)
    (machine,) = cloud.live()
    lease = json.loads(here.storage.get(f"jobs/{of.key}/1/lease.json"))
    del lease["cloud"]["storage"]
    here.leave(of, 1, "lease.json", lease)
    cloud.client("ec2").delete_tags(Resources=[machine.identity], Tags=[{"Key": "gitops-ml:storage"}])

    status = here.submit(of, here.connect())
    here.connect().cancel(of.key)

    assert (status.state, status.usage.instance_id) == (JobState.STARTING, machine.identity)
    assert cloud.live() == []


def test_leftovers__disk_and_objects__are_found_when_they_are_old(here, cloud):
    of = trial(resources=L4, budget=HOUR)
    here.submit(of)
    here.backend.cancel(of.key)
    here.status(of)
    tags = [
        {"Key": "gitops-ml:repo", "Value": "acme/digits"},
        {"Key": "gitops-ml:key", "Value": of.key},
        {"Key": "gitops-ml:expires-at", "Value": "2026-11-26T00:00:00Z"},
    ]
    cloud.client("ec2").create_volume(
        AvailabilityZone="us-east-1a", Size=1, TagSpecifications=[{"ResourceType": "volume", "Tags": tags}]
    )
    assert list(here.backend.leftovers(here.now())) == []  # what is young may be about to be used
    here.later_s += 40 * 86_400

    found = list(here.backend.leftovers(here.now()))
    for one in found:
        one.end()

    assert [one.kind for one in found] == ["disk", "objects in the storage"]
    assert [name for name in cloud.objects() if of.key in name] == []
    assert list(here.backend.leftovers(here.now())) == []


def test_collect__output_that_is_not_what_was_sent__is_refused(here, cloud, tmp_path):
    of = trial(resources=L4)
    here.submit(of)
    digest = hashlib.sha256(b"good").hexdigest()
    here.leave(of, 1, "result.json", {"outcome": "succeeded", "files": [{"path": "out/a", "sha256": digest}]})
    here.storage.put(f"jobs/{of.key}/1/outputs/out/a", b"bad")

    with pytest.raises(TrialError) as refused:
        here.backend.collect(of.key, tmp_path / "into")

    assert str(refused.value) == f"the output out/a of the job {of.key[:12]} is not what its machine sent"


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "a\0b", 7, None])
def test_collect__path_that_leads_out__is_refused(here, cloud, tmp_path, path):
    of = trial(resources=L4)
    here.submit(of)
    entry = {"path": path, "sha256": "0" * 64}
    here.leave(of, 1, "result.json", {"outcome": "succeeded", "files": [entry]})

    with pytest.raises(TrialError, match="names an output that is no file below its workdir"):
        here.backend.collect(of.key, tmp_path / "into")

    assert [file for file in tmp_path.rglob("x") if file.is_file()] == []


def test_collect__name_that_no_disk_takes__is_refused(here, cloud, tmp_path):
    of = trial(resources=L4)
    here.submit(of)
    entry = {"path": f"{'x' * 300}/y", "sha256": "0" * 64}
    here.leave(of, 1, "result.json", {"outcome": "succeeded", "files": [entry]})

    with pytest.raises(TrialError, match="cannot be written here: File name too long"):
        here.backend.collect(of.key, tmp_path / "into")


def test_logs__pieces__follow_each_other(here, cloud):
    of = trial(resources=L4)
    here.submit(of)
    for offset, text in ((0, b"one\ntw"), (6, b"o\n"), (8, b"three")):
        here.storage.put(f"jobs/{of.key}/1/logs/{offset:015d}", text)

    assert list(here.backend.logs(of.key, follow=False)) == ["one", "two", "three"]


def test_secrets__of_a_spec__are_looked_up_by_name_alone(here, cloud):
    cloud.client("ssm").put_parameter(Name="/gitops-ml/acme/digits/HF_TOKEN", Type="SecureString", Value="canary-value")
    before = len(cloud.calls)

    here.submit(trial(resources=L4, environment=Environment(secrets=("HF_TOKEN",))))

    actions = {call.action for call in cloud.calls[before:] if call.service == "ssm"}
    assert actions == {"DescribeParameters", "GetParameter"}
    assert {call.parameters["Name"] for call in cloud.calls[before:] if call.action == "GetParameter"} == {
        "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
    }
    assert b"canary-value" not in b"".join(cloud.objects().values())
    assert b"canary-value" not in cloud.live()[0].user_data


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"resources": Resources(nodes=2)},
            "experiments/digits.yaml: resources.nodes: the backend `aws-ec2` rents one machine per trial",
        ),
        (
            {"resources": L4, "environment": Environment(secrets=("HF_TOKEN",))},
            (
                "experiments/digits.yaml: environment.secrets: there is no SSM parameter "
                "/gitops-ml/acme/digits/HF_TOKEN in us-east-1; "
                "`aws ssm put-parameter --type SecureString --name NAME --value ...` makes it"
            ),
        ),
    ],
    ids=["nodes", "secrets"],
)
def test_submit__what_cannot_be__is_refused_before_anything_is_written(here, cloud, fields, said):
    of = trial(**fields)

    with pytest.raises(UserError) as refused:
        here.submit(of)

    assert str(refused.value) == said
    assert cloud.objects() == {}


def test_estimate__offline__asks_nothing_and_live_asks_for_today(here, cloud):
    of = trial(resources=L4, budget=HOUR)
    before = len(cloud.calls)

    planned = here.backend.estimate(of)
    asked = len(cloud.calls) - before
    cloud.settings(prices={"g6.xlarge": 1.5})
    live = here.backend.estimate(of, live=True)

    assert asked == 0
    assert (str(planned.worst_usd), planned.source, planned.instance_type) == (
        "1.0944",
        "catalog, 2026-07-20",
        "g6.xlarge",
    )
    assert live.worst_usd > planned.worst_usd
    assert live.source == "AWS price list, 2026-11-01"


def test_estimate__elsewhere__says_that_the_price_is_not_known(cloud, tmp_path):
    of = trial(resources=L4, budget=HOUR)
    there = Place(cloud, tmp_path / "there", regions=["eu-west-1"], **ONE)
    priced = Place(cloud, tmp_path / "priced", regions=["eu-west-1"], prices={"g6.xlarge": "0.9 USD"}, **ONE)

    assert dataclasses.astuple(there.backend.estimate(of))[1] == 0
    assert there.backend.estimate(of).source == ""
    assert there.backend.estimate(of).note == (
        "the price of g6.xlarge in eu-west-1 is not known here; backends.aws-ec2.prices can say it"
    )
    assert priced.backend.estimate(of).source == "gitops-ml.yaml"
    assert priced.backend.estimate(of).worst_usd > 1


def test_wait__after_a_machine_was_taken_away__asks_again(here, cloud):
    of = trial(resources=SPOT, budget=Budget(max_wait_s=600))
    here.submit(of)
    cloud.pull_plug(cloud.live()[0].identity)
    here.status(of)
    cloud.no_capacity()
    waiting = here.submit(of)
    cloud.clear_faults()
    here.later_s += 61

    status = here.submit(of)

    assert (waiting.state, status.state, status.attempt) == (JobState.WAITING, JobState.STARTING, 2)
    assert [one.tags["gitops-ml:attempt"] for one in cloud.live()] == ["2"]


def test_poll__somebody_else_is_at_the_next_attempt__leaves_its_machine(here, cloud, tmp_path):
    of = trial(resources=SPOT)
    here.submit(of)
    here.status(of)
    cloud.pull_plug(cloud.live()[0].identity)
    there = Place(cloud, tmp_path / "there", **ONE)
    there.submit(of)
    (machine,) = cloud.live()

    status = here.status(of)

    assert [one.identity for one in cloud.live()] == [machine.identity]
    assert (status.state, status.attempt) == (JobState.PREEMPTED, 1)
    assert (here.status(of).state, here.status(of).attempt) == (JobState.STARTING, 2)


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "ExpiredToken"])
def test_submit__answer_lost_and_then_refused_for_who_we_are__may_have_a_machine(here, cloud, code):
    of = trial(resources=L4)
    cloud.fault("RunInstances", kind="reset", when="after", times=1)
    cloud.fault("RunInstances", code, status=403, skip=1, times=None)
    cloud.fault("DescribeInstances", code, status=403, times=None)

    with pytest.raises(ServiceError) as caught:
        here.submit(of)
    cloud.clear_faults()
    status = here.submit(of, here.connect())

    assert caught.value.lasting
    assert (status.state, status.attempt) == (JobState.STARTING, 1)
    assert len(cloud.instances()) == 1


def test_poll__from_where_another_region_is_set__looks_where_the_machine_is(here, cloud):
    of = trial(resources=L4)
    here.submit(of)
    here.settings = {**ONE, "regions": ["us-west-2"]}
    elsewhere = here.connect()
    here.leave(of, 1, "heartbeat.json", _beat())

    status = elsewhere.poll([of.key])[of.key]
    here.submit(of, elsewhere)
    elsewhere.cancel(of.key)

    assert (status.state, status.machine) == (JobState.RUNNING, Machine.LIVE)
    assert [one.live for one in cloud.instances()] == [False]


def test_submit__profile_that_does_not_exist__is_refused_and_not_called_unanswered(here, cloud):
    message = "Value (none) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"
    cloud.fault("RunInstances", "InvalidParameterValue", message=message, times=None)
    of = trial(resources=L4)

    with pytest.raises(UserError) as caught:
        here.submit(of)

    assert str(caught.value) == (
        f"{REFUSED} (InvalidParameterValue: {message}); mend `backends.aws-ec2` in gitops-ml.yaml; "
        "`gitops-ml doctor` looks at each part of it"
    )
    assert here.backend.poll([of.key]) == {}


def test_leftovers__region_that_is_set_no_more__is_looked_at_too(here, cloud):
    of = trial(resources=L4, budget=Budget(max_duration_s=60, max_wait_s=60))
    here.submit(of)
    here.settings = {**ONE, "regions": ["us-west-2"]}
    here.later_s += 2000

    found = list(here.connect().leftovers(here.now()))

    assert [(one.kind, one.key) for one in found] == [("machine", of.key)]


def test_leftovers__machine_whose_lease_is_in_another_storage__is_left_in_its_time(here, cloud):
    of = trial(resources=L4, budget=HOUR)
    here.submit(of)
    here.storage.delete(f"jobs/{of.key}/1/lease.json")
    here.later_s += 1000

    assert list(here.backend.leftovers(here.now())) == []


def test_poll__when_ec2_has_forgotten_the_machine__still_says_what_it_cost(here, cloud):
    of = trial(resources=SPOT)
    here.submit(of)
    (machine,) = cloud.live()
    now = here.now().timestamp()
    said = {"id": machine.identity, "type": machine.type, "zone": machine.zone, "market": "spot"}
    result = {"outcome": "succeeded", "machine": said, "started_at": now + 30, "ended_at": now + 3600, "files": []}
    here.leave(of, 1, "result.json", result)
    here.leave(of, 1, "heartbeat.json", _beat(at=now + 3610))
    cloud.client("ec2").terminate_instances(InstanceIds=[machine.identity])
    cloud.client("ec2").delete_tags(Resources=[machine.identity], Tags=[{"Key": "gitops-ml:repo"}])
    here.later_s += 3 * 3600

    status = here.connect().poll([of.key])[of.key]

    assert status.state is JobState.SUCCEEDED
    usage = status.usage
    assert (usage.instance_id, usage.zone, usage.market) == (machine.identity, machine.zone, "spot")
    assert usage.billed_s == pytest.approx(3610, abs=5)
    assert status.cost_usd == pytest.approx(usage.usd_per_hour * 3610 / 3600, rel=0.1)


def test_poll__long_wait__reads_turns_that_are_over_once(here, cloud):
    of = trial(resources=L4, budget=Budget(max_wait_s=3600))
    cloud.no_capacity()
    for _ in range(5):
        here.submit(of)
        here.later_s += 301
    here.status(of)
    before = len(cloud.calls)

    here.status(of)

    read = [call for call in cloud.calls[before:] if call.action == "GetObject" and "asking/" in call.parameters["Key"]]
    assert read == []


def test_jobs__one_by_its_key__is_read_alone(here, cloud):
    trials = [trial(resources=L4, seed=seed) for seed in range(3)]
    for of in trials:
        here.submit(of)
    before = len(cloud.calls)

    (job,) = here.backend.jobs(trials[1].key[:12])

    assert job.key == trials[1].key
    assert [call.action for call in cloud.calls[before:]] == ["ListObjectsV2", "GetObject"]


def test_submit__next_attempt__brings_back_what_the_bucket_has_let_go(here, cloud):
    of = trial(resources=SPOT)
    here.submit(of)
    cloud.pull_plug(cloud.live()[0].identity)
    before = {name for name in cloud.objects() if not name.startswith("digits/jobs/")}
    for name in before:
        here.storage.delete(name.removeprefix("digits/"))

    here.status(of)
    status = here.submit(of)

    assert (status.state, status.attempt) == (JobState.STARTING, 2)
    assert {name for name in cloud.objects() if not name.startswith("digits/jobs/")} >= before - {
        "digits/conditional-writes"
    }


def test_submit__long_after_the_last_one__looks_anew_for_the_agent(here, cloud):
    here.submit(trial(resources=L4))
    (agent,) = [name for name in cloud.objects() if name.startswith("digits/agents/")]
    here.storage.delete(agent.removeprefix("digits/"))
    here.later_s += 8 * 86_400

    here.submit(trial(resources=L4, seed=2))

    assert agent in cloud.objects()


def test_secrets__that_data_may_need__go_along_if_they_are_there(here, cloud):
    of = trial(resources=L4)
    cloud.client("ssm").put_parameter(Name="/gitops-ml/acme/digits/HF_TOKEN", Type="SecureString", Value="canary-value")

    with bundle(of, Objects().blobs) as made:
        here.backend.submit(of, dataclasses.replace(made, variables=("HF_TOKEN", "GH_TOKEN", "AWS_SESSION_TOKEN")))

    lease = json.loads(here.storage.get(f"jobs/{of.key}/1/lease.json"))
    assert lease["secrets"] == {"HF_TOKEN": "/gitops-ml/acme/digits/HF_TOKEN"}
    assert b"canary-value" not in b"".join(cloud.objects().values())


def _beat(**fields):
    beat = Heartbeat(**{"at": 1.0, "beat": 1, "phase": "training", "state": "running", **fields})
    return json.loads(to_json(beat))
