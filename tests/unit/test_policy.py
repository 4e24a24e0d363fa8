"""Who may spend what: decisions, and what a change gains by editing the rules (nothing)."""

import dataclasses
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitops_ml.errors import ExitCode
from gitops_ml.planning import (
    Action,
    Estimate,
    ExperimentPlan,
    Plan,
    PlannedTrial,
    Relation,
    Specs,
    Tree,
    digest,
    next_repeat,
)
from gitops_ml.policy import (
    Approval,
    Policy,
    Ruling,
    Spent,
    decide,
    edited_rules,
    held,
    over_budget,
    policy_from,
    rules_for,
    under_rules,
    without_foreign,
)
from gitops_ml.project import project_from
from gitops_ml.spec import (
    At,
    BaselineRule,
    Budget,
    CompareRule,
    Data,
    Environment,
    Experiment,
    Gate,
    Goal,
    Metrics,
    Missing,
    Track,
    Triggers,
)
from tests.fakes.runs import BASE, BASELINE, HEAD, experiment, trial

ANY = Policy()
APPROVED = Approval(how="command", by="dana", permission="write", head=HEAD.commit)


def _planned(spec: Experiment, usd: str = "0", seed: int = 0, *, version=HEAD, **estimate: str) -> PlannedTrial:
    cost = Estimate(worst_usd=Decimal(usd), **{"source": "catalog", **estimate})
    return PlannedTrial(trial=trial(spec, version, seed), action=Action.RUN, reason="no record", estimate=cost)


def _entry(spec: Experiment, *head: PlannedTrial, base: tuple[PlannedTrial, ...] = ()) -> ExperimentPlan:
    return ExperimentPlan(
        experiment=spec,
        base_experiment=spec,
        baseline=BASELINE,
        relation=Relation.CHANGED,
        head=head,
        base=base,
    )


def _plan(*entries: ExperimentPlan) -> Plan:
    return Plan(head=HEAD, baseline=BASELINE, experiments=entries)


def _one(usd: str = "0", **fields: object) -> Plan:
    spec = experiment(**fields)
    return _plan(_entry(spec, _planned(spec, usd)))


def _rulings(plan: Plan, policy: Policy = ANY, approval: Approval | None = None, **more: object) -> list[Ruling]:
    decision = decide(plan, policy, more.pop("spent", Spent()), approval, backend="local", **more)
    return [entry.ruling for entry in decision.experiments]


# The policy itself


def test_policy_from__everything__is_in_units():
    policy = policy_from(
        {
            "backends": ["aws-ec2"],
            "secrets": ["HF_TOKEN"],
            "max_cost_per_trial": "10 USD",
            "max_cost_per_month": "500.50 USD",
            "auto_run_below": "5 USD",
            "approvers": "maintain",
            "forks": "approval",
        }
    )

    assert policy == Policy(
        backends=("aws-ec2",),
        secrets=("HF_TOKEN",),
        max_cost_per_trial_usd=Decimal(10),
        max_cost_per_month_usd=Decimal("500.50"),
        auto_run_below_usd=Decimal(5),
        approvers="maintain",
        forks="approval",
    )


def test_decide__no_policy__trains_what_is_free_and_asks_about_money():
    assert _rulings(_one()) == [Ruling.TRAIN]
    assert _rulings(_one("0.01")) == [Ruling.WAIT]


def test_decide__nothing_to_train__decides_nothing():
    spec = experiment()
    reused = dataclasses.replace(_planned(spec, "9"), action=Action.REUSE)
    decision = decide(_plan(_entry(spec, reused)), Policy(), Spent(), None, backend="local")

    assert (decision.experiments, decision.exit_code) == ((), ExitCode.OK)


# Approval


def test_decide__approved__trains():
    assert _rulings(_one("9"), approval=APPROVED) == [Ruling.TRAIN]


def test_decide__approved_by_environment__needs_no_permission_of_the_forge():
    approval = Approval(how="environment", head=HEAD.commit)

    assert _rulings(_one("9"), approval=approval) == [Ruling.TRAIN]


