import dataclasses

import pytest

from gitops_ml import ci

SHA = "a" * 40
GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_REPOSITORY": "acme/vision",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_API_URL": "https://api.github.com",
    "GITHUB_SHA": SHA,
    "GITHUB_REF": "refs/heads/main",
    "GITHUB_RUN_ID": "123",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_TOKEN": "ghs_canary0",
}
GITLAB = {
    "GITLAB_CI": "true",
    "CI_PROJECT_PATH": "acme/research/vision",
    "CI_PROJECT_ID": "42",
    "CI_SERVER_URL": "https://gitlab.example.com:8443/git",
    "CI_API_V4_URL": "https://gitlab.example.com:8443/git/api/v4",
    "CI_COMMIT_SHA": SHA,
    "CI_PIPELINE_ID": "9001",
    "CI_JOB_ID": "90017",
    "CI_JOB_URL": "https://gitlab.example.com:8443/git/acme/research/vision/-/jobs/90017",
    "CI_JOB_TOKEN": "glcbt-canary1",
}


def test_context__no_ci__is_none():
    assert ci.context({}) is None
    assert ci.context({"CI": "true", "GITHUB_REPOSITORY": "acme/vision"}) is None


def test_context__github_push():
    assert ci.context(GITHUB) == ci.CIContext(
        kind=ci.CIKind.GITHUB,
        server_url="https://github.com",
        api_url="https://api.github.com",
        repository="acme/vision",
        commit=SHA,
        change=None,
        fork=None,
        run_id=123,
        run_attempt=2,
        run_url="https://github.com/acme/vision/actions/runs/123",
        token_variable="GITHUB_TOKEN",
    )


def test_context__github_pull_request__test_merge_is_not_the_commit():
    context = ci.context(GITHUB | {"GITHUB_REF": "refs/pull/7/merge"})

    assert (context.change, context.commit) == (7, None)


def test_context__enterprise_server__takes_its_urls():
    ghes = {"GITHUB_SERVER_URL": "https://git.corp.test/", "GITHUB_API_URL": "https://git.corp.test/api/v3/"}
    context = ci.context(GITHUB | ghes)

    assert (context.server_url, context.api_url) == ("https://git.corp.test", "https://git.corp.test/api/v3")


def test_context__gitlab_merge_request_of_a_fork():
    request = {
        "CI_MERGE_REQUEST_IID": "7",
        "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "43",
        "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": "b" * 40,
    }

    assert ci.context(GITLAB | request) == ci.CIContext(
        kind=ci.CIKind.GITLAB,
        server_url="https://gitlab.example.com:8443/git",
        api_url="https://gitlab.example.com:8443/git/api/v4",
        repository="acme/research/vision",
        commit="b" * 40,
        change=7,
        fork=True,
        run_id=9001,
        run_attempt=90017,
        run_url="https://gitlab.example.com:8443/git/acme/research/vision/-/jobs/90017",
        token_variable="CI_JOB_TOKEN",
    )


def test_context__own_token__goes_before_the_job_token():
    assert ci.context(GITLAB | {"GITLAB_TOKEN": "glpat-x"}).token_variable == "GITLAB_TOKEN"
    assert ci.context(GITHUB | {"GITHUB_TOKEN": "", "GH_TOKEN": "x"}).token_variable == "GH_TOKEN"


@pytest.mark.parametrize("value", ["", "x", "-1", "1e3", "٣", "9" * 40, "7\n"])
def test_context__numbers_that_are_none__are_unknown(value):
    github = ci.context(GITHUB | {"GITHUB_RUN_ID": value, "GITHUB_REF": f"refs/pull/{value}/merge"})
    gitlab = ci.context(GITLAB | {"CI_MERGE_REQUEST_IID": value, "CI_PIPELINE_ID": value})

    assert (github.run_id, github.change) == (0, None)
    assert (gitlab.run_id, gitlab.change) == (0, None)


def test_context__holds_no_token():
    shown = str(dataclasses.asdict(ci.context(GITHUB))) + str(dataclasses.asdict(ci.context(GITLAB)))

    assert "canary" not in shown


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://github.com/acme/vision.git", ("github.com", "acme/vision")),
        ("https://user:secret@github.com/acme/vision", ("github.com", "acme/vision")),
        ("git@github.com:acme/vision.git", ("github.com", "acme/vision")),
        ("ssh://git@gitlab.example.com:2222/acme/research/vision.git", ("gitlab.example.com", "acme/research/vision")),
        ("/srv/git/vision.git", None),
        ("../vision", None),
        ("C:/repos/vision", None),
        ("file:///srv/git/vision.git", None),
    ],
)
def test_repository_at__urls_of_remotes(url, expected):
    assert ci.repository_at(url) == expected
