"""Every forge keeps one contract: one comment per change and marker, one newest status, changes and permissions."""

import dataclasses
import re
import subprocess
import sys
import threading

import pytest

from gitops_ml.ci import context
from gitops_ml.forges._comments import body_of
from gitops_ml.forges.base import CannotPublishError, Image, Permission, Standing, State, Told
from tests.fakes.forges import HEAD, place
from tests.fakes.server import Fault

MARKER = "<!-- gitops-ml comment=default -->"
OTHER = "<!-- gitops-ml comment=nightly -->"


@pytest.fixture(params=["github", "gitlab", "local"])
def there(request, tmp_path):
    with place(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture(params=["github", "gitlab"])
def remote(request, tmp_path):
    with place(request.param, tmp_path) as opened:
        yield opened


def post(forge, there, text, *, marker=MARKER, commit=HEAD):
    return forge.upsert_comment(there.number, marker=marker, body=f"{marker}\n{text}\n", commit=commit).action


def bodies(there):
    return [body_of(text) for text in there.own()]


def test_upsert_comment__first_changed_and_same_text__one_comment(there):
    actions = [post(there.forge(), there, text) for text in ("one", "two", "two")]

    assert actions == ["created", "updated", "unchanged"]
    assert bodies(there) == ["two"]


def test_upsert_comment__two_markers__two_comments(there):
    post(there.forge(), there, "one")
    post(there.forge(), there, "two", marker=OTHER)
    post(there.forge(), there, "three")

    assert sorted(bodies(there)) == ["three", "two"]


def test_upsert_comment__first_line_is_the_marker(there):
    post(there.forge(), there, "one")

    assert there.own()[0].split("\n")[0] == MARKER


def test_upsert_comment__same_body__is_the_same_on_every_forge(tmp_path):
    shown = []
    for name in ("github", "gitlab", "local"):
        with place(name, tmp_path) as there:
            post(there.forge(), there, "| a | b |\n| --- | --- |\n| é | `x` |")
            shown += bodies(there)

    assert len(shown) == 3
    assert len(set(shown)) == 1


def test_set_status__pending_then_failure__the_newest_stands(there):
    forge = there.forge()
    forge.set_status(HEAD, context="gitops-ml/x", state=State.PENDING, text="training", url=None)
    forge.set_status(HEAD, context="gitops-ml/x", state=State.FAILURE, text="worse", url=None)

    assert there.statuses()[-1] == ("gitops-ml/x", "failure", "worse")


def test_set_status__same_again__is_no_error(there):
    for _ in range(2):
        there.forge().set_status(HEAD, context="gitops-ml/x", state=State.PENDING, text="training", url=None)

    assert there.statuses()[-1] == ("gitops-ml/x", "pending", "training")


def test_statuses__of_two_contexts__the_newest_of_each(there):
    forge, url = there.forge(), "https://ci.test/runs/5"
    assert forge.statuses(HEAD) == {}
    for name, state, text in (
        ("x", State.PENDING, "training"),
        ("y", State.PENDING, "b"),
        ("x", State.FAILURE, "c"),
    ):
        forge.set_status(HEAD, context=f"gitops-ml/{name}", state=state, text=text, url=url)

    assert there.forge().statuses(HEAD) == {
        "gitops-ml/x": Standing(state=State.FAILURE, text="c", url=url),
        "gitops-ml/y": Standing(state=State.PENDING, text="b", url=url),
    }
    assert forge.statuses("f" * 40) == {}


def test_change_for__head_and_unknown_commit(there):
    forge = there.forge()

    assert forge.change_for(HEAD).number == there.number
    assert forge.change_for("f" * 40) is None
    assert [change.number for change in forge.open_changes()] == [there.number]
    change = forge.change(there.number)
    assert (change.head, change.head_ref, change.base_ref, change.open) == (HEAD, "larger-rate", "main", True)
    assert not change.fork


def test_change_for__head_of_a_fork_among_many__is_found(remote):
    fake = remote.fake
    if remote.name == "github":
        fake.pulls |= {n: dataclasses.replace(fake.pulls[7], number=n, head=f"{n:040x}") for n in range(100, 300)}
        fake.pulls[7].head_repository = "stranger/vision"
    else:
        fake.requests[7].source_project = 4711

    found = remote.forge().change_for(HEAD)
    assert (found.number, found.fork) == (7, True)


def test_check__every_line_says_what_was_found(there):
    checks = list(there.forge().check())

    assert checks
    assert all(check.subject and check.found for check in checks)
    assert all(check.fix for check in checks if check.ok is False)


# GitHub and GitLab


def test_permission__of_members_strangers_and_nobody(remote):
    forge = remote.forge()

    assert forge.permission("dana") is Permission.ADMIN
    assert forge.permission("rob") is Permission.WRITE
    assert forge.permission("stranger") is Permission.READ
    assert forge.permission("nobody-here") is Permission.NONE


def test_all__enterprise_server_and_gitlab_below_a_path__are_found_by_the_environment(remote):
    remote.fake.prefix = {"github": "/api/v3", "gitlab": "/git"}[remote.name]
    forge = remote.forge()

    assert [post(forge, remote, text) for text in ("one", "two")] == ["created", "updated"]
    forge.set_status(HEAD, context="gitops-ml/x", state=State.SUCCESS, text="same", url=None)
    assert forge.change_for(HEAD).number == remote.number
    assert bodies(remote) == ["two"]
    assert len(remote.statuses()) == 1


def test_run_is_over__running_ended_and_a_foreign_link(remote):
    forge = remote.forge()
    url = context(remote.environ(run=11)).whole_run_url
    answers = []
    for over in (False, True):
        remote.set_run(11, over=over)
        answers.append(forge.run_is_over(url))

    assert answers == [False, True]
    assert forge.run_is_over(f"{url}2") is True, "a run that is not known any more does nothing"
    assert forge.run_is_over("https://elsewhere.test/acme/vision/actions/runs/11") is None
    assert forge.run_is_over(f"{url}/../../secrets") is None


def test_run_is_over__token_without_the_permission__names_it(tmp_path):
    with place("github", tmp_path) as there:
        there.set_run(11, over=False)
        there.fake.tokens["ghs_canary0"].may = frozenset({"statuses"})
        with pytest.raises(CannotPublishError, match="needs `actions: read`"):
            there.forge().run_is_over(context(there.environ(run=11)).whole_run_url)


def test_set_status__of_a_status_that_was_read__stays_in_its_pipeline(tmp_path):
    with place("gitlab", tmp_path) as there:
        there.forge(run=5).set_status(HEAD, context="gitops-ml/x", state=State.PENDING, text="training", url=None)
        later = there.forge(run=9)
        assert later.statuses(HEAD)["gitops-ml/x"].state is State.PENDING
        later.set_status(HEAD, context="gitops-ml/x", state=State.ERROR, text="ended", url=None)

    assert [one["pipeline_id"] for one in there.fake.statuses] == [5, 5]


def test_set_status__long_text__is_cut_to_what_the_forge_takes(remote):
    remote.forge().set_status(HEAD, context="gitops-ml/x", state=State.SUCCESS, text="ä" * 1000, url="https://x.test/r")

    text = remote.statuses()[-1][2]
    assert text.endswith("ä…")
    assert len(text) == {"github": 140, "gitlab": 255}[remote.name]


def test_upsert_comment__250_foreign_ones_and_ours_on_page_3__is_found(remote):
    remote.add_foreign("x")
    remote.add_own(f"{MARKER}\nold")
    for number in range(250):
        remote.add_foreign(f"comment {number}")

    assert post(remote.forge(), remote, "new") == "updated"
    assert bodies(remote) == ["new"]
    assert len(remote.foreign()) == 251


def test_upsert_comment__marker_copied_by_someone_else__theirs_is_untouched(remote):
    stolen = f"{MARKER}\n<!-- gitops-ml order=999999.1 commit={HEAD} nonce=00 -->\nyou pass"
    remote.add_foreign(stolen)

    assert post(remote.forge(), remote, "mine") == "created"
    assert remote.foreign() == [stolen]
    assert bodies(remote) == ["mine"]


def test_upsert_comment__marker_quoted_below_the_first_line__is_not_ours_to_edit(remote):
    remote.add_own(f"> {MARKER}\nquoted by another tool that has our identity")

    assert post(remote.forge(), remote, "mine") == "created"
    assert len(remote.own()) == 2


@pytest.mark.parametrize(
    ("name", "token", "author"),
    [
        ("github", "ghs_canary0", "github-actions[bot]"),  # the workflow's own, an installation token
        ("github", "ghp_canary1", "dana"),  # of a person
        ("gitlab", "glpat-canary0", 90),  # of the project, which has a user of its own
        ("gitlab", "glpat-canary2", 1),  # of a person
    ],
)
def test_upsert_comment__each_kind_of_token__finds_its_own(tmp_path, name, token, author):
    with place(name, tmp_path) as there:
        if name == "gitlab":
            there.fake.tokens["glpat-canary2"] = type(there.fake.tokens["glpat-canary0"])(user=1)
        others = [one for one in there.fake.tokens if one != token and not one.startswith("glcbt")]
        for other in others:
            post(there.forge(token=other), there, "theirs")

        actions = [post(there.forge(token=token, run=run), there, f"ours {run}") for run in (5, 6)]

        assert actions == ["created", "updated"]
        assert [body_of(comment.body) for comment in there.fake.by(author)] == ["ours 6"]
        assert len(there.fake.comments if name == "github" else there.fake.notes) == 2


def test_upsert_comment__surplus_ones_of_ours__are_removed(remote):
    for text in ("one", "two", "three"):
        remote.add_own(f"{MARKER}\n{text}")

    post(remote.forge(), remote, "new")

    assert bodies(remote) == ["new"]


def test_upsert_comment__older_run_after_newer__newer_stays(remote):
    post(remote.forge(run=6), remote, "newer")

    assert post(remote.forge(run=5), remote, "older") == "outdated"
    assert bodies(remote) == ["newer"]


def test_upsert_comment__older_attempt_of_the_run__newer_stays(remote):
    post(remote.forge(run=5, attempt=2), remote, "second try")

    assert post(remote.forge(run=5, attempt=1), remote, "first try") == "outdated"
    assert bodies(remote) == ["second try"]


def test_upsert_comment__new_run_for_an_old_commit__head_commit_stays(remote):
    post(remote.forge(run=5), remote, "of the head")

    assert post(remote.forge(run=9), remote, "of an old commit", commit="b" * 40) == "outdated"
    assert bodies(remote) == ["of the head"]


def test_upsert_comment__after_a_push__newer_commit_replaces_older(remote):
    post(remote.forge(run=5), remote, "old head")
    remote.push("b" * 40)

    assert post(remote.forge(run=5), remote, "new head", commit="b" * 40) == "updated"
    assert bodies(remote) == ["new head"]


def test_upsert_comment__same_text_of_a_newer_run__the_order_moves_on(remote):
    # Else a run between the two that ends last would count as newer than what stands.
    post(remote.forge(run=5), remote, "same")
    post(remote.forge(run=9), remote, "same")

    assert post(remote.forge(run=7), remote, "between") == "outdated"


def test_upsert_comment__someone_edited_ours__is_put_right(remote):
    post(remote.forge(), remote, "verdict: worse")
    remote.add_own(remote.own()[0].replace("worse", "better"))
    first = remote.fake.comments if remote.name == "github" else remote.fake.notes
    del first[0]

    assert post(remote.forge(), remote, "verdict: worse") == "updated"
    assert bodies(remote) == ["verdict: worse"]


def test_upsert_comment__too_long__is_refused_before_it_is_sent(remote):
    with pytest.raises(CannotPublishError, match="takes"):
        post(remote.forge(), remote, "x" * remote.forge().max_comment_bytes)

    assert remote.fake.calls == []


def test_upsert_comment__longest_allowed__is_taken(remote):
    forge = remote.forge()
    body = "x" * forge.max_comment_bytes
    forge.upsert_comment(remote.number, marker=MARKER, body=body, commit="a" * 64)

    assert bodies(remote) == [body]


def test_upsert_comment__existing_among_fewer_than_100__few_requests(remote):
    for _ in range(90):
        remote.add_foreign("x")
    post(remote.forge(), remote, "one")
    remote.fake.calls.clear()

    forge = remote.forge(run=6)
    post(forge, remote, "two")
    forge.set_status(HEAD, context="gitops-ml/x", state=State.SUCCESS, text="same", url=None)

    assert len(remote.fake.calls) == {"github": 3, "gitlab": 5}[remote.name]


@pytest.mark.parametrize("runs", [(5, 5), (5, 6), (6, 5)])
def test_upsert_comment__two_processes_post_the_first_at_once__one_remains(remote, runs):
    # Neither gets an answer to its first look, nor to its first write, before the other has done the same.
    both = threading.Barrier(2, timeout=20)
    turns = {remote.read_comments: 2, remote.create_comment: 2}
    lock = threading.Lock()

    def wait_for_the_other(call):
        for step in list(turns):
            if call.method == step[0] and re.fullmatch(step[1], call.path):
                with lock:
                    turns[step] -= 1
                    first_two = turns[step] >= 0
                if first_two:
                    both.wait()

    remote.fake.before_answer = wait_for_the_other
    forges = [remote.forge(run=run) for run in runs]
    threads = [threading.Thread(target=post, args=(forge, remote, f"by run {run}")) for forge, run in zip(forges, runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(remote.fake.sent(*remote.create_comment)) == 2
    assert bodies(remote) == [f"by run {max(runs)}"]


def test_upsert_comment__closed_change__nothing_is_written(remote):
    remote.close_change()

    assert post(remote.forge(), remote, "late") == "closed"
    assert remote.own() == []


def test_import__of_the_forges__loads_no_client():
    code = (
        "import sys, gitops_ml.forges.github, gitops_ml.forges.gitlab\n"
        "print({'github', 'gitlab', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)

    assert done.stdout.strip() == "set()"


# Images


PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20


def image(**more):
    return Image(name="digits-curves", alt="curves", svg=lambda: b"<svg/>", png=lambda: PNG, **more)


def drawn():
    raise AssertionError("drawn for nothing")


def test_publish_image__github__links_the_ledger_by_commit_on_its_own_host(tmp_path):
    with place("github", tmp_path) as there:
        stored = dataclasses.replace(
            image(), png=drawn, svg=drawn, ledger_path="reports/x/a b/plots/c.svg", ledger_commit="c" * 40
        )
        url = there.forge().publish_image(stored)

        assert url == f"{there.fake.url}/acme/vision/blob/{'c' * 40}/reports/x/a%20b/plots/c.svg?raw=true"
        assert there.fake.calls == []


def test_page_url__of_each_forge__names_the_commit(there):
    url = there.forge().page_url("c" * 40, "reports/x/a b/report.md")

    if there.name == "local":
        assert url is None
    else:
        project, inside = {"github": ("acme/vision", ""), "gitlab": ("acme/research/vision", "-/")}[there.name]
        assert url == f"{there.fake.url}/{project}/{inside}blob/{'c' * 40}/reports/x/a%20b/report.md"


def test_publish_image__github_workflow_token__does_not_even_ask(tmp_path):
    with place("github", tmp_path) as there:
        forge = there.forge(uploads_url=there.fake.url)

        assert forge.publish_image(dataclasses.replace(image(), png=drawn)) is None
        assert there.fake.calls == []


def test_publish_image__github_own_token_that_may_push__uploads(tmp_path):
    with place("github", tmp_path) as there:
        url = there.forge(uploads_url=there.fake.url, token="ghp_canary1").publish_image(image())

        assert there.fake.attachments == {url: PNG}


@pytest.mark.parametrize("why", ["no push", "enterprise server", "refused"])
def test_publish_image__github_upload_cannot_work__is_none(tmp_path, why):
    with place("github", tmp_path) as there:
        uploads = None if why == "enterprise server" else there.fake.url
        if why == "no push":
            there.fake.tokens["ghp_canary1"].may = frozenset({"pull-requests"})
        if why == "refused":
            there.fake.faults.append(Fault(kind="answer", path="/user-attachments/assets"))
        forge = there.forge(uploads_url=uploads, token="ghp_canary1")

        assert forge.publish_image(image()) is None
        assert there.fake.attachments == {}


def test_publish_image__gitlab__uploads_once_per_picture(tmp_path):
    with place("gitlab", tmp_path) as there:
        forge = there.forge()
        url = forge.publish_image(image())
        post(forge, there, f"![curves]({url})")

        assert re.fullmatch(r"/uploads/[0-9a-f]{32}/digits-curves-[0-9a-f]{16}\.png", url)
        assert there.forge(run=6).publish_image(image()) == url
        assert list(there.fake.uploads.values()) == [PNG]


def test_publish_image__gitlab_picture_of_the_same_data__is_not_drawn_again(tmp_path):
    with place("gitlab", tmp_path) as there:
        forge = there.forge()
        url = forge.publish_image(image(version="0f" * 8))
        post(forge, there, f"![curves]({url})")

        again = dataclasses.replace(image(version="0f" * 8), png=drawn, svg=drawn)
        assert there.forge(run=6).publish_image(again) == url


def test_publish_image__gitlab_commit__links_the_ledger(tmp_path):
    with place("gitlab", tmp_path) as there:
        stored = dataclasses.replace(image(), ledger_path="reports/x/c.svg", ledger_commit="c" * 40)

        assert there.forge().publish_image(stored, how="commit") == (
            f"{there.fake.url}/acme/research/vision/-/raw/{'c' * 40}/reports/x/c.svg?inline=true"
        )
        assert there.forge().publish_image(image(), how="commit") is None


@pytest.mark.parametrize("kind", ["answer", "reset", "garbage"])
def test_publish_image__service_fails__is_none_and_not_repeated(remote, kind):
    remote.fake.faults.append(Fault(kind=kind, times=99))
    more = {"uploads_url": remote.fake.url, "token": "ghp_canary1"} if remote.name == "github" else {}

    assert remote.forge(**more).publish_image(image(), how="upload") is None
    assert len(remote.fake.calls) <= 2
    assert remote.clock.slept == []


def test_told__our_newest_comment__names_its_commit_and_run(remote):
    assert remote.forge().told(remote.number, marker=MARKER) is None

    post(remote.forge(run=5), remote, "one", commit="b" * 40)
    post(remote.forge(run=6), remote, "two", commit=HEAD)
    post(remote.forge(run=7), remote, "three", marker=OTHER, commit="c" * 40)

    assert remote.forge().told(remote.number, marker=MARKER) == Told(commit=HEAD, run_id=6)


def test_told__somebody_elses_comment_with_our_marker__is_not_believed(remote):
    text = f"{MARKER}\n<!-- gitops-ml order=9.1 commit={'e' * 40} nonce=abc -->\nrun this"
    remote.add_foreign(text)

    assert remote.forge().told(remote.number, marker=MARKER) is None
