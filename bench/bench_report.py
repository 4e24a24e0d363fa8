"""A large change compared and rendered: 1,000 metrics x 5 seeds x 2 sides, to Markdown, a page and 12 plots.

A process of its own, from the import to the last byte, at most 5 s and 300 MB.
"""

import dataclasses
import json
import random
import resource
import statistics
import sys
import time

from bench.timing import limit, process
from gitops_ml.planning import Action, ExperimentPlan, Plan, PlannedTrial, Relation
from gitops_ml.records import BaselineChoice, Record, Scalar, Series
from gitops_ml.spec import Experiment, Gate, Goal, Metrics, Plot, Tolerance, Track
from tests.fakes import runs

METRICS, SEEDS, PLOTTED, POINTS = 1000, 5, 11, 400
MOST_S, MOST_MB, MOST_MARKDOWN_KB = 5.0, 300.0, 60.0
REPEATS = 5


def main() -> int:
    """Measure it in fresh processes; what only builds the input is not counted as time, but as memory."""
    call = process(sys.executable, "-m", "bench.bench_report", "once")
    taken = [json.loads(call()) for _ in range(REPEATS)]
    whole = {name: statistics.median(one[name] for one in taken) for name in taken[0]}
    steps = ", ".join(f"{name} {whole[name]:.2f} s" for name in ("import", "compare", "plots", "Markdown", "page"))
    print(f"{steps}; the page has {whole['page_kb']:.0f} kB")
    held = limit(f"{METRICS} metrics x {SEEDS} seeds x 2 sides", whole["whole"], MOST_S, "s")
    held &= limit("peak memory", whole["mb"], MOST_MB, "MB")
    held &= limit("the comment", whole["markdown_kb"], MOST_MARKDOWN_KB, "kB")
    held &= limit("plots missing of 12", 12 - whole["pictures"], 0, "")
    return 0 if held else 1


def once() -> dict[str, float]:
    """Compare and render, and return what each step took."""
    plan, records = change()
    began = time.perf_counter()
    from gitops_ml import html, markdown, plots
    from gitops_ml.comparison import compare

    marks = {"import": time.perf_counter()}
    comparison = compare(plan, records, {})
    marks["compare"] = time.perf_counter()
    pictures = {experiment.name: plots.pictures(experiment) for experiment in comparison.experiments}
    assert all(picture.svg for shown in pictures.values() for picture in shown)
    marks["plots"] = time.perf_counter()
    images = {name: {one.name: f"plots/{one.name}.svg" for one in shown} for name, shown in pictures.items()}
    text = markdown.comment(comparison, identity="bench", images=images)
    marks["Markdown"] = time.perf_counter()
    page = html.page(comparison, pictures)
    marks["page"] = time.perf_counter()
    starts = [began, *marks.values()]
    return {
        **{name: end - start for (name, end), start in zip(marks.items(), starts, strict=False)},
        "whole": time.perf_counter() - began,
        # In kB on Linux, in bytes on macOS.
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3),
        "markdown_kb": len(text.encode()) / 1000,
        "page_kb": len(page.encode()) / 1000,
        "pictures": sum(map(len, pictures.values())),
    }


def change() -> tuple[Plan, dict[str, Record]]:
    """Return a plan of both sides with their records: 20 gated metrics, 11 with curves, half of all changed."""
    generator = random.Random(0)
    names = [f"group{index % 20}/metric_{index}" for index in range(METRICS)]
    tracks = tuple(
        Track(
            name=name,
            goal=Goal.MAXIMIZE,
            gate=Gate.FAIL if index < 20 else Gate.OFF,
            tolerance=Tolerance(relative=0.01),
        )
        for index, name in enumerate(names)
    )
    spec = Experiment(
        path="experiment.yaml",
        name="large",
        run="python train.py",
        seeds=tuple(range(SEEDS)),
        metrics=Metrics(track=tracks),
        plots=tuple(Plot(y=(name,)) for name in names[:PLOTTED]),
    )
    records: dict[str, Record] = {}
    sides: dict[str, list[PlannedTrial]] = {"base": [], "head": []}
    for side, planned in sides.items():
        for seed in range(SEEDS):
            one = runs.trial(spec, runs.HEAD if side == "head" else runs.BASE, seed)
            planned.append(PlannedTrial(trial=one, action=Action.REUSE, reason="has a record"))
            gain = 0.05 if side == "head" else 0.0
            values = [1 + gain * (index % 2) + generator.gauss(0, 0.01) for index in range(METRICS)]
            drawn = tuple(
                Series(
                    name=name,
                    steps=tuple(map(float, range(POINTS))),
                    values=tuple(value * (1 - 1 / (2 + step / 20)) for step in range(POINTS)),
                )
                for name, value in zip(names[:PLOTTED], values, strict=False)
            )
            scalars = tuple(Scalar(name=n, value=v) for n, v in zip(names[PLOTTED:], values[PLOTTED:], strict=True))
            records[one.key] = dataclasses.replace(runs.record(one), scalars=scalars, series=drawn)
    baseline = BaselineChoice(version=runs.BASE, ref="main", chosen="merge-base", behind=0)
    entry = ExperimentPlan(
        experiment=spec,
        base_experiment=spec,
        baseline=baseline,
        relation=Relation.CHANGED,
        head=tuple(sides["head"]),
        base=tuple(sides["base"]),
    )
    return Plan(head=runs.HEAD, baseline=baseline, experiments=(entry,)), records


if __name__ == "__main__":
    if sys.argv[1:] == ["once"]:
        print(json.dumps(once()))
    else:
        sys.exit(main())
