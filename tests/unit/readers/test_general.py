"""JSON, YAML, TOML, CSV, TSV, JSONL and DVCLive: what is read, what is said, what is survived."""

import json
import math
from pathlib import Path

import pytest

from gitops_ml.readers.base import Reader
from gitops_ml.readers.dvclive import DvcliveReader
from gitops_ml.readers.jsonl import JsonlReader
from gitops_ml.readers.mapping import JsonReader, TomlReader, YamlReader
from gitops_ml.readers.table import CsvReader, TsvReader
from gitops_ml.records import Reading


def read(reader: Reader, folder: Path, content: str | bytes, name: str = "m") -> Reading:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return reader.read(file, name)


def values(reading: Reading) -> dict[str, float]:
    return {scalar.name: scalar.value for scalar in reading.scalars}


def curves(reading: Reading) -> dict[str, list[tuple[float, float]]]:
    return {s.name: list(zip(s.steps, s.values, strict=True)) for s in reading.series}


def said(reading: Reading) -> list[str]:
    return [f"{p.where}: {p.message}" if p.where else p.message for p in reading.problems]


def test_json__nested_and_other_things__numbers_joined_the_rest_named(tmp_path):
    data = {"val": {"acc": 0.9, "n": 3}, "ok": True, "who": "me", "none": None, "predictions": list(range(1000))}

    reading = read(JsonReader(), tmp_path, json.dumps(data))

    assert values(reading) == {"val/acc": 0.9, "val/n": 3.0}
    assert said(reading) == []
    assert reading.ignored == (
        "ok (true or false)",
        "who (text)",
        "none (empty)",
        "predictions (list of 1000 numbers)",
    )


def test_json__not_finite__kept_and_reported(tmp_path):
    reading = read(JsonReader(), tmp_path, '{"a": NaN, "b": "-inf", "c": 1e400, "d": "nan", "e": ' + "9" * 5000 + "}")

    found = values(reading)
    assert math.isnan(found["a"])
    assert math.isnan(found["d"])
    assert (found["b"], found["c"], found["e"]) == (-math.inf, math.inf, math.inf)
    assert said(reading) == ["a: is nan", "b: is -inf", "c: is inf", "d: is nan", "e: is inf"]


def test_json__repeated_key__neither_value_is_used(tmp_path):
    reading = read(JsonReader(), tmp_path, '{"v": {"acc": 0.1, "acc": 0.9, "acc": 0.9}, "loss": 1}')

    assert values(reading) == {"loss": 1.0}
    assert said(reading) == ["v/acc: the key stands there more than once; none of its values is used"]


def test_json__two_ways_to_one_name__neither_value_is_used(tmp_path):
    reading = read(JsonReader(), tmp_path, '{"v": {"acc": 0.1}, "v/acc": 0.9}')

    assert values(reading) == {}
    assert said(reading) == ["v/acc: is written more than once; none of its values is used"]


def test_json__three_ways_to_one_name__no_value_is_used(tmp_path):
    reading = read(JsonReader(), tmp_path, '{"a": {"b": {"c": 1}}, "a/b": {"c": 2}, "a/b/c": 3}')

    assert values(reading) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1, column 1: is empty"),
        (b'{"a": 1, "b": ', "line 1, column 15: is cut off: the JSON ends too early; nothing of it is used"),
        (b'{"a": 1, "b', "line 1, column 10: is cut off: the JSON ends too early; nothing of it is used"),
        (b'{"a": 1,}', "line 1, column 9: is no JSON: Expecting property name enclosed in double quotes"),
        (b"[" * 200_000, "is nested too deeply to be read"),
        (b"0.93", 'holds the number 0.93 without a name; write a mapping such as {"accuracy": 0.9}'),
        (b"[1, 2]", "holds no mapping but: list of 2 numbers"),
        (b"\x00\x00", "line 1, column 1: is no JSON: Expecting value"),
    ],
)
def test_json__unusable__says_where_and_why(tmp_path, content, message):
    reading = read(JsonReader(), tmp_path, content)

    assert values(reading) == {}
    assert said(reading) == [message]


def test_json__deep_but_parsable__reported(tmp_path):
    reading = read(JsonReader(), tmp_path, '{"a":' * 100 + "1" + "}" * 100)

    assert values(reading) == {}
    assert said(reading)[0].endswith("is nested deeper than 64; what is below is not read")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json__encodings__read(tmp_path, encoding):
    reading = read(JsonReader(), tmp_path, '{"précision": 0.5}'.encode(encoding))

    assert values(reading) == {"précision": 0.5}
    assert said(reading) == []


