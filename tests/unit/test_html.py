"""The page: self-contained, escaped, and at work in a real browser."""

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gitops_ml import reports
from gitops_ml.comparison import GateResult, Verdict
from tests.fakes import comparisons as fakes

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Outline(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.scripts = 0
        self.heads_without_scope = 0
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        self.scripts += tag == "script"
        self.heads_without_scope += tag == "th" and "scope" not in given
        self.outside += [
            str(given[k]) for k in ("src", "href", "xlink:href") if k in given and not str(given[k]).startswith("#")
        ]


def compared():
    long = fakes.metric("x" * 300, (0.9, 0.91, 0.92), (0.9, 0.91, 0.93), Verdict.WORSE)
    named = fakes.experiment("long-names", (long,))
    return fakes.comparison(*fakes.comparison().experiments, named, unchanged=("other",))


@pytest.fixture(scope="module")
def page():
    return reports.page(compared())


def test_page__refers_to_nothing_outside(page):
    outline = Outline(page)

    assert outline.outside == []
    assert outline.scripts == 1
    assert "url(http" not in page
    assert "default-src 'none'" in page


def test_page__headings_rise_by_one_and_table_heads_have_a_scope(page):
    outline = Outline(page)

    assert outline.levels[0] == 1
    assert outline.levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(outline.levels, outline.levels[1:]))
    assert outline.heads_without_scope == 0


def test_page__hostile_name__is_escaped():
    name = '</title><script>alert(1)</script><img src=x onerror=alert(1)>" onclick="x'
    experiment = fakes.experiment(
        name, (fakes.metric(name, (1.0,), (2.0,)),), description=name, notes=(name, f"`{name}`")
    )

    outline = Outline(reports.page(fakes.comparison(experiment)))

    assert outline.scripts == 1
    assert outline.outside == []


@pytest.mark.parametrize(
    ("verdict", "gate", "kind"),
    [
        (Verdict.BETTER, GateResult.PASS, "good"),
        (Verdict.SAME, GateResult.PASS, "good"),
        (Verdict.WORSE, GateResult.PASS, "open"),
        (Verdict.MISSING, GateResult.PASS, "open"),
        (Verdict.BETTER, GateResult.WARN, "open"),
        (Verdict.BETTER, GateResult.FAIL, "bad"),
    ],
)
def test_page__verdict__is_green_only_for_a_result_that_is_well(verdict, gate, kind):
    metric = fakes.metric("x", (1.0,), (2.0,), verdict, gate=gate)

    text = reports.page(fakes.comparison(fakes.experiment("a", (metric,))))

    assert f'<p class="verdict {kind}">' in text


def test_page__table_of_one_row__has_nothing_to_sort_by():
    one, two = (
        reports.page(fakes.comparison(fakes.experiment("a", tuple(fakes.metric(n, (1.0,), (2.0,)) for n in names))))
        for names in ("x", "xy")
    )

    assert (one.count("<button>metric</button>"), two.count("<button>metric</button>")) == (0, 1)


def test_page__same_comparison__same_bytes(page):
    assert reports.page(compared()) == page


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page__in_chromium__sorts_without_a_complaint(page, scheme, width, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    said: list[str] = []
    with sync_api.sync_playwright() as playwright:
        quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
        quiet += ["--disable-component-update", "--disable-sync"]
        sandbox = os.geteuid() != 0
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=quiet, chromium_sandbox=sandbox, timeout=30_000
        )
        try:
            view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            view.on("console", lambda message: said.append(message.text))
            view.on("pageerror", lambda error: said.append(str(error)))
            view.on(
                "request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None
            )
            view.goto(file.as_uri(), timeout=20_000)
            table = view.locator("table", has_text="points by accuracy")
            head = table.locator("thead button", has_text="this change")
            orders = []
            for _ in range(2):
                head.click(timeout=5_000)
                orders.append(
                    [
                        float(k)
                        for k in table.locator("tbody td:nth-child(3)").evaluate_all("c => c.map(x => x.dataset.k)")
                    ]
                )
            overflow = view.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            hidden = view.evaluate(
                "Array.from(document.querySelectorAll('.cards')).filter(t => t.scrollWidth > t.clientWidth).length"
            )
            folder = Path(os.environ.get("GITOPS_ML_SCREENSHOTS", tmp_path))
            view.screenshot(path=folder / f"report-{width}-{scheme}.png", full_page=True, timeout=20_000)
        finally:
            browser.close()
    assert said == []
    assert orders[0] == sorted(orders[0])
    assert orders[1] == sorted(orders[0], reverse=True)
    assert len(orders[0]) == 9
    assert overflow <= 0
    assert hidden == 0, "a verdict stands beyond the right edge"
