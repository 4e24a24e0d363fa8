"""The charts that we write for forges without pictures, judged by Mermaid itself, in a browser as on a forge."""

import dataclasses
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from gitops_ml import markdown
from gitops_ml.comparison import Curves
from gitops_ml.records import Series
from tests.fakes import comparisons as fakes

MERMAID = Path(__file__).parents[2] / ".cache" / "mermaid" / "mermaid.min.js"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
ASK = """async texts => {
  const said = [];
  for (const text of texts) {
    try {
      const found = await mermaid.parse(text);
      const drawn = await mermaid.render("chart" + said.length, text);
      said.push(found.diagramType + " " + (drawn.svg.match(/class="line-plot-/g) || []).length);
    } catch (error) { said.push("refused: " + error.message.slice(0, 200)); }
  }
  return said;
}"""
pytestmark = [
    pytest.mark.skipif(not MERMAID.exists(), reason=f"{MERMAID} is missing; .ci/run takes it out of npm's mermaid@11"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]
Judge = Callable[[Sequence[str]], Sequence[str]]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """Ask Mermaid for the kind of each chart and how many lines it draws."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=QUIET, chromium_sandbox=os.geteuid() != 0, timeout=30_000
        )
        try:
            view = browser.new_page()
            view.set_default_timeout(20_000)
            view.set_content("<body></body>")
            view.add_script_tag(path=MERMAID)
            view.evaluate("mermaid.initialize({startOnLoad: false, securityLevel: 'strict'})")
            yield lambda texts: view.evaluate(ASK, list(texts))
        finally:
            browser.close()


def chart(curves: Curves) -> str:
    """Return the chart without its fence."""
    text = markdown.mermaid(curves)
    assert text is not None
    lines = text.splitlines()
    assert (lines[0], lines[-1]) == ("```mermaid", "```")
    return "\n".join(lines[1:-1])


def series(values: Sequence[float], first: float = 0.0) -> Series:
    return Series(name="m", steps=tuple(first + i for i in range(len(values))), values=tuple(values))


NAMES = [
    "loss",
    'a"b',
    "x]y[z",
    "%%{init: {}}%%",
    "line [1]",
    "title",
    "; end",
    "`",
    "",
    "a\nb",
    "ü漢",
    "-->",
    "#quot;",
    "---",
]


@pytest.mark.parametrize("name", NAMES)
def test_mermaid__any_name__two_lines(judge, name):
    assert judge([chart(fakes.curves(name))]) == ["xychart 2"]


@pytest.mark.parametrize(
    "values",
    [
        (0.0, 0.0),
        (1e-300, 2e-300),
        (1e90, -1e90),
        (float("nan"), 1.0, 2.0),
        (float("inf"), -5.0, 3.25),
        (-1e-9, 1e-9, 5e-9),
        (123456.789, 123456.788),
    ],
)
def test_mermaid__any_values__one_line(judge, values):
    assert judge([chart(Curves(name="m", base={}, head={0: series(values)}))]) == ["xychart 1"]


def test_mermaid__random_curves__all_are_drawn(judge):
    generator = random.Random(0)
    charts = []
    for _ in range(60):
        scale = 10.0 ** generator.randint(-30, 30)
        sides: list[Mapping[int, Series]] = [
            {
                seed: series(
                    [generator.gauss(0, scale) for _ in range(generator.randint(2, 90))], generator.choice([0, -7, 1e6])
                )
                for seed in range(generator.randint(1, 3))
            }
            for _ in range(2)
        ]
        charts.append(chart(dataclasses.replace(fakes.curves(), base=sides[0], head=sides[1])))

    assert set(judge(charts)) == {"xychart 2"}


def test_judge__broken_chart__is_refused(judge):
    (said,) = judge([chart(fakes.curves("loss")).replace("line [", "line [1e-3, ", 1)])

    assert said.startswith("refused: ")
