"""The quick yes or no is jsonschema's yes or no."""

import functools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitops_ml.accepting import accepting, repeated
from gitops_ml.schema import accepts, findings, schema_text
from gitops_ml.source import read_source

VALID = Path(__file__).parents[1] / "acceptance" / "specs" / "valid"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["best", "main", "10 USD", "2h", "0s", "2h\n", "1GiB", "0.2%", "a", "", "x-1", "never", "run"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["path", "name", "low", "high", "at", "of", "mean_last", "grid", "list", "seeds", "type", "count", "a-b", "A"]
    ), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@functools.cache
def reference(name: str):
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema_text(name)))


def holders(data, found):
    if isinstance(data, dict | list):
        found.append(data)
        for item in data.values() if isinstance(data, dict) else data:
            holders(item, found)
    return found


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_accepts__mutated_spec__agrees_with_jsonschema(data):
    text = data.draw(st.sampled_from(sorted(VALID.glob("*.yaml")))).read_bytes()
    spec = read_source(text, "x").data
    for _ in range(data.draw(st.integers(1, 2))):
        holder = data.draw(st.sampled_from(holders(spec, [])))
        if isinstance(holder, dict):
            key = data.draw(st.sampled_from([*holder, "name", "path", "extra"]))
            if key in holder and data.draw(st.booleans()):
                del holder[key]
            else:
                holder[key] = data.draw(JSON)
        else:
            holder.insert(data.draw(st.integers(0, len(holder))), data.draw(JSON))

    theirs = reference("experiment.v1").is_valid(spec)
    # Python's `$` lets a newline follow, JSON Schema's does not: there we are right and jsonschema is not.
    if "\\n" not in json.dumps({key: value for key, value in spec.items() if key != "run"}):
        assert accepts("experiment.v1", spec) is theirs
        source = read_source(json.dumps(spec).encode(), "x")
        assert bool(list(findings("experiment.v1", source))) is not theirs


@pytest.mark.parametrize("name", ["experiment.v1", "project.v1"])
@settings(deadline=None)
@given(data=JSON)
def test_accepts__any_data__agrees_with_jsonschema(name, data):
    assert accepts(name, data) is reference(name).is_valid(data)


def test_accepting__unknown_keyword__is_no_silent_yes():
    with pytest.raises(KeyError, match="multipleOf"):
        accepting({"type": "number", "multipleOf": 2})


@pytest.mark.parametrize(
    ("items", "index"),
    [
        ([1, 2], None),
        ([1, 1.0], 1),
        ([1, True], None),
        ([{"a": [1]}, {"a": [1]}], 1),
        ([[], {}, ""], None),
        ([0, False, 0], 2),
    ],
)
def test_repeated__items__compare_as_in_json_schema(items, index):
    assert repeated(items) == index


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_accepts__value_that_ends_with_a_newline__is_refused(newline):
    assert not accepts("experiment.v1", {"version": 1, "name": f"x{newline}", "run": "true"})
