"""One experiment's report at one commit: the files that go to the ledger, and where they stand.

Recomputed from the same records a report is the same bytes: it holds no time of its own, and nothing that only says how
this run went (what was reused, what this run spent, how far main has moved on since).
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gitops_ml import html, markdown, plots
from gitops_ml.comparison import Comparison, Cost, Curves, ExperimentComparison, TrialSummary
from gitops_ml.comparison_json import comparison_from_json, comparison_to_json
from gitops_ml.errors import UserError
from gitops_ml.records import Record, Series, json_bytes, json_document

MAX_FILE_BYTES = 2**20
"""Larger files do not go to the ledger (design: the ledger)."""


def plan_digest(experiment: ExperimentComparison) -> str:
    """Return the digest of what the report is about: keys of both sides, which of them have results, and the rules.

    The commit of the baseline and the attempts belong to it, because the text names them: another baseline commit with
    the same keys, or one more failed attempt, is another report.
    """

    def side(trials: Sequence[TrialSummary]) -> list[Any]:
        return [
            [t.key, t.recorded, None if t.attempt is None else [t.attempt.number, str(t.attempt.outcome)]]
            for t in trials
        ]

    base = experiment.baseline.version
    document = {
        "head": [side(point.head_trials) for point in experiment.points],
        "base": [side(point.base_trials) for point in experiment.points],
        "base_commit": base.commit if base else None,
        "tracks": [repr(metric.track) for metric in experiment.metrics],
        "accepted": [metric.accepted for metric in experiment.metrics],
        "rule": repr(experiment.rule),
        "plots": repr(experiment.plots),
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def lasting(experiment: ExperimentComparison) -> ExperimentComparison:
    """Return the comparison without what only this run knows."""

    def cost(of: Cost) -> Cost:
        return dataclasses.replace(of, spent_s=of.duration_s, spent_usd=of.cost_usd)

    def trials(of: Sequence[TrialSummary]) -> tuple[TrialSummary, ...]:
        return tuple(dataclasses.replace(trial, reused=False) for trial in of)

    return dataclasses.replace(
        experiment,
        baseline=dataclasses.replace(experiment.baseline, behind=None),
        head_cost=cost(experiment.head_cost),
        base_cost=cost(experiment.base_cost) if experiment.base_cost else None,
        points=tuple(
            dataclasses.replace(point, head_trials=trials(point.head_trials), base_trials=trials(point.base_trials))
            for point in experiment.points
        ),
    )


def build(experiment: ExperimentComparison, matrices: Sequence[plots.Matrix] = ()) -> Mapping[str, bytes]:
    """Return the report's files by their path in its folder: ``report.json``, ``report.md``, ``plots/*.svg``."""
    whole = lasting(experiment)
    pictures = plots.pictures(whole, matrices)
    files = {f"plots/{picture.name}.svg": picture.svg for picture in pictures}
    files["report.json"] = report_bytes(whole)
    files["report.md"] = markdown.report(whole, {p.name: f"plots/{p.name}.svg" for p in pictures}).encode()
    return {name: content for name, content in sorted(files.items()) if _fits(name, content)}


def report_bytes(experiment: ExperimentComparison) -> bytes:
    """Return ``report.json``, as ``schemas/report.v1.schema.json`` describes it."""
    whole = Comparison(head=experiment.head, baseline=experiment.baseline, experiments=(experiment,))
    return json_bytes(comparison_to_json(whole))


def comparison_from(content: bytes, where: str) -> Comparison:
    """Return the comparison that a report's JSON holds, with curves only if it was written with them.

    Raises:
        UserError: it holds none; ``where`` names the file.
    """
    try:
        return comparison_from_json(json_document(content))
    except UserError as error:
        raise UserError(f"{where}: {error}; `gitops-ml report` writes it anew") from error


def with_curves(experiment: ExperimentComparison, records: Mapping[str, Record]) -> ExperimentComparison:
    """Return a comparison that was read from a report with its curves, from the records that are known."""
    wanted = [metric.track.name for metric in experiment.metrics]
    wanted += [name for plot in experiment.plots for name in (*plot.y, plot.x)]

    def side(trials: Sequence[TrialSummary], name: str) -> dict[int, Series]:
        known = [(trial.seed, records[trial.key]) for trial in trials if trial.key in records]
        return {seed: series for seed, record in known for series in record.series if series.name == name}

    points = []
    for point in experiment.points:
        curves = [
            Curves(name=name, base=side(point.base_trials, name), head=side(point.head_trials, name))
            for name in dict.fromkeys(wanted)
        ]
        points.append(dataclasses.replace(point, curves=tuple(c for c in curves if c.base or c.head)))
    return dataclasses.replace(experiment, points=tuple(points))


def all_keys(experiments: Sequence[ExperimentComparison]) -> list[str]:
    """Return the keys of all finished trials of both sides, each once."""
    points = [point for experiment in experiments for point in experiment.points]
    trials = [trial for point in points for trial in (*point.head_trials, *point.base_trials) if trial.recorded]
    return list(dict.fromkeys(trial.key for trial in trials))


def _fits(name: str, content: bytes) -> bool:
    # The two texts are the report itself; a plot that is too large is left to the page.
    return not name.startswith("plots/") or len(content) <= MAX_FILE_BYTES


def page(comparison: Comparison, matrices: Mapping[str, Sequence[plots.Matrix]] | None = None) -> str:
    """Return ``report.html`` for all experiments: an artifact of CI, not part of the ledger."""
    known = matrices or {}
    return html.page(comparison, {e.name: plots.pictures(e, known.get(e.name, ())) for e in comparison.experiments})
