"""The traps of each tool's format: what its own library, or a crash, or a stranger writes."""

import gzip
import json
import math
import shutil
import sqlite3
import struct
import zlib
from pathlib import Path

import pytest

from gitops_ml.readers import protobuf
from gitops_ml.readers.coco import CocoReader
from gitops_ml.readers.dvc import DvcReader
from gitops_ml.readers.huggingface import HuggingfaceReader
from gitops_ml.readers.keras import KerasReader
from gitops_ml.readers.lightning import LightningReader
from gitops_ml.readers.lm_eval import LmEvalReader
from gitops_ml.readers.mlflow import MlflowReader
from gitops_ml.readers.sacred import SacredReader
from gitops_ml.readers.tensorboard import TensorboardReader
from gitops_ml.readers.ultralytics import UltralyticsReader
from gitops_ml.readers.wandb import WandbReader
from gitops_ml.records import Reading, Scalar

FIXTURES = Path(__file__).parents[2] / "fixtures" / "readers"


def values(reading: Reading) -> dict[str, float]:
    return {scalar.name: scalar.value for scalar in reading.scalars}


def curves(reading: Reading) -> dict[str, list[tuple[float, float]]]:
    return {s.name: list(zip(s.steps, s.values, strict=True)) for s in reading.series}


def said(reading: Reading) -> list[str]:
    return [f"{p.where}: {p.message}" if p.where else p.message for p in reading.problems]


# TensorBoard


def record(payload: bytes) -> bytes:
    size = struct.pack("<Q", len(payload))
    checks = [struct.pack("<I", protobuf.masked(protobuf.crc32c(part))) for part in (size, payload)]
    return size + checks[0] + payload + checks[1]


def message(number: int, content: bytes) -> bytes:
    size, length = b"", len(content)
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def event(tag: str, value: bytes, *, step: int = 0, time: float = 1.7e9) -> bytes:
    steps = bytes([2 << 3, step]) if step else b""
    summary = message(5, message(1, message(1, tag.encode()) + value))
    return record(bytes([1 << 3 | 1]) + struct.pack("<d", time) + steps + summary)


def simple(value: float) -> bytes:
    return bytes([2 << 3 | 5]) + struct.pack("<f", value)


def test_crc32c__check_value_of_rfc_3720():
    assert protobuf.crc32c(b"123456789") == 0xE3069283


def test_tensorboard__pytorch__scalars_read_the_rest_ignored():
    reading = TensorboardReader().read(FIXTURES / "tensorboard/pytorch", "tb")

    assert [step for step, _ in curves(reading)["val/acc"]] == [0, 1, 2, 3, 4]
    assert [round(value, 6) for _, value in curves(reading)["val/acc"]] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert reading.series[0].times == tuple(1_700_000_000.0 + step for step in range(5))
    assert reading.ignored == ("weights (histogram)", "note/text_summary (text)")
    assert said(reading) == []


def test_tensorboard__tf2__tensors_read():
    reading = TensorboardReader().read(FIXTURES / "tensorboard/tf2/train", "tb")

    assert [round(value, 6) for _, value in curves(reading)["epoch_loss"]] == [1.0, 0.5, 0.333333]
    assert reading.ignored == ("kernel (histograms)",)


@pytest.mark.parametrize(
    ("dtype", "content", "expected"),
    [
        (1, message(5, struct.pack("<f", 0.5)), 0.5),
        (1, message(4, struct.pack("<f", 0.5)), 0.5),
        (2, message(6, struct.pack("<d", 0.1)), 0.1),
        (2, message(4, struct.pack("<d", 0.1)), 0.1),
        (3, message(7, b"\x07"), 7.0),
        (9, message(10, b"\xff" * 9 + b"\x01"), -1.0),
        (1, bytes([5 << 3 | 5]) + struct.pack("<f", 0.5), 0.5),
    ],
)
def test_tensorboard__every_kind_of_number__read(tmp_path, dtype, content, expected):
    (tmp_path / "events.out.tfevents.1").write_bytes(event("a", message(8, bytes([8, dtype]) + content), step=3))

    assert curves(TensorboardReader().read(tmp_path, "tb")) == {"a": [(3, expected)]}


def test_tensorboard__torn_tail__reported_the_rest_used(tmp_path):
    whole = event("a", simple(1.0)) + event("a", simple(2.0), step=1)
    (tmp_path / "events.out.tfevents.1").write_bytes(whole[:-3])

    reading = TensorboardReader().read(tmp_path, "tb")

    assert curves(reading) == {"a": [(0, 1.0)]}
    assert said(reading) == [f"byte {len(whole) // 2 - 1}: the last record is cut off; the records before it are used"]


