"""The static site: what stands in it, and that nothing in it can act."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from gitops_ml import board, history, reports
from gitops_ml.board import Branch, Content
from gitops_ml.entries import record_entry, report_entry
from gitops_ml.records import json_bytes, record_to_json
from gitops_ml.spec import Goal, Track
from gitops_ml.trends import trends
from tests.fakes import ledgers

HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(1)>" onclick="x <!-- & \u2028'


class Outline(HTMLParser):
    """Counts scripts and collects what could act or lead elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.acts, self.links, self.ids = 0, [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.scripts += tag == "script" and given.get("type") is None
        self.acts += [name for name in given if name.startswith("on")]
        self.acts += [tag] if tag in ("img", "iframe", "object", "embed", "base", "form") and tag != "form" else []
        self.links += [given[name] for name in ("href", "src") if name in given]
        self.ids += [given["id"]] if "id" in given else []


def entry(**more):
    record = ledgers.record(**more)
    return record_entry(json_bytes(record_to_json(record)), record.key)


def content(*entries, files=(), branch=None, tracked=None, **more):
    known = [report_entry(data, path.rpartition("/")[0]) for path, data in files if path.endswith("report.json")]
    found = history.rows(entries, known)
    branch = branch or Branch(name="main", commits=())
    tracked = tracked or {}
    wanted = {name: metrics for name, (metrics, _) in board.deciding(found, known, tracked).items()}
    fields = {
        "title": "vision", "ledger": "f" * 40, "rows": found, "reports": known, "tracked": tracked,
        "paged": frozenset(report.folder for report in known), "records": len(entries), "branch": branch,
        "trends": trends(entries, known, [commit for commit, _ in branch.commits], wanted),
    }  # fmt: skip
    return Content(**{**fields, **more})


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id=data>(.*?)</script>', page, re.DOTALL)[1])


def test_index__rows_and_reports__are_data_with_ranks_and_links():
    good = [entry(accuracy=0.95 + seed / 1000, seed=seed, date="2026-01-02T00:00:00Z") for seed in range(3)]
    other = entry(accuracy=0.5, params={"lr": 0.01}, date="2026-01-03T00:00:00Z")
    files = list(ledgers.report_files().items())
    folder = next(path.rpartition("/")[0] for path, _ in files)

    page = board.index(content(*good, other, files=files))

    found = data_of(page)
    assert found["experiments"] == [{"name": "digits", "metrics": ["accuracy", "loss"], "goal": "maximize"}]
    assert [(row[1], row[2], row[3], row[4], row[7], row[10]) for row in found["rows"]] == [
        (2, [0.5, 0.3], "lr=0.01", 1, "", ""),
        (1, [0.951, 0.3], "lr=0.1", 3, "better", folder),
    ]
    assert "1 experiment, 1 report, 4 records; ledger <code>ffffffffffff</code>" in page
    assert set(Outline(page).links) == {f"{folder}/index.html", "#cards-title", "#runs-title"}


def test_index__before_the_first_report__specs_say_what_decides():
    good, other = entry(accuracy=0.9), entry(accuracy=0.5, params={"lr": 0.01})
    tracked = {"digits": [Track(name="f1", goal=Goal.MAXIMIZE), Track(name="loss", goal=Goal.MINIMIZE)]}

    of = [data_of(board.index(content(good, other, tracked=known))) for known in (tracked, {})]

    assert [found["experiments"][0] for found in of] == [
        {"name": "digits", "metrics": ["loss", "accuracy"], "goal": "minimize"},
        {"name": "digits", "metrics": ["accuracy", "loss"], "goal": ""},
    ]


def test_index__hostile_names__are_text():
    record = ledgers.record(experiment="digits", params={HOSTILE[:40]: HOSTILE})
    made = record_entry(json_bytes(record_to_json(record)), record.key)
    made = dataclasses.replace(
        made, experiment=HOSTILE, user=HOSTILE, metrics={HOSTILE: 1.0}, commit="a" * 40, data={HOSTILE: HOSTILE}
    )
    branch = Branch(name=HOSTILE, commits=[("a" * 40, 0)], releases=[(0, HOSTILE)])

    page = board.index(content(made, branch=branch, title=HOSTILE))

    outline = Outline(page)
    assert (outline.scripts, outline.acts) == (1, [])
    assert set(outline.links) == {"#cards-title", "#runs-title"}
    assert data_of(page)["experiments"][0]["metrics"][0].startswith("</script><script>")
    assert page.count("<script") == 2
    assert len(outline.ids) == len(set(outline.ids))


def test_index__nothing_yet__says_so():
    page = board.index(content(ledger=""))

    assert "Nothing is on the ledger yet." in page
    assert data_of(page) == {"experiments": [], "rows": [], "reports": []}


def test_index__same_content__same_bytes():
    made = content(*(entry(seed=seed) for seed in range(3)), files=ledgers.report_files().items())

    assert board.index(made) == board.index(made)


def test_index__along_the_branch__each_metric_has_a_curve_with_levels_and_releases():
    made = [
        entry(accuracy=(0.9 if n < 6 else 0.7) + n % 3 / 1000, document={"code": f"{n:064x}"}, commit=f"{n:040x}")
        for n in range(12)
    ]
    branch = Branch(name="main", commits=[(f"{n:040x}", n * 86400) for n in range(12)], releases=[(3, "v1")])

    page = board.index(content(*made, branch=branch))

    assert page.count("<figure class=trend>") == 2
    assert 'aria-label="accuracy over 12 commits of main: from 0.9 to 0.702; its level changed at 000000000000"' in page
    assert "<title>0.701 from 000000000000 (1970-01-07)</title>" in page
    assert "<title>v1</title>" in page
    assert "dotted lines are releases; rings are changes of level" in page


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, 0.0])
def test_index__values_at_the_ends_of_the_floats__are_drawn(value):
    made = [
        dataclasses.replace(entry(document={"code": f"{n:064x}"}, commit=f"{n:040x}"), metrics={"x": (-1) ** n * value})
        for n in range(3)
    ]

    page = board.index(content(*made, branch=Branch(name="main", commits=[(f"{n:040x}", 0) for n in range(3)])))

    assert "nan" not in re.search(r"<polyline[^>]*>", page)[0]


