"""``gitops-ml ci --job publish --from-job NAME``: what another job left comes from the forge, and may be anything."""

import io
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gitops_ml.commands import _ci_handover
from gitops_ml.errors import ExitCode
from gitops_ml.forges.base import LeftByJob
from tests.fakes.ci_jobs import BETTER, SPEC, TRAIN, PricedTools, Result, World
from tests.fakes.repositories import git

JOB = "gitops-ml:run"


class KeepingTools(PricedTools):
    """The forge is the local one, and keeps what jobs leave."""

    status, expired = "success", False
    content: bytes | None = None
    places: ClassVar[list[Path]] = []

    def forge(self, name: str) -> Any:
        return _Keeping(super().forge(name), type(self))


class _Keeping:
    def __init__(self, forge: Any, kept: type[KeepingTools]) -> None:
        self._forge = forge
        self._kept = kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._forge, name)

    def left_by_job(self, name: str, folder: Path, *, limit_bytes: int) -> LeftByJob:
        assert (name, limit_bytes) == (JOB, 2**30 + 2**26)
        self._kept.places.append(folder)
        archive = None
        if self._kept.content is not None:
            archive = folder / "given"
            archive.write_bytes(self._kept.content)
        return LeftByJob(status=self._kept.status, archive=archive, expired=self._kept.expired)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, {"experiment.yaml": SPEC, "train.py": TRAIN, ".gitignore": ".gitops-ml/\n"})
    made.tools = type("Kept", (KeepingTools,), {"places": []})
    return made


def kept(world: World, **values: Any) -> None:
    for name, value in values.items():
        setattr(world.tools, name, value)


def trained(world: World, head: str, *more: str) -> bytes:
    """Let the jobs before train, and return the archive of what they leave."""
    folder = world.folder / "left"
    plan, raw, dotenv = world.folder / "plan", folder / _ci_handover.FOLDER, folder / _ci_handover.DOTENV
    planned = world.changed(head, "--job", "plan", "--out", str(plan), *more)
    assert planned.code == ExitCode.OK, planned.err
    options = ("--job", "run", "--plan", str(plan), "--out", str(raw), "--dotenv", str(dotenv), *more)
    folder.mkdir()
    world.changed(head, *options)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return packed({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})


def packed(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as made:
        for path, text in files.items():
            made.writestr(path, text)
    return content.getvalue()


def published(world: World, head: str, *more: str) -> Result:
    done = world.changed(head, "--job", "publish", "--from-job", JOB, *more)
    assert not [place for place in world.tools.places if place.exists()], "nothing is left behind"
    return done


YES = "--approved-by-environment"


def test_publish__what_the_job_left__is_made_records_of(world):
    head = world.push({"experiment.yaml": BETTER})
    kept(world, content=trained(world, head, YES))
    done = published(world, head, YES)

    assert "6 results taken of what was handed over" in done.out, done.err
    assert len([path for path in world.ledger() if path.endswith("record.json")]) == 6


def test_publish__job_that_failed_a_trial__is_taken_with_the_reason(world):
    head = world.push({"experiment.yaml": BETTER, "train.py": "import sys\nsys.exit('out of luck')\n"})
    kept(world, content=trained(world, head, YES), status="failed")
    done = published(world, head, YES)

    assert done.statuses[head]["gitops-ml/digits"]["state"] == "failure"
    assert "out of luck" in done.comment


@pytest.mark.parametrize(
    ("status", "expired", "content", "why"),
    [
        ("failed", False, None, "it left nothing"),
        ("manual", False, None, "it left nothing"),
        ("success", True, None, "what it left has expired; run it again if results are missing"),
        ("canceled", False, {"gitops-ml-raw/a": b"x"}, "it says no digest, so it did not come to its end"),
        ("failed", False, {"gitops-ml.env": b"DIGEST=\n"}, "it says no digest, so it did not come to its end"),
        ("failed", False, {"gitops-ml.env/x": b"a"}, "it says no digest, so it did not come to its end"),
        (
            "failed",
            False,
            {"gitops-ml.env": b"XDIGEST=" + b"a" * 64},
            "it says no digest, so it did not come to its end",
        ),
    ],
)
def test_publish__nothing_was_handed_over__is_said_and_nobody_has_approved_it(world, status, expired, content, why):
    head = world.push({"experiment.yaml": BETTER})
    kept(world, status=status, expired=expired, content=packed(content) if content else None)
    done = published(world, head, YES)

    assert f"nothing is taken from the job `{JOB}` ({status}): {why}\n" in done.err
    assert done.statuses[head]["gitops-ml/digits"] | {"url": ""} == {
        "state": "pending",
        "text": "waits for an approval",
        "url": "",
    }
    assert "digits" in done.comment


def test_publish__digest_of_another_folder__is_refused(world):
    head = world.push({"experiment.yaml": BETTER})
    files = {"gitops-ml-raw/handover.json": b"{}", "gitops-ml.env": b"DIGEST=" + b"a" * 64 + b"\n"}
    kept(world, content=packed(files))
    done = published(world, head, YES)

    assert done.code == ExitCode.DENIED
    assert "and the job that trained said aaaaaaaaaaaa: somebody changed it on the way" in done.err
    assert world.ledger() == []


@pytest.mark.parametrize("content", [b"<html>", packed({"gitops-ml-raw/../../up": b"x"})])
def test_publish__archive_that_is_none__is_refused_and_nothing_is_taken(world, content):
    head = world.push({"experiment.yaml": BETTER})
    kept(world, content=content)
    done = published(world, head, YES)

    assert done.code == ExitCode.USAGE
    assert done.err.splitlines()[-1].startswith("the archive ")
    assert world.ledger() == []


def test_publish__forge_that_keeps_nothing__says_what_to_do(world):
    world.tools = PricedTools
    head = world.push({"experiment.yaml": BETTER})
    done = world.changed(head, "--job", "publish", "--from-job", JOB)

    assert done.code == ExitCode.USAGE
    assert done.err.splitlines()[-1] == (
        "`--from-job` is for GitLab; elsewhere the CI brings a folder, which `--from` names"
    )


def test_publish__on_a_schedule__fetches_too(world):
    files = {"gitops-ml-raw/a": b"x"}
    kept(world, content=packed(files))
    payload = {"repository": {"id": 1, "default_branch": "main"}}
    done = world.ci("schedule", payload, "--job", "publish", "--from-job", JOB, GITHUB_SHA=world.main())

    assert f"nothing is taken from the job `{JOB}` (success): it says no digest" in done.err
    assert len(world.tools.places) == 1
    assert not world.tools.places[0].exists()


def test_publish__branch_of_the_ledger__is_not_asked_for(world):
    git(world.remote, "branch", "gitops-ml/reports", "main")
    done = world.pushed(world.main(), "gitops-ml/reports")

    assert done.code == ExitCode.OK
    assert world.tools.places == []
