"""Plots: deterministic, small, inert, and nothing lost that a reader would see."""

import dataclasses
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitops_ml import plots
from gitops_ml.comparison import Curves
from gitops_ml.records import Series
from gitops_ml.spec import Plot
from tests.fakes import comparisons as fakes


def only(curves: Curves, x: str = "step") -> str:
    experiment = fakes.experiment(metrics=())
    point = dataclasses.replace(experiment.points[0], curves=(curves,))
    experiment = dataclasses.replace(experiment, points=(point,), plots=(Plot(y=(curves.name,), x=x),))
    return plots.pictures(experiment)[0].svg.decode()


def test_pictures__twice__are_the_same_bytes():
    first, second = (plots.pictures(fakes.sweep_experiment()) for _ in range(2))

    assert [picture.svg for picture in first] == [picture.svg for picture in second]
    assert [picture.name for picture in first] == ["sweep", "sweep-act", "sweep-lr", "cost"]


def test_pictures__hostile_matplotlibrc__changes_nothing(tmp_path, monkeypatch):
    before = plots.pictures(fakes.experiment())[0].svg
    import matplotlib

    with matplotlib.rc_context({"lines.linewidth": 40.0, "text.parse_math": True, "font.size": 3.0}):
        after = plots.pictures(fakes.experiment())[0].svg

    assert after == before


def test_pictures__two_long_curves__stay_small():
    svg = only(fakes.curves("loss", 1.2, 1.1, seeds=1, n=100_000))

    assert len(svg) < 40_000


@pytest.mark.parametrize(
    "name", ["$\\frac{a$", "\u202eloss", "a\x00b\x1b[31m", "<script>&amp;]]>", "\ud800", "x" * 500, ""]
)
def test_pictures__hostile_names__give_well_formed_svg(name):
    root = ET.fromstring(only(fakes.curves(name)))

    text = "".join(root.itertext())
    assert root.tag.endswith("svg")
    assert "script" not in {element.tag.rsplit("}", 1)[-1] for element in root.iter()}
    assert "\u202e" not in text
    assert "baseline (3 seeds)" in text
    assert "this change (3 seeds)" in text


@given(st.lists(st.floats(), min_size=1, max_size=30))
@settings(max_examples=20, deadline=None)
def test_pictures__any_values__are_drawn(values):
    series = Series(name="m", steps=tuple(map(float, range(len(values)))), values=tuple(values))

    svg = only(Curves(name="m", base={0: series}, head={0: series, 1: series}))

    ET.fromstring(svg)
    assert "nan" not in svg.lower().replace("not finite", "")


def test_pictures__values_not_finite__are_counted():
    bad = Series(name="m", steps=(1.0, 2.0, 3.0), values=(1.0, math.nan, 1e308))

    assert "2 values not finite, left out" in only(Curves(name="m", base={}, head={0: bad}))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(2, 50))
@settings(max_examples=60, deadline=None)
def test_decimated__any_line__keeps_ends_and_extremes(values, buckets):
    across, up = np.arange(len(values), dtype=float), np.array(values)

    less_across, less_up = plots.decimated(across, up, buckets)

    assert len(less_up) <= 2 * buckets + 2
    assert (less_up.min(), less_up.max()) == (up.min(), up.max())
    assert (less_across[0], less_across[-1]) == (across[0], across[-1])
    assert np.all(np.diff(less_across) > 0)


def test_envelope__narrowed__is_never_inside_the_band():
    across = np.arange(1000.0)
    low, high = np.sin(across) - 1, np.sin(across) + 1

    _, less_low, less_high = plots.envelope(across, low, high, 40)

    assert less_low.min() == low.min()
    assert less_high.max() == high.max()


def test_pictures__by_time__label_the_axis_in_seconds():
    assert "seconds since the start" in only(fakes.curves(), x="time")


def test_pictures__unequal_steps__share_one_band():
    one = Series(name="m", steps=(0.0, 10.0), values=(0.0, 1.0))
    other = Series(name="m", steps=(5.0, 20.0, 30.0), values=(0.5, 1.0, 2.0))

    assert "this change (2 seeds)" in only(Curves(name="m", base={}, head={0: one, 1: other}))


def test_matrix__drawn__shows_counts_and_labels():
    matrix = plots.Matrix(name="out/confusion", labels=("cat", "dog"), counts=((40.0, 2.0), (1.0, 37.0)))

    svg = plots.pictures(fakes.experiment(), (matrix,))[-2].svg.decode()

    assert all(text in svg for text in ("cat", "dog", "40", "37", "predicted"))


def test_matrix__numbers__stand_out_from_their_cells_on_any_page():
    matrix = plots.Matrix(name="m", labels=("a", "b"), counts=((97.0, 3.0), (55.0, 45.0)))

    root = ET.fromstring(plots.pictures(fakes.experiment(), (matrix,))[-2].svg.decode())
    texts = {e.text: e.get("style", "") for e in root.iter() if e.tag.endswith("text")}
    areas = [e.get("style", "") for e in root.iter() if "fill: #" in e.get("style", "") and not e.tag.endswith("text")]

    assert "fill: #ffffff" in texts["97"]
    assert all("fill: #1f2328" in texts[number] for number in ("3", "55", "45"))
    assert any("fill: #ffffff" in style for style in areas)
    assert not any("opacity" in style for style in areas if "fill: #0" in style)


def test_matrix__long_labels__leave_room_for_what_they_are():
    matrix = plots.Matrix(name="m", labels=("x" * 12, "y" * 12), counts=((1.0, 0.0), (0.0, 1.0)))

    root = ET.fromstring(plots.pictures(fakes.experiment(), (matrix,))[-2].svg.decode())
    height = float(root.get("viewBox").split()[3])
    (predicted,) = [e for e in root.iter() if e.text == "predicted"]

    assert float(predicted.get("y")) < height - 3


def test_png__is_an_opaque_picture():
    png = plots.pictures(fakes.experiment())[0].png()

    assert png.startswith(b"\x89PNG")


def test_pictures__sweep_whose_best_point_is_new__draw_each_sides_best():
    experiment = fakes.sweep_experiment()
    old, new = experiment.points[:2]
    gained = dataclasses.replace(new.curves[0], base={})
    points = (old, dataclasses.replace(new, curves=(gained,)))
    best = dataclasses.replace(
        experiment, points=points, best_head=new.point, best_base=old.point, plots=(Plot(y=("accuracy",), x="lacking"),)
    )

    picture = plots.pictures(best)[0]

    assert picture.alt == "accuracy by step, baseline and this change"
    assert "baseline (3 seeds)" in picture.svg.decode()


def test_pictures__no_baseline__is_not_named():
    experiment = fakes.experiment()
    curve = dataclasses.replace(fakes.curves("loss", 1.2, 1.1), base={})
    alone = dataclasses.replace(experiment.points[0], curves=(curve,))

    picture = plots.pictures(dataclasses.replace(experiment, points=(alone,), plots=(Plot(y=("loss",)),)))[0]

    assert picture.alt == "loss by step, this change"


def test_pictures__sweep_of_which_nothing_ran__are_none():
    experiment = fakes.sweep_experiment()
    nothing = fakes.side((None, None, None), problem="the trial was not run")
    points = tuple(
        dataclasses.replace(one, metrics=(dataclasses.replace(one.metrics[0], base=nothing, head=nothing),), curves=())
        for one in experiment.points
    )

    assert [picture.name for picture in plots.pictures(dataclasses.replace(experiment, points=points))] == ["cost"]
