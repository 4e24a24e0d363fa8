"""Bundles: exactly the keyed objects, and the same bytes for the same trial."""

import contextlib
import dataclasses
import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitops_ml.agent.orders import from_json, to_json
from gitops_ml.agent.unpack import BundleError, unpack
from gitops_ml.bundles import bundle, orders_for
from gitops_ml.errors import UserError
from gitops_ml.planning import TreeFile, Trial
from gitops_ml.spec import Artifact, Budget, Data, Environment, Gpu, Metrics, Read, Resources
from tests.fakes.files import pointer
from tests.fakes.trials import Objects, trial


@pytest.fixture
def objects() -> Objects:
    return Objects()


def made(of: Trial, objects: Objects, away: "Away | None" = None) -> bytes:
    with bundle(of, objects.blobs, away) as made, made.open() as file:
        data = file.read()
        assert hashlib.sha256(data).hexdigest() == made.digest
    return data


def test_bundle__same_trial__same_bytes(objects: Objects) -> None:
    files = [objects.file("b.py", "b"), objects.file("a/x.sh", "x", "100755"), objects.file("link", "b.py", "120000")]

    of = trial(files=files)

    assert made(of, objects) == made(of, objects)
    assert made(of, objects) == made(dataclasses.replace(of, files=of.files[::-1]), objects)


def test_bundle__unpacked__is_what_was_keyed(objects: Objects, tmp_path: Path) -> None:
    files = [objects.file("a/x.sh", b"\0\xff", "100755"), objects.file("link", "a/x.sh", "120000")]
    (tmp_path / "b.tar").write_bytes(made(trial(files=files), objects))

    paths = unpack(tmp_path / "b.tar", tmp_path / "into")

    assert paths == ("trial.json", "code/a/x.sh", "code/link")
    assert (tmp_path / "into/code/a/x.sh").read_bytes() == b"\0\xff"
    assert (tmp_path / "into/code/a/x.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "into/code/link").readlink() == Path("a/x.sh")


class Away:
    """An LFS store and a submodule, in memory."""

    def __init__(self, folder: Path, content: bytes = b"") -> None:
        self.folder = folder
        self.content = content
        self.environ = {"HF_ENDPOINT": "https://hub.example", "HF_TOKEN": "s3cret", "AWS_REGION": "eu", "OTHER": "x"}
        self.asked: list[str] = []

    def lfs_store(self, version: object) -> str:
        return "https://example.org/acme/digits.git/info/lfs"

    @contextlib.contextmanager
    def lfs_file(self, path: str, pointer: object, version: object) -> Iterator[Path]:
        self.asked.append(path)
        (self.folder / "content").write_bytes(self.content)
        yield self.folder / "content"

    def submodule(self, path: str, commit: str) -> Iterator[tuple[TreeFile, bytes]]:
        yield TreeFile("src/lib.py", "100644", "1" * 40), f"{path} at {commit}".encode()
        yield TreeFile("run.sh", "100755", "2" * 40), b"true"
        yield TreeFile("link", "120000", "3" * 40), b"src/lib.py"


def test_bundle__submodule__its_files_are_in_it(objects: Objects, tmp_path: Path) -> None:
    module = objects.file("vendor/lib", "", "160000")

    tar = made(trial(files=[objects.file("a.py"), module, objects.file("z.py")]), objects, Away(tmp_path))
    (tmp_path / "b.tar").write_bytes(tar)

    assert unpack(tmp_path / "b.tar", tmp_path / "into") == (
        "trial.json", "code/a.py", "code/vendor/lib/link", "code/vendor/lib/run.sh", "code/vendor/lib/src/lib.py",
        "code/z.py",
    )  # fmt: skip
    assert (tmp_path / "into/code/vendor/lib/link").read_text() == f"vendor/lib at {module.oid}"
    assert (tmp_path / "into/code/vendor/lib/run.sh").stat().st_mode & 0o777 == 0o755


def test_bundle__lfs_pointer_in_the_code__is_what_it_stands_for(objects: Objects, tmp_path: Path) -> None:
    away = Away(tmp_path, b"weights" * 1000)
    of = trial(files=[objects.file("model.bin", pointer(away.content), "100755"), objects.file("z.py", "z")])

    (tmp_path / "b.tar").write_bytes(made(of, objects, away))
    unpack(tmp_path / "b.tar", tmp_path / "into")

    assert (tmp_path / "into/code/model.bin").read_bytes() == away.content
    assert (tmp_path / "into/code/model.bin").stat().st_mode & 0o777 == 0o755
    assert away.asked == ["model.bin"]


def test_bundle__lfs_pointer_that_is_data__is_left_to_the_agent(objects: Objects, tmp_path: Path) -> None:
    away = Away(tmp_path, b"1,2\n")
    of = trial(
        files=[objects.file("data/x.csv", pointer(away.content)), objects.file("a.py")],
        data=(Data(name="train", uri="data/x.csv"),),
    )

    with bundle(of, objects.blobs, away) as found, found.open() as file:
        (tmp_path / "b.tar").write_bytes(file.read())
    paths = unpack(tmp_path / "b.tar", tmp_path / "into")

    (entry,) = from_json((tmp_path / "into/trial.json").read_bytes()).data
    assert paths == ("trial.json", "code/a.py")
    assert entry.source == {
        "kind": "lfs",
        "oid": hashlib.sha256(b"1,2\n").hexdigest(),
        "size": "4",
        "url": "https://example.org/acme/digits.git/info/lfs",
    }
    assert away.asked == []
    assert "GITHUB_TOKEN" in found.variables


def test_bundle__settings_about_data__go_along_without_credentials(objects: Objects, tmp_path: Path) -> None:
    of = trial(files=[objects.file("a.py")], data=(Data(name="b", uri="hf://acme/digits", version="0" * 40),))

    (tmp_path / "b.tar").write_bytes(made(of, objects, Away(tmp_path)))
    unpack(tmp_path / "b.tar", tmp_path / "into")

    assert from_json((tmp_path / "into/trial.json").read_bytes()).settings == {"HF_ENDPOINT": "https://hub.example"}


def test_bundle__data_elsewhere__names_what_it_is_fetched_with(objects: Objects) -> None:
    of = trial(
        files=[objects.file("a.py")],
        data=(
            Data(name="a", uri="s3://bucket/x", version="v1"),
            Data(name="b", uri="hf://acme/digits", version="0" * 40),
        ),
    )

    with bundle(of, objects.blobs) as found:
        assert {"AWS_SECRET_ACCESS_KEY", "AWS_REGION", "HF_TOKEN", "GITOPS_ML_ALLOW_HOSTS"} < {*found.variables}
        assert "GITHUB_TOKEN" not in found.variables


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "../x/../../secret"])
def test_bundle__link_out__is_refused(objects: Objects, target: str) -> None:
    with pytest.raises(UserError, match="leads out of the repository"):
        made(trial(files=[objects.file("a/link", target, "120000")]), objects)


