"""Trainings that a CI job leaves at work: which ones, and what is said of them until ``reconcile`` has results."""

import dataclasses
import enum
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal

from gitops_ml import policy as policies
from gitops_ml.backends.base import Backend
from gitops_ml.commands._ci_plan import Planned
from gitops_ml.execution import FAR_JOBS
from gitops_ml.planning import Action, Trial
from gitops_ml.policy import ExperimentDecision, Ruling
from gitops_ml.tools import Tools

_RESERVE_S = 20 * 60
"""What a machine takes to start and to bring back its outputs, beside the training."""
_HOSTED_LIMIT_S = 360 * 60


class Detach(enum.StrEnum):
    """When the job that trains ends before its trainings do."""

    AUTO = "auto"
    """When they may take longer than the job."""
    ALWAYS = "always"
    NEVER = "never"


def job_limit_s(minutes: int | None, environ: Mapping[str, str]) -> float:
    """Return how long this job may take: as was said, as GitLab says, or as GitHub has it for hosted runners."""
    if minutes is not None:
        return minutes * 60.0
    said = environ.get("CI_JOB_TIMEOUT", "")
    return float(said) if said.isdecimal() and said.isascii() and len(said) < 10 else _HOSTED_LIMIT_S


def to_be_left(
    trials: Sequence[Trial], how: Detach, *, limit_s: float, jobs: int | None, tools: Tools
) -> Collection[str]:
    """Return the keys of the trials that are left at work, and say why others are not although it was asked for."""
    if how is Detach.NEVER:
        return ()
    wanted = [trial for trial in trials if how is Detach.ALWAYS or _takes_longer(trial, limit_s)]
    far = [trial for trial in wanted if _backend(trial, tools).far]
    for name in dict.fromkeys(trial.experiment.name for trial in wanted if trial not in far):
        tools.note(f"`{name}` trains on this very machine, so this job stays until it is over")
    # Whoever starts the next training has to be there when one ends.
    steps = [t.experiment.name for t in far if t.experiment.sweep and (t.experiment.sweep.parallel or _confirms(t))]
    for name in dict.fromkeys(steps):
        tools.note(f"`{name}` trains in several steps (`sweep.parallel` or `confirm`), so this job stays")
    left = [trial.key for trial in far if trial.experiment.name not in steps]
    if len(left) > (jobs or FAR_JOBS):
        tools.note(f"{len(left)} trainings are more than may be at work at a time, so this job stays")
        return ()
    return left


def _takes_longer(trial: Trial, limit_s: float) -> bool:
    longest_s = trial.experiment.budget.max_duration_s
    return longest_s is not None and longest_s + _RESERVE_S > limit_s


def _confirms(trial: Trial) -> bool:
    return bool(trial.experiment.sweep and trial.experiment.sweep.confirm)


def _backend(trial: Trial, tools: Tools) -> Backend:
    return tools.backend(trial.experiment.backend or tools.project.backend)


def at_work(planned: Planned, live: Collection[str], backend: str) -> Planned:
    """Return the plan with those experiments decided as at work that have a job which goes on, whoever allowed it.

    Args:
        planned: as it is now; what has a record by now is no more at work.
        live: keys of jobs that were not over when the job that started them ended.
        backend: the one of experiments that name none.
    """
    found = {}
    for entry in planned.plan.experiments:
        keys = {p.trial.key for p in entry.trials() if p.action is Action.RUN and p.trial.key in live}
        if keys:
            where = entry.experiment.backend or backend
            found[entry.experiment.name] = ExperimentDecision(
                name=entry.experiment.name,
                ruling=Ruling.AT_WORK,
                trials=len(keys),
                worst_usd=sum((p.estimate.worst_usd for p in entry.trials() if p.trial.key in keys), Decimal(0)),
                reasons=(f"{len(keys)} trial{'' if len(keys) == 1 else 's'} at work on {where}",),
            )
    if not found:
        return planned
    others = [entry for entry in planned.decision.experiments if entry.name not in found]
    decision = dataclasses.replace(planned.decision, experiments=(*others, *found.values()))
    return dataclasses.replace(planned, decision=decision, held=policies.held(planned.plan, decision))
