"""JSON and CSV forms of what trials leave."""

import dataclasses
import json
import math
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitops_ml.records import (
    Attempt,
    Hardware,
    Origin,
    Outcome,
    Problem,
    Record,
    RecordError,
    Scalar,
    Series,
    StoredFile,
    Usage,
    attempt_from_json,
    attempt_to_json,
    json_bytes,
    json_document,
    record_from_json,
    record_to_json,
    series_from_csv,
    series_range,
    series_to_csv,
)

GOLDEN = Path(__file__).parents[1] / "fixtures" / "records" / "v1"

ATTEMPT = Attempt(
    key="ab" * 32,
    number=2,
    experiment="digits-mlp",
    outcome=Outcome.SUCCEEDED,
    reason="exit code 0",
    exit_code=0,
    backend="local",
    commit="1" * 40,
    dirty=False,
    params={"lr": 0.1, "layers": (64, 32), "act": "relu", "bias": True},
    seed=7,
    started_at="2026-01-31T12:00:00Z",
    duration_s=12.5,
    cost_usd=0.25,
    hardware=Hardware(machine="g6.xlarge", cpus=4, memory_bytes=16 << 30, gpus=("L4",)),
    origin=Origin(kind="ci", run_url="https://ci.example.org/1", user="ada"),
)
SERIES = (
    Series(name="loss", steps=(0, 1, 2), values=(2.5, math.nan, 0.1 + 0.2), times=(1.5, 2.5, 3.5)),
    Series(name='val/"acc", %\n', steps=(1, 1.5), values=(math.inf, -math.inf)),
)
RECORD = Record(
    key="ab" * 32,
    document={"format": 1, "seed": 7, "params": {"lr": 0.1}},
    experiment="digits-mlp",
    path="experiments/digits.yaml",
    commit="1" * 40,
    dirty=False,
    point={"lr": 0.1},
    params=ATTEMPT.params,
    seed=7,
    repeat=1,
    attempt=ATTEMPT,
    scalars=(Scalar(name="accuracy", value=0.97, stderr=0.01, count=1797), Scalar(name="perplexity", value=math.inf)),
    series=SERIES,
    problems=(Problem(file="out/metrics.json", where="line 3", message="torn"),),
    ignored=("predictions (list of 1000 numbers)",),
    files=(StoredFile(path="model.npz", sha256="0" * 64, size_bytes=10, store="git"),),
    evaluation="e" * 64,
    derived_from="cd" * 32,
    ranges=tuple(map(series_range, SERIES)),
)


def schema(name):
    return json.loads((resources.files("gitops_ml") / "schemas" / name).read_text("utf-8"))


def same(one, other):
    """NaN equals itself here, and mappings in any order are equal."""
    return plain(one) == plain(other)


def plain(value):
    if dataclasses.is_dataclass(value):
        return plain(dataclasses.asdict(value))
    return json.dumps(value, sort_keys=True, default=dataclasses.asdict)


def test_record__written_and_read__is_the_same():
    data = json_bytes(record_to_json(RECORD))

    found = record_from_json(json_document(data), series_from_csv(series_to_csv(RECORD.series)[0]))

    assert same(dataclasses.replace(found, series=()), dataclasses.replace(RECORD, series=()))
    assert series_to_csv(found.series) == series_to_csv(SERIES)
    assert data == json_bytes(record_to_json(found))


def test_record__without_its_series__keeps_their_ranges():
    document = json_document(json_bytes(record_to_json(RECORD)))

    assert same(record_from_json(document).ranges, tuple(map(series_range, SERIES)))
    assert record_to_json(record_from_json(document)) == document


def test_attempt__for_a_change__carries_its_number():
    mine = dataclasses.replace(ATTEMPT, origin=Origin(kind="ci", change=41))
    form = attempt_to_json(mine)

    jsonschema.Draft202012Validator(schema("attempt.v1.schema.json")).validate(json.loads(json_bytes(form)))
    assert form["origin"]["change"] == 41
    assert attempt_from_json(form) == mine
    with pytest.raises(RecordError, match="change is not a whole number"):
        attempt_from_json({**form, "origin": {**form["origin"], "change": "41"}})


