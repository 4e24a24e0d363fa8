"""The pictures of a report: deterministic SVG by matplotlib's figures, without pyplot and without its settings files.

Readable on light and dark pages (transparent, mid-tone text, colours with contrast on both), for colour-blind readers
(Okabe and Ito's palette, and the baseline is dashed), and small: curves are cut to their minima and maxima per pixel
column, text stays text. Names come from outside: they are cleaned and never read as mathematics.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gitops_ml import wording
from gitops_ml.comparison import Curves, ExperimentComparison, MetricComparison, Verdict
from gitops_ml.records import Series
from gitops_ml.spec import Goal, Plot, Value
from gitops_ml.trends import Trend
from gitops_ml.values import dataclass

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

BASE_COLOUR = "#0072B2"
HEAD_COLOUR = "#D55E00"
_GOOD, _BAD, _OPEN = "#009E73", "#D55E00", "#767676"
_INK = "#767676"
_ON_LIGHT, _ON_DARK = "#1f2328", "#ffffff"
"""Text in an area of ours, which is the same on a light and on a dark page."""
"""Text and axes: a contrast of 4.5 on white and 4.2 on a dark page."""

MAX_PICTURES = 12
MAX_CLASSES = 100
_POINTS = 1_800
"""Points of all lines of one picture together: about 26 kB of SVG."""
_HUGE = 1e100
"""matplotlib fails on values near the end of the floats; nothing real is there."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One plot, drawn when it is asked for. ``alt`` says in words what is seen, ``name`` is a file name without end."""

    name: str
    alt: str
    draw: Callable[[], "Figure"] = dataclasses.field(repr=False, compare=False)

    @functools.cached_property
    def svg(self) -> bytes:
        """The plot as SVG; the same bytes for the same data."""
        with _settings(self.name):
            return _svg(self.draw())

    def png(self) -> bytes:
        """Return the plot on an opaque light card, for forges that take no SVG."""
        with _settings(self.name):
            figure = self.draw()
            out = io.BytesIO()
            figure.savefig(out, format="png", dpi=144, facecolor="white", metadata={"Software": None})
            return out.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A confusion matrix to draw: rows are the true classes, columns the predicted ones, at most ``MAX_CLASSES``."""

    name: str
    labels: tuple[str, ...]
    counts: tuple[tuple[float, ...], ...]


def pictures(experiment: ExperimentComparison, matrices: Sequence[Matrix] = ()) -> tuple[Picture, ...]:
    """Return the pictures of an experiment's report, the most telling first, at most ``MAX_PICTURES``."""
    return tuple(_pictures(experiment, matrices))[:MAX_PICTURES]


def _pictures(experiment: ExperimentComparison, matrices: Sequence[Matrix]) -> Iterator[Picture]:
    wanted = list(_curves_wanted(experiment))
    compared = [m for m in experiment.metrics if m.difference is not None]
    sweep = len(experiment.points) > 1
    extras = (len(compared) > 1) + 2 * sweep + len(matrices) + 1
    room = max(1, MAX_PICTURES - extras)
    taken: set[str] = set()
    for curves, x, x_values, unit in wanted[:room]:
        name = _file_name("curves", curves.name if x == "step" else f"{curves.name} by {x}", taken)

        def draw_curves(
            curves: Curves = curves, x: str = x, x_values: Curves | None = x_values, unit: str = unit
        ) -> "Figure":
            return learning_curves(curves, x=x, x_values=x_values, unit=unit)

        sides = [side for side, seeds in (("baseline", curves.base), ("this change", curves.head)) if seeds]
        alt = f"{_label(curves.name)} by {_label(_across(curves, x, x_values))}, {' and '.join(sides)}"
        yield _picture(name, alt, draw_curves)
    if sweep:
        yield from _sweep_pictures(experiment, taken)
    if len(compared) > 1:
        alt = "improvement of each metric with its interval, relative to the baseline"
        yield _picture("improvements", alt, lambda: forest(compared))
    for matrix in matrices:
        name = _file_name("confusion", matrix.name, taken)

        def draw_matrix(matrix: Matrix = matrix) -> "Figure":
            return confusion(matrix)

        yield _picture(name, f"confusion matrix {_label(matrix.name)}", draw_matrix)
    costs = [cost for cost in (experiment.base_cost, experiment.head_cost) if cost is not None]
    spent = any(cost.duration_s or cost.cost_usd for cost in costs)
    if (spent and len(costs) > 1) or experiment.head_cost.cost_usd:
        what = "training time and cost" if any(cost.cost_usd for cost in costs) else "training time"
        whose = "both sides" if len(costs) > 1 else "this change"
        yield _picture("cost", f"{what} of {whose}", lambda: cost_bars(experiment))