def test_tensorboard__wrong_checksum__record_not_used(tmp_path):
    first = event("a", simple(1.0), step=1)
    (tmp_path / "events.out.tfevents.1").write_bytes(
        first[:-6] + b"\x41" + first[-5:] + event("a", simple(2.0), step=2)
    )

    reading = TensorboardReader().read(tmp_path, "tb")

    assert curves(reading) == {"a": [(2, 2.0)]}
    assert said(reading) == ["byte 0: the checksum is wrong; the record is not used"]


def test_tensorboard__restart_in_a_second_file__last_write_wins(tmp_path):
    older = [event("a", simple(step), step=step, time=1.7e9 + step) for step in range(1, 4)]
    newer = [event("a", simple(10 * step), step=step, time=1.8e9 + step) for step in range(2, 5)]
    (tmp_path / "events.out.tfevents.9").write_bytes(b"".join(older))  # the name says nothing about the order
    (tmp_path / "events.out.tfevents.1").write_bytes(b"".join(newer))

    reading = TensorboardReader().read(tmp_path, "tb")

    assert curves(reading) == {"a": [(1, 1.0), (2, 20.0), (3, 30.0), (4, 40.0)]}
    assert said(reading) == ["a: 2 steps were written again, as after a restart; the last write counts"]


def test_tensorboard__nan__kept_and_reported(tmp_path):
    (tmp_path / "events.out.tfevents.1").write_bytes(event("a", simple(math.nan), step=7))

    assert said(TensorboardReader().read(tmp_path, "tb")) == [
        "a: 1 of 1 values are not finite, the first at step 7: nan"
    ]


# W&B


def test_wandb__offline__history_summary_and_config():
    reading = WandbReader().read(FIXTURES / "wandb/run-fixture.wandb", "run")

    assert curves(reading)["nested/x"] == [(step, step) for step in range(5)]
    assert [value for _, value in curves(reading)["loss"]][:3] == [2.0, 1.0, 2 / 3]
    assert values(reading) == {"best": 0.9}
    assert reading.params == {"lr": 0.1, "model/layers": (64, 32)}
    assert said(reading) == ["loss: 1 of 6 values are not finite, the first at step 5: nan"]


def test_wandb__torn_at_every_byte__always_says_so(tmp_path):
    content = (FIXTURES / "wandb/run-fixture.wandb").read_bytes()
    file = tmp_path / "run.wandb"

    for size in range(0, len(content) - 60, 7):
        file.write_bytes(content[:size])
        reading = WandbReader().read(file, "run")
        assert len(curves(reading).get("loss", [])) <= 6
        assert any("cut off" in text or "not finished" in text or "no .wandb" in text for text in said(reading))


def test_wandb__flipped_byte__checksum_reported(tmp_path):
    content = bytearray((FIXTURES / "wandb/run-fixture.wandb").read_bytes())
    content[700] ^= 1
    (tmp_path / "run.wandb").write_bytes(content)

    problem, unfinished, *_ = said(WandbReader().read(tmp_path / "run.wandb", "run"))
    assert problem.endswith("the checksum is wrong; the file is read on at its next block")
    assert unfinished == "the run was not finished; what it wrote until then is read"


def test_wandb__record_over_several_blocks__put_together(tmp_path):
    item = message(2, b"big") + bytes([0x82, 0x01]) + b"\x03" + b"0.5"
    filler = message(2, b"text") + bytes([0x82, 0x01]) + bytes([0xA2, 0xC4, 0x04]) + b'"' + b"x" * 74_272 + b'"'
    payload = message(2, message(1, item) + message(1, filler)) + bytes([0x92, 0x01, 0])
    data = b":W&B\xe1\xbe\x00"
    kind = 2
    while payload:
        room = 32768 - len(data) % 32768 - 7
        part, payload = payload[:room], payload[room:]
        kind = kind if payload else 4
        data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part
        kind = 3
    (tmp_path / "run.wandb").write_bytes(data)

    reading = WandbReader().read(tmp_path / "run.wandb", "run")

    assert curves(reading) == {"big": [(0, 0.5)]}
    assert said(reading) == []


# MLflow


@pytest.fixture
def database(tmp_path) -> Path:
    file = tmp_path / "mlflow.db"
    file.write_bytes(gzip.decompress((FIXTURES / "mlflow/mlflow.db.gz").read_bytes()))
    return file


