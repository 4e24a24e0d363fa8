"""``comment`` from its arguments to its exit code, against the fakes of both forges over HTTP."""

import dataclasses
import io
import random
import re

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options

from gitops_ml.comparison import Change, GateResult, Verdict
from gitops_ml.comparison_json import comparison_to_json
from gitops_ml.errors import ExitCode
from gitops_ml.forges._comments import body_of
from gitops_ml.git import Head
from gitops_ml.main import main
from gitops_ml.project import Project
from gitops_ml.records import json_bytes
from gitops_ml.spec import Gate
from gitops_ml.tools import Tools
from tests.fakes import comparisons
from tests.fakes.forges import LocalPlace, place
from tests.fakes.server import Answer, Fault

OURS = {"p", "strong", "code", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "ul", "li", "pre"}
OURS |= {"br", "h3", "sub"}
HOSTILE = [
    *"|`<>&@#[]()!*_~\\\n\r\t\u202e\u0301\U0001f600:/.$%^{}",
    *("@alice ", "#12", "GH-3", "!4", "a@b.co", "https://evil.example/x", "www.evil.example", "</code></td><script>"),
    *("<!--", "-->", "![x](https://evil.example/p.png)", "</details>", "```", "<img src=x onerror=1>", "a", "1", " "),
]


class Repository:
    """A repository whose ledger has nothing yet."""

    def __init__(self, top):
        self.top = top
        self.state = top / ".gitops-ml"

    def head(self):
        return Head(commit=comparisons.HEAD.commit, branch="topic")

    def fetch(self, remote, refspec):
        return None

    def remote_url(self, remote):
        return None

    def close(self):
        pass


class Job(Tools):
    """A CI job: one fake forge, one folder."""

    def __init__(self, there, top, **environ):
        variables = (there.environ() if there.name != "local" else {}) | environ
        super().__init__(cwd=top, environ=variables, out=io.StringIO(), err=io.StringIO())
        self.there = there
        self.repository = Repository(top)
        self.project = Project(images="mermaid")

    def forge(self, name):
        if self.there.name == name == "local":
            return self.there.forge()
        if name == "local":
            return LocalPlace(self.repository.state).forge()
        return self.there.forge(environ=self.environ)


@pytest.fixture(params=["github", "gitlab"])
def there(request, tmp_path):
    with place(request.param, tmp_path) as opened:
        opened.push(comparisons.HEAD.commit)
        yield opened


@pytest.fixture
def left(tmp_path):
    """What `report --out` left."""
    return leave(tmp_path / "out", comparisons.comparison())


def leave(folder, comparison):
    folder.mkdir()
    (folder / "comparison.json").write_bytes(json_bytes(comparison_to_json(comparison, curves=True)))
    return folder


def comment(job, left, *more):
    return main(["comment", "--from", str(left), *more], job)


def test_comment__in_ci__one_comment_and_one_status_per_experiment(there, left, tmp_path):
    job = Job(there, tmp_path)

    assert comment(job, left) == ExitCode.OK
    assert re.fullmatch(rf"comment created: {there.fake.url}/\S+\n", job.out.getvalue())
    assert job.err.getvalue() == ""
    assert len(there.own()) == 1
    names = [experiment.name for experiment in comparisons.comparison().experiments]
    assert [name for name, _, _ in there.statuses()] == [f"gitops-ml/{name}" for name in names]
    assert {state for _, state, _ in there.statuses()} <= {"success", "failure"}


def test_comment__from_an_artifact_without_a_repository__is_posted(there, left, tmp_path):
    job = Job(there, left)
    del job.repository, job.project

    assert main(["comment", "--from", "."], job) == ExitCode.OK
    assert len(there.own()) == 1
    assert "```mermaid" in there.own()[0]
    assert there.statuses()
    assert job.err.getvalue() == ""


def test_comment__refused_without_a_repository__is_kept_where_the_job_runs(there, left, tmp_path):
    there.forbid()
    job = Job(there, left)
    del job.repository, job.project

    assert main(["comment", "--from", ".", "--strict"], job) == ExitCode.SERVICE
    assert "digits" in (left / ".gitops-ml" / "comment.md").read_text()


def test_comment__without_repository_and_ci__says_what_is_missing(left, tmp_path):
    job = Tools(cwd=left, environ={"GITHUB_TOKEN": "ghs_x"}, out=io.StringIO(), err=io.StringIO())

    assert main(["comment", "--from", ".", "--forge", "github"], job) == ExitCode.USAGE
    assert job.err.getvalue() == (
        "cannot tell which GitHub repository this is: `origin` is not a GitHub URL, and there is no "
        "`GITHUB_REPOSITORY` of a workflow\n"
    )


