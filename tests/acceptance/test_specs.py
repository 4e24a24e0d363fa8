"""Spec files and what `validate` says of them: drop a file in, and it is a test.

``specs/valid/*.yaml`` print nothing but the summary; ``specs/invalid/NAME.yaml`` print exactly ``NAME.expected``.
Both are judged in a repository that holds the files of ``specs/tree``.
"""

import io
import shutil
from pathlib import Path

import pytest

from gitops_ml.main import main
from gitops_ml.tools import Tools

SPECS = Path(__file__).parent / "specs"


def validate(spec: Path, repository: Path) -> tuple[int, str]:
    shutil.copytree(SPECS / "tree", repository)
    (repository / ".git").mkdir()
    shutil.copy(spec, repository / "spec.yaml")
    out, err = io.StringIO(), io.StringIO()
    code = main(["validate", "spec.yaml"], Tools(cwd=repository, environ={}, out=out, err=err))
    assert err.getvalue() == ""
    return code, out.getvalue()


@pytest.mark.parametrize("spec", sorted((SPECS / "valid").glob("*.yaml")), ids=lambda spec: spec.stem)
def test_validate__valid_spec__finds_nothing(spec, tmp_path):
    assert validate(spec, tmp_path / "repository") == (0, "1 spec: nothing found\n")


@pytest.mark.parametrize("spec", sorted((SPECS / "invalid").glob("*.yaml")), ids=lambda spec: spec.stem)
def test_validate__invalid_spec__prints_exactly_what_is_expected(spec, tmp_path):
    expected = spec.with_suffix(".expected").read_text(encoding="utf-8")

    code, output = validate(spec, tmp_path / "repository")

    assert output == expected
    assert code == (1 if " error" in expected.splitlines()[-1] else 0)
