"""An overlay of two curves of 100,000 points each: at most 1 s and 40 kB of SVG."""

import dataclasses
import random
import sys

from bench.timing import limit, medians, process
from gitops_ml import plots
from gitops_ml.comparison import Curves
from gitops_ml.records import Series
from gitops_ml.spec import Plot
from tests.fakes import comparisons

POINTS = 100_000
MOST_S, MOST_KB = 1.0, 40.0
REPEATS = 5


def main() -> int:
    """Draw it again and again, and once in a fresh process with the import of matplotlib."""
    whole = comparisons.experiment(metrics=(), plots=(Plot(y=("loss",)),), base_cost=None, head_cost=comparisons.cost())
    experiment = dataclasses.replace(whole, points=(dataclasses.replace(whole.points[0], curves=(curves(),)),))

    def draw() -> bytes:
        (picture,) = plots.pictures(experiment)
        return picture.svg

    picture = draw()
    found = medians({"draw": draw, "import": process(sys.executable, "-c", "import matplotlib.figure")}, REPEATS)
    print(f"the import of matplotlib, once per process: {found['import'] * 1000:.0f} ms")
    held = limit(f"2 x {POINTS} points, to SVG", found["draw"], MOST_S, "s")
    held &= limit("its size", len(picture) / 1000, MOST_KB, "kB")
    return 0 if held else 1


def curves() -> Curves:
    """Return noisy losses with spikes, the same on every machine."""
    generator = random.Random(0)

    def series(level: float) -> Series:
        values = [level + 3 / (1 + step / 5000) + generator.gauss(0, 0.1) for step in range(POINTS)]
        for _ in range(20):
            values[generator.randrange(POINTS)] += 2
        return Series(name="loss", steps=tuple(map(float, range(POINTS))), values=tuple(values))

    return Curves(name="loss", base={0: series(1.0)}, head={0: series(0.8)})


if __name__ == "__main__":
    sys.exit(main())
