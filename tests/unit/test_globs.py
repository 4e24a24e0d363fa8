import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitops_ml import globs


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("train.py", ["train.py"], ["src/train.py", "train.pyc", "xtrain.py"]),
        ("*.py", ["a.py", ".hidden.py"], ["src/a.py", "a.py/b"]),
        ("src/**", ["src/a", "src/b/c.py"], ["src", "srcs/a", "a/src/b"]),
        ("src/", ["src/a", "src/b/c.py"], ["src"]),
        ("**", ["a", "a/b/c"], []),
        ("**/test_*.py", ["test_a.py", "a/b/test_x.py"], ["a/test_x.py/b", "xtest_a.py"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["a/xb", "ab", "a/b/c"]),
        ("a/**/m/**/b", ["a/m/b", "a/x/m/y/b"], ["a/b", "a/m"]),
        ("**/a/**", ["a/b", "x/a/b/c"], ["a", "x/ab/c"]),
        ("a/**/**/b", ["a/b", "a/x/b"], ["ab"]),
        ("a*b*c", ["abc", "axbxc", "abcbc"], ["ab", "a/b/c"]),
        ("a**b", ["ab", "axxb"], ["a/b"]),
        ("?.txt", ["a.txt"], ["/.txt", "ab.txt"]),
        ("[a-c]x", ["ax", "cx"], ["dx"]),
        ("[!a-c]x", ["dx"], ["ax", "/x"]),
        ("[c-a]x", [], ["ax", "bx", "-x"]),
        ("[]]x", ["]x"], ["x"]),
        ("[ab", ["[ab"], ["a"]),
        ("[\\^a]", ["^", "a", "\\"], ["b"]),
        ("./a.py", ["a.py"], ["x/a.py"]),
        ("a.b+c", ["a.b+c"], ["aXb+c", "a.bbc"]),
        ("a\nb", ["a\nb"], ["ab"]),
    ],
)
def test_matches__one_glob__selects_exactly(glob, yes, no):
    assert [path for path in [*yes, *no] if globs.matches(path, [glob])] == yes


def test_matches__no_globs__selects_nothing():
    assert not globs.matches("a", [])


def test_selected__several_globs__keeps_the_order_of_the_paths():
    assert globs.selected(["b.py", "x.md", "a.txt"], ["*.txt", "*.py"]) == ["b.py", "a.txt"]


@pytest.mark.parametrize(
    ("workdir", "path", "expected"),
    [
        (".", "a/b", "a/b"),
        ("models/a", "../common/**", "models/common/**"),
        ("models", "../x", "x"),
        (".", "../x", None),
        ("a", "../..", None),
        (".", "/etc/passwd", None),
        (".", "a/../..b", "..b"),
        ("a", "b/", "a/b/"),
        ("a", ".", "a"),
    ],
)
def test_rooted__path_of_a_workdir__stays_inside_or_is_none(workdir, path, expected):
    assert globs.rooted(workdir, path) == expected


@pytest.mark.parametrize(
    ("glob", "folder"),
    [("a.yaml", "."), ("a/b.yaml", "a"), ("a/b/**/*.yaml", "a/b"), ("*.yaml", "."), ("a/", "a")],
)
def test_folder_of__glob__is_where_a_walk_may_start(glob, folder):
    assert globs.folder_of(glob) == folder


def test_matches__hostile_glob__ends_in_time():
    # With backtracking this would not end while anybody waits.
    assert not globs.matches("a" * 4000, ["*a" * 60 + "b"])
    assert not globs.matches("a/" * 2000 + "a", ["**/a/" * 60 + "b"])


@settings(deadline=None)
@given(st.text("a/*?[]!-b", max_size=12), st.text("ab/-]", max_size=8))
def test_matches__any_glob_and_path__gives_an_answer(glob, path):
    assert globs.matches(path, [glob]) in (True, False)