def test_comment__same_report__is_byte_identical_on_every_forge(left, tmp_path):
    shown = []
    for name in ("github", "gitlab", "local"):
        folder = tmp_path / name / ".gitops-ml"
        folder.mkdir(parents=True)
        with place(name, folder) as there:
            if name != "local":
                there.push(comparisons.HEAD.commit)
            job = Job(there, folder.parent)
            assert comment(job, left, "--change", str(there.number)) == ExitCode.OK
            shown.append(body_of(there.own()[0]))

    assert "```mermaid" in shown[0]
    assert shown[0] == shown[1] == shown[2]


def test_comment__plots_uploaded_to_gitlab__once_for_one_merge_request(left, tmp_path):
    with place("gitlab", tmp_path) as there:
        there.push(comparisons.HEAD.commit)
        uploaded = {}
        for _ in range(2):
            job = Job(there, tmp_path)
            job.project = Project(images="auto")
            comment(job, left)
            uploaded = uploaded or dict(there.fake.uploads)

        assert uploaded
        assert all(url in there.own()[0] for url in uploaded)
        assert all(content.startswith(b"\x89PNG\r\n") for content in uploaded.values())
        assert there.fake.uploads == uploaded


def test_comment__not_permitted__summary_and_folder_and_verdict_stays(there, left, tmp_path):
    there.forbid()
    summary = tmp_path / "summary.md"
    job = Job(there, tmp_path, GITHUB_STEP_SUMMARY=str(summary))

    assert comment(job, left) == ExitCode.OK
    said = job.err.getvalue().splitlines()
    assert said[0].startswith("the comment could not be posted: cannot comment on ")
    assert said[1].startswith("the status could not be set: cannot set the status `gitops-ml/")
    assert sum("could not" in line for line in said) == 2
    assert "digits" in summary.read_text()
    assert (tmp_path / ".gitops-ml/comment.md").exists()


def test_comment__not_permitted_and_strict__is_exit_code_5(there, left, tmp_path):
    there.forbid()

    assert comment(Job(there, tmp_path), left, "--strict") == ExitCode.SERVICE


def test_comment__service_down__degrades_and_a_later_call_publishes(there, left, tmp_path):
    there.fake.faults.append(Fault(kind="reset", times=999))

    assert comment(Job(there, tmp_path), left) == ExitCode.OK
    assert there.own() == []

    there.fake.faults.clear()
    assert comment(Job(there, tmp_path), left) == ExitCode.OK
    assert len(there.own()) == 1


def test_comment__status_refused__the_comment_is_posted_all_the_same(there, left, tmp_path):
    method, path = there.write_status
    there.fake.faults.append(Fault(kind="answer", method=method, path=path, times=99))
    job = Job(there, tmp_path)

    assert comment(job, left) == ExitCode.OK
    assert len(there.own()) == 1
    assert "the status could not be set" in job.err.getvalue()


def test_comment__outdated_for_the_same_commit__status_stays(there, left, tmp_path):
    newer = Job(there, tmp_path)
    newer.environ = there.environ(run=9)
    comment(newer, left)
    before = list(there.statuses())
    job = Job(there, tmp_path)

    assert comment(job, left) == ExitCode.OK
    assert job.out.getvalue().startswith("comment outdated: ")
    assert there.statuses() == before


def test_comment__pending__sets_statuses_only(there, left, tmp_path):
    assert comment(Job(there, tmp_path), left, "--pending") == ExitCode.OK
    assert there.own() == []
    assert {state for _, state, _ in there.statuses()} == {"pending"}


def test_comment__unchanged_experiment__has_a_status_that_passes(there, tmp_path):
    left = leave(tmp_path / "same", comparisons.comparison(comparisons.experiment(), unchanged=("text",)))

    for more in (["--pending"], []):
        assert comment(Job(there, tmp_path), left, *more) == ExitCode.OK
        text = "unchanged: nothing that determines the result differs"
        assert ("gitops-ml/text", "success", text) in there.statuses()


def test_comment__change_was_closed_meanwhile__nothing_is_written_and_no_error(there, left, tmp_path):
    there.close_change()
    job = Job(there, tmp_path)

    assert comment(job, left, "--strict") == ExitCode.OK
    assert job.out.getvalue().startswith("comment closed: ")
    assert there.own() == []


def test_comment__branch_was_deleted_meanwhile__status_is_refused_and_said(there, left, tmp_path):
    there.close_change()
    there.push("f" * 40)
    job = Job(there, tmp_path)

    assert comment(job, left) == ExitCode.OK
    assert re.search(r"the status could not be set: .* says (422|404): ", job.err.getvalue())
    assert "says" in job.err.getvalue().splitlines()[0]
    assert there.own() == []