def test_decide__approval_of_another_head__does_not_count_and_says_so():
    approval = dataclasses.replace(APPROVED, head="d" * 40)
    decision = decide(_one("9"), Policy(), Spent(), approval, backend="local")

    assert decision.exit_code is ExitCode.DENIED
    assert "\n".join(decision.sentences()) == (
        "the approval is for `dddddddddddd`, and the change stands at `aaaaaaaaaaaa` now; "
        "look at it and approve it anew\n"
        "`digits` is not trained: all together may cost up to 9.00 USD, and policy trains nothing that costs money "
        "without approval\n"
        f"to train it, someone with write permission comments `/gitops-ml run --sha {'a' * 40}`, or puts the label "
        "`gitops-ml/run` on this change"
    )


@pytest.mark.parametrize("permission", ["none", "read", "", "owner", "Write"])
def test_decide__approval_by_somebody_who_may_not__does_not_count(permission):
    approval = dataclasses.replace(APPROVED, permission=permission)

    assert _rulings(_one("9"), approval=approval) == [Ruling.WAIT]


def test_decide__approvers_are_maintainers__a_writer_does_not_suffice():
    decision = decide(_one("9"), Policy(approvers="maintain"), Spent(), APPROVED, backend="local")

    assert decision.notes == ("`dana` may not approve this: policy asks for maintain permission, and they have write",)
    assert decision.names(Ruling.WAIT) == ("digits",)


def test_decide__approved_one_of_two__trains_that_one():
    one, other = experiment(name="one"), experiment(name="other")
    plan = _plan(_entry(one, _planned(one, "9")), _entry(other, _planned(other, "9", 1)))
    approval = dataclasses.replace(APPROVED, experiments=("other",))

    assert _rulings(plan, approval=approval) == [Ruling.WAIT, Ruling.TRAIN]


# Money


def test_decide__below_the_automatic_limit__trains_and_at_it_asks():
    policy = Policy(auto_run_below_usd=Decimal(5))

    assert _rulings(_one("4.99"), policy) == [Ruling.TRAIN]
    assert _rulings(_one("5"), policy) == [Ruling.WAIT]


def test_decide__price_not_known__asks():
    spec = experiment(backend="somewhere")
    plan = _plan(_entry(spec, _planned(spec, source="")))

    assert _rulings(plan, Policy(auto_run_below_usd=Decimal(5))) == [Ruling.WAIT]


@pytest.mark.parametrize(
    ("policy", "spent", "why"),
    [
        (
            {"max_cost_per_trial_usd": Decimal(8)},
            Spent(),
            "with it one trial may cost up to 9.00 USD, and policy allows 8.00 USD",
        ),
        (
            {"max_cost_per_change_usd": Decimal(10)},
            Spent(change=Decimal(2)),
            "with it this change may cost up to 11.00 USD, and policy allows 10.00 USD",
        ),
        (
            {"max_cost_per_month_usd": Decimal(100)},
            Spent(month=Decimal(80), live=Decimal(12)),
            "with it this month may cost up to 101.00 USD, and policy allows 100.00 USD",
        ),
    ],
)
def test_decide__over_a_ceiling__is_refused_whoever_approves(policy, spent, why):
    decision = decide(_one("9"), Policy(**policy), spent, APPROVED, backend="local")

    assert decision.experiments[0].ruling is Ruling.REFUSE
    assert decision.experiments[0].reasons == (why,)
    assert decision.exit_code is ExitCode.DENIED
    assert decision.sentences()[-1] == (
        "what policy refuses needs a change of `policy` in `gitops-ml.yaml` on the target branch first"
    )


def test_decide__over_its_budget__is_refused():
    decision = decide(_one("9", budget=Budget(max_cost_usd=Decimal(5))), Policy(), Spent(), APPROVED, backend="local")

    assert decision.experiments[0].reasons == ("it may cost up to 9.00 USD, and its `budget.max_cost` is 5.00 USD",)


def test_decide__40_experiments_adopted__trains_what_policy_allows_and_says_what_it_left():
    specs = [experiment(name=f"e{number:02}") for number in range(40)]
    plan = _plan(*(_entry(spec, _planned(spec, "1", number)) for number, spec in enumerate(specs)))
    decision = decide(
        plan,
        Policy(auto_run_below_usd=Decimal("10.50"), max_cost_per_change_usd=Decimal(20)),
        Spent(),
        None,
        backend="local",
    )

    assert decision.names(Ruling.TRAIN) == tuple(f"e{number:02}" for number in range(10))
    assert len(decision.names(Ruling.WAIT)) == 30
    assert decision.worst_usd == 10
    assert len(held(plan, decision).to_run()) == 10


