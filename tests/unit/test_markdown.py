"""The Markdown of a comparison: valid at every budget, inert whatever names it is given."""

import dataclasses
import math
import random
import re
from html.parser import HTMLParser

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options
from hypothesis import given, settings
from hypothesis import strategies as st

from gitops_ml import markdown, reports, wording
from gitops_ml.comparison import Change, Comparison, GateResult, Rented, Verdict
from gitops_ml.records import Usage
from gitops_ml.spec import Gate, Goal
from tests.fakes import comparisons as fakes

OURS = {
    "p",
    "strong",
    "code",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "details",
    "summary",
    "ul",
    "li",
    "h1",
    "h3",
}
OURS |= {"pre", "blockquote", "br", "img", "a", "sub"}


class Page(HTMLParser):
    """Collects the tags and cells of a rendered document."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.links: list[str] = []
        self.rows: list[int] = []
        self.tables: list[list[int]] = []
        self.stack: list[str] = []
        self.unbalanced = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.opened.append(tag)
        if tag in ("a", "img"):
            self.links.append(str(dict(attrs).get("href") or dict(attrs).get("src")))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append(0)
        if tag in ("td", "th"):
            self.tables[-1][-1] += 1
        if tag not in ("br", "img"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("br", "img") and (not self.stack or self.stack.pop() != tag):
            self.unbalanced = True


def rendered(text: str) -> Page:
    return Page(cmarkgfm.github_flavored_markdown_to_html(text, options=Options.CMARK_OPT_UNSAFE))


def assert_valid(text: str, links: frozenset[str] = frozenset()) -> None:
    page = rendered(text)
    assert not page.unbalanced
    assert page.stack == []
    assert set(page.opened) <= OURS
    assert set(page.links) <= links
    assert page.opened.count("details") == text.count("<details>")
    # The parser pads short rows and cuts long ones, so a bar too many shows in the source alone.
    widths = source_tables(text)
    assert len(page.tables) == len(widths)
    assert [len(rows) + 1 for rows in page.tables] == [len(lines) for lines in widths]
    assert all(len(set(lines)) == 1 for lines in widths)


def source_tables(text: str) -> list[list[int]]:
    """Return the number of bars in each line of each table, outside code blocks."""
    tables: list[list[int]] = []
    fence, before = "", ""
    for line in text.splitlines():
        if fence:
            fence = "" if line == fence else fence
        elif line.startswith("```"):
            fence = line[: len(line) - len(line.lstrip("`"))]
        elif line.startswith("|"):
            tables += [] if before.startswith("|") else [[]]
            tables[-1].append(line.count("|"))
        before = line
    return tables


@pytest.mark.parametrize(
    "text",
    [
        "see www.evil.example",
        "![x](https://evil.example/p.png)",
        "a@b.example",
        "<details><summary>x</summary>",
        "| a | b |\n| --- | --- |\n| x | y | z |",
        "| a | b |\n| --- | --- |\n| x |",
        "text\n| a | b |\nno table",
        "<b>x</b>",
    ],
)
def test_assert_valid__broken__is_seen(text):
    with pytest.raises(AssertionError):
        assert_valid(text)


def hostile(name: str) -> Comparison:
    metric = dataclasses.replace(
        fakes.metric(
            name, (0.9, 0.91, 0.92), (0.8, 0.81, 0.82), Verdict.WORSE, half_width=0.01, unit=name, rule=Gate.FAIL
        ),
        reasons=(f"the floor of {name} is missed", f"`{name}` and more"),
        accepted=name,
        method=name,
    )
    experiment = fakes.experiment(name, (metric,), GateResult.FAIL, notes=(name,), description=name)
    return fakes.comparison(experiment, fakes.failed_experiment(), unchanged=(name,))


NASTY = [
    "a|b",
    "`|`",
    "</code></td><script>alert(1)</script>",
    "<!-- x",
    "-->",
    "@alice",
    "#12 GH-3 !4 a@b.co",
    "https://evil.example www.evil.example",
    "![x](https://evil.example/p.png)",
    "</details>",
    "```",
    "\\|",
    "a\nb\r\nc",
    "\u202eabc\u2066",
    "\x1b[31mred",
    "",
    " ",
    "&lt;b&gt;",
    "1. one",
    "- item",
    "+ item",
    "2) item",
    "===",
    "www.",
    "| --- |",
    "Z" + "\u0301" * 500,
    "\U000e0041\u200b",
    "x" * 5000,
]


@pytest.mark.parametrize("name", NASTY)
def test_comment__hostile_name__is_inert(name):
    text = markdown.comment(hostile(name), identity="x")

    assert_valid(text)
    assert text.startswith("<!-- gitops-ml comment=x -->\n")


@given(st.text(max_size=60))
@settings(max_examples=40, deadline=None)
def test_comment__any_name__is_inert(name):
    assert_valid(markdown.comment(hostile(name), identity="x"))


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_code_and_prose__any_text_in_a_cell__keep_the_row(name):
    text = markdown.table(["a", "b"], [[markdown.code(name), markdown.prose(name)], ["x", "y"]])

    page = rendered(text)

    assert page.tables == [[2, 2, 2]]
    assert source_tables(text) == [[3, 3, 3, 3]]
    assert set(page.opened) <= {"table", "thead", "tbody", "tr", "th", "td", "code"}


def test_prose__mention_outside_code__is_split_from_its_name():
    assert markdown.prose("by @alice, see #12 and `x|y`") == (
        "by &#64;<!-- -->&#8203;alice, see &#35;&#8203;12 and <code>x&#124;y</code>"
    )


def test_prose__address_outside_code__is_split_from_its_scheme():
    # GitLab links addresses in rendered text: an entity alone is no guard there.
    assert "&#58;&#8203;&#47;&#47;" in markdown.prose("in https://evil.example units").replace("/", "&#47;")


@given(st.integers(1500, 40_000))
@settings(max_examples=12, deadline=None)
def test_comment__any_budget__fits_and_is_valid(budget):
    url = "https://forge.example/report"

    text = markdown.comment(fakes.comparison(), identity="x", report_url=url, budget_bytes=budget)

    assert len(text.encode()) <= budget
    assert_valid(text, frozenset({url}))
    assert url in text


def crowd() -> Comparison:
    """Several experiments of everything, all that is named being hostile."""
    names = [name for name in NASTY if name.strip()]
    experiments = []
    for index in range(2):
        metrics = [
            fakes.metric(
                f"{name} {index}",
                (0.9, 0.91, 0.92),
                (0.8, 0.81 + place / 100, 0.82),
                (Verdict.WORSE, Verdict.SAME, Verdict.BETTER, Verdict.INCONCLUSIVE)[place % 4],
                half_width=0.01,
                unit=name,
                rule=Gate.FAIL if place < 12 else Gate.OFF,
            )
            for place, name in enumerate(names)
        ]
        whole = fakes.experiment(
            names[index], metrics, GateResult.FAIL, notes=(names[index],), description=names[index]
        )
        changes = tuple(Change(what=name, before=name, after=None) for name in names)
        experiments.append(dataclasses.replace(whole, changes=changes, path=names[index]))
    experiments += [fakes.failed_experiment(), fakes.sweep_experiment(), fakes.problem_experiment()]
    return fakes.comparison(*experiments, unchanged=tuple(names), removed=tuple(names))


def test_comment__each_budget_from_1500_to_60000__fits_and_is_valid():
    comparison = crowd()
    sizes = set()
    size = len(markdown.comment(comparison, identity="x", budget_bytes=10**7).encode())
    # What is in full below 60,000 bytes is so at every budget above.
    while size > 1500:
        # The next shorter text: between two sizes every budget gives the same one.
        sizes.add(size)
        text = markdown.comment(comparison, identity="x", budget_bytes=min(size - 1, 60_000))
        assert len(text.encode()) < size
        assert_valid(text)
        same = markdown.comment(comparison, identity="x", budget_bytes=len(text.encode()))
        assert same == text
        size = len(text.encode())

    assert len(sizes) >= 8
    assert max(sizes) > 40_000


def test_comment__3000_hostile_names__fit_and_are_valid():
    generator = random.Random(0)
    pieces = [*NASTY, *"|`<>&@#[]()!*_~\\\n\r\t\u202e\u0301\U0001f600:/.$%^{}", "https://", "www.", "a", "1", " "]
    names = {"".join(generator.choices(pieces, k=generator.randint(1, 9)))[:200] for _ in range(3_600)}
    chosen = sorted(names)[:3_000]
    metrics = [
        fakes.metric(name, (0.5, 0.6), (0.6, 0.7), Verdict.BETTER, half_width=0.05, unit=name, rule=Gate.WARN)
        for name in chosen
    ]
    comparison = fakes.comparison(fakes.experiment(metrics=metrics))

    whole, fitted = markdown.report(comparison.experiments[0], {}), markdown.comment(comparison, identity="x")

    assert len(chosen) == 3_000
    assert_valid(whole)
    assert whole.count("| ✅ better") >= 3_000
    assert len(fitted.encode()) <= markdown.COMMENT_BYTES
    assert_valid(fitted)
    assert all(len(markdown.code(name).encode()) <= 13 + 80 * 9 + 80 * 8 for name in chosen)


def test_comment__many_experiments_with_hostile_names__fit_the_least_budget():
    many = [fakes.experiment("\U0001f600" * 60, (fakes.metric("\U0001f600" * 80, (1.0,), (2.0,)),)) for _ in range(80)]

    text = markdown.comment(fakes.comparison(*many), identity="x" * 64, budget_bytes=1500)

    assert len(text.encode()) <= 1500
    assert "tables" in text
    assert_valid(text)


def test_comment__smaller_budget__drops_in_the_stated_order():
    whole = markdown.comment(fakes.comparison(), identity="x", budget_bytes=10**6)
    sizes = [len(markdown.comment(fakes.comparison(), identity="x", budget_bytes=b)) for b in range(1500, 30_000, 500)]

    assert "Left out" not in whole
    assert sizes == sorted(sizes)
    smaller = markdown.comment(fakes.comparison(), identity="x", budget_bytes=len(whole.encode()) - 1)
    assert "Left out to fit here: log tails; the report has it all." in smaller


def test_comment__verdict_comes_first():
    lines = markdown.comment(fakes.comparison(fakes.experiment()), identity="x").splitlines()

    assert lines[1] == (
        "❌ **digits-mlp: worse** — <code>accuracy</code> 95.10 % → 93.17 % (−1.93 pp, 90 % interval −2.02 to −1.84, "
        "paired t, 3 seeds); 1 more metric with a warning gate; gate failed"
    )


def test_comment__failed_trial__shows_reason_exit_code_and_log():
    text = markdown.comment(fakes.comparison(fakes.failed_experiment()), identity="x")

    assert "| failed: the command ended with exit code 1 |" in text
    assert "````text\nepoch 3\nTraceback:\n  ```\nValueError: loss is nan @alice #12\n````" in text


def test_comment__accepted_regression__is_shown_before_the_table():
    metric = dataclasses.replace(fakes.ACCURACY, accepted="by ann until 2027-01-01: cheaper model")
    text = markdown.comment(fakes.comparison(fakes.experiment(metrics=(metric,))), identity="x")

    assert text.index("accepted: <code>accuracy</code>, by ann until 2027-01-01: cheaper model") < text.index(
        "| metric |"
    )


def test_comment__images__link_only_what_was_published():
    images = {"digits-mlp": {"curves-accuracy": "comment/a.svg", "cost": None}}

    text = markdown.comment(fakes.comparison(fakes.experiment()), identity="x", images=images)

    assert "![curves accuracy](comment/a.svg)" in text
    assert "cost](" not in text
    # Who sees no picture, as in an e-mail, has the chart below it.
    assert text.index("](comment/a.svg)") < text.index("<summary>Without pictures</summary>\n\n```mermaid\n")
    assert text.count("```mermaid") == 1


def test_comment__no_picture_of_one_experiment_has_an_address__its_chart_is_drawn():
    images = {"one": {"curves-accuracy": "comment/a.svg"}, "two": {"curves-accuracy": None}}
    both = fakes.comparison(fakes.experiment("one"), fakes.experiment("two"))

    first, second = markdown.comment(both, identity="x", images=images).split("### <code>two</code>")

    assert "Without pictures" in first
    assert "\n```mermaid\nxychart-beta\n" in second
    assert "![" not in second


def test_comment__no_pictures_wanted__nothing_is_drawn():
    text = markdown.comment(fakes.comparison(fakes.experiment()), identity="x", images={"digits-mlp": {}})

    assert "mermaid" not in text
    assert "![" not in text


def test_report__pictures_beside_it__are_not_drawn_again():
    assert "mermaid" not in markdown.report(fakes.experiment(), {"curves-accuracy": "plots/a.svg"})


@pytest.mark.parametrize("identity", ["", "a b", "x -->", "a--b", "ü", "x" * 65])
def test_marker__identity_that_could_end_it__is_refused(identity):
    with pytest.raises(ValueError, match="comment id"):
        markdown.marker(identity)


def test_mermaid__wild_values__hold_plain_decimals_under_the_limit():
    curves = fakes.curves('lo"ss```$\n', 1e-9, 1e-9, n=5000)

    text = markdown.mermaid(curves)

    assert text is not None
    assert len(text) < 2000
    assert text.count("```") == 2
    for line in text.splitlines():
        if line.strip().startswith("line"):
            assert re.fullmatch(r"  line \[-?\d+(\.\d+)?(, -?\d+(\.\d+)?)*\]", line)


def test_terminal__several_experiments__columns_stand_under_each_other():
    text = markdown.terminal(fakes.comparison())
    lines = [line for line in text.splitlines() if "±" in line][:2]

    assert [line.index("±") > 0 for line in lines] == [True, True]
    assert "gate failed: 1 better, 1 inconclusive, 1 missing, 1 worse" in text
    assert "\x1b" not in text


@given(st.floats(), st.integers(0, 12))
@settings(max_examples=300, deadline=None)
def test_number__any_value_but_zero__never_reads_as_zero(value, decimals):
    text = wording.number(value, decimals)

    if value and not math.isnan(value):
        assert re.search("[1-9∞]", text)
    assert "-" not in text


@given(st.floats(allow_nan=True), st.floats(allow_nan=True), st.floats(min_value=0, allow_nan=False))
@settings(max_examples=200, deadline=None)
def test_row__any_numbers__are_written(base, head, half_width):
    metric = dataclasses.replace(
        fakes.metric("m", (1.0,), (2.0,)),
        base=dataclasses.replace(fakes.side((1.0,)), mean=base),
        head=dataclasses.replace(fakes.side((1.0,)), mean=head),
        difference=head - base,
        relative=head,
        interval=(-half_width, half_width),
    )

    assert wording.row(metric).difference


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.000001, 2, "0.000001"),
        (1e-9, 2, "1e−9"),
        (-0.0, 1, "0.0"),
        (1234567890.0, 0, "1.23457e9"),
        (None, 1, "–"),
    ],
)
def test_number__small_and_large(value, decimals, text):
    assert wording.number(value, decimals) == text


def not_worse() -> Comparison:
    gain = fakes.metric("loss", (0.5, 0.4, 0.6), (0.3, 0.35, 0.3), goal=Goal.MINIMIZE, half_width=0.2, rule=Gate.FAIL)
    steady = dataclasses.replace(fakes.metric("auc", (0.5, 0.5), (0.5, 0.5), half_width=0.01), tolerance=0.02)
    return fakes.comparison(fakes.experiment(metrics=(gain, steady)))


def test_same__interval_reaches_beyond_the_tolerance__reads_not_worse_everywhere():
    comparison = not_worse()

    texts = [markdown.comment(comparison, identity="x"), markdown.terminal(comparison), reports.page(comparison)]

    assert "≥ **digits-mlp: not worse**" in texts[0]
    assert "| ≥ not worse<br><sub>paired t, 3 seeds</sub> |" in texts[0]
    assert "digits-mlp: not worse - loss" in texts[1]
    assert "≥ not worse</span>" in texts[2]
    assert "<dt>not worse</dt>" in texts[2]
    assert all("1 metric unchanged" in texts[index] for index in (0, 2))
    assert "≈ same" in texts[0]
    assert [m.verdict for m in comparison.experiments[0].metrics] == [Verdict.SAME, Verdict.SAME]


def test_trials__one_point_without_cost__columns_that_say_nothing_are_left_out():
    text = markdown.comment(fakes.comparison(fakes.experiment()), identity="x")

    assert "| side | seed | outcome | time | key |" in text


def test_costs__all_reused__say_nothing_of_this_run():
    experiment = dataclasses.replace(fakes.experiment(), head_cost=fakes.cost(spent_s=0.0))

    rows = [row[0] for row in wording.costs(experiment)]

    assert "of it spent by this run" not in rows
    assert "of it spent by this run" in [
        row[0] for row in wording.costs(dataclasses.replace(experiment, head_cost=fakes.cost(spent_s=41.5)))
    ]


def test_report__is_valid_and_links_its_own_plots():
    text = markdown.report(fakes.sweep_experiment(), {"sweep": "plots/sweep.svg"})

    assert_valid(text, frozenset({"plots/sweep.svg"}))
    assert "(best)" in text


USAGE = Usage(
    provider="aws",
    region="us-east-1",
    zone="us-east-1a",
    instance_id="i-0123<b>",
    instance_type="g6.xlarge",
    market="spot",
    image="ami-1",
    usd_per_hour=0.3012,
    price_source="spot price history",
    price_date="2026-11-26",
    billed_s=75,
    final_state="terminated",
    worst_usd=1.5,
    tries=("g6.xlarge spot in us-east-1b: InsufficientInstanceCapacity",),
    idle_share=0.124,
)


def rented():
    """One trial of this change on a rented machine."""
    key = fakes.key("head", 0, None)
    trial = fakes.trial("head", 0, attempt=fakes.attempt(key, usage=USAGE, cost_usd=0.0071))
    plain = fakes.experiment()
    points = (dataclasses.replace(plain.points[0], head_trials=(trial,)),)
    return dataclasses.replace(plain, points=points, head_cost=dataclasses.replace(plain.head_cost, worst_usd=1.5))


def test_rented__machine__stands_there_with_its_end_and_its_price():
    (row,) = wording.rented_rows(rented())

    assert (row[0], row[2]) == ("", "")
    assert row[3:] == (
        "i-0123<b>",
        "g6.xlarge spot",
        "us-east-1a",
        "terminated",
        "1 min 15 s",
        "0.0071 USD",
        "0.3012 USD/h (spot price history, 2026-11-26)",
        "12 %",
        "1",
    )
    text = markdown.report(rented(), {})
    assert "1 rented machine" in text
    assert "<b>" not in text
    assert ("cost at most, as planned", wording.NOTHING, "1.50 USD", "") in wording.costs(rented())


def test_rented__several_attempts_and_a_baseline_trained_now__are_all_there():
    plain = fakes.experiment()
    sides = {}
    for name in ("head", "base"):
        key = fakes.key(name, 0, None)
        before = Rented(key=key, number=1, cost_usd=0.01, usage=dataclasses.replace(USAGE, instance_id=f"i-{name}1"))
        last = fakes.attempt(key, number=2, usage=dataclasses.replace(USAGE, instance_id=f"i-{name}2"), cost_usd=0.02)
        sides[name] = fakes.trial(name, 0, attempt=last, earlier=(before,), reused=False)
    now = (dataclasses.replace(plain.points[0], head_trials=(sides["head"],), base_trials=(sides["base"],)),)
    before = (dataclasses.replace(now[0], base_trials=(dataclasses.replace(sides["base"], reused=True),)),)

    rows = wording.rented_rows(dataclasses.replace(plain, points=now))

    assert [(row[0], *row[2:4], row[8]) for row in rows] == [
        ("this change", "1", "i-head1", "0.010 USD"),
        ("this change", "2", "i-head2", "0.020 USD"),
        ("baseline", "1", "i-base1", "0.010 USD"),
        ("baseline", "2", "i-base2", "0.020 USD"),
    ]
    rows = wording.rented_rows(dataclasses.replace(plain, points=before))
    assert [(row[0], *row[2:4]) for row in rows] == [("", "1", "i-head1"), ("", "2", "i-head2")]
    assert "4 rented machines" in markdown.report(dataclasses.replace(plain, points=now), {})


def test_rented__many__are_counted_and_cut():
    plain = fakes.experiment()
    key = fakes.key("head", 0, None)
    earlier = tuple(Rented(key=key, number=n, cost_usd=0.01, usage=USAGE) for n in range(1, 302))
    of = (dataclasses.replace(plain.points[0], head_trials=(fakes.trial("head", 0, earlier=earlier),)),)

    text = markdown.report(dataclasses.replace(plain, points=of), {})

    assert "301 rented machines" in text
    assert "and 101 more" in text


def test_rented__nothing__is_not_mentioned():
    assert wording.rented_rows(fakes.experiment()) == []
    assert "rented" not in markdown.report(fakes.experiment(), {})
