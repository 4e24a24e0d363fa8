"""Specs x git trees x known records -> a plan: which trials, with which keys, and what to do about each.

Pure: trees are listings that the caller read with git, known keys are a set. The key rules are a contract
(docs/decisions.md, "Keys"): golden vectors in the tests keep them.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from gitops_ml.records import BaselineChoice, Version
from gitops_ml.spec import Experiment, Value


@dataclasses.dataclass(frozen=True, slots=True)
class TreeFile:
    """One entry of a git tree: ``mode`` is git's (100644, 100755, 120000, 160000), ``oid`` its object id."""

    path: str
    mode: str
    oid: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A whole repository state, readable without a checkout."""

    version: Version
    files: Mapping[str, TreeFile]
    """By path, in git's order."""
    read: Callable[[str], bytes] = dataclasses.field(repr=False, compare=False)
    """Object id of a blob -> its bytes."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One training: experiment x point x seed. Everything a backend needs besides the objects themselves."""

    key: str
    document: Mapping[str, Any]
    experiment: Experiment
    version: Version
    point: Mapping[str, Value]
    params: Mapping[str, Value]
    seed: int
    repeat: int = 0
    files: tuple[TreeFile, ...] = ()
    """What the bundle holds, paths from the repository's root: included code, environment, repository data."""
    evaluation: str | None = None


class Action(enum.StrEnum):
    """What ``run`` does about a trial."""

    REUSE = "reuse"
    RUN = "run"
    BLOCKED = "blocked"
    """Cannot be done; the reason says why."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a trial may take and cost. ``worst_usd``: price x deadline; ``source`` names the price's origin and date."""

    cost_usd: Decimal = Decimal(0)
    worst_usd: Decimal = Decimal(0)
    duration_s: float | None = None
    source: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTrial:
    """A trial and what is to be done about it, with the reason in words."""

    trial: Trial
    action: Action
    reason: str
    estimate: Estimate = Estimate()


class Relation(enum.StrEnum):
    """How an experiment stands to the baseline commit."""

    SAME = "same"
    """Equal head and base keys: nothing to compare, nothing to train."""
    CHANGED = "changed"
    NEW = "new"
    REMOVED = "removed"
    NO_BASELINE = "no baseline"
    """There is no baseline commit at all."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentPlan:
    """One experiment on both sides. ``head`` is empty when it was removed, ``base`` when it is new."""

    experiment: Experiment
    base_experiment: Experiment | None
    relation: Relation
    head: tuple[PlannedTrial, ...]
    base: tuple[PlannedTrial, ...]
    renamed_from: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would run, be reused and cost, for one head version against one baseline."""

    head: Version
    baseline: BaselineChoice
    experiments: tuple[ExperimentPlan, ...]

    def to_run(self) -> tuple[PlannedTrial, ...]:
        """Return the trials to train, each key once, head side first."""
        raise NotImplementedError
