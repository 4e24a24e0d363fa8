import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gitops_ml.diagnostics import Position
from gitops_ml.source import MAX_BYTES, read_source, shown


def problems(text: str | bytes) -> list[str]:
    content = text.encode() if isinstance(text, str) else text
    found = read_source(content, "f.yaml").problems
    return [f"{it.position.line}:{it.position.column} {it.code}" for it in found]


def value(text: str) -> object:
    source = read_source(f"key: {text}\n".encode(), "f.yaml")
    assert source.problems == ()
    return source.data["key"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("~", None),
        ("Null", None),
        ("true", True),
        ("FALSE", False),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("12", 12),
        ("+12", 12),
        ("-0", 0),
        ("010", 10),
        ("0o17", 15),
        ("0xfF", 255),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1.5E+3", -1500.0),
        ("1.2.3", "1.2.3"),
        ("1:30", "1:30"),
        ("2026-11-23", "2026-11-23"),
        ("2026-11-23T10:00:00Z", "2026-11-23T10:00:00Z"),
        ("=", "="),
        ("'12'", "12"),
        ('"true"', "true"),
        ("18446744073709551615", 2**64 - 1),
        ("|\n  12\n", "12\n"),
    ],
)
def test_read_source__plain_scalar__has_its_yaml_1_2_core_type(text, expected):
    found = value(text)

    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", ["3:1 duplicate-key"]),
        ("a: &x 1\n", ["1:4 anchor"]),
        ("a: &x {b: 1}\nc: *x\n", ["1:4 anchor", "2:4 alias"]),
        ("a:\n  <<: {b: 1}\n", ["2:3 merge-key"]),
        ("a: !!str 1\n", ["1:4 tag"]),
        ("a: ! 1\n", ["1:4 tag"]),
        ("a: !x {b: 1}\n", ["1:4 tag"]),
        ("! a: 1\n", ["1:1 tag"]),
        ("a: 1\n---\nb: 1\n", ["2:1 several-documents"]),
        ("1: a\n", ["1:1 key-type"]),
        ("true: a\n", ["1:1 key-type"]),
        ("? [a]\n: 1\n", ["1:3 key-type"]),
        ("a: .nan\nb: -.inf\n", ["1:4 number-range", "2:4 number-range"]),
        ("a: 1e999\n", ["1:4 number-range"]),
        ("a: 18446744073709551616\n", ["1:4 number-range"]),
        (f"a: {'9' * 5000}\n", ["1:4 number-range"]),
        ("a: b\x00\n", ["1:5 control-character"]),
        ("a: b\x07\n", ["1:5 control-character"]),
        ("ä: \u202eb\n", ["1:4 control-character"]),
        ("a: 1\n# \u2028\n", ["2:3 control-character"]),
        ('a: "\\0"\n', ["1:4 control-character"]),
        (b"a: 1\nb: \xff\n", ["2:4 not-utf-8"]),
        ("a: 1\n".encode("utf-16"), ["1:1 not-utf-8"]),
        ("%YAML 1.1\n---\na: 1\n", ["1:1 yaml-version"]),
        ("a: [1\n", ["2:1 yaml-syntax"]),
        ("a:\n\tb: 1\n", ["2:1 yaml-syntax"]),
        ("a: 'b\n", ["1:4 yaml-syntax"]),
        ("a: 1\n<<<<<<< HEAD\nb: 2\n", ["2:1 merge-conflict"]),
        ("a: 1\n>>>>>>> theirs\n", ["2:1 merge-conflict"]),
        ("[" * 40, ["1:33 too-deep"]),
        ("- " * 40, ["1:65 too-deep"]),
        ("{" * 40, ["1:33 too-deep"]),
        (b" " * (MAX_BYTES + 1), ["1:1 too-large"]),
    ],
    ids=repr,
)
def test_read_source__what_is_refused__is_found_where_it_stands(text, expected):
    assert problems(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffa: 1\n",
        "---\na: 1\n",
        "a: 1\n...\n",
        "a: 1\r\n",
        "# c\n---\na: 1 # c\n",
        "%YAML 1.2\n---\na: 1\n",
        "{a: 1}",
    ],
    ids=repr,
)
def test_read_source__accepted_dress__is_the_same_data(text):
    source = read_source(text.encode(), "f.yaml")

    assert source.problems == ()
    assert source.data == {"a": 1}


def test_read_source__thirty_two_levels__are_accepted():
    assert problems("[" * 32 + "]" * 32) == []


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_read_source__nothing__is_none(text):
    source = read_source(text.encode(), "f.yaml")

    assert (source.data, source.problems, source.complete) == (None, (), True)


TEXT = """\
a: 1
b:
  - x
  - {c: 2, d: "ä: ${params.x}"}
run: >-
  python ${params.lr} then
  ${params.lr} and ${params.lr}
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("path", "key", "expected"),
    [
        ((), False, (1, 1)),
        (("a",), True, (1, 1)),
        (("a",), False, (1, 4)),
        (("b",), False, (3, 3)),
        (("b", 1), False, (4, 5)),
        (("b", 1, "d"), True, (4, 12)),
        (("b", 1, "d"), False, (4, 15)),
        (("b", 1, "missing"), False, (4, 5)),
        (("b", 7), False, (3, 3)),
        (("b", 0), True, (3, 5)),
        (("run",), False, (5, 6)),
    ],
)
def test_position__of_keys_and_values__is_exact(newline, path, key, expected):
    source = read_source(TEXT.replace("\n", newline).encode(), "f.yaml")

    found = source.key_position(path) if key else source.position(path)

    assert found == Position(*expected)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_position_in__n_th_time_in_a_string__is_exact(newline):
    source = read_source(TEXT.replace("\n", newline).encode(), "f.yaml")

    places = [source.position_in(("run",), "${params.lr}", number) for number in range(3)]

    assert places == [Position(6, 10), Position(7, 3), Position(7, 20)]
    assert source.position_in(("b", 1, "d"), "${params.x}", 0) == Position(4, 19)
    assert source.position_in(("run",), "${params.lr}", 3) == Position(5, 6)


def test_shown__hostile_text__is_one_short_printable_line():
    assert shown("a\n\x1b[31m" + "x" * 100) == "`a\ufffd\ufffd[31m" + "x" * 50 + "...`"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(":-[]{}&*!|>'\"%#?, \n\tab1.~<", max_size=40).map(str.encode))
@example(b"? *a\n: 1")
@example(b"*a : 1")
@example(b"!!float x: 1\n? ? ? a")
def test_read_source__any_bytes__places_lie_inside_the_text(content):
    source = read_source(content, "f.yaml")

    lines = content.count(b"\n") + content.count(b"\r") + 1
    assert source.complete or source.problems
    assert all(1 <= it.position.line <= lines and it.position.column >= 1 for it in source.problems)
