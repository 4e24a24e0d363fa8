"""What specs mean, and that the schema and the dataclasses say the same."""

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Iterator, Mapping
from decimal import Decimal

import pytest

from gitops_ml.project import Project
from gitops_ml.schema import accepts, schema_text
from gitops_ml.spec import (
    Budget,
    Experiment,
    Range,
    Summary,
    SummaryKind,
    Tolerance,
    bytes_from,
    experiment_from,
    seconds_from,
    usd_from,
)

LEAST = {"version": 1, "name": "x", "run": "true"}


def experiment(**more: object) -> Experiment:
    data = LEAST | more
    assert accepts("experiment.v1", data)
    return experiment_from(data, "x.yaml")


def test_experiment_from__least_spec__all_defaults():
    assert experiment() == Experiment(path="x.yaml", name="x", run="true")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1h30m", 5400), ("2d", 172_800), ("1d2h3m4s", 93_784)]
)
def test_seconds_from__duration__is_seconds(text, seconds):
    assert seconds_from(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1B", 1),
        ("1kB", 1000),
        ("100GB", 10**11),
        ("32GiB", 2**35),
        ("1.5 MiB", 1_572_864),
        ("2TiB", 2**41),
        ("0.1B", 1),
    ],
)
def test_bytes_from__size__is_bytes(text, size):
    assert bytes_from(text) == size


def test_usd_from__money__is_exact():
    assert usd_from("0.10 USD") == Decimal("0.10")


def test_experiment_from__units__become_meaning():
    found = experiment(
        budget={"max_cost": "10 USD", "max_duration": "2h", "retries": {"failed": 2}},
        metrics={
            "read": ["a.json"],
            "track": [
                {"name": "a", "tolerance": "0.2%", "summary": {"at": "best", "of": "b"}},
                {"name": "b", "tolerance": 3, "summary": {"mean_last": 5}},
            ],
        },
        sweep={
            "random": {"n": 3, "space": {"lr": {"low": 1, "high": 2}, "act": ["a", "b"]}},
            "confirm": {"seeds": [9]},
        },
        resources={"gpu": {"type": "L4"}, "memory": "1GiB"},
        seeds=[1.0, 2],
        params={"l": [1, "a"]},
        plots=[{"y": "loss"}],
        checkpoints={"path": "ckpt"},
        run=["a", "b"],
    )

    assert found.budget == Budget(max_cost_usd=Decimal(10), max_duration_s=7200.0, retries_failed=2)
    first, second = found.metrics.track
    assert first.tolerance == Tolerance(relative=0.002)
    assert first.summary == Summary(kind=SummaryKind.AT, at=SummaryKind.BEST, of="b")
    assert second.tolerance == Tolerance(absolute=3.0)
    assert second.summary == Summary(kind=SummaryKind.MEAN_LAST, k=5)
    assert found.sweep.random.space == {"lr": Range(low=1, high=2), "act": ("a", "b")}
    assert found.sweep.confirm == (9,)
    assert (found.resources.gpu.type, found.resources.memory_bytes) == (("L4",), 2**30)
    assert found.seeds == (1, 2)
    assert all(isinstance(seed, int) for seed in found.seeds)
    assert (found.params, found.plots[0].y, found.checkpoints, found.run) == (
        {"l": (1, "a")},
        ("loss",),
        "ckpt",
        ("a", "b"),
    )


# Parity of schema and dataclasses: spec key -> field, where the unit or the shape changes the name.
RENAMED = {
    "memory": "memory_bytes",
    "disk": "disk_bytes",
    "max_cost": "max_cost_usd",
    "max_duration": "max_duration_s",
    "max_wait": "max_wait_s",
    "no_output": "no_output_s",
}
# Taken apart by experiment_from: a mapping in the spec, plain fields in the value.
FLATTENED = {"retries", "confirm", "checkpoints"}
UNITS = {"summary", "tolerance", "version"}


def resolved(schema: Mapping, definitions: Mapping) -> Mapping:
    return definitions[schema["$ref"].rpartition("/")[2]] | schema if "$ref" in schema else schema