@pytest.mark.parametrize("content", [b'{"a\\ud800": 1}', b'{"a\xff": 1}'])
def test_json__name_that_is_no_unicode__replaced_and_reported(tmp_path, content):
    reading = read(JsonReader(), tmp_path, content)

    (name,) = values(reading)
    assert name.encode("utf-8").startswith(b"a\xef\xbf\xbd")
    assert said(reading) == [f"{name}: the name is not valid Unicode; the bad characters are replaced"]


def test_json__too_large__not_read(tmp_path):
    with (tmp_path / "m").open("wb") as stream:
        stream.truncate(101 * 2**20)

    assert said(JsonReader().read(tmp_path / "m", "m")) == ["has 105,906,176 bytes; at most 16,777,216 are read"]


def test_csv__too_large__not_read(tmp_path):
    with (tmp_path / "m").open("wb") as stream:
        stream.truncate(101 * 2**20)

    assert said(CsvReader().read(tmp_path / "m", "m")) == ["has 105,906,176 bytes; at most 104,857,600 are read"]


def test_json__rows__series(tmp_path):
    reading = read(JsonReader(), tmp_path, '[{"epoch": 1, "loss": 2}, {"epoch": 2, "loss": 1, "val": {"acc": 0.5}}]')

    assert curves(reading) == {"loss": [(1, 2), (2, 1)], "val/acc": [(2, 0.5)]}


def test_yaml__core_types__read(tmp_path):
    content = "acc: 1e-3\nn: {x: .inf, y: 0x10, z: 1_000}\nflag: no\nquoted: '5'\ntrue: 2\nlist: [1, 2]\n"

    reading = read(YamlReader(), tmp_path, content)

    assert values(reading) == {"acc": 0.001, "n/x": math.inf, "n/y": 16, "true": 2}
    assert said(reading) == ["n/x: is inf"]
    assert reading.ignored == ("n/z (text)", "flag (text)", "quoted (text)", "list (list of 2 numbers)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &x [1]\nb: *x\n", "line 2: has the alias `*x`; aliases are not read"),
        ("a: 1\na: 2\n", "a: the key stands there more than once; none of its values is used"),
        ("a: 1\n---\nb: 2\n", "line 2: has a second document; one is read"),
        ("a: [1\n", "line 2: is no YAML: did not find expected ',' or ']'"),
        ("- " * 100 + "1", "line 1: is nested deeper than 64"),
        ("", "holds no mapping but: empty"),
    ],
)
def test_yaml__unusable__says_where_and_why(tmp_path, content, message):
    reading = read(YamlReader(), tmp_path, content)

    assert values(reading) == {}
    assert said(reading) == [message]


def test_yaml__object_tags__never_built(tmp_path):
    content = "a: !!python/object/apply:os.system [exit 1]\nb: !x 5\nc: 1\nd: !!python/object:x.Y {e: 1}\n"

    reading = read(YamlReader(), tmp_path, content)

    assert values(reading) == {"c": 1}
    assert reading.ignored == ("a (a tagged value)", "b (a tagged value)", "d (a tagged value)")


def test_toml__tables__read(tmp_path):
    reading = read(TomlReader(), tmp_path, 'acc = 0.5\n[val]\nacc = nan\nwhen = 2026-01-01\n"a b" = 3\n')

    assert values(reading)["val/a b"] == 3
    assert said(reading) == ["val/acc: is nan"]
    assert reading.ignored == ("val/when (a date)",)


@pytest.mark.parametrize("content", ["a = ", "a = " + "9" * 5000, "a = " + "[" * 5000, "a = 1\na = 2"])
def test_toml__broken__reported(tmp_path, content):
    reading = read(TomlReader(), tmp_path, content)

    assert reading.scalars == ()
    assert len(reading.problems) == 1


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv__any_delimiter__series_over_the_step_column(tmp_path, delimiter):
    content = "loss, step ,acc\n2,10,0.5\n1,20,0.75\n".replace(",", delimiter)

    assert curves(read(CsvReader(), tmp_path, content)) == {"loss": [(10, 2), (20, 1)], "acc": [(10, 0.5), (20, 0.75)]}


def test_csv__sparse_rows__last_value_of_each_column_is_there(tmp_path):
    content = "epoch,step,train,val\n0,9,1.5,\n0,9,,0.5\n1,19,NA,0.25\n1,19,1.25,\n"

    reading = read(CsvReader(), tmp_path, content)

    assert curves(reading)["train"] == [(9, 1.5), (19, 1.25)]
    assert curves(reading)["val"] == [(9, 0.5), (19, 0.25)]
    assert said(reading) == []


