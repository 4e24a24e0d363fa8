"""Which commit head is compared with, and what stands at both: git's answers turned into a plan.

The baseline is content-addressed: its specs are planned at its own tree and the keys looked up. There is no
history walk and no "last stored entry", except for ``missing: ancestor``.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gitops_ml import planning
from gitops_ml.diagnostics import Diagnostic, Severity, as_text
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.git import Head, Repository
from gitops_ml.globs import compiled
from gitops_ml.planning import Action, Base, ExperimentPlan, Plan, Situation, Specs, Tree
from gitops_ml.records import BaselineChoice, Version
from gitops_ml.spec import At, Experiment, Missing
from gitops_ml.validation import linked, load
from gitops_ml.values import dataclass

_ANCESTORS = 200
"""How far ``missing: ancestor`` looks back along first parents."""


class InvalidSpecError(UserError):
    """A spec has errors; the text shows them."""

    exit_code = ExitCode.FINDINGS

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__(as_text(diagnostics))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the caller wants planned."""

    head: str | None = None
    """A revision; None: the work tree, or HEAD when nothing is uncommitted."""
    base: str | None = None
    """A revision to compare with instead of what the specs' ``baseline`` says."""
    before: str | None = None
    """The commit before a push to the baseline ref, as the CI event names it."""
    names: tuple[str, ...] = ()
    """Experiments by name; none: all."""
    branch: str | None = None
    """The branch whose new tip head is, as the CI event names it: compared with what it was before."""
    tips: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Commits of branches, just fetched: what a checkout says of them may be old."""
    rules: Specs | None = None
    """The target branch's specs: their baseline, budget and triggers decide (see ``policy.under_rules``)."""


Winner = Callable[[Experiment, Iterable[planning.PlannedTrial]], Mapping[str, Any] | None]
"""Finds a sweep's best point once all its trials have a record or failed by themselves; None: not yet, or no sweep."""