@pytest.mark.parametrize(
    ("form", "name"),
    [(record_to_json(RECORD), "record.v1.schema.json"), (attempt_to_json(ATTEMPT), "attempt.v1.schema.json")],
)
def test_forms__are_valid_by_their_schemas__and_every_field_is_named(form, name):
    validator = jsonschema.Draft202012Validator(schema(name))
    validator.check_schema(schema(name))
    plain = json.loads(json_bytes(form), parse_constant=lambda token: pytest.fail(f"bare {token}"))

    validator.validate(plain)

    optional = {"usage"} if "attempt" in name else set()  # came after the first records
    assert set(plain) | optional == set(schema(name)["properties"])
    assert set(plain) == set(schema(name)["required"])


def test_attempt__on_a_rented_machine__says_which_and_what_it_cost():
    usage = Usage(
        provider="aws",
        region="us-east-1",
        zone="us-east-1a",
        instance_id="i-0123",
        instance_type="g6.xlarge",
        market="spot",
        image="ami-0123",
        usd_per_hour=0.3,
        price_source="spot price history",
        price_date="2026-01-31",
        billed_s=75.5,
        final_state="terminated",
        tries=("g6.xlarge spot in us-east-1b: InsufficientInstanceCapacity",),
    )
    mine = dataclasses.replace(ATTEMPT, usage=usage)
    form = attempt_to_json(mine)
    parts = schema("attempt.v1.schema.json")["properties"]["usage"]

    jsonschema.Draft202012Validator(schema("attempt.v1.schema.json")).validate(json.loads(json_bytes(form)))
    assert set(form["usage"]) == set(parts["properties"])
    assert attempt_from_json(json.loads(json_bytes(form))) == mine
    with pytest.raises(RecordError, match=r"usage\.billed_s is not a finite number"):
        attempt_from_json({**form, "usage": {**form["usage"], "billed_s": "long"}})


def test_attempt__that_failed__is_the_same_after_reading():
    failed = dataclasses.replace(
        ATTEMPT,
        outcome=Outcome.OVER_BUDGET,
        exit_code=None,
        hardware=None,
        log_tail="killed\n",
        origin=Origin(kind="local"),
    )

    assert attempt_from_json(json_document(json_bytes(attempt_to_json(failed)))) == failed


def test_golden__files_of_version_1__are_read_and_written_as_ever():
    """These lie in users' repositories: a change here breaks them."""
    record = record_from_json(
        json_document((GOLDEN / "record.json").read_bytes()), series_from_csv((GOLDEN / "series.csv").read_bytes())
    )

    assert same(dataclasses.replace(record, series=()), dataclasses.replace(RECORD, series=()))
    assert json_bytes(record_to_json(RECORD)) == (GOLDEN / "record.json").read_bytes()
    assert series_to_csv(SERIES) == ((GOLDEN / "series.csv").read_bytes(), False)
    assert json_bytes(attempt_to_json(ATTEMPT)) == (GOLDEN / "attempt.json").read_bytes()


def test_newer_version__is_read_as_far_as_understood():
    document = {**record_to_json(RECORD), "schema": "gitops-ml/record/v2", "carbon_kg": 1}
    document["attempt"] = {**document["attempt"], "schema": "gitops-ml/attempt/v3", "zone": "eu"}

    assert same(record_from_json(document).scalars, RECORD.scalars)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other/record/v1"}, "schema is 'other/record/v1', not 'gitops-ml/record/v1' or a newer one"),
        ({"key": 3}, "key is not a text"),
        ({"seed": True}, "seed is not a whole number"),
        ({"dirty": 0}, "dirty is not true or false"),
        ({"scalars": [{"name": "a", "value": "NaN"}]}, "scalars[0].value is not a number"),
        ({"scalars": [{"name": "a", "value": 10**400}]}, "scalars[0].value is not a number"),
        ({"scalars": [3]}, "scalars[0] is no object"),
        ({"attempt": None}, "attempt is no object"),
        ({"params": {"a": {"b": 1}}}, "params.a is neither a scalar nor a list of scalars"),
        ({"params": {"a": None}}, "params.a is neither a scalar nor a list of scalars"),
        ({"ignored": [1]}, "ignored is not a list of texts"),
        ({"attempt": {**attempt_to_json(ATTEMPT), "outcome": "odd"}},
         f"attempt.outcome is 'odd'; known are: {', '.join(Outcome)}"),
        ({"attempt": {**attempt_to_json(ATTEMPT), "cost_usd": "inf"}}, "attempt.cost_usd is not a finite number"),
    ],
)  # fmt: skip
def test_record_from_json__field_that_is_wrong__is_named(change, message):
    with pytest.raises(RecordError) as caught:
        record_from_json({**record_to_json(RECORD), **change})

    assert str(caught.value) == message