def test_csv__bad_cells_and_rows__reported_the_rest_used(tmp_path):
    content = (
        'step,loss,note,lr,lr\n0,1.5,a,1,1\n1,oops,b,1,1\n2,1\n3,1_0,c,1,1,\n4,nan,d,1,1\n5,0.5,"x\ny",1,1\n6,0.1,e'
    )

    reading = read(CsvReader(), tmp_path, content)

    assert [step for step, _ in curves(reading)["loss"]] == [0, 4, 5]
    assert reading.ignored == ("note (text)",)
    assert said(reading) == [
        "row 4: has 2 cells where the header has 5; the row is not used",
        "line 9: is cut off and is not used",
        "lr: heads 2 columns; none of them is used",
        "loss: is no number in 2 rows, the first is `oops`; the others are used",
        "loss: 1 of 3 values are not finite, the first at step 4: nan",
    ]


def test_csv__no_line_end_at_the_end__used_and_reported(tmp_path):
    reading = read(CsvReader(), tmp_path, "step,loss\n0,2\n1,1")

    assert curves(reading) == {"loss": [(0, 2), (1, 1)]}
    assert said(reading) == ["line 3: the last line has no line end; its last value may be cut off"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n1,2\n", "begins with an empty line, not a header of names"),
        ("0.1,0.2\n0.3,0.4\n", "line 1: holds numbers where the names of the columns should stand"),
        ("step,loss\n", "has a header and no rows"),
        (
            "a,b\n" + '1,"' + "x" * 200_000,
            "line 2: is no table from here on: field larger than field limit (131072); the rows before it are used",
        ),
    ],
)
def test_csv__unusable__says_why(tmp_path, content, message):
    assert said(read(CsvReader(), tmp_path, content))[0] == message


def test_csv__restart__kept_as_written_and_reported(tmp_path):
    reading = read(CsvReader(), tmp_path, "epoch,loss\n0,3\n1,2\n0,2.5\n")

    assert curves(reading) == {"loss": [(0, 3), (1, 2), (0, 2.5)]}
    assert said(reading) == ["loss: steps go back from 1 to 0, as after a restart; all values are kept as written"]


def test_csv__milliseconds__become_times(tmp_path):
    reading = read(CsvReader(), tmp_path, "timestamp,step,loss\n1700000000500,1,2\n1700000001500,2,1\n")

    assert reading.series[0].times == (1700000000.5, 1700000001.5)


def test_csv__names_and_values__final_values(tmp_path):
    reading = read(CsvReader(), tmp_path, "metric,value\nacc,0.5\nloss,nan\nwho,me\n")

    assert values(reading)["acc"] == 0.5
    assert said(reading) == ["loss: is nan"]
    assert reading.ignored == ("who (text)",)


def test_csv__utf16_and_nul__survived(tmp_path):
    assert curves(read(CsvReader(), tmp_path, "step,loss\n0,2\n".encode("utf-16"))) == {"loss": [(0, 2)]}
    assert read(CsvReader(), tmp_path, b"step,loss\n0,\x00\n").ignored == ("loss (text)",)


@pytest.mark.parametrize("hole", ["", "NA", "null"])
def test_csv__column_that_ends_before_the_others__is_reported(tmp_path, hole):
    reading = read(CsvReader(), tmp_path, f"step,loss,acc\n0,2,0.1\n1,1,0.2\n2,{hole},0.1\n3,{hole},0.1\n")

    assert curves(reading)["loss"] == [(0, 2), (1, 1)]
    assert said(reading) == ["loss: is empty from row 3 on, as many programs write a value that is not a number"]


def test_csv__only_metric_ends_before_its_steps__is_reported(tmp_path):
    reading = read(CsvReader(), tmp_path, "step,loss\n0,2\n1,\n")

    assert said(reading) == ["loss: is empty from row 2 on, as many programs write a value that is not a number"]


@pytest.mark.parametrize(
    "content",
    [
        "epoch,step,train,val\n0,0,2,\n0,1,1,\n0,1,,0.5\n",  # the scores at the end stand in a row of their own
        "step,train,val\n0,2,0.5\n1,1,\n2,0.9,0.6\n3,0.8,\n",  # every second step
        "step,train,val\n0,,0.5\n1,2,\n",
    ],
)
def test_csv__rows_of_several_kinds__are_read_without_a_word(tmp_path, content):
    assert said(read(CsvReader(), tmp_path, content)) == []


def test_jsonl__null_to_the_end__is_reported(tmp_path):
    reading = read(JsonlReader(), tmp_path, '{"step": 1, "loss": 3}\n\n{"step": 2, "loss": null}\n')

    assert curves(reading) == {"loss": [(1, 3)]}
    assert said(reading) == ["loss: is null from line 3 on, as many programs write a value that is not a number"]


@pytest.mark.parametrize(
    "content",
    [
        '{"step": 1, "loss": 3, "test": null}\n{"step": 2, "loss": null, "test": 0.9}\n',
        '{"step": 1, "loss": 3}\n{"step": 2, "loss": null}\n{"step": 3, "loss": 1}\n',
        '{"step": 1, "loss": 3}\n{"step": 2}\n',
    ],
)
def test_jsonl__null_between_or_in_rows_of_another_kind__is_a_missing_value(tmp_path, content):
    assert said(read(JsonlReader(), tmp_path, content)) == []