def test_orders__all_fields__come_back(objects: Objects, tmp_path: Path) -> None:
    of = trial(
        ("python", "train.py", "--out=${trial.output}/x", "${data.train}", "${params.sizes}"),
        params={"sizes": (1, 2), "lr": 0.1},
        workdir="model",
        environment=Environment(python="3.11", requirements="r.lock", env={"A": "b"}, secrets=("T",)),
        data=(Data(name="train", uri="data/x.csv"),),
        resources=Resources(gpu=Gpu(count=2)),
        budget=Budget(max_duration_s=60, no_output_s=5, max_wait_s=7),
        metrics=Metrics(read=(Read(path="./out/*.json"),), predictions="preds.csv"),
        artifacts=(Artifact(path="model/"),),
        checkpoints="ckpt",
    )
    (tmp_path / "b.tar").write_bytes(made(of, objects))
    unpack(tmp_path / "b.tar", tmp_path / "into")

    orders = from_json((tmp_path / "into/trial.json").read_bytes())

    assert to_json(orders) == to_json(orders_for(of))
    assert (orders.metrics, orders.outputs) == (("out/*.json",), ("model/", "preds.csv"))
    assert (orders.gpus, orders.max_duration_s, orders.max_wait_s, orders.no_output_s) == (2, 60, 7, 5)
    assert orders.arguments[-2:] == (("1",), ("2",))


def test_orders__output_outside_the_workdir__is_refused() -> None:
    with pytest.raises(UserError, match=r"\.\./x\.json is no output below the workdir"):
        orders_for(trial(metrics=Metrics(read=(Read(path="../x.json"),))))


def _tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            tar.addfile(member)
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize(
    "member",
    [
        _member("../out"),
        _member("/abs"),
        _member("a/../../out"),
        _member("code/link", tarfile.SYMTYPE, "../../out"),
        _member("code/link", tarfile.SYMTYPE, "/etc/passwd"),
        _member("hard", tarfile.LNKTYPE, "trial.json"),
        _member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name}-{member.linkname}",
)
def test_unpack__hostile_member__is_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    with pytest.raises(BundleError):
        unpack(_tar(tmp_path / "t.tar", member), tmp_path / "into")

    assert not (tmp_path / "out").exists()


def test_unpack__write_through_a_link__is_refused(tmp_path: Path) -> None:
    members = [_member("a", tarfile.SYMTYPE, "b"), _member("a/x")]

    with pytest.raises(BundleError):
        unpack(_tar(tmp_path / "t.tar", *members), tmp_path / "into")


def test_unpack__another_digest__is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="the bundle has the digest"):
        unpack(_tar(tmp_path / "t.tar"), tmp_path / "into", digest="0" * 64)
