"""Plans and records built by hand, for everything that compares."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

from gitops_ml.planning import Action, ExperimentPlan, Plan, PlannedTrial, Relation, Trial
from gitops_ml.records import (
    Attempt,
    BaselineChoice,
    Hardware,
    Origin,
    Outcome,
    Record,
    Scalar,
    Series,
    Usage,
    Version,
)
from gitops_ml.spec import Experiment, Metrics, Track, Value

HEAD = Version(commit="a" * 40, tree="1" * 40, label="HEAD")
BASE = Version(commit="b" * 40, tree="2" * 40, label="main")
BASELINE = BaselineChoice(version=BASE, ref="main", chosen="merge-base", behind=0)
MACHINE = Hardware(machine="test-cpu", cpus=2)


def experiment(*tracks: Track, **fields: object) -> Experiment:
    defaults: dict[str, object] = {"path": "experiment.yaml", "name": "digits", "run": "python train.py"}
    return Experiment(**{**defaults, "metrics": Metrics(track=tracks), **fields})


def trial(
    spec: Experiment,
    version: Version = HEAD,
    seed: int = 0,
    *,
    point: Mapping[str, Value] | None = None,
    repeat: int = 0,
    confirms: bool = False,
    **document: object,
) -> Trial:
    point = point or {}
    params = {**spec.params, **point}
    whole = {
        "format": "gitops-ml-key/1",
        "run": "python train.py",
        "workdir": ".",
        "code": version.commit,
        "data": [["test", "pin"]],
        "environment": {"env": {}},
        "nodes": 1,
        "params": params,
        "seed": seed,
        "repeat": repeat,
        **{name: value for name, value in document.items() if name != "evaluation"},
    }
    key = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    evaluation = document.get("evaluation")
    return Trial(
        key=key,
        document=whole,
        experiment=spec,
        version=version,
        point=point,
        params=params,
        seed=seed,
        repeat=repeat,
        evaluation=None if evaluation is None else str(evaluation),
        confirms=confirms,
    )


def attempt(of: Trial, outcome: Outcome = Outcome.SUCCEEDED, **fields: object) -> Attempt:
    defaults: dict[str, object] = {
        "key": of.key,
        "number": 1,
        "experiment": of.experiment.name,
        "outcome": outcome,
        "reason": "exit code 1" if outcome is Outcome.FAILED else "",
        "exit_code": 0 if outcome is Outcome.SUCCEEDED else 1,
        "backend": "local",
        "commit": of.version.commit,
        "dirty": False,
        "params": of.params,
        "seed": of.seed,
        "started_at": "2026-01-01T00:00:00Z",
        "duration_s": 10.0,
        "cost_usd": 0.5,
        "hardware": MACHINE,
        "origin": Origin(kind="ci"),
    }
    return Attempt(**{**defaults, **fields})


def usage(**fields: object) -> Usage:
    defaults: dict[str, object] = {
        "provider": "aws",
        "region": "us-east-1",
        "zone": "us-east-1a",
        "instance_id": "i-1",
        "instance_type": "g6.xlarge",
        "market": "spot",
        "image": "ami-1",
        "usd_per_hour": 0.3,
        "price_source": "catalog",
        "price_date": "2026-11-01",
        "billed_s": 60.0,
        "final_state": "terminated",
    }
    return Usage(**{**defaults, **fields})


def record(
    of: Trial,
    values: Mapping[str, float] | None = None,
    series: Sequence[Series] = (),
    **fields: object,
) -> Record:
    defaults: dict[str, object] = {
        "key": of.key,
        "document": of.document,
        "experiment": of.experiment.name,
        "path": of.experiment.path,
        "commit": of.version.commit,
        "dirty": False,
        "point": of.point,
        "params": of.params,
        "seed": of.seed,
        "repeat": of.repeat,
        "attempt": attempt(of),
        "scalars": tuple(Scalar(name=name, value=value) for name, value in (values or {}).items()),
        "series": tuple(series),
        "evaluation": of.evaluation,
    }
    return Record(**{**defaults, **fields})


def series(name: str, *values: float, steps: Sequence[float] | None = None) -> Series:
    return Series(name=name, steps=tuple(map(float, steps or range(len(values)))), values=values)


@dataclasses.dataclass
class World:
    """One experiment's plan and what is recorded of it, filled step by step."""

    spec: Experiment
    base_spec: Experiment | None = None
    relation: Relation = Relation.CHANGED
    baseline: BaselineChoice = BASELINE
    records: dict[str, Record] = dataclasses.field(default_factory=dict)
    attempts: dict[str, list[Attempt]] = dataclasses.field(default_factory=dict)
    head: list[PlannedTrial] = dataclasses.field(default_factory=list)
    base: list[PlannedTrial] = dataclasses.field(default_factory=list)

    def add(
        self,
        side: str,
        values: Mapping[str, float] | None,
        seed: int = 0,
        *,
        more: Mapping[str, object] = {},
        **of: object,
    ) -> Trial:
        """Plan a trial on a side; with values it has a record, without it failed."""
        spec = self.spec if side == "head" else self.base_spec or self.spec
        one = trial(spec, HEAD if side == "head" else BASE, seed, **of)
        planned = PlannedTrial(trial=one, action=Action.RUN if values is None else Action.REUSE, reason="")
        getattr(self, side).append(planned)
        if values is None:
            self.attempts[one.key] = [attempt(one, Outcome.FAILED)]
        else:
            self.records[one.key] = record(one, values, **more)
        return one

    def fill(
        self, name: str, base: Sequence[float | None], head: Sequence[float | None], *, head_seed: int = 0
    ) -> "World":
        """Plan trials on seeds counted from 0, with one metric each; None: the trial failed."""
        for side, values, first in (("base", base, 0), ("head", head, head_seed)):
            for seed, value in enumerate(values, first):
                self.add(side, None if value is None else {name: value}, seed)
        return self

    def plan(self) -> Plan:
        entry = ExperimentPlan(
            experiment=self.spec,
            base_experiment=None
            if self.relation in (Relation.NEW, Relation.NO_BASELINE)
            else self.base_spec or self.spec,
            baseline=self.baseline,
            relation=self.relation,
            head=tuple(self.head),
            base=tuple(self.base),
        )
        return Plan(head=HEAD, baseline=self.baseline, experiments=(entry,))
