"""The pages say what the code does: generated ones are up to date, links lead somewhere, commands exist."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from gitops_ml import main

TOP = Path(__file__).parents[2]


def tracked(*patterns):
    words = ["git", "-C", str(TOP), "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listing = subprocess.run(words, capture_output=True, text=True, check=True)
    return sorted(TOP / name for name in listing.stdout.splitlines())


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("docs_generate", TOP / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["spec.md", "cli.md", "../action/aws/ci-policy.json", "../action/aws/worker-policy.json"]
)
def test_generated_page__is_up_to_date(name, generator):
    assert (TOP / "docs" / name).read_text(encoding="utf-8") == generator.pages()[name], "run `make docs`"


def test_spec_page__names_every_key_of_the_schema(generator):
    page = generator.spec_page()

    for key in ("evaluation", "mean_last", "no_output", "confirm", "missing", "floor", "include"):
        assert f"`{key}`" in page


@pytest.mark.parametrize("page", tracked("*.md"), ids=lambda page: str(page.relative_to(TOP)))
def test_page__relative_links__lead_to_files_that_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)

    assert [one for one in targets if "://" not in one and not (page.parent / one).exists()] == []


@pytest.mark.parametrize("page", tracked("*.md"), ids=lambda page: str(page.relative_to(TOP)))
def test_page__commands_after_a_prompt__exist(page):
    for line in re.findall(r"^\$ gitops-ml ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        assert line in main.COMMANDS
