"""The fakes judge: what breaks the forges' own documents is seen, in requests and in answers."""

import json
from http.server import BaseHTTPRequestHandler

import pytest
import requests

from tests.fakes import openapi
from tests.fakes.github import FakeGitHub
from tests.fakes.gitlab import FakeGitLab
from tests.fakes.openapi import cut
from tests.fakes.server import Loopback

GITHUB = {"Authorization": "Bearer ghs_canary0"}
GITLAB = {"PRIVATE-TOKEN": "glpat-canary0"}
COMMENTS = "/repos/acme/vision/issues/7/comments"
NOTES = "/api/v4/projects/acme%2Fresearch%2Fvision/merge_requests/7/notes"


@pytest.mark.parametrize(
    ("method", "path", "body", "problem"),
    [
        ("POST", COMMENTS, {}, "'body' is a required property"),
        ("POST", COMMENTS, {"body": 7}, "7 is not of type 'string'"),
        ("POST", "/repos/acme/vision/statuses/" + "a" * 40, {"state": "greenish"}, "'greenish' is not one of"),
        ("GET", COMMENTS + "?direction=desc", None, "unknown query parameter direction"),
        ("GET", "/repos/acme/vision/stargazers", None, "is not in GitHub's document"),
        ("POST", "/graphql", {"query": "{viewer{email}}"}, "Cannot query field 'email'"),
        ("GET", COMMENTS + "?page=ghs_canary0", None, "the token is outside of the header"),
    ],
)
def test_fake_github__request_against_the_document__is_a_violation(method, path, body, problem):
    fake = FakeGitHub()
    with pytest.raises(AssertionError, match="(?s)" + problem), fake.running(), requests.Session() as session:
        session.request(method, fake.url + path, json=body, headers=GITHUB, timeout=10)


@pytest.mark.parametrize(
    ("method", "path", "body", "problem"),
    [
        ("POST", NOTES, {}, "'body' is a required property"),
        ("POST", NOTES, {"body": "x" * 1_000_001}, "is too long"),
        ("GET", NOTES + "?per_page=1000", None, "query per_page=1000"),
        ("GET", "/api/v4/projects/1/pipelines", None, "is not in the schema"),
    ],
)
def test_fake_gitlab__request_against_the_schema__is_a_violation(method, path, body, problem):
    fake = FakeGitLab()
    with pytest.raises(AssertionError, match="(?s)" + problem), fake.running(), requests.Session() as session:
        session.request(method, fake.url + path, json=body, headers=GITLAB, timeout=10)


def test_answer_problems__answer_that_lacks_a_field__is_seen():
    document = openapi.github()
    route = "/repos/{owner}/{repo}/issues/{issue_number}/comments"
    answer = document.example("POST", route, 201)

    assert document.answer_problems("POST", route, 201, answer) == []
    del answer["node_id"]
    assert document.answer_problems("POST", route, 201, answer) == ["$: 'node_id' is a required property"]


def test_slice__has_every_route_that_is_cut_and_its_licence():
    document = json.loads((openapi.HERE / "github.json").read_text())

    assert set(document["paths"]) == set(cut.ROUTES)
    assert "MIT" in (openapi.HERE / "LICENSE").read_text()


@pytest.mark.parametrize(
    ("error", "reported"), [(ConnectionResetError(), False), (BrokenPipeError(), False), (KeyError("a"), True)]
)
def test_loopback__what_a_handler_raises__is_reported_unless_the_client_went_away(error, reported, capsys):
    server = Loopback(BaseHTTPRequestHandler)
    try:
        raise error
    except (OSError, KeyError):
        server.handle_error(None, ("127.0.0.1", 1))
    finally:
        server.server_close()

    assert ("KeyError: 'a'" in capsys.readouterr().err) is reported
