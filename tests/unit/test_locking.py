"""Versions written into specs: nothing else in the text changes, however it is written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitops_ml.errors import UserError
from gitops_ml.locking import Entry, entries, with_versions
from gitops_ml.source import read_source

BLOCK = "data:  # inputs\n  - name: a\n    uri: s3://b/k   # the first\n    role: eval # why\n\n# end\nname: x\n"
PIN = f"sha256:{'0123456789abcdef' * 4}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            BLOCK,
            BLOCK.replace("   # the first\n", "   # the first\n    version: PIN\n"),
        ),
        ("data:\n- uri: s3://b/k\n  name: a\n", "data:\n- uri: s3://b/k\n  version: PIN\n  name: a\n"),
        ("data:\n- name: a\n  uri: 's3://b/k'", "data:\n- name: a\n  uri: 's3://b/k'\n  version: PIN\n"[:-1]),
        ("data:\r\n- name: a\r\n  uri: s3://b/k\r\n", "data:\r\n- name: a\r\n  uri: s3://b/k\r\n  version: PIN\r\n"),
        ("\ufeffdata:\n- name: a\n  uri: s3://b/k\n", "\ufeffdata:\n- name: a\n  uri: s3://b/k\n  version: PIN\n"),
        (
            "data: [{name: a, uri: s3://b/k , role: eval}, {name: b, uri: x}]  # both\n",
            "data: [{name: a, uri: s3://b/k, version: PIN , role: eval}, {name: b, uri: x}]  # both\n",
        ),
        ('data: [{uri: "s3://b/k", name: a}]\n', 'data: [{uri: "s3://b/k", version: PIN, name: a}]\n'),
        (
            "data:\n- {name: a,\n   uri: s3://b/k,  # here\n   role: eval}\n",
            "data:\n- {name: a,\n   uri: s3://b/k, version: PIN,  # here\n   role: eval}\n",
        ),
        (
            "data:\n- name: a\n  version: 'sha256:old'   # of May\n  uri: s3://b/k\n",
            "data:\n- name: a\n  version: PIN   # of May\n  uri: s3://b/k\n",
        ),
        ("data:\n- {name: a, uri: s3://b/k, version: v1}\n", "data:\n- {name: a, uri: s3://b/k, version: PIN}\n"),
        (
            "data:\n- name: a\n  uri: s3://b/k\n  version:\n    v1\n",
            "data:\n- name: a\n  uri: s3://b/k\n  version:\n    PIN\n",
        ),
    ],
)
def test_with_versions__however_it_is_written__only_the_version_changes(before: str, after: str) -> None:
    assert with_versions(before.encode(), "x.yaml", {0: PIN}).decode() == after.replace("PIN", PIN)


@pytest.mark.parametrize("version", ["1e5", "null", "0x10", "-x", "a: b", "ab #c", "it's", '"', "3/L4kqtJ+x", "123"])
@pytest.mark.parametrize("text", ["data:\n- name: a\n  uri: s3://b/k\n", "data: [{name: a, uri: s3://b/k}]\n"])
def test_with_versions__version_that_yaml_takes_for_something_else__is_quoted(text: str, version: str) -> None:
    edited = with_versions(text.encode(), "x.yaml", {0: version})

    assert read_source(edited, "x.yaml").data == {"data": [{"name": "a", "uri": "s3://b/k", "version": version}]}


def test_with_versions__several__each_in_its_entry() -> None:
    text = "data:\n- {name: a, uri: s3://b/k}\n- {name: b, uri: s3://b/l}\n"

    edited = with_versions(text.encode(), "x.yaml", {1: "two", 0: "one"})

    assert edited.decode() == (
        "data:\n- {name: a, uri: s3://b/k, version: one}\n- {name: b, uri: s3://b/l, version: two}\n"
    )


def test_with_versions__written_in_a_way_that_cannot_be_edited__says_what_to_write() -> None:
    text = "name: x\ndata:\n- ? name\n  : a\n  ? uri\n  : s3://b/k\n"

    with pytest.raises(UserError) as refused:
        with_versions(text.encode(), "x.yaml", {0: PIN})

    assert str(refused.value) == f"x.yaml:3: this entry cannot be edited; write into it by hand: version: {PIN}"


_WORDS = st.text("ab #:'\"-,", min_size=1, max_size=8)
_ENTRY = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b-c"]), "uri": st.sampled_from(["s3://b/k", "https://example.org/x?a=1#b", "x"])},
    optional={"version": _WORDS, "role": st.sampled_from(["train", "eval"])},
)


@given(
    data=st.lists(_ENTRY, min_size=1, max_size=3),
    style=st.sampled_from(["json", "block", "indented", "flow"]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    comment=st.sampled_from(["", "  # note", "\t# note"]),
    version=_WORDS,
    which=st.integers(0, 2),
)
def test_with_versions__any_spec__says_the_same_but_for_the_version_and_loses_no_line(
    data: list[dict[str, str]], style: str, line_end: str, comment: str, version: str, which: int
) -> None:
    index = which % len(data)
    lines = ["name: x" + comment]
    if style == "json":
        lines = [json.dumps({"name": "x", "data": data}, indent=1)]
    elif style == "flow":
        lines += ["data:" + comment, *(f"- {json.dumps(entry)}{comment}" for entry in data)]
    else:
        indent = "  " if style == "indented" else ""
        lines.append("data:" + comment)
        for entry in data:
            for number, (key, value) in enumerate(entry.items()):
                lines.append(f"{indent}{'  ' if number else '- '}{key}: {json.dumps(value)}{comment}")
    text = line_end.join("\n".join(lines).split("\n")) + line_end
    before = read_source(text.encode(), "x.yaml")

    edited = with_versions(text.encode(), "x.yaml", {index: version})

    found = read_source(edited, "x.yaml")
    before.data["data"][index]["version"] = version
    assert found.data == before.data
    assert found.problems == before.problems == ()
    old, new = text.split(line_end), edited.decode().split(line_end)
    added = [line for line in new if line not in old]
    assert len(added) <= 1
    assert [line for line in old if line not in new] == [] or len(new) == len(old)


def test_entries__of_a_spec__those_outside_of_the_repository() -> None:
    text = "data:\n- {name: a, uri: data/x}\n- {name: b, uri: s3://b/k, version: v}\n- 3\n- {uri: hf://a/b}\n"

    assert entries(read_source(text.encode(), "x.yaml")) == (Entry(index=1, name="b", uri="s3://b/k", version="v"),)
