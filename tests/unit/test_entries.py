"""What history reads of records and reports: the same as the whole reader, and of hostile files our error alone."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitops_ml.entries import EntryCache, record_entry, report_entry
from gitops_ml.ledger import record_path
from gitops_ml.records import RecordError, Scalar, json_bytes, record_to_json
from tests.fakes import ledgers

RECORD = ledgers.record(0.9, params={"lr": 0.1, "layers": (64, 32)})
DOCUMENT = record_to_json(RECORD)
REPORT_PATH, REPORT = next(item for item in ledgers.report_files().items() if item[0].endswith(".json"))
FOLDER = REPORT_PATH.rpartition("/")[0]


def test_record_entry__of_a_record__has_its_final_values_and_extremes():
    found = record_entry(ledgers.record_files(RECORD)[record_path(RECORD.key)], RECORD.key)

    assert (found.experiment, found.params) == ("digits", RECORD.params)
    assert (found.metrics, found.lowest, found.highest) == (
        {"accuracy": 0.9, "loss": 0.3},
        {"loss": 0.1},
        {"loss": 0.9},
    )
    assert (found.data, found.cost_usd, found.started_at) == ({"test": "pin"}, 0.5, "2026-01-01T00:00:00Z")


def test_record_entry__value_that_is_no_number__is_no_metric():
    record = ledgers.record(0.9, scalars=(Scalar(name="nan", value=math.nan), Scalar(name="inf", value=math.inf)))

    assert record_entry(json_bytes(record_to_json(record)), record.key).metrics == {"loss": 0.3}


def test_record_entry__newer_version__is_read_as_far_as_understood():
    newer = {**DOCUMENT, "schema": "gitops-ml/record/v2", "more": {}}

    assert record_entry(json_bytes(newer), RECORD.key).experiment == "digits"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "0" * 64}, "it says that its key is 000000000000"),
        ({"schema": "other"}, "schema is 'other', not 'gitops-ml/record/v1' or a newer one"),
        ({"seed": True}, "seed is not a whole number"),
        ({"params": {"a": {}}}, "params holds what is neither a scalar nor a list of scalars"),
        ({"point": {"a": math.inf}}, "point holds what is neither a scalar nor a list of scalars"),
        ({"attempt": None}, "attempt is not an object"),
        ({"scalars": [1]}, "scalars has an item without a name"),
    ],
)
def test_record_entry__field_that_is_wrong__is_named(change, message):
    with pytest.raises(RecordError) as caught:
        record_entry(json.dumps({**DOCUMENT, **change}).encode(), RECORD.key)

    assert str(caught.value) == message


def test_report_entry__of_a_report__has_the_verdict_that_decides():
    found = report_entry(REPORT, FOLDER)

    assert (found.experiment, found.gate, found.metric, found.recorded) == ("digits", "pass", "accuracy", 3)
    assert [(verdict, len(keys)) for verdict, keys in found.verdicts] == [("better", 3)]


def test_cache__written_and_read__is_the_same():
    plain = ledgers.record(0.9)
    cache = EntryCache(
        {"a" * 40: record_entry(json_bytes(record_to_json(plain)), plain.key)}, {"b" * 40: report_entry(REPORT, FOLDER)}
    )

    again = EntryCache.from_bytes(cache.to_bytes())

    assert again.records == cache.records
    assert again.to_bytes() == cache.to_bytes()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(DOCUMENT)), _json)
def test_record_entry__any_value_in_any_field__is_read_or_our_error(name, value):
    data = json.dumps({**DOCUMENT, name: value}).encode()
    try:
        found = record_entry(data, RECORD.key)
    except RecordError:
        return
    assert found.key == RECORD.key
    EntryCache({"a": found}).to_bytes()


_WHOLE = json.loads(REPORT)


@given(st.sampled_from(sorted(_WHOLE["experiments"][0])), _json)
def test_report_entry__any_value_in_any_field__is_read_or_our_error(name, value):
    experiment = {**_WHOLE["experiments"][0], name: value}
    try:
        found = report_entry(json.dumps({**_WHOLE, "experiments": [experiment]}).encode(), FOLDER)
    except RecordError:
        return
    assert found.folder == FOLDER