def test_mlflow__database_and_store__say_the_same(database):
    from_database = MlflowReader().read(database, "db")
    from_store = MlflowReader().read(FIXTURES / "mlflow/mlruns", "store")

    for reading in (from_database, from_store):
        found = curves(reading)
        assert found["val/acc"] == [(0, 0.5), (1, 0.6), (2, 0.7), (3, 0.8)]
        assert math.isnan(found["loss"][4][1])
        assert found["big"] == [(0, math.inf)]
        assert reading.params == {"lr": 0.1}
        assert said(reading) == [
            "big: 1 of 1 values are not finite, the first at step 0: inf",
            "loss: 1 of 5 values are not finite, the first at step 4: nan",
        ]


def test_mlflow__database__left_as_it_was(database):
    before = database.read_bytes()

    MlflowReader().read(database, "db")

    assert database.read_bytes() == before
    assert [path.name for path in database.parent.iterdir()] == ["mlflow.db"]


def test_mlflow__several_runs__newest_read_and_said(database):
    with sqlite3.connect(database) as connection:
        connection.execute(
            "INSERT INTO runs (run_uuid, name, status, start_time, lifecycle_stage) VALUES"
            " ('a', 'gone', 'FINISHED', 9999999999999, 'deleted'), ('b', 'crashed', 'FAILED', 9999999999998, 'active')"
        )
        connection.execute(
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('m', 1, 1, 'b', 0, 0)"
        )
    connection.close()

    reading = MlflowReader().read(database, "db")

    assert curves(reading) == {"m": [(0, 1)]}
    assert said(reading) == [
        "has 2 runs; the one that started last is read: crashed (b)",
        "the run crashed (b) is not finished but FAILED",
    ]


def test_mlflow__view_that_computes_for_ever__not_asked(tmp_path):
    file = tmp_path / "evil.db"
    with sqlite3.connect(file) as connection:
        endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
        connection.execute(f"CREATE VIEW runs AS {endless}")
        for table in ("metrics", "params", "tags", "alembic_version"):
            connection.execute(f"CREATE TABLE {table} (a)")
    connection.close()

    assert said(MlflowReader().read(file, "db")) == ["is no MLflow database: it has no table `runs`"]


def test_mlflow__store_lines_of_two_three_and_five_fields__third_is_the_step(tmp_path):
    shutil.copytree(FIXTURES / "mlflow/mlruns", tmp_path, dirs_exist_ok=True)
    (loss,) = tmp_path.rglob("metrics/loss")
    loss.write_text("1700000000000 3.0\n1700000001000 2.0 1\n1700000002000 1.0 2 train abc\nnonsense\n17000000")

    reading = MlflowReader().read(tmp_path, "mlruns")

    assert curves(reading)["loss"] == [(0, 3), (1, 2), (2, 1)]
    assert said(reading)[:2] == ["line 4: is no metric", "line 5: is cut off and is not used"]


# The tables


def test_lightning__highest_version_is_read(tmp_path):
    for version in ("version_2", "version_10"):
        shutil.copytree(FIXTURES / "lightning/version_0", tmp_path / version)
    with (tmp_path / "version_10/metrics.csv").open("a") as stream:
        stream.write("2,,9,,1.0\n")

    reading = LightningReader().read(tmp_path, "logs")

    assert curves(reading)["val_acc"] == [(3, 0.5), (7, 0.75), (9, 1.0)]
    assert said(reading) == ["has 2 versions; version_10 is read"]
    assert reading.params == {"lr": 0.1, "layers": (64, 32)}


def test_keras__restart_missing_and_arrays(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text('epoch;loss;recalls;val_loss\n0;2.0;"[0.1, 0.2]";NA\n1;1.0;"[0.1, 0.2]";1.5\n0;0.5;"[1, 1]";1.0\n')

    assert KerasReader().detect(file, file.read_bytes())
    reading = KerasReader().read(file, "log")

    assert curves(reading) == {"loss": [(0, 2), (1, 1), (0, 0.5)], "val_loss": [(1, 1.5), (0, 1.0)]}
    assert reading.ignored == ("recalls (text)",)
    assert said(reading) == ["loss: steps go back from 1 to 0, as after a restart; all values are kept as written"]


def test_ultralytics__padded_names__stripped():
    reading = UltralyticsReader().read(FIXTURES / "ultralytics/results.csv", "runs/results.csv")

    assert curves(reading)["metrics/mAP50(B)"] == [(1, 0.75), (2, 0.875)]
    assert reading.params == {"task": "detect", "epochs": 2, "lr0": 0.01}


# The documents


def test_huggingface__folder__root_history_and_final_values():
    reading = HuggingfaceReader().read(FIXTURES / "huggingface", "out")

    assert curves(reading)["eval_loss"] == [(10, 0.4), (20, 0.2)]
    assert values(reading) == {"best_metric": 0.4, "eval_exact": 0.75}
    assert "total_flos (cost, not quality)" in reading.ignored


def test_huggingface__only_checkpoints__highest_step_is_read(tmp_path):
    for step in (9, 100, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        state = {"log_history": [{"loss": 1.0, "step": step}]}
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))

    file = tmp_path / "checkpoint-9" / "trainer_state.json"
    assert HuggingfaceReader().unit(file) == tmp_path
    assert curves(HuggingfaceReader().read(tmp_path, "out")) == {"loss": [(100, 1.0)]}