class Planner:
    """Makes plans over one repository; trees and specs are read once."""

    def __init__(
        self,
        repository: Repository,
        *,
        globs: Sequence[str],
        remote: str,
        situation: Situation,
        winner: Winner,
        default_branch: Callable[[], str],
        base_globs: Sequence[str] | None = None,
    ) -> None:
        """Begin with nothing read.

        Args:
            repository: with both sides.
            globs: where specs stand.
            remote: where branches are that are not here.
            situation: what is known and wanted.
            winner: of a sweep.
            default_branch: asked for what specs are compared with that do not say it.
            base_globs: where specs stand on the baseline side, if that is not where head has them.
        """
        self._repository = repository
        self._spec_globs = tuple(globs)
        self._base_globs = tuple(globs if base_globs is None else base_globs)
        self._remote = remote
        self._situation = situation
        self._winner = winner
        self._default_branch = default_branch
        self._specs: dict[tuple[str, tuple[str, ...]], tuple[Specs, dict[str, str]]] = {}
        self._parsed: dict[tuple[str, str], tuple[Experiment | None, tuple[Diagnostic, ...]]] = {}
        self._trees: dict[str, Tree] = {}

    @functools.cached_property
    def _here(self) -> Head:
        """What is checked out."""
        return self._repository.head()

    def plan(self, wish: Wish) -> Plan:
        """Return the plan.

        Raises:
            InvalidSpecError: a spec of the head side is not valid.
            UserError: a revision or an experiment is not known.
        """
        tree = self.head_tree(wish.head)
        head = self._head_specs(tree)
        if wish.rules is not None:
            from gitops_ml.policy import under_rules

            ruled = {path: under_rules(one, wish.rules) for path, one in head.experiments.items()}
            head = dataclasses.replace(head, experiments=ruled)
        names = set(wish.names)
        if unknown := names - {experiment.name for experiment in head.experiments.values()}:
            known = ", ".join(sorted(head.by_name())) or "none"
            raise UserError(f"no experiment is called `{min(unknown)}` at {_shown(tree.version)}; known are: {known}")
        bases: dict[tuple[str, At], tuple[Base, bool]] = {}
        entries = []
        for experiment in head.experiments.values():
            rule = (experiment.baseline.ref or self._default_branch(), experiment.baseline.at)
            if rule not in bases:
                bases[rule] = self._base(tree, wish, *rule)
            if names and experiment.name not in names:
                continue
            base, on_baseline = bases[rule]
            entries.append(self._entry(experiment, head, base, train_same=on_baseline or bool(names)))
        [(default, _), *others] = bases.values()
        if others:
            usual = (self._default_branch(), At.MERGE_BASE)
            default, _ = bases.get(usual) or self._base(tree, wish, *usual)
        if not names:
            for base, _ in bases.values():
                gone = planning.removed_experiments(head, base)
                entries += [e for e in gone if e.experiment.name not in {entry.experiment.name for entry in entries}]
        return Plan(head=tree.version, baseline=default.choice, experiments=tuple(entries))

    def specs_at(self, commit: str) -> Specs:
        """Return the valid specs of a commit of the baseline side."""
        return self._load(self._tree(commit, commit[:12]), self._base_globs)[0]

    def specs_and_broken(self, commit: str) -> tuple[Specs, Mapping[str, str]]:
        """Return the valid specs of a commit, and why the others are not valid, by path."""
        return self._load(self._tree(commit, commit[:12]), self._spec_globs)

    def specs_at_head(self, commit: str) -> Mapping[str, Experiment]:
        """Return head's valid specs by name, with their own rules."""
        return self._load(self._tree(commit, commit[:12]), self._spec_globs)[0].by_name()

    def head_tree(self, revision: str | None) -> Tree:
        """Return the head side's tree: the named revision, else the uncommitted work, else HEAD."""
        if revision is not None:
            return self._tree(self._commit(revision), revision)
        tree = self._uncommitted(self._spec_globs)
        selected = {
            glob
            for experiment in self._load(tree, self._spec_globs)[0].experiments.values()
            for glob in _selects(experiment)
        }
        return self._uncommitted((*self._spec_globs, *sorted(selected))) if selected else tree

    def _uncommitted(self, selected: Sequence[str]) -> Tree:
        """Return the work tree with the untracked files that the globs select, or HEAD's tree if they are equal."""
        work = self._repository.work_tree(selected)
        if work is not None:
            return work
        here = self._here
        if here.commit is None:
            raise UserError("nothing is committed here yet, and there is nothing to plan")
        return self._tree(here.commit, here.branch or here.commit[:12])

    def _entry(self, experiment: Experiment, head: Specs, base: Base, *, train_same: bool) -> ExperimentPlan:
        entry = planning.plan_experiment(experiment, head, base, self._situation, train_same=train_same)
        if experiment.sweep is not None and experiment.sweep.confirm:
            other = entry.base_experiment
            winners = (
                self._winner(experiment, entry.head),
                self._winner(other, entry.base) if other is not None else None,
            )
            if winners != (None, None):
                entry = planning.plan_experiment(
                    experiment, head, base, self._situation, winners=winners, train_same=train_same
                )
        if experiment.baseline.missing is Missing.ANCESTOR and base.specs is not None and _lacks_records(entry):
            return self._ancestor(experiment, head, base, entry, train_same=train_same)
        return entry

    def _ancestor(
        self, experiment: Experiment, head: Specs, base: Base, entry: ExperimentPlan, *, train_same: bool
    ) -> ExperimentPlan:
        """Return the entry against the nearest first-parent ancestor that has all records, if there is one."""
        version = base.choice.version
        assert version is not None
        commits = itertools.islice(self._repository.first_parents(version.commit), 1, _ANCESTORS)
        for distance, commit in enumerate(commits, start=1):
            choice = dataclasses.replace(
                base.choice,
                version=dataclasses.replace(version, commit=commit, label=commit[:12]),
                chosen="ancestor",
                behind=None if base.choice.behind is None else base.choice.behind + distance,
                note=f"the nearest with records, {distance} before the {base.choice.chosen}",
            )
            older = planning.plan_experiment(
                experiment, head, self._base_at(commit, choice), self._situation, train_same=train_same
            )
            if older.base and not _lacks_records(older):
                return older
        return entry

    def _base(self, tree: Tree, wish: Wish, ref: str, at: At) -> tuple[Base, bool]:
        """Return the baseline by one rule, and whether head stands on the baseline ref itself."""
        choice, on_baseline = self._choice(tree.version, wish, ref, at)
        if choice.version is None:
            return Base(choice=choice, specs=None), on_baseline
        return self._base_at(choice.version.commit, choice), on_baseline

    def _choice(self, head: Version, wish: Wish, ref: str, at: At) -> tuple[BaselineChoice, bool]:
        repository = self._repository
        if wish.base is not None:
            return self._chosen(self._commit(wish.base), wish.base, "given"), False
        # Uncommitted work is compared with HEAD, whatever the history.
        beside = head.commit if at is At.MERGE_BASE and not head.dirty else None
        tip = wish.tips.get(ref) or repository.resolve_ref(ref, self._remote, beside=beside)
        here = self._here
        on_ref = wish.head is None and (here.branch == ref or (here.branch is None and head.commit == tip))
        if wish.branch is not None:
            on_ref = wish.branch == ref
        if head.dirty and head.commit:
            return self._chosen(head.commit, "HEAD", "HEAD"), on_ref
        if not head.commit:
            return BaselineChoice(version=None, ref=ref, chosen="none", note="nothing is committed yet"), True
        if on_ref:
            # What a forced push replaced may be nowhere any more.
            pushed_over = repository.resolve(wish.before) if wish.before is not None else None
            before = pushed_over or repository.first_parent(head.commit)
            if before is None:
                note = f"this is the first commit of {ref}"
                return BaselineChoice(version=None, ref=ref, chosen="none", note=note), True
            chosen = "before the push" if pushed_over is not None else "first parent"
            return self._chosen(before, ref, chosen), True
        if tip is None:
            note = f"there is no branch or commit `{ref}` here; `baseline.ref` names it"
            return BaselineChoice(version=None, ref=ref, chosen="not found", note=note), False
        base = tip if at is At.TIP else repository.merge_base(head.commit, tip)
        if base is None:
            note = f"head and {ref} have no commit in common"
            return BaselineChoice(version=None, ref=ref, chosen="not found", note=note), False
        choice = self._chosen(base, ref, "tip" if at is At.TIP else "merge-base")
        return dataclasses.replace(choice, behind=repository.behind(base, tip)), False

    def _chosen(self, commit: str, ref: str, chosen: str) -> BaselineChoice:
        return BaselineChoice(version=self._tree(commit, ref).version, ref=ref, chosen=chosen)

    def _tree(self, commit: str, label: str) -> Tree:
        if commit not in self._trees:
            self._trees[commit] = self._repository.tree(commit, label)
        return self._trees[commit]

    def _commit(self, revision: str) -> str:
        commit = self._repository.resolve(revision)
        if commit is None:
            raise UserError(f"`{revision}` names no commit here")
        return commit

    def _base_at(self, commit: str, choice: BaselineChoice) -> Base:
        specs, broken = self._load(self._tree(commit, choice.ref), self._base_globs)
        return Base(choice=choice, specs=specs, broken=broken)

    def _head_specs(self, tree: Tree) -> Specs:
        specs, broken = self._load(tree, self._spec_globs)
        if broken:
            errors = [
                finding
                for path in broken
                for finding in self._parsed[path, tree.files[path].oid][1]
                if finding.severity is Severity.ERROR
            ]
            raise InvalidSpecError(errors)
        names: dict[str, str] = {}
        for experiment in specs.experiments.values():
            if experiment.name in names:
                raise UserError(
                    f"{experiment.path} and {names[experiment.name]} both call themselves `{experiment.name}`"
                )
            names[experiment.name] = experiment.path
        if not specs.experiments:
            looked = ", ".join(self._spec_globs)
            raise UserError(
                f"no spec is in {_shown(tree.version)}; looked for: {looked}. "
                "`gitops-ml init` writes a first one, `gitops-ml.yaml` can say where they are"
            )
        return specs

    def _load(self, tree: Tree, globs: tuple[str, ...]) -> tuple[Specs, dict[str, str]]:
        """Return a tree's specs, and why the others are not valid; each is parsed once, whatever tree it stands in."""
        known = self._specs.get((tree.version.tree, globs))
        if known is not None:
            return known
        experiments, broken = {}, {}
        selects = compiled(globs)
        paths = [path for path in tree.files if selects(path)]
        for path in paths:
            oid = tree.files[path].oid
            if (path, oid) not in self._parsed:
                is_link = tree.files[path].mode == "120000"
                self._parsed[path, oid] = (None, (linked(path),)) if is_link else load(tree.read(oid), path)
            experiment, findings = self._parsed[path, oid]
            if experiment is None:
                broken[path] = next(f.message for f in findings if f.severity is Severity.ERROR)
            else:
                experiments[path] = experiment
        specs = Specs(tree=tree, experiments=experiments, paths=frozenset(paths))
        self._specs[tree.version.tree, globs] = specs, broken
        return specs, broken


def _selects(experiment: Experiment) -> list[str]:
    """Return globs of the files that a spec names: an untracked one among them belongs to the uncommitted work."""
    named = [*(experiment.code.include or ()), *experiment.metrics.evaluation]
    named += [glob for data in experiment.data if "://" not in data.uri for glob in (data.uri, f"{data.uri}/**")]
    if experiment.environment.requirements:
        named.append(experiment.environment.requirements)
    return [planning.inside(glob, experiment.workdir) for glob in named]


def _lacks_records(entry: ExperimentPlan) -> bool:
    return entry.base_experiment is not None and any(planned.action is not Action.REUSE for planned in entry.base)


def _shown(version: Version) -> str:
    return "the work tree" if version.dirty else version.commit[:12]