def test_decide__same_trial_in_two_experiments__is_paid_once_at_the_higher_price():
    one, other = experiment(name="one"), experiment(name="other")
    plan = _plan(_entry(one, _planned(one, "3")), _entry(other, _planned(other, "4")))
    decision = decide(plan, Policy(auto_run_below_usd=Decimal(5)), Spent(), None, backend="local")

    assert decision.names(Ruling.TRAIN) == ("one", "other")
    assert decision.worst_usd == 4


@settings(max_examples=60)
@given(
    costs=st.lists(st.integers(0, 20), min_size=1, max_size=8),
    limits=st.tuples(*[st.integers(1, 40)] * 3),
    before=st.integers(0, 40),
    approved=st.booleans(),
)
def test_decide__any_costs__never_exceeds_a_limit(costs, limits, before, approved):
    specs = [experiment(name=f"e{number}") for number in range(len(costs))]
    plan = _plan(*(_entry(spec, _planned(spec, str(cost), n)) for n, (spec, cost) in enumerate(zip(specs, costs))))
    policy = Policy(
        max_cost_per_trial_usd=Decimal(limits[0]),
        max_cost_per_change_usd=Decimal(limits[1]),
        auto_run_below_usd=Decimal(limits[2]),
    )
    decision = decide(plan, policy, Spent(change=Decimal(before)), APPROVED if approved else None, backend="local")
    trained = sum(planned.estimate.worst_usd for planned in held(plan, decision).to_run())

    assert trained == decision.worst_usd
    assert trained == 0 or trained + before <= limits[1]
    assert approved or trained == 0 or trained < limits[2]
    assert all(planned.estimate.worst_usd <= limits[0] for planned in held(plan, decision).to_run())


# What may be reached


@pytest.mark.parametrize(
    ("policy", "fields", "why"),
    [
        (
            {"backends": ("local",)},
            {"backend": "slurm"},
            "policy does not allow the backend `slurm` (`backends`: `local`)",
        ),
        (
            {},
            {"environment": Environment(secrets=("AWS_KEY",))},
            "policy does not allow the secret `AWS_KEY` (`secrets`: none)",
        ),
        (
            {"data": ("s3://acme/public/**",)},
            {"data": (Data(name="d", uri="s3://acme/private/x.csv"),)},
            "policy does not allow the data source `s3://acme/private/x.csv` (`data`: `s3://acme/public/**`)",
        ),
        (
            {"data": ("s3://acme/public/**",)},
            {"data": (Data(name="d", uri="s3://acme/public/../private/x.csv"),)},
            "policy does not allow the data source `s3://acme/public/../private/x.csv` (`data`: `s3://acme/public/**`)",
        ),
        (
            {"data": ("https://acme.example/public/**",)},
            {"data": (Data(name="d", uri="https://acme.example/public/%2e%2e/private/x.csv"),)},
            "policy does not allow the data source `https://acme.example/public/%2e%2e/private/x.csv` (`data`: `https://acme.example/public/**`)",
        ),
        (
            {"data": ("https://acme.example/**",)},
            {"data": (Data(name="d", uri="https://acme.example@evil.example/x.csv"),)},
            "policy does not allow the data source `https://acme.example@evil.example/x.csv` (`data`: `https://acme.example/**`)",
        ),
        (
            {"data": ("hf://datasets/acme/**",)},
            {
                "data": (
                    Data(name="d", uri="hf://datasets/evil/digits"),
                    Data(name="e", uri="hf://datasets/acme/digits"),
                )
            },
            "policy does not allow the data source `hf://datasets/evil/digits` (`data`: `hf://datasets/acme/**`)",
        ),
        (
            {"images": ("ghcr.io/acme/*",)},
            {"environment": Environment(image="docker.io/evil/x@sha256:0")},
            "policy does not allow the image `docker.io/evil/x@sha256:0` (`images`: `ghcr.io/acme/*`)",
        ),
    ],
)
def test_decide__reaches_what_policy_does_not_allow__is_refused(policy, fields, why):
    decision = decide(_one(**fields), Policy(**policy), Spent(), APPROVED, backend="local")

    assert decision.experiments[0].reasons == (why,)