def test_record_from_json__field_that_is_missing__is_named():
    document = record_to_json(RECORD)
    del document["experiment"]

    with pytest.raises(RecordError, match=r"^experiment is missing$"):
        record_from_json(document)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[1]", "not a JSON object"),
        (b'{"a": NaN}', "not valid JSON: NaN is no JSON number"),
        (b'{"a": 1, "a": 2}', "not valid JSON: a key stands twice in one object"),
        (b'{"a": "\xff"}', "not valid JSON: 'utf-8' codec can't decode byte 0xff in position 7: invalid start byte"),
    ],
)
def test_json_document__that_is_none__says_why(data, message):
    with pytest.raises(RecordError) as caught:
        json_document(data)

    assert str(caught.value) == message


@given(st.binary(max_size=80) | st.sampled_from([b"[" * 100_000, b"{" * 9, b"", b"1e999", b'{"a": 1e999}']))
@settings(max_examples=60, deadline=None)
def test_json_document__any_bytes__are_read_or_refused(data):
    try:
        record_from_json(json_document(data))
    except RecordError:
        pass


names = st.text(max_size=12)
numbers = st.floats() | st.integers(-(2**53), 2**53).map(float)


@given(
    st.lists(
        st.tuples(names, st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=6), st.booleans()),
        max_size=4,
        unique_by=lambda one: one[0],
    )
)
@settings(max_examples=80, deadline=None)
def test_series__any_names_and_numbers__come_back_exactly(drawn):
    series = tuple(
        Series(
            name=name,
            steps=tuple(p[0] for p in points),
            values=tuple(p[1] for p in points),
            times=tuple(p[2] for p in points) if timed else None,
        )
        for name, points, timed in drawn
    )

    data, decimated = series_to_csv(series)

    assert same(series_from_csv(data), series)
    assert not decimated


def test_series_to_csv__steps__are_whole_numbers_and_rows_plain():
    assert series_to_csv(SERIES)[0].decode() == (
        "metric,step,time,value\n"
        "loss,0,1.5,2.5\nloss,1,2.5,nan\nloss,2,3.5,0.30000000000000004\n"
        '"val/""acc"", %\n",1,,inf\n"val/""acc"", %\n",1.5,,-inf\n'
    )


def test_series_to_csv__over_the_limit__keeps_ends_extremes_and_what_is_not_finite():
    count = 200_000
    values = [math.sin(i / 1000) for i in range(count)]
    values[77_777], values[123_456], values[150_001] = 99.0, -99.0, math.nan
    series = (
        Series(name="loss", steps=tuple(map(float, range(count))), values=tuple(values)),
        Series(name="short", steps=(0.0, 1.0), values=(1.0, 2.0)),
    )

    data, decimated = series_to_csv(series, 100_000)
    loss, short = series_from_csv(data)

    assert decimated
    assert 50_000 < len(data) <= 100_000
    assert short == series[1]
    points = dict(zip(loss.steps, loss.values, strict=True))
    assert {0.0, 77_777.0, 123_456.0, 150_001.0, count - 1.0} <= points.keys()
    assert list(loss.steps) == sorted(loss.steps)
    assert all(repr(values[int(step)]) == repr(value) for step, value in points.items())
    assert max(b - a for a, b in zip(loss.steps, loss.steps[1:])) < count / 500


def test_series_to_csv__more_metrics_than_fit__keeps_the_ends_of_each():
    series = tuple(
        Series(name=f"m{i}", steps=tuple(map(float, range(50))), values=tuple(map(float, range(50))))
        for i in range(100)
    )

    data, decimated = series_to_csv(series, 1000)

    assert decimated
    assert [(one.name, one.values) for one in series_from_csv(data)] == [(f"m{i}", (0.0, 49.0)) for i in range(100)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "line 1 of the series is not `metric,step,time,value`"),
        (b"metric,step,time,value\na,1,2\n", "line 2 of the series has 3 fields, not 4"),
        (b"metric,step,time,value\na,1,,x\n",
         "the series 'a' has a field that is no number: could not convert string to float: 'x'"),
        (b'metric,step,time,value\n"a,1,,2\n', "the series are no valid CSV: unexpected end of data"),
    ],
)  # fmt: skip
def test_series_from_csv__that_is_none__says_where(data, message):
    with pytest.raises(RecordError) as caught:
        series_from_csv(data)

    assert str(caught.value) == message
