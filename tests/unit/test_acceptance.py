"""gitops-ml.accepted.yaml: what holds, and every finding with its place."""

import json
from datetime import date
from importlib import resources
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitops_ml.acceptance import Acknowledgement, read_acknowledgements
from gitops_ml.diagnostics import Position
from gitops_ml.source import read_source

TODAY = date(2026, 11, 23)
VALID = """\
version: 1
accepted:
  - experiment: digits
    metric: val/acc
    bound: 0.93
    reason: half the parameters
    author: Ada
    expires: 2026-12-31
"""
SCHEMA = json.loads((resources.files("gitops_ml") / "schemas" / "accepted.v1.schema.json").read_text())


def findings(text: str, today: date = TODAY) -> list[str]:
    _, found = read_acknowledgements(text.encode(), today)
    return [f"{f.position.line}:{f.position.column}: {f.message} [{f.code}]" for f in found]


def test_read_acknowledgements__valid__the_entry_with_its_place() -> None:
    entries, found = read_acknowledgements(VALID.encode(), TODAY)

    assert found == ()
    assert entries == (
        Acknowledgement(
            experiment="digits",
            metric="val/acc",
            bound=0.93,
            reason="half the parameters",
            author="Ada",
            expires=date(2026, 12, 31),
            position=Position(3, 5),
        ),
    )


def test_read_acknowledgements__last_day__still_holds() -> None:
    assert findings(VALID, date(2026, 12, 31)) == []


def test_read_acknowledgements__day_after__is_an_error_at_the_date() -> None:
    entries, _ = read_acknowledgements(VALID.encode(), date(2027, 1, 1))

    assert entries == ()
    assert findings(VALID, date(2027, 1, 1)) == [
        (
            "8:14: the acceptance of `val/acc` ended on 2026-12-31; "
            "remove the entry, or decide anew and set a later date [expired]"
        )
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1:1: found nothing (null); accepted is a mapping with `version` and `accepted` [wrong-type]"]),
        ("version: 1", ["1:1: `accepted` is missing [missing-key]"]),
        ("version: 2\naccepted: []", ["1:10: `version` is `2`; this gitops-ml reads 1 [wrong-value]"]),
        ("version: 1\naccepted: 3", ["2:11: found `3`; accepted is a list [wrong-type]"]),
        (
            VALID.replace("bound", "bond"),
            [
                "3:5: `bound` is missing [missing-key]",
                "5:5: unknown key `bond`; did you mean `bound`? [unknown-key]",
            ],
        ),
        (
            VALID.replace("0.93", "'0.93'"),
            [
                (
                    "5:12: `bound` is `0.93`; accepted is the worst value that is accepted, "
                    "a number in the metric's unit [wrong-value]"
                )
            ],
        ),
        (
            VALID.replace("2026-12-31", "2026-02-30"),
            [
                (
                    "8:14: `expires` is `2026-02-30`; accepted is a day such as `2026-12-31`, "
                    "the last one on which it holds [wrong-value]"
                )
            ],
        ),
        (
            VALID + VALID.split("accepted:\n")[1],
            ["9:5: `val/acc` of `digits` is accepted in line 3 already [duplicate]"],
        ),
    ],
)
def test_read_acknowledgements__mistake__is_found_at_its_place(text: str, expected: list[str]) -> None:
    assert findings(text) == expected


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_read_acknowledgements__any_bytes__never_raises(content: bytes) -> None:
    entries, found = read_acknowledgements(content, TODAY)

    assert entries == ()
    assert found


SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", " ", "x", "2026-12-31", "1.5"])
ENTRIES = st.dictionaries(
    st.sampled_from(["experiment", "metric", "bound", "reason", "author", "expires", "more"]), SCALARS
)
GOOD = {"experiment": "e", "metric": "m", "bound": 1, "reason": "r", "author": "a", "expires": "2026-12-31"}


@given(st.builds(lambda changed: {**GOOD, **changed}, ENTRIES) | ENTRIES)
def test_schema__any_entry__agrees_with_the_reader(entry: dict[str, Any]) -> None:
    document = {"version": 1, "accepted": [entry]}
    text = json.dumps(document)
    assert read_source(text.encode(), "x").data == document

    valid = jsonschema.Draft202012Validator(SCHEMA).is_valid(document)

    assert (findings(text) == []) is valid