def test_decide__dvc_remote_that_policy_does_not_allow__is_refused():
    spec = experiment(data=(Data(name="d", uri="data/x.csv"),))
    planned = _planned(spec)
    source = {"kind": "dvc", "remote": "s3://acme/private/dvc"}
    planned = dataclasses.replace(planned, trial=dataclasses.replace(planned.trial, sources={"d": source}))
    plan = _plan(_entry(spec, planned))

    assert _rulings(plan, Policy(data=("s3://acme/**",))) == [Ruling.TRAIN]
    refused = decide(plan, Policy(data=("s3://acme/public/**",)), Spent(), APPROVED, backend="local")
    assert refused.experiments[0].reasons == (
        "policy does not allow the DVC remote `s3://acme/private/dvc` (`data`: `s3://acme/public/**`)",
    )


def test_decide__data_in_the_repository__is_always_allowed():
    assert _rulings(_one(data=(Data(name="d", uri="data/x.csv"),)), Policy(data=())) == [Ruling.TRAIN]


@pytest.mark.parametrize(
    ("estimate", "ruling"),
    [
        ({"instance_type": "g5.xlarge", "region": "eu-central-1"}, Ruling.TRAIN),
        ({"instance_type": "p5.48xlarge", "region": "eu-central-1"}, Ruling.REFUSE),
        ({"instance_type": "g5.xlarge", "region": "us-east-1"}, Ruling.REFUSE),
        ({"instance_type": "", "region": "eu-central-1"}, Ruling.REFUSE),
    ],
)
def test_decide__machine__is_held_to_policy(estimate, ruling):
    spec = experiment(backend="aws-ec2")
    plan = _plan(_entry(spec, _planned(spec, "1", **estimate)))
    policy = Policy(instance_types=("g5.*",), regions=("eu-central-1",))

    assert _rulings(plan, policy, APPROVED) == [ruling]


def test_decide__old_base_side_with_a_secret__is_refused():
    # Branched off when the base's spec still had the secret: the base side would be trained with it.
    spec, old = experiment(), experiment(environment=Environment(secrets=("HF_TOKEN",)))
    plan = _plan(_entry(spec, _planned(spec), base=(_planned(old, version=BASE),)))

    assert _rulings(plan, Policy(), APPROVED) == [Ruling.REFUSE]


def test_held__trial_shared_with_a_refused_experiment__is_trained_as_the_other_has_it():
    # Keys say nothing of secrets and backends: the first experiment must not lend them to the second one's trial.
    refused = experiment(name="a", environment=Environment(secrets=("HF_TOKEN",)))
    allowed = experiment(name="b")
    plan = _plan(_entry(refused, _planned(refused)), _entry(allowed, _planned(allowed)))
    kept = held(plan, decide(plan, Policy(), Spent(), APPROVED, backend="local"))

    assert [planned.trial.experiment.name for planned in kept.to_run()] == ["b"]
    assert kept.experiments[0].head[0].reason == "refused by policy"


# Forks and triggers


def test_decide__fork__is_refused_unless_policy_says_approval():
    assert _rulings(_one(), Policy(), APPROVED, fork=True) == [Ruling.REFUSE]
    assert _rulings(_one(), Policy(forks="approval"), fork=True) == [Ruling.WAIT]
    assert _rulings(_one(), Policy(forks="approval"), APPROVED, fork=True) == [Ruling.TRAIN]


def test_decide__nobody_wants_it__is_left_and_no_denial():
    decision = decide(_one(), Policy(), Spent(), None, backend="local", unwanted=lambda _: "only planned")

    assert (decision.names(Ruling.LEAVE), decision.exit_code) == (("digits",), ExitCode.OK)
    assert _rulings(_one(), approval=APPROVED, unwanted=lambda _: "only planned") == [Ruling.TRAIN]


# The target side's rules


def _target(*experiments: Experiment) -> Specs:
    tree = Tree(version=BASE, files={}, read=lambda _: b"")
    return Specs(tree=tree, experiments={one.path: one for one in experiments}, paths=frozenset())


_STRICT = experiment(
    Track(name="accuracy", goal=Goal.MAXIMIZE, gate=Gate.FAIL, floor=0.9),
    budget=Budget(max_cost_usd=Decimal(5)),
    triggers=Triggers(change="plan"),
)
_LOOSE = experiment(
    Track(name="accuracy", goal=Goal.NONE),
    budget=Budget(max_cost_usd=Decimal(5000)),
    baseline=BaselineRule(ref="my-bad-branch", at=At.TIP, missing=Missing.WARN),
    compare=CompareRule(confidence=0.5, inconclusive=Gate.OFF),
    triggers=Triggers(change="run"),
)


