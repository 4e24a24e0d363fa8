"""Which jobs nobody wants any more, and which that lost their machine go on: two tables."""

import dataclasses
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from gitops_ml.backends.base import Asked, Job, JobState, JobStatus
from gitops_ml.commands._ci_places import Place, attempt_of, is_kept, unwanted
from gitops_ml.commands._ci_reconcile import goes_on
from gitops_ml.commands._jobs import Known
from gitops_ml.planning import Action, Estimate, PlannedTrial
from gitops_ml.policy import Ruling
from gitops_ml.records import Origin, Outcome, Usage
from gitops_ml.spec import Budget
from tests.fakes.runs import attempt, experiment, trial

OLD, NEW, TIP = "a" * 40, "b" * 40, "c" * 40
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
MAIN = Place(head=TIP, keys=frozenset({"of main"}))


def place(*keys: str, head: str = NEW) -> Place:
    return Place(head=head, keys=frozenset(keys))


@pytest.mark.parametrize(
    ("why", "asked", "others", "expected"),
    [
        ("a new head", Asked(head=OLD, change=7), [place("its own")], True),
        ("the change is closed", Asked(head=OLD, change=7), [], True),
        ("its head stands", Asked(head=OLD, change=7), [place(head=OLD)], False),
        ("the new head wants it", Asked(head=OLD, change=7), [place("job")], False),
        ("another change wants it", Asked(head=OLD, change=7), [place("its own"), place("job", head=TIP)], False),
        ("the default branch asked for it", Asked(head=OLD), [], False),
        ("a person started it", None, [], False),
    ],
)
def test_unwanted__as_listed(why, asked, others, expected):
    assert (unwanted({"job": asked}, [MAIN, *others]) == ["job"]) is expected, why


def test_unwanted__fork_while_only_branches_are_known__is_left_alone():
    jobs = {"ours": Asked(head=OLD, change=7), "a fork's": Asked(head=OLD, change=8, fork=True)}

    assert unwanted(jobs, [MAIN], by_branch=True) == ["ours"]
    assert unwanted(jobs, [MAIN]) == ["ours", "a fork's"]


def test_unwanted__what_main_wants__goes_on():
    assert unwanted({"of main": Asked(head=OLD, change=7)}, [MAIN]) == []


USAGE = Usage(
    provider="aws",
    region="us-east-1",
    zone="us-east-1a",
    instance_id="i-1",
    instance_type="g5.xlarge",
    market="spot",
    image="ami-1",
    usd_per_hour=0.5,
    price_source="list",
    price_date="2026-01-01",
    billed_s=60,
    final_state="terminated",
    worst_usd=2.5,
)
NOWHERE = dataclasses.replace(USAGE, instance_id="")
SPEC = experiment(budget=Budget(retries_preempted=2))
TRIAL = trial(SPEC)
APPROVED = Asked(head=NEW, change=7)
LOST = JobStatus(key=TRIAL.key, state=JobState.PREEMPTED, asked=APPROVED, usage=USAGE)
TRIED = [attempt(TRIAL, Outcome.PREEMPTED)]


def changed(**fields) -> JobStatus:
    return dataclasses.replace(LOST, **fields)


@pytest.mark.parametrize(
    ("why", "status", "ruling", "attempts", "worst_usd", "expected"),
    [
        ("policy trains it", LOST, Ruling.TRAIN, TRIED, 9, True),
        ("its machine is lost", changed(state=JobState.LOST), Ruling.TRAIN, TRIED, 1, True),
        ("no machine was had", changed(state=JobState.TIMED_OUT, usage=NOWHERE), Ruling.TRAIN, TRIED, 1, True),
        ("it took too long itself", changed(state=JobState.TIMED_OUT), Ruling.TRAIN, TRIED, 1, False),
        ("it failed", changed(state=JobState.FAILED), Ruling.TRAIN, TRIED, 1, False),
        ("it was cancelled", changed(state=JobState.CANCELLED), Ruling.TRAIN, TRIED, 1, False),
        ("it is at work", changed(state=JobState.RUNNING), Ruling.TRAIN, [], 1, False),
        ("the last retry", LOST, Ruling.TRAIN, TRIED * 2, 1, True),
        ("no retry is left", LOST, Ruling.TRAIN, TRIED * 3, 1, False),
        ("failures are counted apart", LOST, Ruling.TRAIN, TRIED + [attempt(TRIAL, Outcome.FAILED)] * 9, 1, True),
        ("it was approved for as much", LOST, Ruling.WAIT, TRIED, 2.5, True),
        ("it was approved for less", LOST, Ruling.WAIT, TRIED, 2.6, False),
        ("another head was approved", changed(asked=Asked(head=OLD, change=7)), Ruling.WAIT, TRIED, 1, False),
        ("nobody knows for how much", changed(usage=None), Ruling.WAIT, TRIED, 1, False),
        ("policy refuses it now", LOST, Ruling.REFUSE, TRIED, 1, False),
        ("a person started it", changed(asked=None), Ruling.TRAIN, TRIED, 1, False),
        ("its turn to ask", changed(state=JobState.WAITING, retry_at=NOW), Ruling.WAIT, [], 9, True),
        (
            "not its turn",
            changed(state=JobState.WAITING, retry_at=NOW + timedelta(seconds=1)),
            Ruling.WAIT,
            [],
            1,
            False,
        ),
    ],
)
def test_goes_on__as_listed(why, status, ruling, attempts, worst_usd, expected):
    planned = PlannedTrial(
        trial=TRIAL, action=Action.RUN, reason="", estimate=Estimate(worst_usd=Decimal(str(worst_usd)))
    )
    assert goes_on(status, planned, ruling, attempts, head=NEW, now=NOW) is expected, why


JOB = Job(key=TRIAL.key, experiment="digits", seed=3, params={"layers": [1, 2]}, submitted_at=NOW)


def test_attempt_of__job_without_a_plan__says_whose_it_was_and_what_it_cost():
    status = changed(
        state=JobState.CANCELLED,
        reason="cancelled by dana\x1b[31m",
        started_at=NOW,
        ended_at=NOW + timedelta(seconds=90),
        cost_usd=0.25,
    )
    known = Known(job=JOB, status=status, backend=None, backend_name="aws-ec2")  # type: ignore[arg-type]
    made = attempt_of(known, status, Origin(kind="ci", run_url="https://forge.example/runs/9"))

    assert (made.outcome, made.commit, made.origin.change) == (Outcome.CANCELLED, NEW, 7)
    assert (made.params, made.seed, made.backend) == ({"layers": (1, 2)}, 3, "aws-ec2")
    assert (made.started_at, made.duration_s, made.cost_usd) == ("2026-11-27T12:00:00Z", 90.0, 0.25)
    assert "\x1b" not in made.reason


@pytest.mark.parametrize(
    ("earlier", "expected"),
    [
        ([], False),
        ([attempt(TRIAL, Outcome.CANCELLED, usage=USAGE, started_at="2026-01-02T00:00:00Z")], True),
        ([attempt(TRIAL, Outcome.PREEMPTED)], True),
        ([attempt(TRIAL, Outcome.CANCELLED)], False),
        ([attempt(TRIAL, Outcome.CANCELLED, usage=NOWHERE)], False),
    ],
)
def test_is_kept__same_machine_or_same_end__is_told(earlier, expected):
    assert is_kept(attempt(TRIAL, Outcome.PREEMPTED, usage=USAGE), earlier) is expected