def test_index__report_of_records_that_are_gone__is_still_listed():
    files = list(ledgers.report_files().items())
    folder = next(path.rpartition("/")[0] for path, _ in files)

    found = data_of(board.index(content(entry(experiment="mnist"), files=files)))

    assert found["reports"] == [[-1, "digits", "a" * 12, "better", "pass", folder]]


@pytest.mark.parametrize(
    ("svg", "harmless"),
    [
        (b'<svg viewBox="0 0 1 1"><!-- 0.5 --><use href="#a" xlink:href="#a"/><text>on x=1</text></svg>', True),
        (b'<svg><g style="clip-path: url(#p1)"/></svg>', True),
        (b"<svg><script>1</script></svg>", False),
        (b"<svg><SCRIPT/></svg>", False),
        (b'<svg onload="x"></svg>', False),
        (b'<svg><a href="https://example.org"/></svg>', False),
        (b'<svg><use href="other.svg#a"/></svg>', False),
        (b'<svg><image href="#a"/></svg>', False),
        (b"<svg><foreignObject/></svg>", False),
        (b'<svg><g style="fill: url(https://example.org/x)"/></svg>', False),
        (b"<svg><style>@import 'x'</style></svg>", False),
        (b"<!DOCTYPE svg><svg/>", False),
        (b"<html/>", False),
        (b"", False),
    ],
)  # fmt: skip
def test_is_harmless__drawings_alone(svg, harmless):
    assert board.is_harmless(svg) is harmless


def test_is_harmless__our_own_plots__are():
    from gitops_ml import plots
    from tests.fakes import comparisons

    metrics = (comparisons.metric(name, (0.9, 0.91), (0.95, 0.96)) for name in ("accuracy", "f1"))
    pictures = plots.pictures(comparisons.experiment("digits", tuple(metrics)))

    assert pictures
    assert all(board.is_harmless(picture.svg) for picture in pictures)


def test_report_page__plots__are_files_beside_it():
    (data,) = [data for path, data in ledgers.report_files().items() if path.endswith("report.json")]

    page = board.report_page(reports.comparison_from(data, ""), ["plots/cost.svg", "plots/curves-loss.svg"])

    assert '<a href="../../../index.html">All experiments</a>' in page
    assert '<img src="plots/curves-loss.svg" alt="curves loss" loading=lazy>' in page
    assert "img-src 'self' file:" in page


@pytest.mark.parametrize(
    ("folder", "ours"),
    [
        ("reports/digits/0123456789ab-01234567", True),
        ("reports/../..", False),
        ("reports/digits/..", False),
        ("reports/../0123456789ab-01234567", False),
        ('reports/<b>"x/0123456789ab-01234567', False),
        ("reports/digits/0123456789ab-01234567/plots", False),
        ("reports/digits/0123456789ab-01234567\n", False),
    ],
)
def test_is_report__names_as_ours_are(folder, ours):
    assert board.is_report(folder) is ours


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("plots/curves-accuracy.svg", True),
        ("plots/../x.svg", False),
        ("plots/.svg", False),
        ("plots/a/b.svg", False),
        ("plots/x.png", False),
        ("x.svg", False),
    ],
)
def test_is_plot__names_as_ours_are(path, ours):
    assert board.is_plot(path) is ours
