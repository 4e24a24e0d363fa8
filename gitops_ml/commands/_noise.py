"""Run-to-run noise from earlier runs, for experiments whose own runs do not suffice to test anything."""

from collections.abc import Mapping, Sequence

from gitops_ml.planning import ExperimentPlan, Plan, PlannedTrial
from gitops_ml.records import Record
from gitops_ml.spec import Experiment
from gitops_ml.stats import POOLED_DF_MIN, Noise
from gitops_ml.tools import Tools
from gitops_ml.verdicts import PAIRS_MIN


def noise(
    plan: Plan,
    records: Mapping[str, Record],
    tools: Tools,
    *,
    rules: Mapping[str, Experiment] | None = None,
    only_ci: bool = False,
) -> Mapping[str, Mapping[str, Noise]]:
    """Return the noise of earlier runs by experiment and metric, where the rules ask for it and it has a say.

    Pairs show their own noise, and reading all records takes longer than the rest of a comparison: so they are read
    only for experiments that have no pairs, and only when there are enough of them to learn from.

    Args:
        plan: what is compared.
        records: of the plan's trials, by key.
        tools: where all other records are.
        rules: experiments by name whose rules decide instead of the plan's.
        only_ci: records from elsewhere do not count, as they do not for a gate in CI.
    """
    decides = {e.experiment.name: (rules or {}).get(e.experiment.name, e.experiment) for e in plan.experiments}
    wanted = [
        entry
        for entry in plan.experiments
        if decides[entry.experiment.name].compare.noise == "history" and _lacks_pairs(entry, records)
    ]
    keys = plan.keys()
    # Each group of runs has one more than it brings degrees of freedom.
    if not wanted or len(tools.results.keys() - set(keys)) <= POOLED_DF_MIN:
        return {}
    from gitops_ml.history import learned_noise

    began = {
        e.experiment.name: [records[p.trial.key].attempt.started_at for p in _recorded(e.head, records)] for e in wanted
    }
    earlier = (r for r in tools.results.all_records() if not only_ci or r.attempt.origin.kind == "ci")
    return learned_noise(
        earlier,
        {name: decides[name].metrics.track for name in began},
        leave_out=keys,
        until={name: min(times) for name, times in began.items()},
    )


def _lacks_pairs(entry: ExperimentPlan, records: Mapping[str, Record]) -> bool:
    head, base = (_seeds(side, records) for side in (entry.head, entry.base))
    return any(len(one & other) < PAIRS_MIN for one in head for other in base)


def _seeds(side: Sequence[PlannedTrial], records: Mapping[str, Record]) -> list[set[int]]:
    """Return the seeds that a side has results on: the spec's, and those that confirm a sweep's winner."""
    trials = [planned.trial for planned in _recorded(side, records)]
    found = [{trial.seed for trial in trials if trial.confirms is confirms} for confirms in (False, True)]
    return [seeds for seeds in found if seeds]


def _recorded(side: Sequence[PlannedTrial], records: Mapping[str, Record]) -> list[PlannedTrial]:
    return [planned for planned in side if planned.trial.key in records]
