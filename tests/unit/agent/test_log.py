"""Logs: bounded, and without secrets however they are cut."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gitops_ml.agent.log import TAIL_BYTES, Log
from gitops_ml.agent.redaction import Redactor, redacted


@given(st.lists(st.integers(1, 12), max_size=20), st.text("abs3cret", max_size=30))
def test_redactor__secret_cut_anywhere__never_passes(cuts: list[int], around: str) -> None:
    text = f"{around}s3cret{around}s3cret".encode()
    redactor = Redactor(["s3cret"])
    shown, position = b"", 0
    for cut in cuts:
        shown += redactor.feed(text[position : position + cut])
        position += cut
    shown += redactor.feed(text[position:]) + redactor.flush()

    assert b"s3cret" not in shown
    assert shown == text.replace(b"s3cret", b"***")


def test_redacted__other_forms_of_a_secret__are_gone() -> None:
    text = b"plain p@ss word, url p%40ss%20word, base64 cEBzcyB3b3Jk"

    assert redacted(text, ["p@ss word"]) == b"plain ***, url ***, base64 ***"


def test_redacted__known_tokens__are_gone_unasked() -> None:
    text = b"ghp_" + b"a" * 36 + b" glpat-" + b"b" * 20 + b" AKIA" + b"C" * 16 + b" https://me:pw123@host/x"

    assert redacted(text) == b"*** *** *** https://***@host/x"


def test_log__over_its_limit__keeps_both_ends(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.txt", max_bytes=1000)
    for number in range(20_000):
        log.write(b"line %d\n" % number)
    log.close()

    text = (tmp_path / "log.txt").read_text()
    assert text.startswith("line 0\n")
    assert text.endswith("line 19999\n")
    assert "bytes are left out here" in text
    assert len(text) < 1000 + 2 * TAIL_BYTES


def test_log__progress__is_the_newest_line_made_harmless(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.txt")
    log.write(b"epoch 1\n\x1b[1mepoch 2\x1b[0m: 50%\repoch 2: 100%\n\n")

    assert log.progress == "epoch 2: 100%"
    log.close()


def test_log__disk_full__goes_on_and_counts():
    log = Log(Path("/dev/full"))

    log.write(b"lost\n")
    log.say("also lost")

    assert log.progress == "gitops-ml: also lost"
    log.close()
