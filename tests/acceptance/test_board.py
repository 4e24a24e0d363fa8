"""The board of a ledger with 2,000 reports, as a browser shows it from the file system."""

import json
import os
import shutil
import subprocess

import pytest

from gitops_ml import plots
from gitops_ml.entries import report_entry
from gitops_ml.planning import digest
from gitops_ml.records import json_bytes, record_to_json
from tests.fakes import comparisons, ledgers
from tests.fakes.ledgers import BRANCH, command
from tests.fakes.repositories import clone, git, make_remote, make_repository

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REPORTS = 2000
HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A clone whose ledger has 2,000 reports of 20 experiments on as many commits; some are of main."""
    folder = tmp_path_factory.mktemp("board")
    remote = make_remote(folder / "remote.git")
    make_repository(folder / "first", {"train.py": "pass"}, remote=remote)
    main = [_commit(number) for number in range(100)]
    stream = [b"feature done\n"]
    for number, _ in enumerate(main):
        stream.append(b"commit refs/heads/main\ncommitter A <a@example.org> %d +0000\ndata 1\nx\n" % (1.7e9 + number))
    subprocess.run(
        ["git", "fast-import", "--quiet", "--force"], cwd=remote, input=b"".join(stream) + b"done\n", check=True
    )
    commits = git(remote, "rev-list", "--reverse", "main").splitlines()
    commits += [_commit(number) for number in range(len(commits), REPORTS)]
    files: dict[str, bytes] = {}
    for number, commit in enumerate(commits):
        files |= _report(number, commit)
    (metric,) = (comparisons.metric("accuracy", (0.9, 0.91), (0.95, 0.96)),)
    picture = plots.pictures(comparisons.experiment("digits", (metric,)))[0].svg
    first = next(path.rpartition("/")[0] for path in files if path.startswith("reports/experiment-00/"))
    files[f"{first}/plots/cost.svg"] = picture
    files[f"reports/Other name/{'3' * 12}-{'3' * 8}/report.json"] = TEMPLATE
    files[f"{first}/plots/evil.svg"] = picture.replace(b"<g>", b"<script>alert(1)</script><g>", 1)
    lines = [b"commit refs/heads/%s\ncommitter A <a@example.org> 1700000000 +0000\ndata 1\nx\n" % BRANCH.encode()]
    for path, data in files.items():
        lines.append(b"M 100644 inline %s\ndata %d\n%s\n" % (path.encode(), len(data), data))
    subprocess.run(["git", "fast-import", "--quiet"], cwd=remote, input=b"".join(lines), check=True)
    return clone(remote, folder / "work"), first


def _commit(number):
    return digest(number)[:40]


TEMPLATE = next(data for path, data in ledgers.report_files().items() if path.endswith("report.json"))
KEYS = [key for _, keys in report_entry(TEMPLATE, "").verdicts for key in keys]


def _report(number, commit):
    """Return a report with one record, made from another by replacing names: 2,000 comparisons would take a while."""
    name = f"experiment-{number % 20:02d}"
    level = 0.9 + number % 7 / 100
    params = {"lr": round(0.001 * (1 + number % 50), 3), "note": HOSTILE if number % 500 == 0 else "plain"}
    record = ledgers.record(
        level, experiment=name, params=params, document={"code": digest(number)}, commit=commit,
        date=f"2026-{1 + number // 200:02d}-{1 + number % 28:02d}T00:00:00Z",
    )  # fmt: skip
    report = TEMPLATE.replace(b"digits", name.encode()).replace(b"a" * 40, commit.encode())
    for key in KEYS:
        report = report.replace(key.encode(), record.key.encode())
    folder = f"records/{record.key[:2]}/{record.key}"
    return {
        f"{folder}/record.json": json_bytes(record_to_json(record)),
        f"reports/{name}/{commit[:12]}-{number:08x}/report.json": report,
    }


@pytest.fixture(scope="module")
def site(work, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "public"
    said = command(work[0], "board", str(folder), "--title", "vision")
    assert (said.code, said.out) == (0, f"board: {folder}/index.html ({REPORTS} reports, {REPORTS} new pages)\n"), (
        said.err
    )
    return folder


def test_board__again__makes_no_page_and_the_same_index(work, site):
    before = (site / "index.html").read_bytes()

    said = command(work[0], "board", str(site), "--title", "vision", "--offline")

    assert said.out == f"board: {site}/index.html ({REPORTS} reports, 0 new pages)\n"
    assert (site / "index.html").read_bytes() == before
    assert len(before) < 2_000_000
    assert not list(site.rglob(".new-*"))


def test_board__a_folder_that_holds_something_else__is_left_alone(work, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")

    said = command(work[0], "board", str(tmp_path), "--offline")

    assert (said.code, said.err) == (
        2,
        f"{tmp_path} holds other files; give a new folder, or one that `board` wrote before\n",
    )
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_board__a_plot_with_a_script__is_left_out(work, site):
    assert [file.name for file in (site / work[1] / "plots").iterdir()] == ["cost.svg"]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_board__in_chromium__searches_sorts_and_leads_to_every_report(scheme, width, work, site, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    complaints: list[str] = []
    with sync_api.sync_playwright() as playwright:
        quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
        quiet += ["--disable-component-update", "--disable-sync"]
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=quiet, chromium_sandbox=os.geteuid() != 0, timeout=30_000
        )
        try:
            view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            view.set_default_timeout(20_000)
            view.on("console", lambda message: complaints.append(message.text))
            view.on("pageerror", lambda error: complaints.append(str(error)))
            view.on("dialog", lambda dialog: complaints.append(dialog.message))
            view.on("request", lambda r: complaints.append(r.url) if not r.url.startswith("file:") else None)
            view.goto((site / "index.html").as_uri())
            count = view.locator("#count")

            assert count.inner_text() == "2000 runs, the first 100 shown"
            assert view.locator(".card:visible").count() == 8
            assert view.locator("figure.trend").count() >= 20
            view.click("#all")
            assert view.locator(".card:visible").count() == 20
            view.click("#more")
            assert view.locator("#runs tbody tr").count() == 200

            # Search by text, also by what is hostile, and all words together.
            view.fill("#search", "experiment-07 lr=0.008")
            sync_api.expect(count).to_have_text("20 runs")
            assert "q=experiment-07" in view.url
            view.fill("#search", "</script>")
            sync_api.expect(count).to_have_text("4 runs")
            assert HOSTILE in view.locator("#runs tbody tr").first.inner_text()
            view.fill("#search", "no such thing")
            sync_api.expect(count).to_have_text("nothing fits")
            view.click("#clear")
            sync_api.expect(count).to_have_text("2000 runs, the first 100 shown")

            # One experiment: its metrics as columns, the best first, then by a column and back.
            view.select_option("#experiment", label="experiment-03")
            view.select_option("#order", "rank")
            heads = view.locator("#runs thead button").all_inner_texts()
            values = [float(t) for t in view.locator("#runs tbody tr td:nth-child(2)").all_inner_texts()]
            assert heads[:3] == ["rank", "accuracy", "loss"]
            assert values == sorted(values, reverse=True)
            assert len(values) == 100
            head = view.locator("#runs thead button", has_text="accuracy")
            head.click()
            assert view.locator("#runs thead th[aria-sort=ascending]").count() == 1
            values = [float(t) for t in view.locator("#runs tbody tr td:nth-child(2)").all_inner_texts()]
            assert values == sorted(values)
            view.reload()
            assert view.locator("#experiment").evaluate("e => e.selectedOptions[0].text") == "experiment-03"

            # All reports are linked, and every link leads to a page.
            links = set(_links(site))
            assert len(links) == REPORTS
            assert all((site / link).is_file() for link in links)
            view.click("#clear")
            view.fill("#search", work[1].rpartition("/")[2][:12])
            sync_api.expect(count).to_have_text("1 run")
            overflow = [view.evaluate("document.documentElement.scrollWidth - window.innerWidth")]
            view.screenshot(path=_folder(tmp_path) / f"board-{width}-{scheme}.png")
            view.click("#runs tbody a")
            sync_api.expect(view.locator("h1")).to_have_text("experiment-00")
            assert view.locator("figure img").evaluate("i => i.complete && i.naturalWidth") > 0
            overflow.append(view.evaluate("document.documentElement.scrollWidth - window.innerWidth"))
            view.click("text=All experiments")
            sync_api.expect(view.locator("h1")).to_have_text("vision")

            # With the keyboard alone, and every control and picture has a name.
            view.keyboard.press("Tab")
            view.keyboard.press("Tab")
            view.keyboard.press("Tab")
            assert view.evaluate("document.activeElement.id") == "search"
            unnamed = view.evaluate(
                "[...document.querySelectorAll('input,select,button,a,[role=img]')].filter(e => !(e.innerText || "
                "e.textContent || e.getAttribute('aria-label') || (e.labels && e.labels.length))).map(e => e.outerHTML)"
            )
            assert unnamed == []
        finally:
            browser.close()
    assert complaints == []
    assert max(overflow) <= 0


def _links(site):
    page = (site / "index.html").read_text()
    data = json.loads(page.partition("id=data>")[2].partition("</script>")[0])
    return [f"{row[10]}/index.html" for row in data["rows"]] + [f"{row[5]}/index.html" for row in data["reports"]]


def _folder(tmp_path):
    from pathlib import Path

    return Path(os.environ.get("GITOPS_ML_SCREENSHOTS", tmp_path))
