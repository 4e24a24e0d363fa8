"""``comment`` from its arguments to its exit code, against the fakes of both forges over HTTP."""

import io
import re

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options

from gitops_ml.comparison_json import comparison_to_json
from gitops_ml.errors import ExitCode
from gitops_ml.forges._comments import body_of
from gitops_ml.git import Head
from gitops_ml.main import main
from gitops_ml.project import Project
from gitops_ml.records import json_bytes
from gitops_ml.tools import Tools
from tests.fakes import comparisons
from tests.fakes.forges import LocalPlace, place
from tests.fakes.server import Fault


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


def test_comment__secrets__are_in_no_output(there, left, tmp_path):
    there.forbid()
    summary = tmp_path / "summary.md"
    job = Job(there, tmp_path, GITHUB_STEP_SUMMARY=str(summary))
    comment(job, left)
    shown = job.out.getvalue() + job.err.getvalue() + summary.read_text() + repr(job)
    shown += (tmp_path / ".gitops-ml/comment.md").read_text() + (tmp_path / ".gitops-ml/comment.html").read_text()

    assert "canary" not in shown