def test_under_rules__change_that_loosens_everything__gets_the_targets_rules():
    ruled = under_rules(_LOOSE, _target(_STRICT))

    assert (ruled.budget, ruled.baseline, ruled.triggers) == (_STRICT.budget, _STRICT.baseline, _STRICT.triggers)
    assert rules_for({"digits": _LOOSE}, _target(_STRICT)) == {"digits": _STRICT}
    assert edited_rules(_LOOSE, _STRICT) == ("metrics.track", "baseline", "compare", "budget", "triggers")


def test_under_rules__renamed_in_its_file__keeps_the_rules():
    renamed = dataclasses.replace(_LOOSE, name="brand-new")

    assert under_rules(renamed, _target(_STRICT)).budget == _STRICT.budget
    assert rules_for({"brand-new": renamed}, _target(_STRICT)) == {"brand-new": _STRICT}


def test_under_rules__moved_to_another_file__keeps_the_rules():
    moved = dataclasses.replace(_LOOSE, path="elsewhere.yaml")

    assert under_rules(moved, _target(_STRICT)).budget == _STRICT.budget


def test_under_rules__new_experiment__has_its_own():
    new = dataclasses.replace(_LOOSE, name="brand-new", path="new.yaml")

    assert under_rules(new, _target(_STRICT)) == new
    assert under_rules(new, None) == new
    assert edited_rules(_STRICT, dataclasses.replace(_STRICT, metrics=Metrics(track=_STRICT.metrics.track))) == ()


# Records that were not made in CI


def test_without_foreign__laptop_record__is_trained_again_as_the_next_repeat():
    spec = experiment()
    trusted, doubted = (dataclasses.replace(_planned(spec, seed=seed), action=Action.REUSE) for seed in (0, 1))
    plan = without_foreign(
        _plan(_entry(spec, trusted, doubted)), {doubted.trial.key}, lambda _: Estimate(worst_usd=Decimal(2))
    )

    (again,) = plan.to_run()
    assert (again.trial.seed, again.trial.repeat) == (1, 1)
    assert again.trial.key == digest({**doubted.trial.document, "repeat": 1})
    assert again.estimate.worst_usd == 2


def test_without_foreign__repeat_of_ci_after_the_laptops__is_trusted():
    spec = experiment()
    first = dataclasses.replace(_planned(spec), action=Action.REUSE)
    second = dataclasses.replace(first, trial=dataclasses.replace(next_repeat(first.trial)))
    plan = without_foreign(_plan(_entry(spec, first, second)), {first.trial.key}, lambda _: Estimate())

    assert plan.to_run() == ()


def test_without_foreign__unchanged_experiment__is_left_alone():
    spec = experiment()
    entry = _entry(spec, dataclasses.replace(_planned(spec), action=Action.REUSE))
    plan = _plan(dataclasses.replace(entry, relation=Relation.SAME))

    assert without_foreign(plan, plan.keys(), lambda _: Estimate()) == plan


def test_docs__policys_example__is_one_that_we_read():
    page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    project, findings = project_from(example.encode())

    assert [finding for finding in findings if finding.code != "unknown-backend"] == []
    assert project is None or policy_from(project.policy).approvers == "write"


def test_decide__one_of_the_machines_is_not_allowed__refuses():
    spec = experiment(backend="aws-ec2")
    planned = _planned(spec, "1", instance_type="g6.xlarge", instance_types=("g6.xlarge", "p5.48xlarge"), region="eu")
    policy = Policy(instance_types=("g6.*",))

    (entry,) = decide(_plan(_entry(spec, planned)), policy, Spent(), APPROVED, backend="local").experiments

    assert entry.ruling is Ruling.REFUSE
    assert entry.reasons == ("policy does not allow the instance type `p5.48xlarge` (`instance_types`: `g6.*`)",)


def test_over_budget__all_trials_together__are_held_to_max_cost():
    spec = experiment(budget=Budget(max_cost_usd=Decimal(3)))
    fits = _entry(spec, _planned(spec, "1.5"), _planned(spec, "1.5", 1))
    over = _entry(spec, _planned(spec, "1.5"), _planned(spec, "1.5", 1), base=(_planned(spec, "0.01", 2),))

    assert over_budget(fits) is None
    assert over_budget(over) == "it may cost up to 3.01 USD, and its `budget.max_cost` is 3.00 USD"