def test_lm_eval__stderr_and_counts_beside_the_value(tmp_path):
    (file,) = (FIXTURES / "lm-eval").glob("*.json")

    reading = LmEvalReader().read(file, "r")

    assert reading.scalars == (
        Scalar(name="piqa/acc", value=0.65, stderr=0.0111, count=1838),
        Scalar(name="piqa/acc_norm", value=0.67, stderr=None, count=1838),
        Scalar(name="gsm8k/exact_match,strict-match", value=0.25, stderr=0.0119, count=100),
        Scalar(name="gsm8k/exact_match,flexible-extract", value=0.3, stderr=0.0126, count=100),
    )


@pytest.mark.parametrize(
    "content",
    [
        '{"bbox": {"AP": 0.5, "AP50": 0.75, "AP75": NaN, "APs": -1}}',
        '{"stats": [0.5, 0.75, NaN, -1, 0.1, 0.2, 0.3, 0.4, 0.5, -1, -1.0, 0.6]}',
    ],
)
def test_coco__minus_one__is_missing_not_a_score(tmp_path, content):
    file = tmp_path / "stats.json"
    file.write_text(content)

    assert CocoReader().detect(file, content.encode())
    reading = CocoReader().read(file, "s")

    assert -1 not in values(reading).values()
    assert reading.ignored[0].endswith("APs (-1: the data has no such objects)")
    assert any(text.endswith("AP75: is nan") for text in said(reading))


@pytest.mark.parametrize("content", ["[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]", "[0.5, 0.5]", '{"AP": 0.5}'])
def test_coco__other_numbers__not_taken_for_it(tmp_path, content):
    assert not CocoReader().detect(tmp_path / "x.json", content.encode())


def test_sacred__failed_run_and_wrapped_numbers__said_and_read(tmp_path):
    shutil.copytree(FIXTURES / "sacred/1", tmp_path, dirs_exist_ok=True)
    wrapped = {"py/object": "numpy.float64", "dtype": "float64", "value": 0.25}
    run = json.loads((tmp_path / "run.json").read_text()) | {"status": "FAILED", "result": wrapped}
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "metrics.json").write_text(
        json.dumps({"a": {"steps": [0], "values": [wrapped], "timestamps": ["2026-01-01T00:00:00"]}, "b": [1]})
    )

    reading = SacredReader().read(tmp_path, "1")

    assert curves(reading) == {"a": [(0, 0.25)]}
    assert values(reading) == {"result": 0.25}
    assert said(reading) == [
        "b: has no lists `steps` and `values` of equal length; it is not used",
        "status: the run is not completed: FAILED",
    ]


def test_dvc__top_and_stages__all_read_and_a_shared_name_qualified(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "dvc.yaml").write_text(
        "metrics: [m/a.json]\nstages:\n  train:\n    cmd: x\n    wdir: m\n    metrics:\n    - b.yaml: {cache: false}\n"
        "    - ../../../etc/passwd\n    - ${x}.json\n"
    )
    (tmp_path / "m/a.json").write_text('{"acc": 0.5, "one": 1}')
    (tmp_path / "m/b.yaml").write_text("acc: 0.25\n")
    (tmp_path / "params.yaml").write_text("lr: 0.1\n")

    reading = DvcReader().read(tmp_path / "dvc.yaml", "dvc.yaml")

    assert values(reading) == {"m/a.json:acc": 0.5, "one": 1, "m/b.yaml:acc": 0.25}
    assert reading.params == {"lr": 0.1}
    assert said(reading) == [
        "m/../../../etc/passwd: leads out of the folder of dvc.yaml; it is not read",
        "m/${x}.json: is a template of DVC's; name the file itself under `metrics.read`",
    ]
