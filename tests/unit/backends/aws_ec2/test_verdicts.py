"""The verdict table: every row of what the two witnesses may say."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitops_ml.agent.objects import Heartbeat
from gitops_ml.backends.aws_ec2.verdicts import Act, Asking, Instance, Seen, Verdict, time_of, verdict
from gitops_ml.backends.base import JobState, Machine
from tests.fakes.leases import NOW, TERMS, lease

RUNNING = Instance(
    id="i-1",
    state="running",
    reason="",
    instance_type="g6.xlarge",
    zone="us-east-1a",
    market="spot",
    launched_at=NOW,
    ended_at=None,
    key="k",
    attempt=1,
)
BEAT = Heartbeat(at=1, beat=3, phase="training", state="running", machine="i-1", progress="epoch 3/20")
SHUT_DOWN = {"outcome": "preempted", "reason": "the machine was shut down", "cause": "shutdown"}
RESULT = {"outcome": "succeeded", "reason": "", "progress": "epoch 20/20"}


def seen(*, after_s=60.0, **fields):
    return Seen(**{"lease": lease(), "now": NOW + after_s, **fields})


def ended(reason, *, state="terminated", ended_at=NOW + 50):
    return dataclasses.replace(RUNNING, state=state, reason=reason, ended_at=ended_at)


LIVE, GONE, GOING = Machine.LIVE, Machine.GONE, Machine.RELEASING
ROWS = {
    "terminal status, machine lives": (
        {"result": RESULT, "instance": RUNNING},
        Verdict(state=JobState.COLLECTING, machine=LIVE, act=Act.END, progress="epoch 20/20"),
    ),
    "terminal status, machine is going": (
        {"result": RESULT, "instance": ended("", state="shutting-down")},
        Verdict(state=JobState.COLLECTING, machine=GOING, progress="epoch 20/20"),
    ),
    "terminal status, machine is gone": (
        {"result": RESULT, "instance": ended("Client.UserInitiatedShutdown")},
        Verdict(state=JobState.SUCCEEDED, machine=GONE, progress="epoch 20/20"),
    ),
    "terminal status, machine forgotten": (
        {"result": {"outcome": "failed", "reason": "exit 1"}, "heartbeat": BEAT},
        Verdict(state=JobState.FAILED, reason="exit 1", machine=GONE),
    ),
    "terminal status that goes on and on": (
        {"result": {"outcome": "failed", "reason": "x" * 10**6, "progress": "y" * 10**6}, "heartbeat": BEAT},
        Verdict(state=JobState.FAILED, reason="x" * 4000, progress="y" * 300, machine=GONE),
    ),
    "terminal status of nonsense": (
        {"result": {"outcome": "running"}, "heartbeat": BEAT},
        Verdict(state=JobState.FAILED, reason="its result names no known outcome", machine=GONE),
    ),
    "fresh heartbeat": (
        {"heartbeat": BEAT, "instance": RUNNING},
        Verdict(state=JobState.RUNNING, machine=LIVE, progress="epoch 3/20"),
    ),
    "heartbeat of a state that nobody knows": (
        {"heartbeat": dataclasses.replace(BEAT, state="dancing"), "instance": RUNNING},
        Verdict(state=JobState.RUNNING, machine=LIVE, progress="epoch 3/20"),
    ),
    "heartbeat that claims to be over": (
        {"heartbeat": dataclasses.replace(BEAT, state="succeeded"), "instance": RUNNING},
        Verdict(state=JobState.COLLECTING, machine=LIVE, progress="epoch 3/20"),
    ),
    "stale heartbeat": (
        {"heartbeat": BEAT, "instance": RUNNING, "silent_s": 240},
        Verdict(state=JobState.RUNNING, machine=LIVE, progress="no sign of life for 4 min; epoch 3/20"),
    ),
    "very stale heartbeat": (
        {"heartbeat": BEAT, "instance": RUNNING, "silent_s": 601},
        Verdict(state=JobState.COLLECTING, reason="its machine fell silent for 10 min", machine=LIVE, act=Act.GIVE_UP),
    ),
    "no word yet": ({"instance": RUNNING}, Verdict(state=JobState.STARTING, machine=LIVE)),
    "never a word": (
        {"instance": RUNNING, "after_s": 901},
        Verdict(
            state=JobState.COLLECTING,
            reason="its machine said nothing within 15 min of its start",
            machine=LIVE,
            act=Act.GIVE_UP,
        ),
    ),
    "given up, still there": (
        {"instance": RUNNING, "condemned": "its machine fell silent for 10 min"},
        Verdict(state=JobState.COLLECTING, reason="its machine fell silent for 10 min", machine=LIVE, act=Act.END),
    ),
    "given up and gone": (
        {"instance": ended("Client.UserInitiatedShutdown"), "condemned": "its machine fell silent for 10 min"},
        Verdict(state=JobState.LOST, reason="its machine fell silent for 10 min", machine=GONE),
    ),
    "given up and forgotten": (
        {"heartbeat": BEAT, "condemned": "its machine fell silent for 10 min"},
        Verdict(state=JobState.LOST, reason="its machine fell silent for 10 min", machine=GONE),
    ),
    "past its time and alive": (
        {"heartbeat": BEAT, "instance": RUNNING, "after_s": 140 * 60 + 601},
        Verdict(state=JobState.COLLECTING, reason="its machine outlived its 140 min", machine=LIVE, act=Act.GIVE_UP),
    ),
    "stopped from outside": (
        {"heartbeat": BEAT, "instance": dataclasses.replace(RUNNING, state="stopped")},
        Verdict(
            state=JobState.COLLECTING, reason="its machine was stopped from outside", machine=LIVE, act=Act.GIVE_UP
        ),
    ),
    "going without a result": (
        {"heartbeat": BEAT, "instance": ended("", state="shutting-down")},
        Verdict(state=JobState.COLLECTING, reason="its machine is going", machine=GOING),
    ),
    "spot taken back": (
        {"heartbeat": BEAT, "instance": ended("Server.SpotInstanceTermination")},
        Verdict(
            state=JobState.PREEMPTED,
            reason="AWS took the spot machine back (Server.SpotInstanceTermination)",
            machine=GONE,
        ),
    ),
    "spot taken back during set-up": (
        {"instance": ended("Server.SpotInstanceShutdown")},
        Verdict(
            state=JobState.PREEMPTED,
            reason="AWS took the spot machine back (Server.SpotInstanceShutdown)",
            machine=GONE,
        ),
    ),
    "shut down at its deadline": (
        {"heartbeat": BEAT, "instance": ended("Client.InstanceInitiatedShutdown", ended_at=NOW + 140 * 60)},
        Verdict(
            state=JobState.TIMED_OUT,
            reason="its machine reached its 140 min, which budget.max_duration sets",
            machine=GONE,
        ),
    ),
    "shut down at the end of its money": (
        {
            "lease": lease(terms=dataclasses.replace(TERMS, bounded_by="budget.max_cost")),
            "instance": ended("Client.InstanceInitiatedShutdown", ended_at=NOW + 140 * 60),
        },
        Verdict(
            state=JobState.OVER_BUDGET,
            reason="its machine reached its 140 min, which budget.max_cost sets",
            machine=GONE,
        ),
    ),
    "shut down before": (
        {"heartbeat": BEAT, "instance": ended("Client.InstanceInitiatedShutdown")},
        Verdict(state=JobState.LOST, reason="its machine shut itself down and left no result", machine=GONE),
    ),
    "ended by somebody": (
        {"heartbeat": BEAT, "instance": ended("Client.UserInitiatedShutdown")},
        Verdict(state=JobState.CANCELLED, reason="somebody ended its machine", machine=GONE),
    ),
    "no capacity after acceptance": (
        {"instance": ended("Server.InsufficientInstanceCapacity")},
        Verdict(
            state=JobState.LOST,
            reason="AWS had no such machine after all (Server.InsufficientInstanceCapacity)",
            machine=GONE,
        ),
    ),
    "broke after acceptance": (
        {"instance": ended("Server.InternalError")},
        Verdict(state=JobState.LOST, reason="AWS could not start the machine (Server.InternalError)", machine=GONE),
    ),
    "no disk after acceptance": (
        {"instance": ended("Client.VolumeLimitExceeded")},
        Verdict(
            state=JobState.FAILED,
            reason="the account's quota of disks is used up (Client.VolumeLimitExceeded)",
            machine=GONE,
        ),
    ),
    "no key after acceptance": (
        {"instance": ended("Client.InternalError")},
        Verdict(
            state=JobState.FAILED,
            reason="the machine could not be started, often for want of a right to a disk's key (Client.InternalError)",
            machine=GONE,
        ),
    ),
    "refused after acceptance": (
        {"instance": ended("Client.SomethingNew")},
        Verdict(state=JobState.FAILED, reason="its machine could not be started (Client.SomethingNew)", machine=GONE),
    ),
    "gone for no reason": (
        {"instance": ended("")},
        Verdict(
            state=JobState.LOST, reason="its machine is gone and left no result (no reason is given)", machine=GONE
        ),
    ),
    "cancelled, machine lives": (
        {"cancel": {"by": "ada"}, "heartbeat": BEAT, "instance": RUNNING},
        Verdict(state=JobState.COLLECTING, reason="being cancelled", machine=LIVE, act=Act.END),
    ),
    "cancelled, machine is going": (
        {"cancel": {"by": "ada"}, "instance": ended("", state="shutting-down")},
        Verdict(state=JobState.CANCELLED, reason="cancelled by ada", machine=GOING),
    ),
    "cancelled while it waited": (
        {"cancel": {}},
        Verdict(state=JobState.CANCELLED, reason="cancelled", machine=Machine.NONE),
    ),
    "cancelled, but it had ended well": (
        {"cancel": {"by": "ada"}, "result": RESULT, "instance": ended("Client.UserInitiatedShutdown")},
        Verdict(state=JobState.SUCCEEDED, machine=GONE, progress="epoch 20/20"),
    ),
    "cancelled while a request may be under way": (
        {"cancel": {}, "asking": Asking(busy_until=NOW + 90)},
        Verdict(state=JobState.COLLECTING, reason="being cancelled"),
    ),
    "ended by its own timer, which its money set": (
        {
            "lease": lease(terms=dataclasses.replace(TERMS, bounded_by="budget.max_cost")),
            "result": {"outcome": "timed_out", "reason": "the machine's time is over", "cause": "deadline"},
            "instance": ended("Client.InstanceInitiatedShutdown"),
        },
        Verdict(
            state=JobState.OVER_BUDGET,
            reason="its machine reached its 140 min, which budget.max_cost sets",
            machine=GONE,
        ),
    ),
    "ended by its own timer": (
        {
            "result": {"outcome": "timed_out", "reason": "the machine's time is over", "cause": "deadline"},
            "instance": ended("Client.InstanceInitiatedShutdown"),
        },
        Verdict(
            state=JobState.TIMED_OUT,
            reason="its machine reached its 140 min, which budget.max_duration sets",
            machine=GONE,
        ),
    ),
    "shut down by somebody": (
        {"result": SHUT_DOWN, "instance": ended("Client.UserInitiatedShutdown")},
        Verdict(state=JobState.CANCELLED, reason="somebody ended its machine", machine=GONE),
    ),
    "shut down since it was given up": (
        {"result": SHUT_DOWN, "instance": ended("Client.UserInitiatedShutdown"), "condemned": "it fell silent"},
        Verdict(state=JobState.LOST, reason="it fell silent", machine=GONE),
    ),
    "shut down, and nobody knows why": (
        {"result": SHUT_DOWN, "instance": ended("")},
        Verdict(state=JobState.PREEMPTED, reason="the machine was shut down", machine=GONE),
    ),
    "asked for nothing yet": ({}, Verdict(state=JobState.WAITING)),
    "refused everywhere so far": (
        {"asking": Asking(refused=("g6.xlarge spot in a: InsufficientInstanceCapacity",), retry_at=NOW + 99)},
        Verdict(
            state=JobState.WAITING, progress="waits for a machine: g6.xlarge spot in a: InsufficientInstanceCapacity"
        ),
    ),
    "refused everywhere for too long": (
        {"asking": Asking(refused=("x: A", "y: B", "x: A")), "after_s": 3601},
        Verdict(
            state=JobState.TIMED_OUT,
            reason="no machine was to be had within max_wait (60 min); tried: x: A (2 times), y: B",
        ),
    ),
    "too long, but somebody still asks": (
        {"asking": Asking(busy_until=NOW + 4000), "after_s": 3601},
        Verdict(state=JobState.WAITING),
    ),
    "too long and never asked": (
        {"after_s": 3601},
        Verdict(
            state=JobState.TIMED_OUT,
            reason="no machine was to be had within max_wait (60 min); nothing could be asked",
        ),
    ),
    "started, not yet seen": (
        {"asking": Asking(started="i-1", started_at=NOW + 50)},
        Verdict(state=JobState.STARTING, machine=LIVE),
    ),
    "started and never seen": (
        {"asking": Asking(started="i-1", started_at=NOW), "after_s": 91},
        Verdict(state=JobState.LOST, reason="its machine i-1 is gone and left no result", machine=GONE),
    ),
    "token spent": (
        {"asking": Asking(spent=True)},
        Verdict(
            state=JobState.LOST, reason="its machine was started and has ended already, without a result", machine=GONE
        ),
    ),
    "spoke just now, not to be seen": (
        {"heartbeat": dataclasses.replace(BEAT, at=NOW + 50)},
        Verdict(state=JobState.RUNNING, machine=LIVE, progress="epoch 3/20"),
    ),
    "spoke just now before our eyes, not to be seen since": (
        {"heartbeat": dataclasses.replace(BEAT, at=NOW + 50), "silent_s": 90},
        Verdict(state=JobState.LOST, reason="its machine is gone and left no result", machine=GONE),
    ),
    "worked once, forgotten by the cloud": (
        {"heartbeat": BEAT},
        Verdict(state=JobState.LOST, reason="its machine is gone and left no result", machine=GONE),
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_verdict__row__is_as_the_table_says(row):
    what, expected = ROWS[row]

    assert verdict(seen(**what)) == expected


@given(
    result=st.none() | st.dictionaries(st.sampled_from(["outcome", "reason", "progress"]), st.text() | st.integers()),
    cancel=st.none() | st.just({"by": "ada"}),
    condemned=st.none() | st.just("silent"),
    heartbeat=st.none() | st.just(BEAT) | st.builds(lambda state: dataclasses.replace(BEAT, state=state), st.text()),
    state=st.none() | st.sampled_from(["pending", "running", "stopping", "stopped", "shutting-down", "terminated"]),
    reason=st.sampled_from(["", "Client.UserInitiatedShutdown", "Server.SpotInstanceTermination", "Client.X"])
    | st.text(),
    after_s=st.integers(-100, 10**6),
    silent_s=st.integers(0, 10**5),
    asking=st.sampled_from([Asking(), Asking(started="i-1"), Asking(spent=True), Asking(refused=("a: B",))]),
)
def test_verdict__anything__is_final_only_without_a_machine_that_costs(state, reason, **fields):
    instance = None if state is None else ended(reason, state=state)

    found = verdict(seen(**fields, instance=instance))

    if found.state.final:
        assert found.machine is not Machine.LIVE
        assert found.act is Act.NOTHING
        assert instance is None or not instance.live
    if fields["cancel"] and instance is not None and instance.live:
        assert found.act is Act.END


@pytest.mark.parametrize("wrong", [None, True, "1", float("nan"), 1e300, []])
def test_time__of_what_is_none__is_none(wrong):
    assert time_of(wrong) is None
