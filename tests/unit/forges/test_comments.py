from hypothesis import given
from hypothesis import strategies as st

from gitops_ml.forges._comments import (
    HEADER_BYTES,
    Order,
    OwnComment,
    Seen,
    body_of,
    nonce_of,
    order_of,
    text_of,
    upsert,
)
from tests.fakes.forges import Clock

MARKER = "<!-- gitops-ml comment=default -->"
HEAD = "a" * 40
LAPTOP = Order()

orders = st.builds(
    Order,
    run=st.integers(0, 10**17),
    attempt=st.integers(0, 10**17),
    commit=st.none() | st.sampled_from([HEAD, "b" * 64]),
)


class Thread:
    """Comments in a list; `between` runs after every look."""

    def __init__(self, *texts):
        self.texts = dict(enumerate(texts))
        self.between = []

    def look(self):
        own = tuple(OwnComment(number=n, url=f"u{n}", text=text) for n, text in self.texts.items())
        if self.between:
            self.between.pop(0)()
        return Seen(url="u", head=HEAD, open=True, own=own)

    def create(self, text):
        self.texts[max(self.texts, default=-1) + 1] = text

    def edit(self, comment, text):
        if comment.number not in self.texts:
            return False
        self.texts[comment.number] = text
        return True

    def delete(self, comment):
        self.texts.pop(comment.number, None)


def post(thread, body, order=LAPTOP, nonce="ab"):
    return upsert(thread, marker=MARKER, body=body, order=order, nonce=nonce, patience=Clock().patience())


@given(st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=60), orders)
def test_text_of__is_read_back(body, order):
    text = text_of(marker=MARKER, body=body, order=order, nonce="0a")

    assert text.startswith(f"{MARKER}\n")
    assert order_of(text) == order
    assert nonce_of(text) == "0a"
    assert len(text.encode()) - len(body.encode()) <= HEADER_BYTES
    assert body_of(text.replace("\n", "\r\n")) == body_of(text)


def test_text_of__body_with_its_marker__has_it_once():
    text = text_of(marker=MARKER, body=f"{MARKER}\nhello\n", order=Order(), nonce="0a")

    assert text == f"{MARKER}\n<!-- gitops-ml order=0.1 nonce=0a -->\nhello\n"


@given(st.text(max_size=80))
def test_order_of__any_text__does_not_fail(text):
    assert order_of(f"{MARKER}\n{text}") is None or text.startswith("<!-- gitops-ml order=")
    nonce_of(text)
    body_of(text)


@given(st.lists(orders, max_size=4), orders)
def test_upsert__whatever_ours_stand_there__one_remains_and_twice_is_once(earlier, order):
    texts = [text_of(marker=MARKER, body=f"text {n}", order=one, nonce=f"{n}") for n, one in enumerate(earlier)]
    thread = Thread(*texts)

    first = post(thread, "new", order)
    after = dict(thread.texts)
    second = post(thread, "new", order, nonce="cd")

    assert len(after) == 1
    assert thread.texts == after
    assert second.action == ("outdated" if first.action == "outdated" else "unchanged")


def test_upsert__no_runs_known__the_last_writer_stands():
    thread = Thread()

    assert [post(thread, body, nonce=nonce).action for body, nonce in [("one", "1"), ("two", "2"), ("two", "3")]] == [
        "created",
        "updated",
        "unchanged",
    ]
    assert [body_of(text) for text in thread.texts.values()] == ["two"]


def test_upsert__deleted_again_and_again__gives_up_and_says_so():
    import pytest

    from gitops_ml.errors import ServiceError

    thread = Thread()
    thread.create = lambda text: None

    with pytest.raises(ServiceError, match="removed or added again as soon as it is looked at; gave up after 6 tries"):
        post(thread, "new")