def test_tsv__tabs__read(tmp_path):
    assert curves(read(TsvReader(), tmp_path, "step\ta,b\n0\t2\n")) == {"a,b": [(0, 2)]}


def test_jsonl__torn_bad_and_repeated__reported_the_rest_used(tmp_path):
    content = '{"step": 1, "loss": 3}\nnot json\n\n{"step": 2, "loss": 2, "loss": 1}\n[1]\n{"step": 3, "loss": NaN}\n'
    content += '{"step": 4, "lo'

    reading = read(JsonlReader(), tmp_path, content)

    assert [step for step, _ in curves(reading)["loss"]] == [1, 3]
    assert said(reading) == [
        "line 2: is no JSON and is not used",
        "line 5: holds no mapping but: list of 1 numbers",
        "line 7: is cut off and is not used",
        "loss: the key stands there more than once; none of its values is used",
        "loss: 1 of 2 values are not finite, the first at step 3: nan",
    ]


def test_jsonl__sparse_detectron_lines_in_json__found_and_read(tmp_path):
    content = (
        '{"iteration": 19, "total_loss": 2.0, "lr": 1e-3}\n{"iteration": 39, "total_loss": 1.0, "bbox/AP": 30.5}\n'
    )
    file = tmp_path / "metrics.json"
    file.write_text(content)

    assert JsonlReader().detect(file, content.encode())
    assert curves(JsonlReader().read(file, "metrics.json")) == {
        "total_loss": [(19, 2), (39, 1)],
        "lr": [(19, 0.001)],
        "bbox/AP": [(39, 30.5)],
    }


def test_jsonl__step_missing_in_a_line__lines_are_counted_and_it_is_said(tmp_path):
    reading = read(JsonlReader(), tmp_path, '{"step": 5, "loss": 3}\n{"loss": 2}\n')

    assert curves(reading)["loss"] == [(0, 3), (1, 2)]
    assert said(reading) == ["step: is not in every row, so the rows are counted instead"]


def test_jsonl__pretty_printed_json__is_not_jsonl(tmp_path):
    content = b'{\n  "a": 1\n}\n'

    assert not JsonlReader().detect(tmp_path / "m.json", content)
    assert JsonReader().detect(tmp_path / "m.json", content)


def test_dvclive__summary_and_tables__one_reading(tmp_path):
    (tmp_path / "plots/metrics/train").mkdir(parents=True)
    (tmp_path / "plots/sklearn").mkdir()
    (tmp_path / "plots/metrics/train/loss.tsv").write_text(
        "timestamp\tstep\tloss\n1700000000000\t0\t2\n1700000001000\t1\tnan\n"
    )
    (tmp_path / "metrics.json").write_text('{"train": {"loss": "nan"}, "best": 0.7, "step": 1}')
    (tmp_path / "params.yaml").write_text("lr: 0.1\nmodel: {layers: [64, 32]}\n")

    reading = DvcliveReader().read(tmp_path, "out")

    assert values(reading) == {"best": 0.7}
    assert reading.series[0].name == "train/loss"
    assert reading.series[0].times == (1700000000.0, 1700000001.0)
    assert reading.params == {"lr": 0.1, "model/layers": (64, 32)}
    assert said(reading) == ["train/loss: 1 of 2 values are not finite, the first at step 1: nan"]
    assert reading.ignored == ("plots/sklearn (plots, no metrics)",)


def test_dvclive__summary_differs_from_table__table_used_and_said(tmp_path):
    (tmp_path / "plots/metrics").mkdir(parents=True)
    (tmp_path / "plots/metrics/acc.tsv").write_text("step\tacc\n0\t0.5\n")
    (tmp_path / "metrics.json").write_text('{"acc": 0.9}')

    assert said(DvcliveReader().read(tmp_path, "out")) == [
        "acc: is 0.9 there, and its table ends with 0.5; the table is used"
    ]


def test_jsonl__nested_rows__joined_and_a_clash_left_out(tmp_path):
    content = '{"step": 1, "val": {"acc": 0.5, "n": {"x": 1}}}\n{"step": 2, "val": {"acc": 0.75}, "val/acc": 0.1}\n'
    content += '{"step": 3, "val": {"acc": 1, "acc": 2, "n": {"x": 3}}}\n'

    reading = read(JsonlReader(), tmp_path, content)

    assert curves(reading) == {"val/acc": [(1, 0.5)], "val/n/x": [(1, 1), (3, 3)]}
    assert said(reading) == [
        "val/acc: is written more than once; none of its values is used",
        "val/acc: the key stands there more than once; none of its values is used",
    ]
