"""A skip must fail in CI, and only there: tried on a suite of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
SUITE = """
import pytest

def test_runs(): pass

@pytest.mark.skip(reason="no cloud here")
def test_needs_more(): pass
"""


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_session__with_a_skip__fails_in_ci_alone(ci, code, workers, tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "test_suite.py").write_text(SUITE, encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-ra",
            "-n",
            str(workers),
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tmp_path),
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "CI": ci},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == code, done.stdout + done.stderr
    assert "no cloud here" in done.stdout
    assert ("skipped in CI, which is a failure" in done.stdout) == (code == 1)