def _curves_wanted(experiment: ExperimentComparison) -> Iterator[tuple[Curves, str, Curves | None, str]]:
    """Yield the curves that the spec plots, of the best point in a sweep; none named: those of tracked metrics."""
    curves = {c.name: c for c in wording.deciding_curves(experiment) if c.base or c.head}
    units = {metric.track.name: metric.track.unit for metric in experiment.metrics}
    asked = experiment.plots or (Plot(y=tuple(name for name in units if name in curves)[:6]),)
    wanted = [(name, plot.x) for plot in asked for name in plot.y if name in curves]
    # What decides comes first, because a comment unfolds only the first pictures.
    first = wording.deciding_name(experiment)
    for name, x in sorted(wanted, key=lambda each: each[0] != first):
        yield curves[name], x, curves.get(x), units.get(name, "")


def _picture(name: str, alt: str, draw: Callable[[], "Figure"]) -> Picture:
    return Picture(name=name, alt=alt, draw=draw)


def _file_name(kind: str, name: str, taken: set[str]) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    found = f"{kind}-{slug}".rstrip("-")
    if found in taken or not slug:
        found += "-" + hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    taken.add(found)
    return found


# Learning curves


def learning_curves(curves: Curves, *, x: str = "step", x_values: Curves | None = None, unit: str = "") -> "Figure":
    """Return both sides' curves: the mean over seeds, a band from the lowest to the highest, single seeds when few.

    Args:
        x: ``step``, ``time`` (seconds since each training's first value) or a metric's name.
        x_values: that metric's series; without them its curve is drawn by step.
    """
    import numpy as np

    figure, axes = _figure()
    across_by = _across(curves, x, x_values)
    x_label = "seconds since the start" if across_by == "time" else across_by
    sides: list[tuple[str, list[tuple[Array, Array]]]] = []
    bad = 0
    for which, seeds in (("baseline", curves.base), ("this change", curves.head)):
        other = {} if x_values is None else (x_values.base if which == "baseline" else x_values.head)
        lines = []
        for seed in sorted(seeds):
            across, up, dropped = _line(seeds[seed], x, other.get(seed))
            bad += dropped
            if len(across):
                lines.append((across, up))
        sides.append((which, lines))
    drawn = sum(len(lines) if len(lines) <= 3 else 1 for _, lines in sides)
    extra = sum(2 for _, lines in sides if len(lines) > 1)
    buckets = max(24, _POINTS // (2 * max(drawn + extra, 1)))
    scaled = unit == "%" and all(np.all(np.abs(up) <= 1.5) for _, lines in sides for _, up in lines)
    for which, lines in sides:
        if lines:
            _side(axes, lines, which, buckets, 100.0 if scaled else 1.0)
    spread = [up[np.isfinite(up)] for _, lines in sides for _, up in lines]
    _scale(axes, np.concatenate(spread) if spread else np.zeros(0))
    shown_unit = wording.clean(unit, 12)
    axes.set_xlabel(_label(x_label))
    axes.set_ylabel(_label(curves.name, 48) + (f" ({shown_unit})" if shown_unit else ""))
    if bad:
        axes.set_title(f"{wording.count(bad, 'value')} not finite, left out", fontsize=9)
    if any(lines for _, lines in sides):
        _legend(axes)
    else:
        axes.text(0.5, 0.5, "no finite values", transform=axes.transAxes, ha="center")
    return figure


def _across(curves: Curves, x: str, x_values: Curves | None) -> str:
    """Return what the curves can be drawn by: ``x``, or ``step`` where a seed lacks it."""
    if x == "step":
        return x
    for seeds, other in ((curves.base, x_values and x_values.base), (curves.head, x_values and x_values.head)):
        for seed, series in seeds.items():
            if series.times is None if x == "time" else seed not in (other or {}):
                return "step"
    return x


def _line(series: Series, x: str, other: Series | None) -> "tuple[Array, Array, int]":
    import numpy as np

    steps = np.asarray(series.steps, dtype=np.float64)
    up = np.asarray(series.values, dtype=np.float64)
    across = steps
    if x == "time" and series.times is not None:
        across = np.asarray(series.times, dtype=np.float64)
        across = across - across[0]
    elif other is not None and x not in ("step", "time"):
        other_steps = np.asarray(other.steps, dtype=np.float64)
        order = np.argsort(other_steps, kind="stable")
        across = np.interp(steps, other_steps[order], np.asarray(other.values, dtype=np.float64)[order])
    keep = np.isfinite(across) & np.isfinite(up) & (np.abs(up) < _HUGE) & (np.abs(across) < _HUGE)
    across, up = across[keep], up[keep]
    if len(across) > 1 and np.any(np.diff(across) < 0):
        order = np.argsort(across, kind="stable")
        across, up = across[order], up[order]
    return across, up, int(len(keep) - keep.sum())


def _side(axes: "Axes", lines: "list[tuple[Array, Array]]", which: str, buckets: int, factor: float) -> None:
    import numpy as np

    colour = BASE_COLOUR if which == "baseline" else HEAD_COLOUR
    dashes: Any = (0, (5, 2)) if which == "baseline" else "solid"
    label = f"{which} ({wording.count(len(lines), 'seed')})"
    same = all(len(a) == len(lines[0][0]) and np.array_equal(a, lines[0][0]) for a, _ in lines)
    if len(lines) == 1:
        across, up = decimated(lines[0][0], lines[0][1] * factor, buckets)
        marker = "o" if len(across) == 1 else None
        axes.plot(across, up, color=colour, linestyle=dashes, linewidth=1.6, label=label, marker=marker)
        return
    if same:
        grid = lines[0][0]
        stack = np.vstack([up for _, up in lines]) * factor
    else:
        grid = np.linspace(min(a[0] for a, _ in lines), max(a[-1] for a, _ in lines), min(buckets, 400))
        stack = np.vstack([np.interp(grid, a, up, left=np.nan, right=np.nan) for a, up in lines]) * factor
        # A single point among longer curves may fall between two grid points of its own.
        keep = np.any(np.isfinite(stack), axis=0)
        grid, stack = grid[keep], stack[:, keep]
    low, high, mean = np.nanmin(stack, axis=0), np.nanmax(stack, axis=0), np.nanmean(stack, axis=0)
    band_x, band_low, band_high = envelope(grid, low, high, max(12, buckets // 2))
    # Not fill_between: its polygon would repeat what the two lines say, and dark pages need the edge.
    axes.fill_between(band_x, band_low, band_high, color=colour, alpha=0.18, linewidth=0)
    if len(lines) <= 3:
        for across, up in lines:
            thin_x, thin_y = decimated(across, up * factor, buckets)
            axes.plot(thin_x, thin_y, color=colour, linestyle=dashes, linewidth=0.6, alpha=0.55)
    mean_x, mean_y = decimated(grid, mean, buckets)
    axes.plot(mean_x, mean_y, color=colour, linestyle=dashes, linewidth=1.8, label=label)


def decimated(across: "Array", up: "Array", buckets: int) -> "tuple[Array, Array]":
    """Return the lowest and the highest point of each of ``buckets`` equal parts, in order; short lines stay whole.

    What a picture of that many pixel columns shows does not change: no spike is lost.
    """
    import numpy as np

    if len(across) <= 2 * buckets:
        return across, up
    edges = _edges(across, buckets)
    kept = set[int]()
    for start, stop in itertools.pairwise(edges):
        if stop > start:
            kept.add(int(start + np.argmin(up[start:stop])))
            kept.add(int(start + np.argmax(up[start:stop])))
    index = np.array(sorted(kept | {0, len(across) - 1}))
    return across[index], up[index]


def envelope(across: "Array", low: "Array", high: "Array", buckets: int) -> "tuple[Array, Array, Array]":
    """Return a band cut to ``buckets`` columns: never narrower than the band was anywhere in the column."""
    import numpy as np

    if len(across) <= buckets:
        return across, low, high
    edges = _edges(across, buckets)
    parts = [(a, b) for a, b in itertools.pairwise(edges) if b > a]
    middle = np.array([(across[a] + across[b - 1]) / 2 for a, b in parts])
    middle[0], middle[-1] = across[0], across[-1]
    return middle, np.array([low[a:b].min() for a, b in parts]), np.array([high[a:b].max() for a, b in parts])


def _edges(across: "Array", buckets: int) -> list[int]:
    import numpy as np

    bounds = np.linspace(across[0], across[-1], buckets + 1)
    return [*(int(edge) for edge in np.searchsorted(across, bounds[:-1])), len(across)]


def _scale(axes: "Axes", values: "Array") -> None:
    """Use a logarithmic scale where a linear one would flatten most of the curve to the axis."""
    import numpy as np

    positive = values[values > 0]
    if len(values) and len(positive) == len(values) and positive.max() > 1e3 * positive.min():
        # A single spike does not make a scale: the middle half of the values must span it too.
        quarter, half = np.quantile(positive, (0.25, 0.5))
        if positive.max() > 50 * half or half > 10 * quarter:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(lambda _value, _: "")


# Comparison over metrics


def forest(metrics: Sequence[MetricComparison], limit: int = 30) -> "Figure":
    """Return each metric's improvement with its interval, over the baseline's size, beside its tolerance."""
    shown = [(metric, entry) for metric in metrics if (entry := _normalised(metric)) is not None][:limit]
    labels = [_label(metric.track.name, 22) for metric, _ in shown]
    # About 0.08 inches a letter at this size.
    left = 0.06 + 0.019 * max(map(len, labels), default=0)
    figure, axes = _figure(height=1.1 + 0.26 * max(len(shown), 2), left=left, right=0.85)
    edge = _edge([max(abs(low), abs(high), tolerance) for _, (_, low, high, tolerance) in shown])
    for index, (metric, (middle, low, high, tolerance)) in enumerate(shown):
        row = len(shown) - 1 - index
        colour = {Verdict.BETTER: _GOOD, Verdict.WORSE: _BAD}.get(metric.verdict, _OPEN)
        shape = {Verdict.BETTER: "^", Verdict.WORSE: "v"}.get(metric.verdict, "o")
        axes.annotate(
            wording.percent(middle / 100), (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=9
        )
        if tolerance:
            axes.fill_between([-tolerance, tolerance], row - 0.36, row + 0.36, color=_INK, alpha=0.16, linewidth=0)
        axes.plot([low, high], [row, row], color=colour, linewidth=1.8, solid_capstyle="butt")
        if edge is not None and abs(middle) > edge:
            shape, middle = "<" if middle < 0 else ">", math.copysign(edge, middle)
        axes.plot([middle], [row], color=colour, marker=shape, markersize=6, linestyle="none", clip_on=False)
    if edge is not None:
        axes.set_xlim(-edge, edge)
    axes.axvline(0, color=_INK, linewidth=0.8)
    axes.set_yticks(range(len(shown)), labels[::-1])
    axes.set_ylim(-0.7, max(len(shown), 1) - 0.3)
    axes.set_xlabel("improvement in % of the baseline (grey: tolerance)")
    axes.grid(axis="y", visible=False)
    if not shown:
        axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center")
    return figure


def _edge(extents: Sequence[float]) -> float | None:
    """Return where to end the axis because few metrics reach far beyond the others; None: they do not."""
    ordered = sorted(extents)
    if len(ordered) < 2:
        return None
    usual = 2.5 * ordered[(len(ordered) - 1) // 2]
    return usual if 0 < usual < 0.5 * ordered[-1] else None


def _normalised(metric: MetricComparison) -> tuple[float, float, float, float] | None:
    if metric.improvement is None or not metric.base.mean or metric.track.goal is Goal.NONE:
        return None
    unit = 100 / abs(metric.base.mean)
    low, high = metric.interval or (metric.improvement, metric.improvement)
    entry = (metric.improvement * unit, low * unit, high * unit, metric.tolerance * unit)
    return entry if all(abs(number) < 1e6 for number in entry) else None


def cost_bars(experiment: ExperimentComparison) -> "Figure":
    """Return time, and cost when there is one, of both sides as bars with their numbers."""
    head, base = experiment.head_cost, experiment.base_cost
    rows = [("this change", head), *([("baseline", base)] if base else [])]
    with_cost = any(cost.cost_usd for _, cost in rows)
    figure, first = _figure(height=1.5, left=0.23, columns=2 if with_cost else 1)
    panels: list[tuple[Axes, str, str, Callable[[float], str]]] = [
        (first, "duration_s", "training time (s)", wording.duration)
    ]
    if with_cost:
        panels.append((figure.axes[1], "cost_usd", "cost (USD)", wording.money))
    for axes, field, label, show in panels:
        for index, (name, cost) in enumerate(rows):
            value = getattr(cost, field)
            colour = HEAD_COLOUR if name == "this change" else BASE_COLOUR
            axes.barh([index], [value], height=0.62, color=colour)
            # Not a leading space: browsers drop it, and the number would touch the bar.
            axes.annotate(
                show(value), (value, index), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
            )
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_xlabel(label)
        axes.margins(x=0.34)
        axes.locator_params(axis="x", nbins=4)
        axes.grid(axis="y", visible=False)
    if with_cost:
        figure.axes[1].set_yticklabels([])
    return figure


def confusion(matrix: Matrix) -> "Figure":
    """Return the matrix with its counts, shaded by their share of the row."""
    import numpy as np

    size = len(matrix.labels)
    every = max(1, size // 20)
    ticks = range(0, size, every)
    labels = [_label(matrix.labels[index], 12) for index in ticks]
    turned = 90 if max(map(len, labels)) > 3 else 0
    below = 0.4 + (0.09 * max(map(len, labels)) if turned else 0.1)
    side = min(5.2, 1.7 + 0.36 * size) + below - 0.5
    figure, axes = _figure(width=side + 1.2, height=side, left=0.24, bottom=below / side)
    counts = np.array(matrix.counts, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-300)
    # Of a large matrix nearly all cells are empty: they are one area.
    _area(axes, -0.5, -0.5, size, 0.0)
    for row in range(size):
        for column in range(size):
            share = float(shares[row, column])
            if share > 0.002:
                _area(axes, column - 0.5, row - 0.5, 1, max(share, 0.06))
            if size <= 20 and counts[row, column]:
                colour = _ON_DARK if share > 0.8 else _ON_LIGHT
                text = f"{counts[row, column]:g}"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(ticks, labels, rotation=turned)
    axes.set_yticks(ticks, labels)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(_label(matrix.name), fontsize=9)
    axes.grid(visible=False)
    return figure


def _area(axes: "Axes", x: float, y: float, size: float, share: float) -> None:
    from matplotlib.patches import Rectangle

    # Not transparent: the numbers must be read on a dark page too.
    colour = "#" + "".join(
        f"{round(255 - (255 - one) * min(share, 0.99)):02x}" for one in bytes.fromhex(BASE_COLOUR[1:])
    )
    axes.add_patch(Rectangle((x, y), size, size, facecolor=colour, linewidth=0))


# Sweeps


def _sweep_pictures(experiment: ExperimentComparison, taken: set[str]) -> Iterator[Picture]:
    metric = wording.deciding_name(experiment) or ""
    track = next((m.track for p in experiment.points for m in p.metrics if m.track.name == metric), None)
    goal, unit = (track.goal, track.unit) if track is not None else (Goal.NONE, "")
    rows = _sweep_rows(experiment, unit)
    names = sorted({name for point, _, _ in rows for name in point})
    if not names or all(base is None and head is None for _, base, head in rows):
        return
    scale = f"{metric} ({unit})" if unit else metric
    if len(names) > 1:
        yield _picture(
            "sweep", f"{_label(metric)} over all swept parameters", lambda: parallel(rows, names, scale, goal)
        )
    for name in names[:3]:
        file_name = _file_name("sweep", name, taken)

        def draw(name: str = name) -> "Figure":
            return by_parameter(rows, name, scale)

        yield _picture(file_name, f"{_label(metric)} by {_label(name)}", draw)


SweepRow = tuple[Mapping[str, Value], float | None, float | None]
"""A point with the mean of the deciding metric on the baseline's and on this change's side."""


def _sweep_rows(experiment: ExperimentComparison, unit: str) -> list[SweepRow]:
    found = wording.point_rows(experiment)
    means = [mean for _, metric in found for mean in (metric.base.mean, metric.head.mean) if mean is not None]
    factor = 100.0 if unit == "%" and all(abs(mean) <= 1.5 for mean in means) else 1.0

    def usable(mean: float | None) -> float | None:
        return mean * factor if mean is not None and abs(mean) < _HUGE else None

    return [(point.point, usable(metric.base.mean), usable(metric.head.mean)) for point, metric in found]


def _positions(values: Sequence[Value | None]) -> tuple[list[float], list[tuple[float, str]], bool]:
    """Place parameter values on an axis: numbers by size (by logarithm over two decades), words by first use."""
    numeric = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < _HUGE]
    if len(numeric) == len(values) and values:
        log = min(numeric) > 0 and max(numeric) / min(numeric) >= 100
        placed = [math.log10(v) if log else float(v) for v in numeric]
        ticks = sorted(dict(zip(placed, (f"{v:g}" for v in numeric))).items())
        return placed, ticks if len(ticks) <= 8 else ticks[:: math.ceil(len(ticks) / 8)], log
    words = list(dict.fromkeys(wording.value_text(v) for v in values))
    return (
        [float(words.index(wording.value_text(v))) for v in values],
        [(float(index), _label(word, 14)) for index, word in enumerate(words)][:12],
        False,
    )


def parallel(rows: Sequence[SweepRow], names: Sequence[str], metric: str, goal: Goal) -> "Figure":
    """Return parallel coordinates of this change's points: one axis per parameter, the last one the metric."""
    # Few axes fit beside another picture, at the same size of letters.
    figure, axes = _figure(width=4.1 if len(names) < 5 else 7.2, left=0.08)
    finished = [(point, head) for point, _, head in rows if head is not None]
    scores = [head for _, head in finished]
    columns: list[list[float]] = []
    for name in names[:8]:
        placed, ticks, _ = _positions([point.get(name) for point, _ in finished])
        columns.append(_unit(placed))
        for position, text in zip(_unit([p for p, _ in ticks], placed), (text for _, text in ticks)):
            axes.text(len(columns) - 1 + 0.03, position, text, fontsize=8, va="center")
    columns.append(_unit(scores))
    last = len(columns) - 1
    for share, value in zip((0.0, 1.0), (min(scores, default=0.0), max(scores, default=0.0))):
        axes.text(last + 0.03, share, f"{value:.4g}", fontsize=8, va="center")
    order = sorted(range(len(finished)), key=lambda index: scores[index], reverse=goal is Goal.MINIMIZE)
    for rank, index in enumerate(order):
        best = rank == len(order) - 1 and goal is not Goal.NONE
        share = rank / max(len(order) - 1, 1)
        axes.plot(
            range(len(columns)),
            [column[index] for column in columns],
            color=HEAD_COLOUR if best else BASE_COLOUR,
            alpha=1.0 if best else 0.2 + 0.5 * share,
            linewidth=2.4 if best else 1.0,
        )
    for index in range(len(columns)):
        axes.axvline(index, color=_INK, linewidth=0.8)
    axes.set_xticks(range(len(columns)), [*(_label(name, 16) for name in names[:8]), _label(metric, 20)])
    axes.set_yticks([])
    axes.set_xlim(-0.1, last + 0.35)
    axes.set_ylim(-0.06, 1.06)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(visible=False)
    if len(names) > 8:
        axes.set_title(f"8 of {len(names)} parameters", fontsize=9)
    return figure


def _unit(values: Sequence[float], over: Sequence[float] | None = None) -> list[float]:
    span = over or values
    low, high = min(span, default=0.0), max(span, default=0.0)
    return [0.5 if high == low else (value - low) / (high - low) for value in values]


def by_parameter(rows: Sequence[SweepRow], name: str, metric: str) -> "Figure":
    """Return the metric of every point over one parameter, both sides."""
    figure, axes = _figure()
    placed, ticks, log = _positions([point.get(name) for point, _, _ in rows])
    for which, colour, shape in (("baseline", BASE_COLOUR, "s"), ("this change", HEAD_COLOUR, "o")):
        means = [base if which == "baseline" else head for _, base, head in rows]
        dots = [(x, mean) for x, mean in zip(placed, means) if mean is not None]
        if dots:
            hollow = "none" if which == "baseline" else colour
            axes.plot(
                [x for x, _ in dots],
                [y for _, y in dots],
                linestyle="none",
                marker=shape,
                color=colour,
                markerfacecolor=hollow,
                label=f"{which} ({wording.count(len(dots), 'point')})",
            )
    axes.set_xticks([position for position, _ in ticks], [text for _, text in ticks])
    axes.set_xlabel(_label(name) + (" (logarithmic)" if log else ""))
    axes.set_ylabel(_label(metric, 48))
    _legend(axes)
    return figure


# History


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The commits along which trends are drawn, oldest first: by their place, with the text under them."""

    labels: Mapping[int, str]
    """Of each measured commit, by its position on the branch."""
    releases: Sequence[tuple[int, str]] = ()
    """Position and name of each, in order."""


MAX_PANELS, MAX_LINES = 6, 8
_MARKERS = 80


def history(trends: Sequence[Trend], axis: Axis) -> Picture:
    """Return the picture of a metric along a branch: a panel for each experiment, at most ``MAX_PANELS``."""
    panels: dict[str, list[Trend]] = {}
    for trend in trends:
        panels.setdefault(trend.experiment, []).append(trend)
    metric = trends[0].metric if trends else ""
    shown = dict(list(panels.items())[:MAX_PANELS])
    alt = f"{_label(metric)} along the history of {', '.join(_label(name, 24) for name in shown)}"
    return _picture("history", alt, lambda: _history(shown, axis, metric))


def _history(panels: Mapping[str, Sequence[Trend]], axis: Axis, metric: str) -> "Figure":
    from matplotlib.figure import Figure

    places = {position: float(place) for place, position in enumerate(sorted(axis.labels))}
    rows = max(len(panels), 1)
    height = 1.0 + 1.9 * rows
    figure = Figure(figsize=(8.2, height))
    grid = figure.subplots(rows, 1, squeeze=False, sharex=True)
    figure.subplots_adjust(left=0.1, right=0.945, bottom=0.55 / height, top=1 - 0.42 / height, hspace=0.24)
    for (experiment, trends), axes in zip(panels.items(), grid[:, 0]):
        for index, trend in enumerate(trends[:MAX_LINES]):
            _trend_line(axes, trend, places, _LINES[index], alone=len(trends) == 1)
        more = f" ({MAX_LINES} of {len(trends)} points)" if len(trends) > MAX_LINES else ""
        axes.set_title(_label(experiment) + more, fontsize=9, loc="left")
        axes.set_ylabel(_label(metric, 24))
        if len(trends) > 1:
            _legend(axes)
    _releases(list(grid[:, 0]), axis, places)
    _commit_ticks(grid[-1, 0], axis, places)
    if not panels:
        grid[0, 0].text(0.5, 0.5, "nothing to show", transform=grid[0, 0].transAxes, ha="center")
    return figure


def _trend_line(axes: "Axes", trend: Trend, places: Mapping[int, float], colour: str, *, alone: bool) -> None:
    import numpy as np

    having = [one for one in trend.measured if max(abs(one.lowest), abs(one.highest)) < _HUGE]
    if not having:
        return
    across, mean, low, high = (
        np.array(column, dtype=np.float64)
        for column in zip(*((places[one.position], one.mean, one.lowest, one.highest) for one in having))
    )
    buckets = _POINTS // 8
    if np.any(high > low):
        band_x, band_low, band_high = envelope(across, low, high, buckets)
        axes.fill_between(band_x, band_low, band_high, color=colour, alpha=0.18, linewidth=0)
    thin_x, thin_y = decimated(across, mean, buckets)
    few = len(across) <= _MARKERS
    label = None if alone else _label(wording.point_text(trend.point), 30)
    axes.plot(thin_x, thin_y, color=colour, linewidth=1.2, label=label, marker="o" if few else None, markersize=3.5)
    for before, level in zip((None, *trend.levels), trend.levels):
        ends = [places[trend.measured[index].position] for index in (level.first, level.last)]
        if len(trend.levels) > 1 and abs(level.mean) < _HUGE:
            axes.plot(ends, [level.mean] * 2, color=_CHANGE, linewidth=1.6, linestyle=(0, (2, 1.5)))
        if before is not None:
            axes.plot(ends[:1], [trend.measured[level.first].mean], color=_CHANGE, marker="D", markersize=6)
            axes.annotate(
                f"{level.mean - before.mean:+.3g}",
                (ends[0], trend.measured[level.first].mean),
                xytext=(5, 6), textcoords="offset points", fontsize=8, color=_CHANGE,
            )  # fmt: skip


def _releases(panels: "Sequence[Axes]", axis: Axis, places: Mapping[int, float]) -> None:
    positions = sorted(places)
    for position, name in axis.releases:
        before = sum(other <= position for other in positions)
        # A commit that was not measured stands between those that were.
        place = places[position] if position in places else before - 0.5
        for axes in panels:
            axes.axvline(place, color=_INK, linewidth=0.9, linestyle=(0, (1, 2)))
        panels[0].annotate(
            _label(name, 16), (place, 1.0), xycoords=("data", "axes fraction"), xytext=(2, 3),
            textcoords="offset points", fontsize=8, rotation=0,
        )  # fmt: skip


def _commit_ticks(axes: "Axes", axis: Axis, places: Mapping[int, float]) -> None:
    positions = sorted(places)
    wanted = positions if len(positions) <= 7 else [positions[round(i * (len(positions) - 1) / 6)] for i in range(7)]
    axes.set_xticks([places[position] for position in wanted], [axis.labels[position] for position in wanted])
    axes.set_xlim(-0.5, max(len(positions) - 0.5, 0.5))
    axes.tick_params(axis="x", labelsize=8)


_CHANGE = "#D55E00"
_LINES = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#767676", "#8C6D31", "#7B61A8")


# Style and output


def _label(name: str, limit: int = 60) -> str:
    return wording.clean(name, limit) or "(unnamed)"


def _figure(
    *,
    width: float = 4.1,
    height: float = 2.7,
    left: float = 0.185,
    right: float = 0.975,
    bottom: float | None = None,
    columns: int = 1,
) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    # Two of the usual width fit beside each other in a forge's comment.
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(1, columns, squeeze=False)[0]
    low = bottom if bottom is not None else min(0.5, 0.5 / height)
    figure.subplots_adjust(left=left, right=right, bottom=low, top=1 - 0.28 / height, wspace=0.12)
    return figure, axes[0]


def _legend(axes: "Axes") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", frameon=False, fontsize=9, handlelength=2.6)


@contextlib.contextmanager
def _settings(salt: str) -> Iterator[None]:
    """Use our style alone: a ``matplotlibrc`` in the working directory would change the picture."""
    import matplotlib

    # The backend is left as it is: changing it imports pyplot.
    ours: Any = {k: v for k, v in matplotlib.rcParamsDefault.items() if "backend" not in k}
    ours |= {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "text.parse_math": False,
        "text.usetex": False,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 10,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _INK,
        "axes.titlecolor": _INK,
        "axes.linewidth": 0.8,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": _INK,
        "grid.alpha": 0.22,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
        "axes.formatter.use_mathtext": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }
    with matplotlib.rc_context(ours):
        yield


_LONG_NUMBER = re.compile(r"(\d+\.\d)\d+")
_PATH = re.compile(r' d="([^"]*)"')
_PLAIN_ID = re.compile(r'<g id="[A-Za-z0-9_.]+">')
_FONT = re.compile(r"font: ([0-9.]+px) [^;\"]*")


def _svg(figure: "Figure") -> bytes:
    """Return the figure as an SVG to stand alone or inside a page: no date, no prologue, coordinates to a tenth."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, count=1, flags=re.DOTALL)
    text = _PATH.sub(lambda match: f' d="{_short_path(match[1])}"', text)
    text = _PLAIN_ID.sub("<g>", text)
    text = _FONT.sub(r"font: \1 system-ui, sans-serif", text)
    return re.sub(r"\n\s*", "\n", text).encode()


def _short_path(path: str) -> str:
    return " ".join(_LONG_NUMBER.sub(r"\1", path).split())