def test_comment__a_write_fails_while_the_repository_is_transferred__degrades(there, left, tmp_path):
    moved = Answer(status=404, body={"message": "Not Found"})
    there.fake.faults.append(Fault(kind="answer", method="POST", path="(?!/graphql).*", times=99, answer=moved))
    job = Job(there, tmp_path)

    assert comment(job, left) == ExitCode.OK
    assert sum("could not" in line for line in job.err.getvalue().splitlines()) == 2
    assert (tmp_path / ".gitops-ml/comment.md").exists()


def test_comment__two_ids__two_comments(there, left, tmp_path):
    comment(Job(there, tmp_path), left)
    comment(Job(there, tmp_path), left, "--id", "nightly")

    assert len(there.own()) == 2


def test_comment__a_thousand_metrics__within_the_limits_and_valid_markdown(there, tmp_path):
    left = leave(tmp_path / "big", comparisons.comparison(comparisons.big_experiment(metrics=1000)))

    assert comment(Job(there, tmp_path), left) == ExitCode.OK
    text = there.own()[0]
    assert len(text) <= 65_536
    html = cmarkgfm.github_flavored_markdown_to_html(text, Options.CMARK_OPT_UNSAFE)
    assert html.count("<details>") == html.count("</details>") > 0
    assert text.count("\n```") % 2 == 0


def test_comment__3000_hostile_names__leave_no_foreign_tag_link_or_mention(there, tmp_path):
    generator = random.Random(1)
    names = {"".join(generator.choices(HOSTILE, k=generator.randint(1, 8)))[:200] for _ in range(3_600)}
    names = [f"{name}{number}" for number, name in enumerate(sorted(names)[:3_000])]
    metrics = [
        comparisons.metric(
            name, (0.9, 0.91), (0.8, 0.81), Verdict.WORSE if number % 2 else Verdict.SAME, unit=name, rule=Gate.WARN
        )
        for number, name in enumerate(names)
    ]
    whole = comparisons.experiment("digits", metrics, notes=tuple(names[:20]), description=names[0])
    whole = dataclasses.replace(whole, changes=tuple(Change(what=n, before=n, after=n) for n in names[:100]))
    left = leave(tmp_path / "hostile", comparisons.comparison(whole))

    job = Job(there, tmp_path)
    assert comment(job, left) == ExitCode.OK, job.err.getvalue()
    (text,) = there.own()
    html = cmarkgfm.github_flavored_markdown_to_html(text, Options.CMARK_OPT_UNSAFE)
    assert len(names) == 3_000
    assert len(text) <= 65_536
    assert set(re.findall(r"<([a-z0-9]+)", html)) <= OURS
    assert not re.findall(r"<(?:a|img)\b", html)
    outside = re.sub(r"<code.*?</code>|<!--.*?-->|<pre.*?</pre>", "", html, flags=re.DOTALL)
    # What a forge turns into a mention or a reference of its own, where it is not code.
    assert not re.search(r"@[A-Za-z0-9]|(?<![&\w])#[0-9]|\bGH-[0-9]|![0-9]|://", outside)


@pytest.mark.parametrize("value", [None, 1e15, -1e15, 5e-324])
def test_comment__metric_without_or_with_a_wild_value__still_renders(there, tmp_path, value):
    problem = "" if value is not None else "`accuracy` is NaN in metrics.json"
    wild = dataclasses.replace(
        comparisons.metric("accuracy", (0.9, 0.9), (0.9, 0.9), Verdict.INVALID, rule=Gate.FAIL),
        head=comparisons.side((value, 0.9), "head", problem),
        gate=GateResult.FAIL,
    )
    experiment = comparisons.experiment("digits", (wild,), GateResult.FAIL)
    left = leave(tmp_path / "wild", comparisons.comparison(experiment, comparisons.problem_experiment()))

    job = Job(there, tmp_path)
    assert comment(job, left) == ExitCode.OK, job.err.getvalue()
    (text,) = there.own()
    assert "invalid" in text
    assert ("gitops-ml/digits", "failure") in [one[:2] for one in there.statuses()]
    html = cmarkgfm.github_flavored_markdown_to_html(text, Options.CMARK_OPT_UNSAFE)
    assert set(re.findall(r"<([a-z0-9]+)", html)) <= OURS


def test_comment__secrets__are_in_no_output(there, left, tmp_path):
    there.forbid()
    summary = tmp_path / "summary.md"
    job = Job(there, tmp_path, GITHUB_STEP_SUMMARY=str(summary))
    comment(job, left)
    shown = job.out.getvalue() + job.err.getvalue() + summary.read_text() + repr(job)
    shown += (tmp_path / ".gitops-ml/comment.md").read_text() + (tmp_path / ".gitops-ml/comment.html").read_text()

    assert "canary" not in shown
