"""What the CI says, and what is to be done about it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitops_ml import ci
from gitops_ml.ci import Command, Event, EventKind, Spend, Verb, command_in, steps_for
from gitops_ml.errors import UserError

HEAD, BEFORE, MERGE = "a" * 40, "b" * 40, "c" * 40
ZEROS = "0" * 40
HOME = {"id": 1, "default_branch": "main"}


def _github(tmp_path: Path, name: str, payload: dict[str, Any] | bytes, **more: str) -> Event:
    file = tmp_path / "event.json"
    file.write_bytes(payload if isinstance(payload, bytes) else json.dumps(payload).encode())
    environ = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_REPOSITORY": "acme/vision",
        "GITHUB_EVENT_NAME": name,
        "GITHUB_EVENT_PATH": str(file),
        "GITHUB_SHA": MERGE,
        "GITHUB_REF_NAME": "main",
        "GITHUB_ACTOR": "dana",
        **more,
    }
    found = ci.event(environ)
    assert found is not None
    return found


def _pull(action: str, *, repository: int | None = 1, draft: bool = False, **more: Any) -> dict[str, Any]:
    head = {"sha": HEAD, "ref": "wider", "repo": None if repository is None else {"id": repository}}
    pull = {"number": 7, "head": head, "base": {"ref": "main"}, "draft": draft}
    return {"action": action, "pull_request": pull, "repository": HOME, "sender": {"login": "dana"}, **more}


# Events


def test_event__no_ci__is_none():
    assert ci.event({"HOME": "/root"}) is None


@pytest.mark.parametrize("action", ["opened", "synchronize", "reopened", "ready_for_review"])
def test_event__github_change__has_the_pushed_commit_not_the_test_merge(tmp_path, action):
    found = _github(tmp_path, "pull_request", _pull(action))

    assert found == Event(
        kind=EventKind.CHANGE,
        name=f"pull_request/{action}",
        head=HEAD,
        branch="wider",
        target="main",
        default="main",
        change=7,
        fork=False,
        actor="dana",
    )


@pytest.mark.parametrize("repository", [2, None])
def test_event__github_head_elsewhere__is_a_fork(tmp_path, repository):
    assert _github(tmp_path, "pull_request", _pull("opened", repository=repository)).fork is True


def test_event__github_payload_without_repositories__is_a_fork(tmp_path):
    payload = {"action": "opened", "pull_request": {"number": 7, "head": {"sha": HEAD}}}

    assert _github(tmp_path, "pull_request", payload).fork is True


def test_event__github_push__has_before_and_target(tmp_path):
    payload = {"ref": "refs/heads/main", "before": BEFORE, "after": HEAD, "deleted": False, "repository": HOME}
    found = _github(tmp_path, "push", payload)

    assert (found.kind, found.head, found.before, found.branch, found.target) == (
        EventKind.PUSH,
        HEAD,
        BEFORE,
        "main",
        "main",
    )


def test_event__github_new_branch__has_no_before(tmp_path):
    payload = {"ref": "refs/heads/wider", "before": ZEROS, "after": HEAD, "repository": HOME}

    assert _github(tmp_path, "push", payload).before is None


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("push", {"ref": "refs/heads/main", "after": HEAD, "repository": {"pushed_at": 1_795_991_700}}),
        ("pull_request", {"action": "opened", "pull_request": {"updated_at": "2026-11-29T22:35:00Z"}}),
        (
            "issue_comment",
            {
                "action": "created",
                "issue": {"pull_request": {}},
                "comment": {"created_at": "2026-11-29T23:35:00+01:00"},
            },
        ),
    ],
)
def test_event__github__says_when_it_happened(tmp_path, name, payload):
    assert _github(tmp_path, name, payload).at == datetime(2026, 11, 29, 22, 35, tzinfo=UTC)


@pytest.mark.parametrize("said", ["yesterday", "2026-11-29T22:35:00", 10**30, True, None, ["2026"]])
def test_event__github_time_that_is_none__is_not_known(tmp_path, said):
    payload = {"action": "opened", "pull_request": {"updated_at": said}}

    assert _github(tmp_path, "pull_request", payload).at is None


def test_event__gitlab__says_when_its_pipeline_was_made():
    assert _gitlab(CI_PIPELINE_CREATED_AT="2026-11-29T22:35:00Z").at == datetime(2026, 11, 29, 22, 35, tzinfo=UTC)


def test_event__github_tag__is_other(tmp_path):
    assert _github(tmp_path, "push", {"ref": "refs/tags/v1", "after": HEAD}).kind is EventKind.OTHER


def test_event__github_comment_below_an_issue__is_other(tmp_path):
    payload = {"action": "created", "issue": {"number": 3}, "comment": {"body": "/gitops-ml run"}}

    assert _github(tmp_path, "issue_comment", payload).kind is EventKind.OTHER


def test_event__github_edited_comment__is_other(tmp_path):
    payload = {"action": "edited", "issue": {"number": 3, "pull_request": {}}, "comment": {"body": "/gitops-ml run"}}

    assert _github(tmp_path, "issue_comment", payload).kind is EventKind.OTHER


def test_event__github_comment__has_no_head_of_its_own(tmp_path):
    # GITHUB_SHA is the tip of main there: training it would be training the wrong thing.
    payload = {"action": "created", "issue": {"number": 7, "pull_request": {}}, "comment": {"body": "/gitops-ml run"}}
    found = _github(tmp_path, "issue_comment", payload)

    assert (found.kind, found.change, found.head, found.fork) == (EventKind.COMMENT, 7, None, None)


def test_event__github_merge_group__has_its_target(tmp_path):
    group = {"head_sha": HEAD, "head_ref": "refs/heads/gh-readonly-queue/main/pr-7", "base_ref": "refs/heads/main"}
    found = _github(tmp_path, "merge_group", {"action": "checks_requested", "merge_group": group})

    assert (found.kind, found.head, found.target) == (EventKind.MERGE_QUEUE, HEAD, "main")


def test_event__github_workflow_run_of_a_fork__says_so(tmp_path):
    run = {"head_sha": HEAD, "head_branch": "main", "head_repository": {"id": 2}}
    found = _github(tmp_path, "workflow_run", {"action": "completed", "workflow_run": run, "repository": HOME})

    assert (found.kind, found.head, found.fork) == (EventKind.AFTER_RUN, HEAD, True)


@pytest.mark.parametrize(("name", "kind"), [("schedule", "schedule"), ("workflow_dispatch", "manual")])
def test_event__github_without_a_commit_in_the_payload__takes_the_variables(tmp_path, name, kind):
    found = _github(tmp_path, name, {"repository": HOME})

    assert (found.kind, found.head, found.branch) == (kind, MERGE, "main")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[1]", "not a JSON object"),
        (b'{"action": NaN}', "not valid JSON: NaN is no JSON number"),
        (b'{"a": 1, "a": 2}', "not valid JSON: a key stands twice in one object"),
    ],
)
def test_event__payload_that_github_would_not_send__is_refused(tmp_path, content, why):
    with pytest.raises(UserError) as caught:
        _github(tmp_path, "push", content)

    assert str(caught.value) == f"GITHUB_EVENT_PATH: {tmp_path}/event.json: {why}"


def test_event__deeply_nested_payload__is_refused_without_a_traceback(tmp_path):
    with pytest.raises(UserError):
        _github(tmp_path, "push", b"[" * 100_000)


def test_event__missing_payload__is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        _github(tmp_path, "push", {}, GITHUB_EVENT_PATH=str(tmp_path / "nowhere"))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.text(max_size=5) | st.sampled_from([HEAD, "main"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["action", "pull_request", "head", "sha", "repo", "id", "number", "ref", "issue", "comment", "body"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(payload=_JSON, name=st.sampled_from(["push", "pull_request", "issue_comment", "merge_group", "workflow_run"]))
def test_event__payload_of_any_shape__never_passes_for_trusted(tmp_path_factory, payload, name):
    folder = tmp_path_factory.mktemp("event")
    try:
        found = _github(folder, name, json.dumps(payload).encode())
    except UserError:
        assert not isinstance(payload, dict)
        return

    assert found.head is None or len(found.head) in (40, 64)
    if name == "pull_request" and steps_for(found).run is not Spend.NEVER:
        assert payload["pull_request"]["head"]["repo"]["id"] == payload["repository"]["id"]


def _gitlab(**more: str) -> Event:
    found = ci.event({"GITLAB_CI": "true", "CI_PROJECT_PATH": "acme/vision", "CI_PROJECT_ID": "1", **more})
    assert found is not None
    return found


def test_event__gitlab_merge_request__has_the_source_branchs_commit():
    found = _gitlab(
        CI_PIPELINE_SOURCE="merge_request_event",
        CI_MERGE_REQUEST_IID="7",
        CI_MERGE_REQUEST_SOURCE_PROJECT_ID="1",
        CI_MERGE_REQUEST_SOURCE_BRANCH_SHA=HEAD,
        CI_COMMIT_SHA=MERGE,
        CI_MERGE_REQUEST_SOURCE_BRANCH_NAME="wider",
        CI_MERGE_REQUEST_TARGET_BRANCH_NAME="main",
        GITLAB_USER_LOGIN="dana",
    )

    assert found == Event(
        kind=EventKind.CHANGE,
        name="merge_request_event",
        head=HEAD,
        branch="wider",
        target="main",
        change=7,
        fork=False,
        actor="dana",
    )


@pytest.mark.parametrize("project", [{"CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "2"}, {}])
def test_event__gitlab_merge_request_from_elsewhere__spends_nothing(project):
    found = _gitlab(CI_PIPELINE_SOURCE="merge_request_event", CI_MERGE_REQUEST_IID="7", CI_COMMIT_SHA=HEAD, **project)

    assert found.fork is not False
    assert steps_for(found).run is Spend.NEVER


def test_event__gitlab_push__has_before():
    found = _gitlab(
        CI_PIPELINE_SOURCE="push",
        CI_COMMIT_SHA=HEAD,
        CI_COMMIT_BEFORE_SHA=BEFORE,
        CI_COMMIT_BRANCH="main",
        CI_DEFAULT_BRANCH="main",
    )

    assert (found.kind, found.before, found.branch, found.target) == (EventKind.PUSH, BEFORE, "main", "main")


# Steps

_CHANGE: dict[str, Any] = {"head": HEAD, "target": "main", "branch": "wider", "change": 7, "fork": False}
_PUSH: dict[str, Any] = {"kind": EventKind.PUSH, "head": HEAD, "target": "main", "fork": False}


@pytest.mark.parametrize(
    ("event", "does", "run"),
    [
        (Event(**_PUSH, branch="main"), "plan report status", Spend.POLICY),
        (Event(**_PUSH, branch="wider"), "plan", Spend.NEVER),
        (Event(**_PUSH, branch="gitops-ml/reports"), "", Spend.NEVER),
        (Event(kind=EventKind.PUSH, branch="wider", target="main", deleted=True), "", Spend.NEVER),
        (Event(kind=EventKind.CHANGE, **_CHANGE), "plan report comment status", Spend.POLICY),
        (Event(kind=EventKind.CHANGE, **_CHANGE, draft=True), "plan comment", Spend.NEVER),
        (Event(kind=EventKind.CHANGE, **{**_CHANGE, "fork": True}), "plan", Spend.NEVER),
        (Event(kind=EventKind.CHANGE, **{**_CHANGE, "fork": None}), "plan", Spend.NEVER),
        (Event(kind=EventKind.CLOSED, **_CHANGE), "cancel", Spend.NEVER),
        (Event(kind=EventKind.LABEL, **_CHANGE, label="bug"), "", Spend.NEVER),
        (Event(kind=EventKind.LABEL, **_CHANGE, label="gitops-ml/run"), "plan report comment status", Spend.APPROVED),
        (Event(kind=EventKind.LABEL, **{**_CHANGE, "fork": True}, label="gitops-ml/run"), "plan", Spend.NEVER),
        (Event(kind=EventKind.COMMENT, **_CHANGE, comment="/gitops-ml"), "help", Spend.NEVER),
        (Event(kind=EventKind.COMMENT, **_CHANGE, comment="/gitops-ml dance"), "help", Spend.NEVER),
        (Event(kind=EventKind.COMMENT, **_CHANGE, comment="nice work"), "", Spend.NEVER),
        (Event(kind=EventKind.COMMENT, **_CHANGE, comment="> /gitops-ml run"), "", Spend.NEVER),
        (Event(kind=EventKind.COMMENT, **_CHANGE, comment="/gitops-ml plan"), "plan comment", Spend.NEVER),
        (Event(kind=EventKind.COMMENT, **_CHANGE, comment="/gitops-ml cancel"), "cancel", Spend.NEVER),
        (
            Event(kind=EventKind.COMMENT, **_CHANGE, comment="/gitops-ml run"),
            "plan report comment status",
            Spend.APPROVED,
        ),
        (
            Event(kind=EventKind.COMMENT, **_CHANGE, comment="/gitops-ml rerun digits"),
            "plan force report comment status",
            Spend.APPROVED,
        ),
        (Event(kind=EventKind.SCHEDULE), "reconcile report", Spend.NEVER),
        (Event(kind=EventKind.MERGE_QUEUE, **_CHANGE), "plan report status", Spend.NEVER),
        (Event(kind=EventKind.MANUAL, **_CHANGE), "plan report comment status", Spend.POLICY),
        (Event(kind=EventKind.AFTER_RUN, head=HEAD, fork=True), "comment status publish_only", Spend.NEVER),
        (Event(kind=EventKind.OTHER, name="release/published"), "", Spend.NEVER),
    ],
    ids=lambda value: f"{value.kind}-{value.branch}-{value.label or value.comment}" if isinstance(value, Event) else "",
)
def test_steps_for__event__does_what_the_table_says(event, does, run):
    steps = steps_for(event)

    names = ("cancel", "reconcile", "help", "plan", "force", "report", "comment", "status", "publish_only")
    assert (" ".join(name for name in names if getattr(steps, name)), steps.run) == (does, run)
    assert steps.nothing == (does == "")
    assert steps.why


@given(
    kind=st.sampled_from(EventKind),
    fork=st.sampled_from([True, None]),
    draft=st.booleans(),
    label=st.sampled_from(["", "gitops-ml/run"]),
)
def test_steps_for__change_of_a_fork__never_spends_by_itself(kind, fork, draft, label):
    event = Event(kind=kind, **{**_CHANGE, "fork": fork}, draft=draft, label=label)
    if kind in (EventKind.CHANGE, EventKind.LABEL, EventKind.CLOSED, EventKind.AFTER_RUN):
        assert steps_for(event).run is Spend.NEVER


# Commands


@pytest.mark.parametrize(
    ("comment", "command"),
    [
        ("/gitops-ml run", Command(verb=Verb.RUN)),
        ("\n  /gitops-ml run digits words  \nthanks!", Command(verb=Verb.RUN, experiments=("digits", "words"))),
        (f"/gitops-ml run --sha {HEAD}", Command(verb=Verb.RUN, sha=HEAD)),
        (f"/gitops-ml rerun digits --sha={HEAD}", Command(verb=Verb.RERUN, experiments=("digits",), sha=HEAD)),
        ("/gitops-ml cancel", Command(verb=Verb.CANCEL)),
        ("/gitops-mlx run", None),
        ("please /gitops-ml run", None),
        ("", None),
        ("thanks\n/gitops-ml run", None),
    ],
)
def test_command_in__comment__is_its_first_line(comment, command):
    assert command_in(comment) == command


@pytest.mark.parametrize(
    ("comment", "problem"),
    [
        ("/gitops-ml Run", "there is no command `Run`"),
        ("/gitops-ml run --sha abc1234", "`--sha` takes a whole commit of 40 or 64 hexadecimal digits"),
        ("/gitops-ml run --sha", "`--sha` takes a whole commit of 40 or 64 hexadecimal digits"),
        ("/gitops-ml run --force", "`--force` is neither an experiment nor an option"),
        ("/gitops-ml run @everyone`", "`?everyone?` is neither an experiment nor an option"),
    ],
)
def test_command_in__not_understood__asks_for_help_and_says_why(comment, problem):
    assert command_in(comment) == Command(verb=Verb.HELP, problem=problem)


@given(comment=st.text(max_size=200) | st.text(max_size=60).map("/gitops-ml ".__add__))
def test_command_in__any_text__is_read_without_failing(comment):
    command = command_in(comment)

    assert command is None or command.sha is None or len(command.sha) in (40, 64)