def dataclass_in(kind: object) -> type | None:
    if dataclasses.is_dataclass(kind):
        return kind
    found = (dataclass_in(part) for part in typing.get_args(kind))
    return next((it for it in found if it is not None), None)


def pairs(schema: Mapping, kind: type, definitions: Mapping, path: str = "") -> Iterator[tuple[str, Mapping, object]]:
    """Yield (path, schema of the key, dataclass field) for all keys of all mappings that have both."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    keys = {RENAMED.get(key, key): resolved(it, definitions) for key, it in schema["properties"].items()}
    skipped = FLATTENED | {"version", "path"} | ({"retries_preempted", "retries_failed"} if kind is Budget else set())
    assert keys.keys() - skipped == fields.keys() - skipped, path
    for name in keys.keys() - skipped:
        yield f"{path}{name}", keys[name], fields[name]
        inner = keys[name].get("items", keys[name])
        nested = dataclass_in(hints[name])
        if nested is not None and "properties" in inner and name not in UNITS:
            yield from pairs(inner, nested, definitions, f"{path}{name}.")


def default_of(field: dataclasses.Field) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def plain(value: object) -> object:
    match value:
        case enum.Enum():
            return value.value
        case tuple():
            return [plain(item) for item in value]
        case types.MappingProxyType() | dict():
            return dict(value)
        case Tolerance():
            return value.absolute
        case Summary():
            return value.kind.value
        case _ if dataclasses.is_dataclass(value):
            return {} if value == type(value)() else value
        case _:
            return value


@pytest.mark.parametrize(("name", "kind"), [("experiment.v1", Experiment), ("project.v1", Project)])
def test_schema__against_the_dataclasses__same_keys_and_defaults(name, kind):
    schema = json.loads(schema_text(name))

    seen = list(pairs(schema, kind, schema["$defs"]))

    assert len(seen) > {"experiment.v1": 60, "project.v1": 8}[name]
    for path, of_key, field in seen:
        required = field.default is field.default_factory is dataclasses.MISSING
        if path == "sweep.random.space" or required:
            continue
        default = default_of(field)
        expected = None if default is None else plain(default)
        assert of_key.get("default") == expected, path


def test_schema__flattened_keys__defaults_agree():
    schema = json.loads(schema_text("experiment.v1"))
    retries = schema["properties"]["budget"]["properties"]["retries"]["properties"]

    assert retries["preempted"]["default"] == Budget().retries_preempted
    assert retries["failed"]["default"] == Budget().retries_failed


def test_schema__enumerations__are_those_of_the_dataclasses():
    schema = json.loads(schema_text("experiment.v1"))

    for path, of_key, field in pairs(schema, Experiment, schema["$defs"]):
        if isinstance(field.default, enum.Enum):
            # An inconclusive metric is a gate too; a summary's words are in its `then`.
            assert set(of_key["enum"]) == {it.value for it in type(field.default)}, path


def subschemas(schema: object) -> Iterator[Mapping]:
    if isinstance(schema, dict):
        if "properties" in schema or "type" in schema or "$ref" in schema:
            yield schema
        for key, value in schema.items():
            if key not in ("default", "examples", "enum", "const"):
                yield from subschemas(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from subschemas(item)


@pytest.mark.parametrize("name", ["experiment.v1", "project.v1"])
def test_schema__as_such__is_valid_closed_and_described(name):
    from jsonschema import Draft202012Validator

    schema = json.loads(schema_text(name))

    Draft202012Validator.check_schema(schema)
    for part in subschemas(schema):
        if "properties" in part:
            assert "additionalProperties" in part
            for key, value in part["properties"].items():
                assert isinstance(value, dict), key
                assert value.get("description") or "path" in key, f"{key} has no description"
    for example in schema["examples"]:
        assert accepts(name, example)


@pytest.mark.parametrize("name", ["experiment.v1", "project.v1"])
def test_schema__examples_of_its_parts__are_accepted(name):
    from jsonschema import Draft202012Validator

    schema = json.loads(schema_text(name))

    count = 0
    for part in subschemas(schema):
        for example in part.get("examples", ()):
            Draft202012Validator(part | {"$defs": schema["$defs"]}).validate(example)
            count += 1
    assert count > 5
