"""What goes wrong between us and a forge, one test per row of the fault matrix; after each, one comment, newest text.

Nothing sleeps: waiting is counted by a clock of the test's own. Only a service that never answers costs real time, one
second of time-out.
"""

import dataclasses
import json
import logging
import re
import traceback

import pytest

from gitops_ml.errors import ServiceError
from gitops_ml.forges._comments import body_of
from gitops_ml.forges.base import CannotPublishError, State
from tests.fakes.forges import HEAD, place
from tests.fakes.github import garbled, primary_limit, secondary_limit
from tests.fakes.server import Answer, Fault, Server

MARKER = "<!-- gitops-ml comment=default -->"


@pytest.fixture(params=["github", "gitlab"])
def there(request, tmp_path):
    with place(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture
def hub(tmp_path):
    with place("github", tmp_path) as opened:
        yield opened


@pytest.fixture
def lab(tmp_path):
    with place("gitlab", tmp_path) as opened:
        yield opened


def post(forge, there, text="new"):
    return forge.upsert_comment(there.number, marker=MARKER, body=f"{MARKER}\n{text}\n", commit=HEAD).action


def bodies(there):
    return [body_of(text) for text in there.own()]


def fault(there, at, kind="answer", **more):
    method, path = at
    there.fake.faults.append(Fault(kind=kind, method=method, path=path, **more))


# 1, 2, 3: the comment is stored and the answer is lost


@pytest.mark.parametrize("kind", ["answer", "reset", "cut", "garbage"])
def test_create__stored_but_answer_lost__one_comment(there, kind):
    fault(there, there.create_comment, kind, after=True)

    assert post(there.forge(), there) == "created"
    assert bodies(there) == ["new"]
    assert len(there.fake.sent(*there.create_comment)) == 1


@pytest.mark.parametrize("kind", ["answer", "reset"])
def test_create__fails_twice_before_it_is_stored__one_comment(there, kind):
    fault(there, there.create_comment, kind, times=2)

    assert post(there.forge(), there) == "created"
    assert bodies(there) == ["new"]


def test_create__stored_and_no_answer_in_time__one_comment(there):
    fault(there, there.create_comment, "hang", after=True)

    assert post(there.forge(timeout_s=1), there) == "created"
    assert bodies(there) == ["new"]


def test_create__stored_and_the_answer_drips__one_comment(there):
    # Each byte comes in time, so that no time-out of a connection ever ends it.
    fault(there, there.create_comment, "drip", after=True)

    assert post(there.forge(answer_s=1), there) == "created"
    assert bodies(there) == ["new"]


def test_list__answers_drip_for_ever__bounded_and_named(there):
    fault(there, there.read_comments, "drip", times=99)

    with pytest.raises(ServiceError, match=r"did not finish its answer in time; gave up after 6 tries"):
        post(there.forge(answer_s=0.1), there)


def test_list__pages_take_too_long_in_all__bounded_and_named(there):
    for _ in range(500):
        there.add_foreign("x")
    there.fake.before_answer = lambda call: there.clock.sleep(120)

    with pytest.raises(ServiceError, match=r"^the service took more than 300 s in all; try again later$"):
        post(there.forge(), there)
    assert there.own() == []


def test_create__appears_only_after_we_gave_up__next_run_converges(there):
    # The write of the first run is held up somewhere and takes effect when that run is long over.
    fault(there, there.create_comment, times=99)
    with pytest.raises(ServiceError):
        post(there.forge(run=5), there, "first")
    there.fake.faults.clear()
    late = json.loads(there.fake.sent(*there.create_comment)[0].body)["body"]
    post(there.forge(run=6), there, "second")
    there.add_own(late)

    assert post(there.forge(run=7), there, "third") == "updated"
    assert bodies(there) == ["third"]


@pytest.mark.parametrize("kind", ["answer", "reset", "cut", "garbage"])
def test_edit__done_but_answer_lost__one_comment_with_the_new_text(there, kind):
    post(there.forge(), there, "old")
    fault(there, there.edit_comment, kind, after=True)

    assert post(there.forge(), there) == "updated"
    assert bodies(there) == ["new"]
    assert len(there.fake.sent(*there.edit_comment)) == 1


def test_edit__newer_run_wrote_while_ours_failed__is_not_overwritten(there):
    post(there.forge(run=1), there, "old")
    newer = there.forge(run=9)
    fault(there, there.edit_comment)
    there.clock.sleep = lambda seconds: post(newer, there, "newest")
    ours = there.forge(run=5)

    assert post(ours, there, "ours") == "outdated"
    assert bodies(there) == ["newest"]


# 4, 5: reading


@pytest.mark.parametrize("kind", ["answer", "reset", "cut", "garbage"])
def test_list__second_page_fails__retried_and_no_duplicate(there, kind):
    there.add_own(f"{MARKER}\nold")
    for _ in range(150):
        there.add_foreign("x")
    fault(there, there.read_comments, kind, skip=1)

    assert post(there.forge(), there) == "updated"
    assert bodies(there) == ["new"]
    assert there.fake.sent(*there.create_comment) == []


def test_list__second_page_fails_for_good__nothing_is_written(there):
    there.add_own(f"{MARKER}\nold")
    for _ in range(150):
        there.add_foreign("x")
    for skip in range(1, 99):
        fault(there, there.read_comments, skip=skip)

    with pytest.raises(ServiceError, match="gave up after 6 tries"):
        post(there.forge(), there)
    assert there.fake.sent(*there.create_comment) == there.fake.sent(*there.edit_comment) == []
    assert bodies(there) == ["old"]


# 6: deleted between look and write


def test_edit__comment_was_deleted_meanwhile__recreated_once(there):
    post(there.forge(), there, "old")
    # A fault that answers as the forge would, and whose hook is the user who deletes.
    gone = Answer(status=404, body={"message": "Not Found"})
    fault(there, there.edit_comment, answer=gone, then=there.remove_own)

    assert post(there.forge(), there) == "created"
    assert bodies(there) == ["new"]


def test_delete__surplus_is_gone_already__no_error(there):
    there.add_own(f"{MARKER}\none")
    there.add_own(f"{MARKER}\ntwo")
    path = there.edit_comment[1]
    fault(there, ("DELETE", path), after=True, answer=Answer(status=404, body={"message": "Not Found"}))

    post(there.forge(), there)

    assert bodies(there) == ["new"]


# 8, 9: orders and two first comments at once are in test_forges.py. 10: so is what does not fit; what is made to fit is
# in tests/unit/commands/test_comment.py. 11, 12: permissions and expired tokens


def test_create__not_permitted__names_the_permission(hub):
    hub.forbid()

    with pytest.raises(CannotPublishError) as caught:
        post(hub.forge(), hub)

    host = hub.fake.url.removeprefix("http://")
    assert str(caught.value) == (
        f"cannot comment on pull request 7: {host} says 403: Resource not accessible by integration. The token in "
        "`GITHUB_TOKEN` needs `pull-requests: write` (`permissions:` in the workflow; for a token of your own: Pull "
        "requests, read and write)"
    )
    assert len(hub.fake.sent(*hub.create_comment)) == 1
    assert hub.clock.slept == []


def test_status__not_permitted__names_the_permission(hub):
    hub.forbid()

    with pytest.raises(CannotPublishError, match="needs `statuses: write`"):
        hub.forge().set_status(HEAD, context="gitops-ml/x", state=State.SUCCESS, text="same", url=None)


def test_create__gitlab_role_too_low__names_scope_and_role(lab):
    lab.forbid()

    with pytest.raises(CannotPublishError, match="needs the scope `api` and at least the role Developer; create one"):
        post(lab.forge(), lab)


def test_create__gitlab_job_token__is_not_even_tried(lab):
    environ = lab.environ() | {"CI_JOB_TOKEN": "glcbt-canary1"}
    del environ["GITLAB_TOKEN"]
    forge = lab.forge(environ=environ)

    with pytest.raises(CannotPublishError, match="GitLab lets a job token read only"):
        forge.set_status(HEAD, context="gitops-ml/x", state=State.SUCCESS, text="same", url=None)
    assert lab.fake.calls == []


def test_any__token_expired__says_so_at_once(there):
    there.expire()

    with pytest.raises(CannotPublishError, match=r"says 401: .* has expired or was revoked"):
        post(there.forge(), there)
    assert len(there.fake.calls) == 1


def test_any__no_token__says_which_variable(there):
    environ = {name: value for name, value in there.environ().items() if not name.endswith("_TOKEN")}

    with pytest.raises(
        CannotPublishError, match=rf"no {'GitHub' if there.name == 'github' else 'GitLab'} token: .*_TOKEN"
    ):
        post(there.forge(environ=environ), there)


# 13, 14, 15: limits


def test_create__secondary_limit_with_retry_after__waits_as_asked(hub):
    fault(hub, hub.create_comment, answer=secondary_limit(30))

    assert post(hub.forge(), hub) == "created"
    assert hub.clock.slept == [30]
    assert bodies(hub) == ["new"]


def test_create__secondary_limit_longer_than_the_cap__degrades_at_once(hub):
    fault(hub, hub.create_comment, answer=secondary_limit(61), times=99)

    with pytest.raises(ServiceError, match="the next try would be in 61 s, and at most 60 s are spent on waiting"):
        post(hub.forge(), hub)
    assert hub.clock.slept == []


def test_create__secondary_limit_again_and_again__total_wait_is_capped(hub):
    fault(hub, hub.create_comment, answer=secondary_limit(25), times=99)

    with pytest.raises(ServiceError):
        post(hub.forge(), hub)
    assert sum(hub.clock.slept) == 50


def test_create__limit_as_429_without_header__backs_off_within_the_cap(there):
    fault(there, there.create_comment, answer=Answer(status=429, body={"message": "Too Many Requests"}), times=3)

    assert post(there.forge(), there) == "created"
    assert there.clock.slept == [1, 2, 4]


def test_create__limit_as_429_for_ever__total_wait_is_capped(there):
    fault(there, there.create_comment, answer=Answer(status=429, body={"message": "Too Many Requests"}), times=99)

    with pytest.raises(ServiceError):
        post(there.forge(cap_s=10), there)
    assert sum(there.clock.slept) <= 10


def test_create__limit_as_429_with_header__waits_as_asked(there):
    limited = Answer(status=429, body={"message": "Too Many Requests"}, headers={"Retry-After": "7"})
    fault(there, there.create_comment, answer=limited)

    assert post(there.forge(), there) == "created"
    assert there.clock.slept == [7]


def test_list__primary_limit_that_ends_in_50_minutes__does_not_sleep(hub):
    fault(hub, hub.read_comments, answer=primary_limit(int(hub.clock.now) + 3000), times=99)

    with pytest.raises(ServiceError, match="the next try would be in 3001 s"):
        post(hub.forge(), hub)
    assert hub.clock.slept == []


def test_list__primary_limit_that_ends_in_a_moment__waits(hub):
    fault(hub, hub.read_comments, answer=primary_limit(int(hub.clock.now) + 5))

    assert post(hub.forge(), hub) == "created"
    assert hub.clock.slept == [6]


# 16: answers that are not what they should be


@pytest.mark.parametrize(
    "text", ["{}", "[]", "null", '"yes"', '{"id": "seven"}', '{"data": null}', '{"data": {"viewer": 1}}']
)
def test_any__json_of_another_shape__is_a_failure_without_a_trace(there, text):
    there.fake.faults.append(Fault(kind="answer", answer=garbled(text), times=999))
    forge = there.forge()

    asks = [lambda: post(forge, there), lambda: forge.change(7)]
    if text != "[]":  # no user of that name: a proper answer of GitLab's
        asks.append(lambda: there.forge().permission("rob"))
    for ask in asks:
        with pytest.raises(ServiceError):
            ask()


def test_list__graphql_error_that_is_none_of_ours__is_retried(hub):
    fault(hub, hub.read_comments, answer=garbled('{"errors": [{"message": "Something went wrong"}], "data": null}'))

    assert post(hub.forge(), hub) == "created"


# 17: redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("at", ["read_comments", "create_comment"])
def test_any__redirect_to_another_host__refused_and_token_not_sent(there, status, at):
    elsewhere = Elsewhere()
    with elsewhere.running():
        # The same machine by another name: neither client may tell them apart by the address.
        target = elsewhere.url.replace("127.0.0.1", "localhost") + "/steal"
        moved = Answer(status=status, body={"message": "Moved"}, headers={"Location": target})
        fault(there, getattr(there, at), answer=moved, times=99)

        with pytest.raises(ServiceError, match="redirect"):
            post(there.forge(), there)

    assert elsewhere.calls == []
    assert there.own() == []


def test_create__repository_was_renamed__comment_is_posted_all_the_same(hub):
    # 34: GraphQL follows a rename by itself, REST answers a write with 307.
    hub.fake.renamed_from, hub.fake.repository = hub.fake.repository, "acme/sight"

    assert post(hub.forge(), hub, "one") == "created"
    assert post(hub.forge(), hub, "two") == "updated"
    assert bodies(hub) == ["two"]
    assert hub.forge().change(7).number == 7


def test_create__gitlab_project_was_renamed__reads_follow_and_the_write_is_refused_by_name(lab):
    # 34: GitLab redirects what asks by the old path to the number; a write that followed would become a read.
    def moved(call):
        target = lab.fake.url + call.path.replace("acme%2Fresearch%2Fsight", "acme%2Fresearch%2Fvision")
        return Answer(status=301, body={"message": "Moved"}, headers={"Location": target})

    answer = lab.fake.handle
    lab.fake.handle = lambda call: moved(call) if "sight" in call.path else answer(call)
    environ = lab.environ() | {"CI_PROJECT_PATH": "acme/research/sight"}

    assert lab.forge(environ=environ).change(7).number == 7
    with pytest.raises(ServiceError, match="is the project still at acme/research/sight"):
        post(lab.forge(environ=environ), lab)
    assert lab.own() == []


def test_any__redirects_in_a_circle__is_an_error(hub):
    target = f"{hub.fake.url}/repos/acme/vision/issues/7/comments"
    moved = Answer(status=307, body={"message": "Moved"}, headers={"Location": target})
    fault(hub, hub.create_comment, answer=moved, times=99)

    with pytest.raises(ServiceError, match="redirects in a circle"):
        post(hub.forge(), hub)


@pytest.mark.parametrize("location", [None, "", "http://[", "http://127.0.0.1:99999999/x", "//elsewhere.invalid/x"])
@pytest.mark.parametrize("status", [301, 307])
def test_any__redirect_to_nonsense__is_an_error_without_a_trace(there, status, location):
    headers = {} if location is None else {"Location": location}
    moved = Answer(status=status, body={"message": "Moved"}, headers=headers)
    fault(there, there.create_comment, answer=moved, times=99)

    with pytest.raises(ServiceError):
        post(there.forge(), there)
    assert there.own() == []


def test_create__redirect_out_of_the_api__is_refused(tmp_path):
    with place("github", tmp_path) as hub:
        hub.fake.prefix = "/api/v3"
        target = f"{hub.fake.url}/login"
        moved = Answer(status=307, body={"message": "Moved"}, headers={"Location": target})
        fault(hub, hub.create_comment, answer=moved, times=99)

        with pytest.raises(ServiceError, match=r"redirects out of its API; is `GITHUB_API_URL` right\?"):
            post(hub.forge(), hub)
        assert hub.own() == []


# 18: nobody there


def test_any__host_does_not_exist__bounded_and_named(there):
    environ = {name: value.replace("127.0.0.1", "forge.invalid") for name, value in there.environ().items()}

    with pytest.raises(
        ServiceError, match=r"forge\.invalid:[0-9]+ cannot be reached \(ConnectionError\); gave up after 6"
    ):
        post(there.forge(environ=environ), there)
    assert sum(there.clock.slept) == 31


# 30: what training calls its metrics and writes into them is in test_comment.py of tests/unit/commands and of
# tests/acceptance; names of changes and users come from the forge


def test_change__title_and_author_are_hostile__come_through_as_data(hub):
    hub.fake.pulls[7].title = "x\n::error::<img src=x onerror=1>" + "\u202e" * 10
    hub.fake.pulls[7].head_repository = None

    change = hub.forge().change(7)

    assert change.title.startswith("x\n::error::")
    assert change.fork


def test_permission__user_name_is_a_path__is_encoded(there):
    from gitops_ml.forges.base import Permission

    assert there.forge().permission("../../../user") is Permission.NONE


def test_any__service_says_something_hostile__one_short_line(there):
    words = "no\r\n::add-mask::x\x1b[31m\u202e " + "y" * 5000
    fault(there, there.create_comment, answer=Answer(status=403, body={"message": words}))

    with pytest.raises(CannotPublishError) as caught:
        post(there.forge(), there)
    assert re.search(r"says 403: no ::add-mask::x \[31m y+…", str(caught.value))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


def test_status__refused_with_400__says_why_without_the_token(lab):
    words = {"message": {"base": [f"you sent glpat-canary0\r\n::error::{'x' * 500}"]}}
    fault(lab, lab.write_status, answer=Answer(status=400, body=words))

    with pytest.raises(CannotPublishError, match=r"says 400: .*you sent \*\*\*.*…$") as caught:
        lab.forge().set_status(HEAD, context="gitops-ml/x", state=State.SUCCESS, text="same", url=None)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert str(caught.value).isprintable()


# 34: the change is gone


def test_create__change_does_not_exist__is_refused(there):
    with pytest.raises(CannotPublishError, match="says 404"):
        there.forge().upsert_comment(999, marker=MARKER, body="x", commit=HEAD)


def test_change_for__fork_that_was_deleted__is_a_fork(there):
    if there.name == "github":
        there.fake.pulls[7].head_repository = None
    else:
        there.fake.requests[7].source_project = None

    assert there.forge().change_for(HEAD).fork


# Secrets


def test_any__whatever_fails__no_token_in_log_repr_or_error(there, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    secrets = list(there.fake.tokens)
    echo = Answer(status=403, body={"message": f"you sent {secrets[0]}"})
    shown = []
    for kind, status in [("answer", 403), ("answer", 400), ("answer", 500), ("reset", 0), ("cut", 0), ("garbage", 0)]:
        for at in (there.read_comments, there.create_comment, there.write_status):
            there.fake.faults.clear()
            fault(there, at, kind, times=99, answer=dataclasses.replace(echo, status=status))
            forge = there.forge()
            shown.append(repr(forge))
            try:
                post(forge, there)
                forge.set_status(HEAD, context="gitops-ml/x", state=State.SUCCESS, text="same", url=None)
            except ServiceError as error:
                shown += [str(error), repr(error), "".join(traceback.format_exception(error))]
    shown += [str(check) for check in there.forge().check()]
    shown += [*there.own(), caplog.text, *capfd.readouterr()]

    # PyGithub and urllib3 were heard, so the silence means something.
    assert "urllib3" in caplog.text
    assert len(shown) > 12
    for secret in secrets:
        assert not any(secret in text for text in shown)


class Elsewhere(Server):
    """A host that must never be asked."""

    def handle(self, call):
        return Answer(body={})
