"""The local forge keeps the contract of a forge, as far as files can."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from gitops_ml.errors import UserError
from gitops_ml.forges.base import CannotPublishError, Image, Permission, State
from gitops_ml.forges.local import LocalForge
from gitops_ml.git import Head

MARKER = "<!-- gitops-ml comment=default -->"
COMMIT = "a" * 40


@pytest.fixture
def forge(tmp_path):
    repository = SimpleNamespace(state=tmp_path / ".gitops-ml", head=lambda: Head(commit=COMMIT, branch="topic"))
    return LocalForge(repository, {"USER": "ann"})


def state(forge) -> Path:
    return forge._folder


def test_upsert_comment__twice__one_comment_with_the_last_text(forge):
    first = forge.upsert_comment(0, marker=MARKER, body=f"{MARKER}\none\n")
    second = forge.upsert_comment(0, marker=MARKER, body=f"{MARKER}\ntwo\n")
    third = forge.upsert_comment(0, marker=MARKER, body=f"{MARKER}\ntwo\n", commit=COMMIT)

    assert [first.action, second.action, third.action] == ["created", "updated", "unchanged"]
    assert (state(forge) / "comment.md").read_text() == f"{MARKER}\ntwo\n"
    assert "<p>two</p>" in (state(forge) / "comment.html").read_text()
    assert sorted(p.name for p in state(forge).iterdir()) == ["comment.html", "comment.md"]


def test_upsert_comment__two_markers__are_two_comments(forge):
    other = "<!-- gitops-ml comment=nightly -->"
    forge.upsert_comment(0, marker=MARKER, body=f"{MARKER}\none\n")
    forge.upsert_comment(0, marker=other, body=f"{other}\ntwo\n")

    assert (state(forge) / "comment.md").read_text().endswith("one\n")
    assert (state(forge) / "comment-nightly.md").read_text().endswith("two\n")


def test_upsert_comment__file_of_somebody_else__is_left_alone(forge):
    state(forge).mkdir()
    (state(forge) / "comment.md").write_text("my notes")

    with pytest.raises(CannotPublishError):
        forge.upsert_comment(0, marker=MARKER, body=f"{MARKER}\none\n")
    assert (state(forge) / "comment.md").read_text() == "my notes"


def test_publish_image__is_inside_the_preview(forge):
    url = forge.publish_image(Image(name="a/../b", alt="b", svg=lambda: b"<svg/>", png=bytes))
    forge.upsert_comment(0, marker=MARKER, body=f"{MARKER}\n![b]({url})\n")

    preview = (state(forge) / "comment.html").read_text()
    assert (state(forge) / url).read_bytes() == b"<svg/>"
    assert "data:image/svg+xml;base64,PHN2Zy8+" in preview
    assert f'"{url}"' not in preview


def test_change__other_numbers__are_refused(forge):
    assert forge.change(0).head == COMMIT
    assert [change.number for change in forge.open_changes()] == [0]
    assert forge.change_for(COMMIT).number == 0
    assert forge.change_for("b" * 40) is None
    with pytest.raises(UserError, match="has no change 7"):
        forge.change(7)


def test_permission__only_who_sits_here(forge):
    assert forge.permission("ann") is Permission.ADMIN
    assert forge.permission("bob") is Permission.NONE


def test_set_status__same_context__is_replaced(forge):
    for text in ("one", "two"):
        forge.set_status(COMMIT, context="gitops-ml/x", state=State.FAILURE, text=text, url=None)

    statuses = json.loads((state(forge) / "statuses.json").read_text())
    assert statuses == {COMMIT: {"gitops-ml/x": {"state": "failure", "text": "two", "url": None}}}


def test_check__says_whether_it_can_write(forge):
    assert [check.ok for check in forge.check()] == [True]
