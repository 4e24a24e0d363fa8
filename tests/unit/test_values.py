"""Values behave as frozen dataclasses do, but that nobody checks at run time what the type checker has checked."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from gitops_ml.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    x: int
    secret: str = dataclasses.field(default="", repr=False)


def test_dataclass__equal_ones__are_one_key():
    assert {_Point(x=1, secret="a"), _Point(x=1, secret="a"), _Point(x=1, secret="b")} == {
        _Point(x=1, secret="a"),
        _Point(x=1, secret="b"),
    }


def test_dataclass__standard_functions__take_it():
    assert dataclasses.replace(_Point(x=1, secret="a"), x=2) == _Point(x=2, secret="a")
    assert [field.name for field in dataclasses.fields(_Point)] == ["x", "secret"]
    assert repr(_Point(x=1, secret="a")) == "_Point(x=1)"


@dataclass(frozen=True, slots=True)
class _Other:
    x: int
    secret: str = ""


@dataclass(frozen=True, slots=True)
class _Nothing:
    pass


def test_dataclass__another_class_or_value__is_not_equal():
    assert _Point(x=1) != _Point(x=2)
    assert _Point(x=1) != _Other(1)
    assert _Other(1) != (1, "")
    assert _Nothing() == _Nothing()
    assert len({_Nothing(), _Nothing()}) == 1
    assert repr(_Nothing()) == "_Nothing()"


def test_dataclass__methods__do_as_the_standard_ones_do():
    standard = dataclasses.make_dataclass("_Other", ["x", "secret"], frozen=True)
    for values in ((1, "a"), ((1, 2), "a"), (float("nan"), "")):
        ours, theirs = _Other(*values), standard(*values)
        assert repr(ours) == repr(theirs)
        assert hash(ours) == hash(theirs)
        assert (ours == _Other(*values)) == (theirs == standard(*values))


@dataclass(frozen=True)
class _Secret:
    value: str

    def __repr__(self) -> str:
        return "_Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str)

    def __hash__(self) -> int:
        return 7


def test_dataclass__methods_of_its_own__are_kept():
    assert repr(_Secret("a")) == "_Secret(***)"
    assert _Secret("a") == "b"
    assert hash(_Secret("a")) == 7


def test_dataclass__one_that_changes__cannot_be_a_key():
    @dataclass(frozen=False)
    class Changes:
        x: int

    with pytest.raises(TypeError, match="unhashable"):
        hash(Changes(1))


def test_dataclass__assignment__is_refused_by_the_type_checker(tmp_path):
    file = tmp_path / "changes.py"
    file.write_text("from gitops_ml.stats import Noise\nNoise(1.0, 2).df = 3\n")

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", f"--cache-dir={tmp_path / 'cache'}", str(file)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
    )

    assert done.stdout == f'{file}:2: error: Property "df" defined in "Noise" is read-only  [misc]\n'
