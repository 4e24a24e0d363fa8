"""GPUs: seen through nvidia-smi, taken all or none."""

from pathlib import Path

import pytest

from gitops_ml.agent.machine import Gpus, hardware, visible_gpus

LISTING = "0, GPU-aaa, NVIDIA L4\n1, GPU-bbb, NVIDIA L4\n2, GPU-ccc, NVIDIA H100 80GB HBM3\n"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{LISTING}'\n")
    tool.chmod(0o755)
    return {"PATH": str(tmp_path)}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (None, ["GPU-aaa", "GPU-bbb", "GPU-ccc"]),
        ("0,2", ["GPU-aaa", "GPU-ccc"]),
        ("GPU-b", ["GPU-bbb"]),
        ("", []),
    ],
)
def test_visible_gpus__as_the_caller_sees_them(environ: dict[str, str], shown: str | None, expected: list[str]) -> None:
    found = visible_gpus(environ if shown is None else {**environ, "CUDA_VISIBLE_DEVICES": shown})

    assert list(found) == expected


def test_visible_gpus__no_tool__none(tmp_path: Path) -> None:
    assert visible_gpus({"PATH": str(tmp_path)}) == {}


def test_gpus__taken__are_not_given_twice(tmp_path: Path) -> None:
    names = {"GPU-aaa": "L4", "GPU-bbb": "L4", "GPU-ccc": "L4"}
    first, second, waits = Gpus(tmp_path, names), Gpus(tmp_path, names), []

    first.acquire(2, waits.append)

    class Waited(Exception):  # noqa: N818
        pass

    def wait(seconds: float) -> None:
        assert second.held == {}  # holds none while it waits for two
        raise Waited

    with pytest.raises(Waited):
        second.acquire(2, wait)
    second.acquire(1, waits.append)
    assert (list(first.held), list(second.held), waits) == (["GPU-aaa", "GPU-bbb"], ["GPU-ccc"], [])


def test_hardware__here__is_known() -> None:
    found = hardware(("L4",))

    assert found["cpus"] >= 1
    assert found["memory_bytes"] > 2**20
    assert found["machine"]
    assert found["gpus"] == ["L4"]
