"""``docs/aws.md`` agrees with the code, the files and the arithmetic behind it."""

import dataclasses
import re
from pathlib import Path

from gitops_ml.backends.aws_ec2 import money
from gitops_ml.backends.aws_ec2.candidates import fitting_types
from gitops_ml.backends.aws_ec2.settings import Settings, settings_from
from gitops_ml.project import project_from
from gitops_ml.source import read_source
from gitops_ml.spec import experiment_from

TOP = Path(__file__).parents[2]
PAGE = (TOP / "docs/aws.md").read_text(encoding="utf-8")
TEMPLATE = (TOP / "action/aws/setup.yaml").read_text(encoding="utf-8")


def rows(heading):
    """Return the cells of the first table below a heading, without its two first lines."""
    text = PAGE.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_settings__of_the_table__are_those_of_the_code():
    assert {row[0].strip("`") for row in rows("Settings")} == {field.name for field in dataclasses.fields(Settings)}


def test_snippet__of_the_project_file__is_accepted():
    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)

    project, found = project_from(text.encode())

    assert found == ()
    assert settings_from(project.backends["aws-ec2"]).regions == ("us-east-1",)


def test_parameters__named_for_the_stack__are_those_of_the_template():
    known = set(re.search(r"^Parameters:\n(.*?)^Conditions:", TEMPLATE, re.DOTALL | re.MULTILINE)[1].split("\n"))
    known = {line.strip(" :") for line in known if re.fullmatch(r"  \w+:", line)}
    named = set(re.findall(r"[`\s]([A-Z]\w+)=", PAGE))

    assert named
    assert named <= known


def test_files__of_the_table__are_all_that_there_are():
    named = {Path(re.search(r"\]\((.*?)\)", row[0])[1]).name for row in rows("The policies as files")}

    assert named == {file.name for file in (TOP / "action/aws").glob("*.json")}


def test_github_files__are_named():
    assert {file.name for file in (TOP / "action/github").glob("*.json")} <= set(
        re.findall(r"github/([\w-]+\.json)", PAGE)
    )


def test_links__within_pages__lead_to_headings():
    for page, anchor in re.findall(r"\]\(([\w./-]*\.md)?#([\w-]+)\)", PAGE):
        text = (TOP / "docs" / page).read_text(encoding="utf-8") if page else PAGE
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}, (page, anchor)


# What the examples cost: by the functions that `plan` uses.


def example(path):
    source = read_source((TOP / path).read_bytes(), path)
    return experiment_from(source.data, path)


def expected(spec):
    types = fitting_types(spec, Settings())
    gib = money.disk_gib(spec)
    first, dearest = types[0], max(one.usd_per_hour for one in types)
    hourly = money.hourly_usd(first.usd_per_hour, gib)
    worst = money.hourly_usd(dearest, gib)
    most = len(spec.seeds) * money.worst_usd(money.bound(spec, worst), worst)
    return [
        first.name,
        f"{hourly:.4f} ({first.priced_on})",
        f"{hourly / 6:.2f}",
        f"{len(spec.seeds) * hourly / 6:.2f}",
        f"{most:.2f}",
    ]


def test_costs__of_the_examples__follow_from_the_catalog():
    digits, pytorch = (row[1:] for row in rows("What the examples cost"))

    assert digits == expected(example("examples/digits/experiment.yaml"))
    assert pytorch == expected(example("examples/pytorch-gpu/experiments/digits-cnn.yaml"))
