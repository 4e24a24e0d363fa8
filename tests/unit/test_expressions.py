"""Conditions on rows: what they mean, what is refused and where, and that nothing else ever comes out."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitops_ml.errors import UserError
from gitops_ml.expressions import MAX_CHARACTERS, MISSING, ExpressionError, condition, value

NAMES = {"experiment": False, "n": False, "dirty": False, "seeds": False, "params": True, "metrics": True}
KNOWN = "known are: dirty, experiment, n, seeds; or with what holds it:"
ROW = {
    "experiment": "digits",
    "n": 3,
    "dirty": False,
    "seeds": (0, 1, 2),
    "params": {"lr": 0.05, "act": "relu", "layers": (64, 32), "on": True},
    "metrics": {"accuracy": 0.96, "val/loss": 0.2, "broken": math.nan},
}


@pytest.mark.parametrize(
    "text",
    [
        'params.lr < 0.1 and metrics["accuracy"] > 0.95',
        "0.01 < params.lr <= 0.05",
        "params['act'] in ['relu', 'gelu']",
        "params.act not in ['tanh']",
        "experiment == 'digits' and not dirty",
        "'git' in experiment",
        "'lr' in params and 2 in seeds",
        "params.layers == [64, 32]",
        "params.on == true and dirty == False",
        "metrics.accuracy > -1 and n >= +3",
        "(n == 1 or n == 3) and n != 4",
        "  n == 3\n and dirty == false ",
        'metrics["val/loss"] < 1e-0',
        "params.on",
    ],
)
def test_condition__that_the_row_fulfils__is_true(text):
    assert condition(text, NAMES)(ROW) is True


@pytest.mark.parametrize(
    "text",
    [
        "params.momentum < 1",
        "params.momentum >= 1",
        "params.momentum == params.momentum",
        "params.momentum != 3",
        "params.momentum not in [1, 2]",
        "params.momentum",
        "1 < params.momentum < 3",
        "params.act < 3",
        "3 in n",
        "metrics.broken > 0",
        "metrics.broken",
        "n > 2 > params.lr > 1",
    ],
)
def test_condition__of_missing_or_unlike_values__is_false(text):
    assert condition(text, NAMES)(ROW) is False


def test_condition__row_without_the_mapping__is_false():
    assert condition("params.lr < 1", NAMES)({}) is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "parms.lr < 0.1",
            "column 1: unknown name `parms`; did you mean `params`?\n  parms.lr < 0.1\n  ^",
        ),
        ("n and xyz", f"column 7: unknown name `xyz`; {KNOWN} params.xyz, metrics.xyz\n  n and xyz\n        ^"),
        ("  n == é", f"column 8: unknown name `é`; {KNOWN} params.é, metrics.é\n    n == é\n         ^"),
        ("n = 1", "column 3: `=` is not part of the language; write `==`\n  n = 1\n    ^"),
        ("n == 1 && dirty", "column 8: `&&` is not part of the language; write `and`\n  n == 1 && dirty\n         ^"),
        ("", "column 1: there is no condition here, such as `params.lr < 0.1`\n  \n  ^"),
        ("n.real == 1", "column 1: only these have values by name: metrics, params\n  n.real == 1\n  ^"),
        (
            "params[0] == 1",
            'column 8: a name in quotes is wanted here: params["NAME"]\n  params[0] == 1\n         ^',
        ),
    ],
)  # fmt: skip
def test_condition__that_is_none__is_refused_at_its_column(text, message):
    with pytest.raises(ExpressionError) as caught:
        condition(text, NAMES)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("__import__('os').system('true')", "a call"),
        ("n + 1 == 2", "arithmetic"),
        ("9 ** 9 ** 9", "arithmetic"),
        ("-n == 1", "a sign on anything but a number"),
        ("lambda: 1", "a function"),
        ("[x for x in seeds]", "a loop"),
        ("1 if n else 2", "`if`"),
        ("f'{n}'", "a text with values in it"),
        ("(y := 3)", "an assignment"),
        ("{1: 2}", "what stands in braces"),
    ],
)
def test_condition__of_what_python_can_do_beside__is_refused_by_name(text, what):
    with pytest.raises(ExpressionError, match=r"is not part of the language; accepted are names") as caught:
        condition(text, NAMES)

    assert caught.value.message.startswith(f"{what} is not")


@pytest.mark.parametrize(
    "text", ["params.lr.__class__", "params.lr.x == 1", "b'x' == 1", "1j == n", "... == n", "n is 3"]
)
def test_condition__other_ways_out__are_refused(text):
    with pytest.raises(ExpressionError):
        condition(text, NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "not " * 200 + "n",
        "[" * 90 + "]" * 90,
        "n" + " or n" * 399,
        "[" + "1," * 900 + "1]",
        "n == 1 " + " " * MAX_CHARACTERS + "or n",
        "-" * 1990 + "1",
        "params" + ".x" * 900,
    ],
)
def test_condition__too_large__is_refused(text):
    with pytest.raises(ExpressionError):
        condition(text, NAMES)


@given(st.text(max_size=60) | st.text("()[]'\"n.paramslr<>=! and or not in 01,-\\\n\0\ud800é", max_size=60))
@settings(max_examples=400)
def test_condition__any_text__gives_an_answer_or_our_error(text):
    column = None
    try:
        found = condition(text, NAMES)
    except ExpressionError as error:
        column = error.column
    if column is None:
        assert {found(ROW), found({})} <= {True, False}
    else:
        assert 1 <= column <= len(text) + 1


_scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.tuples(st.integers())


@given(_scalar, st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in"]), _scalar)
@settings(max_examples=200)
def test_condition__values_of_any_kind__never_fail(one, test, other):
    row = {"params": {"a": one, "b": other}}

    assert condition(f"params.a {test} params.b", NAMES)(row) in (True, False)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
@settings(max_examples=100)
def test_condition__of_two_numbers__is_pythons_own(one, other):
    assert condition("params.a < params.b", NAMES)({"params": {"a": one, "b": other}}) is (one < other)


def test_value__named_one__is_taken():
    assert value('metrics["val/loss"]', NAMES)(ROW) == 0.2
    assert value("params.momentum", NAMES)(ROW) is MISSING


@pytest.mark.parametrize("text", ["params", "n == 1", "3", "[n]", "nn"])
def test_value__that_names_none__is_refused(text):
    with pytest.raises(UserError):
        value(text, NAMES)
