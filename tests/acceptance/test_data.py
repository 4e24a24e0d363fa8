"""Data from elsewhere as a user meets it: locked, trained on, changed under its pin, kept by DVC and Git LFS."""

import hashlib
import io
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gitops_ml.commands import lock
from gitops_ml.errors import ServiceError
from gitops_ml.main import main, parser
from gitops_ml.tools import Tools
from tests.fakes.files import Hub, LfsStore, pointer
from tests.fakes.repositories import ENVIRON, commit, git, make_repository, write
from tests.fakes.s3 import S3, serving
from tests.fakes.server import Fault
from tests.fakes.tls import TlsFileServer
from tests.fakes.trials import until

FIXTURES = Path(__file__).parents[1] / "fixtures/datasets"
DATA = b"".join(b"%d\n" % n for n in range(20_000))

# Says what it sees of its data and of its caller's secrets; its result is the number of bytes.
TRAIN = """
import json, os, pathlib, sys

seen, count = {}, 0
for name, place in sorted(os.environ.items()):
    if name.startswith("GITOPS_ML_DATA_"):
        place = pathlib.Path(place)
        files = [place] if place.is_file() else sorted(f for f in place.rglob("*") if f.is_file())
        key = name.removeprefix("GITOPS_ML_DATA_").lower()
        seen[key] = {f.relative_to(place.parent).as_posix(): f.read_text() for f in files}
        count += sum(len(text) for text in seen[key].values())
with open(sys.argv[1], "a") as file:
    print(json.dumps(seen), file=file)
secret = [name for name in os.environ if name.startswith(("AWS_", "HF_", "GITHUB_"))]
pathlib.Path("out").mkdir(exist_ok=True)
pathlib.Path("out/metrics.json").write_text(json.dumps({"bytes": count, "secrets": len(secret)}))
"""


class Lab:
    """A repository with one experiment, and gitops-ml to be called in it."""

    def __init__(self, folder: Path) -> None:
        self.top = folder / "repository"
        self.seen = folder / "seen.jsonl"
        self.environ = {**ENVIRON, "HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        make_repository(self.top, {"train.py": TRAIN})

    def spec(self, data: str, *, seeds: str = "[0]") -> None:
        text = (
            f"version: 1\nname: digits\nrun: python3 train.py {self.seen}\n"
            f"data:  # what it is trained on\n{data}seeds: {seeds}\n"
            "metrics: {read: [out/metrics.json], track: [{name: bytes}]}\n"
        )
        write(self.top, {"experiment.yaml": text})

    def text(self) -> str:
        return (self.top / "experiment.yaml").read_text()

    def call(self, *words: str) -> tuple[int, str]:
        said = io.StringIO()
        code = main(words, Tools(cwd=self.top, environ=self.environ, out=said, err=said))
        assert code != 3, said.getvalue()
        return code, said.getvalue()

    def train(self, *words: str) -> tuple[int, str]:
        commit(self.top, {})
        return self.call("run", "--logs", *words)

    def trainings(self) -> list[Mapping[str, Mapping[str, str]]]:
        """Return what each training since the last question saw."""
        lines = self.seen.read_text().splitlines() if self.seen.exists() else []
        self.seen.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def records(self) -> list[dict]:
        files = (self.top / ".gitops-ml/results").rglob("record.json")
        return [json.loads(file.read_bytes()) for file in files]

    def pins(self) -> dict[str, str]:
        (record,) = self.records()
        return dict(record["document"]["data"])

    def metrics(self) -> dict[str, float]:
        (record,) = self.records()
        return {scalar["name"]: scalar["value"] for scalar in record["scalars"]}

    def forget_cache(self) -> None:
        """As on another machine."""
        shutil.rmtree(self.top / ".gitops-ml/cache")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def web(lab: Lab, tmp_path: Path) -> Iterator[TlsFileServer]:
    server = TlsFileServer(tmp_path)
    server.files["/train.csv"] = DATA
    lab.environ |= {"GITOPS_ML_ALLOW_HOSTS": "127.0.0.1", "SSL_CERT_FILE": str(server.certificate)}
    with server.running():
        yield server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serving() as server:
        yield server


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_lock__then_run__trains_on_what_was_pinned(lab: Lab, web: TlsFileServer) -> None:
    lab.spec(f"  - name: train\n    uri: {web.url}/train.csv  # by hand\n    role: train\n")
    assert lab.call("validate")[0] == 1

    locked = lab.call("lock")

    said = f"reading {web.url}/train.csv to learn its digest\nexperiment.yaml: train: {sha256(DATA)}\n"
    assert locked == (0, f"{said}1 version written into 1 spec; review and commit them\n")
    assert f"    uri: {web.url}/train.csv  # by hand\n    version: {sha256(DATA)}\n    role: train\n" in lab.text()
    assert lab.call("validate")[0] == 0
    assert lab.train()[0] == 0
    assert lab.trainings() == [{"train": {"train.csv": DATA.decode()}}]
    assert lab.pins() == {"train": sha256(DATA)}
    assert len(web.calls) == 1
    assert lab.call("lock") == (0, "nothing to do: 1 source outside of the repository, all pinned\n")


def test_run__data_changed_under_its_pin__refused_before_training_with_both_digests(
    lab: Lab, web: TlsFileServer
) -> None:
    lab.spec(f"  - {{name: train, uri: {web.url}/train.csv}}\n")
    assert lab.call("lock")[0] == 0
    web.files["/train.csv"] = DATA[::-1]
    lab.forget_cache()

    code, said = lab.train()

    assert code == 4
    assert (
        f"data `train`: {web.url}/train.csv is {sha256(DATA[::-1])}, but {sha256(DATA)} is pinned; "
        "if the change is meant, take it with `gitops-ml lock --update`"
    ) in said
    assert lab.trainings() == []
    assert lab.records() == []


def test_rerun__first_commit_with_todays_data__is_trained_on_that(lab: Lab, web: TlsFileServer) -> None:
    web.files["/today.csv"] = b"today"
    lab.spec(f"  - {{name: train, uri: {web.url}/train.csv}}\n")
    assert lab.call("lock")[0] == 0
    assert lab.train()[0] == 0
    lab.trainings()

    code, said = lab.call("rerun", "HEAD", "--data", f"train={web.url}/today.csv@{sha256(b'today')}")

    assert code == 0, said
    assert lab.trainings() == [{"train": {"today.csv": "today"}}]
    assert sorted(dict(record["document"]["data"])["train"] for record in lab.records()) == sorted(
        [sha256(DATA), sha256(b"today")]
    )
    code, said = lab.call("log", "--data", f"train={sha256(b'today')[:20]}", "--format", "json")
    assert [row["data"] for row in json.loads(said)] == [{"train": sha256(b"today")}]


def test_run__download_is_torn__is_retried_and_trains(lab: Lab, web: TlsFileServer) -> None:
    lab.spec(f"  - {{name: train, uri: {web.url}/train.csv}}\n")
    assert lab.call("lock")[0] == 0
    lab.forget_cache()
    web.calls.clear()
    web.faults.append(Fault(kind="cut"))

    code, said = lab.train()

    assert code == 0, said
    assert lab.trainings() == [{"train": {"train.csv": DATA.decode()}}]
    assert [call.headers.get("range") for call in web.calls] == [None, f"bytes={len(DATA) // 2}-"]


def test_run__two_trials_at_once__fetch_it_once(lab: Lab, web: TlsFileServer) -> None:
    lab.spec(f"  - {{name: train, uri: {web.url}/train.csv}}\n", seeds="[0, 1]")
    assert lab.call("lock")[0] == 0
    lab.forget_cache()
    web.calls.clear()

    code, said = lab.train("--jobs", "2")

    assert code == 0, said
    assert lab.trainings() == [{"train": {"train.csv": DATA.decode()}}] * 2
    assert len(web.calls) == 1


def test_cancel__while_data_is_fetched__ends_at_once(lab: Lab, web: TlsFileServer) -> None:
    lab.spec(f"  - {{name: train, uri: {web.url}/train.csv}}\n")
    assert lab.call("lock")[0] == 0
    lab.forget_cache()
    web.calls.clear()
    released = threading.Event()
    web.before_answer = lambda _: released.wait(60) and None
    try:
        assert lab.train("--detach")[0] == 0
        until(lambda: web.calls)

        assert lab.call("cancel", "digits")[0] == 0
        code, said = lab.call("status")
    finally:
        released.set()

    assert (code, "cancelled" in said) == (0, True), said
    assert lab.trainings() == []


def test_lock_check__moved_unpinned_gone__each_is_a_finding(lab: Lab, web: TlsFileServer) -> None:
    web.files |= {"/a.csv": b"a", "/b.csv": b"b"}
    lab.spec(
        f"  - {{name: a, uri: {web.url}/a.csv}}\n  - {{name: b, uri: {web.url}/b.csv}}\n"
        f"  - {{name: c, uri: {web.url}/train.csv}}\n"
    )
    assert lab.call("lock")[0] == 0
    assert lab.call("lock", "--check") == (
        0,
        "".join(f"reading {web.url}/{name}.csv to learn its digest\n" for name in ("a", "b", "train"))
        + "3 sources outside of the repository: all pinned, and as they were\n",
    )
    web.files["/a.csv"] = b"A"
    del web.files["/b.csv"]
    write(lab.top, {"experiment.yaml": lab.text().replace(f", version: {sha256(DATA)}", "")})

    code, said = lab.call("lock", "--check")

    before = lab.text()
    assert code == 1
    column = len(f"  - {{name: a, uri: {web.url}/a.csv, version: ") + 1
    moved = f"{web.url}/a.csv is {sha256(b'A')} now, and {sha256(b'a')} is pinned; `gitops-ml lock --update a` takes it"
    gone = f"{web.url}/b.csv: there is nothing (404), or nothing that may be seen without credentials"
    needs = "is outside the repository and needs a `version`; `gitops-ml lock` writes it"
    assert [line for line in said.splitlines() if not line.startswith("reading")] == [
        f"experiment.yaml:5:{column}: `a` has moved: {moved} [data-moved]",
        f"experiment.yaml:6:20: `b` cannot be had any more: {gone} [data-gone]",
        f"experiment.yaml:7:20: `{web.url}/train.csv` {needs} [data-not-pinned]",
        "3 sources outside of the repository: 3 to be looked at",
    ]
    assert lab.call("lock", "--update", "a")[0] == 0
    assert lab.text() == before.replace(sha256(b"a"), sha256(b"A")).replace(
        "train.csv}", f"train.csv, version: {sha256(DATA)}}}"
    )


def test_lock__certificate_that_nobody_vouches_for__is_refused(lab: Lab, web: TlsFileServer) -> None:
    lab.spec(f"  - {{name: a, uri: {web.url}/train.csv}}\n")
    del lab.environ["SSL_CERT_FILE"]

    assert lab.call("lock") == (
        2,
        f"reading {web.url}/train.csv to learn its digest\n{web.url}/train.csv: self-signed certificate\n",
    )
    assert web.calls == []


def test_lock__source_does_not_answer__is_a_service_error(lab: Lab, web: TlsFileServer) -> None:
    lab.spec(f"  - {{name: a, uri: {web.url}/train.csv}}\n")
    web.faults.append(Fault(kind="answer", times=100))
    args = parser("lock").parse_args(["lock"])

    with pytest.raises(ServiceError) as refused:
        lock.run(args, Tools(cwd=lab.top, environ=lab.environ, err=io.StringIO()), wait=lambda _: None)

    assert str(refused.value) == f"{web.url}/train.csv: given up after 5 tries in a row: the server answers 502"


def test_lock__unknown_name__says_which_there_are(lab: Lab) -> None:
    lab.spec("  - {name: train, uri: s3://acme/x.csv}\n")

    assert lab.call("lock", "--update", "trian") == (
        2,
        "--update: no data outside of the repository is called `trian`; did you mean `train`?\n",
    )


def test_lock__spec_with_another_mistake__is_left_alone(lab: Lab) -> None:
    lab.spec("  - {name: train, uri: s3://acme/x.csv}\nsedes: [1]\n")
    before = lab.text()

    code, said = lab.call("lock")

    assert code == 1
    assert "unknown key `sedes`; did you mean `seeds`? [unknown-key]" in said
    assert said.endswith("mend this first: only a spec that is otherwise valid is pinned\n")
    assert lab.text() == before


def test_run__object_and_prefix_in_s3__trains_and_shows_no_key(lab: Lab, s3: S3) -> None:
    client = s3.client()
    client.create_bucket(Bucket="acme-data")
    for key, body in (("train/a.csv", b"1"), ("train/b/c.csv", b"22"), ("test.csv", DATA)):
        client.put_object(Bucket="acme-data", Key=key, Body=body)
    lab.environ |= s3.environ
    lab.spec("  - {name: train, uri: s3://acme-data/train/}\n  - {name: test, uri: s3://acme-data/test.csv}\n")
    assert lab.call("lock")[0] == 0

    code, said = lab.train()

    assert code == 0, said
    assert lab.trainings() == [
        {"train": {"train/a.csv": "1", "train/b/c.csv": "22"}, "test": {"test.csv": DATA.decode()}}
    ]
    assert lab.pins()["test"] == sha256(DATA)
    assert lab.pins()["train"].startswith("manifest:")
    assert lab.metrics()["secrets"] == 0


def test_run__dataset_of_the_hub__trains_with_a_token_that_training_does_not_see(lab: Lab) -> None:
    hub = Hub()
    hub.put({"data/a.csv": b"1,2\n", "data/large.csv": DATA, "README.md": b"# Digits\n"})
    hub.token = "Bearer hf_secretsecretsecret"
    with hub.running():
        lab.environ |= {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": "hf_secretsecretsecret",
            "GITOPS_ML_ALLOW_HOSTS": "127.0.0.1",
        }
        lab.spec("  - {name: train, uri: hf://datasets/acme/digits/data}\n")
        assert lab.call("lock")[0] == 0
        code, said = lab.train()

    assert code == 0, said
    assert f"version: {hub.commit}+manifest:" in lab.text()
    assert lab.trainings() == [{"train": {"data/a.csv": "1,2\n", "data/large.csv": DATA.decode()}}]
    assert lab.pins()["train"].startswith("manifest:")
    assert lab.metrics()["secrets"] == 0
    assert "hf_secret" not in said


def test_rerun__other_data_at_the_same_url__is_pinned_by_what_is_given(lab: Lab, web: TlsFileServer) -> None:
    lab.spec(f"  - {{name: train, uri: '{web.url}/train.csv'}}\n")
    assert lab.call("lock")[0] == 0
    assert lab.train()[0] == 0
    today = b"7\n"
    web.files["/train.csv"] = today
    lab.trainings()

    unpinned, why = lab.call("rerun", "HEAD", "--data", f"train={web.url}/other.csv")
    code, said = lab.call("rerun", "HEAD", "--data", f"train=@{sha256(today)}")

    assert unpinned == 2
    assert "is outside the repository and needs a `version`" in why
    assert code == 0, said
    assert lab.trainings() == [{"train": {"train.csv": "7\n"}}]
    pins = {dict(record["document"]["data"])["train"]: record["derived_from"] for record in lab.records()}
    assert set(pins) == {sha256(DATA), sha256(today)}
    assert pins[sha256(today)] is not None
    assert f"changed: data.train: {sha256(DATA)[:19]} -> {sha256(today)[:19]}" in said


@pytest.fixture
def dvc(lab: Lab, tmp_path: Path) -> Lab:
    shutil.copytree(FIXTURES / "dvc/repository", lab.top, dirs_exist_ok=True)
    shutil.copytree(FIXTURES / "dvc/store", tmp_path / "store")
    lab.spec(
        "  - {name: file, uri: data/x.csv}\n  - {name: folder, uri: data/raw}\n  - {name: made, uri: gen}\n"
        "  - {name: windows, uri: data/windows.csv}\n"
    )
    # Code may name the paths itself, as it would after `dvc pull`.
    write(lab.top, {"experiment.yaml": lab.text().replace("run: ", "run: grep -q two data/raw/sub/ü.txt && ")})
    return lab


def test_run__data_that_dvc_keeps__is_fetched_from_its_remote(dvc: Lab) -> None:
    code, said = dvc.train()

    assert code == 0, said
    assert dvc.trainings() == [
        {
            "file": {"x.csv": "a,b\n1,2\n"},
            "folder": {"raw/1.txt": "one\n", "raw/sub/ü.txt": "two"},
            "made": {"gen/a.txt": "1\n"},
            "windows": {"windows.csv": "a,b\n1,2\n"},
        }
    ]
    assert dvc.pins() == {
        "file": "md5:e5ebd4c02cefbe7955977c67ada242b7",
        "folder": "md5:b775076fd9de1d51eeb23581de58f6a4.dir",
        "made": "md5:b706caeb37102ed52ca6ecd7cb3574f6.dir",
        "windows": "md5:b202f333fba4fd38d4b8e5e693077aab",
    }
    assert dvc.call("validate")[0] == 0


def test_rerun__todays_data_that_dvc_keeps__is_what_its_pointer_says_today(dvc: Lab) -> None:
    dvc.spec("  - {name: file, uri: data/x.csv}\n")
    assert dvc.train()[0] == 0
    windows = (dvc.top / "data/windows.csv.dvc").read_text()
    pointer = windows.replace("windows.csv", "x.csv")
    write(dvc.top, {"data/x.csv.dvc": pointer})
    dvc.trainings()

    lying, said = dvc.call("rerun", "HEAD", "--data", "file=@worktree")
    commit(dvc.top, {})
    code, again = dvc.call("rerun", "HEAD~1", "--data", "file=data/x.csv")

    assert (lying, code) == (0, 0), said + again
    assert len(dvc.trainings()) == 1, again
    assert "changed: data.file: md5:e5ebd4c02cefbe7955977c67ada242b7 -> md5:b202f333fba4fd38d4b8e5e693077aab" in again


def test_run__dvc_cache_of_the_clone__needs_no_remote(dvc: Lab, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "store", dvc.top / ".dvc/cache")
    shutil.rmtree(tmp_path / "store")
    write(dvc.top, {".gitignore": ".dvc/cache\n"})

    assert dvc.train()[0] == 0


def test_run__dvc_remote_has_another_file__refused_with_both_digests(dvc: Lab, tmp_path: Path) -> None:
    (tmp_path / "store/files/md5/e5/ebd4c02cefbe7955977c67ada242b7").chmod(0o644)
    (tmp_path / "store/files/md5/e5/ebd4c02cefbe7955977c67ada242b7").write_bytes(b"other")

    code, said = dvc.train()

    assert code == 4
    other = hashlib.md5(b"other").hexdigest()
    assert f"data `file`: data/x.csv is md5:{other}, but md5:e5ebd4c02cefbe7955977c67ada242b7 is pinned" in said
    assert dvc.trainings() == []


def lfs(lab: Lab, *, with_store: str = "") -> None:
    write(lab.top, {"data/x.csv": pointer(DATA), "weights.txt": pointer(b"weights")})
    lab.spec("  - {name: train, uri: data/x.csv}\n")
    text = lab.text().replace("run: python3", "run: grep -q weights weights.txt && grep -q 19999 data/x.csv && python3")
    write(lab.top, {"experiment.yaml": text})
    if with_store:
        write(lab.top, {".lfsconfig": f"[lfs]\n\turl = {with_store}\n"})


def test_run__files_that_git_lfs_keeps__come_from_the_clone(lab: Lab) -> None:
    lfs(lab)
    for data in (DATA, b"weights"):
        oid = hashlib.sha256(data).hexdigest()
        write(lab.top, {f".git/lfs/objects/{oid[:2]}/{oid[2:4]}/{oid}": data})

    code, said = lab.train()

    assert code == 0, said
    assert lab.trainings() == [{"train": {"x.csv": DATA.decode()}}]
    assert lab.pins()["train"].startswith("git:")


def test_run__files_that_git_lfs_keeps__come_from_its_store(lab: Lab) -> None:
    store = LfsStore()
    for data in (DATA, b"weights"):
        store.put(data)
    with store.running():
        lfs(lab, with_store=store.store)
        lab.environ["GITOPS_ML_ALLOW_HOSTS"] = "127.0.0.1"
        code, said = lab.train()

    assert code == 0, said
    assert lab.trainings() == [{"train": {"x.csv": DATA.decode()}}]


def test_run__lfs_store_on_this_machine_that_nobody_allowed__is_refused(lab: Lab) -> None:
    store = LfsStore()
    with store.running():
        lfs(lab, with_store=store.store)
        code, said = lab.train()

    assert code == 2
    assert "data comes over https:// alone; a host that is trusted without it is named in GITOPS_ML_ALLOW_HOSTS" in said
    assert store.calls == []


def test_run__lfs_file_nowhere__says_how_to_get_it(lab: Lab) -> None:
    lfs(lab)

    code, said = lab.train()

    assert code == 2
    reason = "Git LFS keeps it, this clone does not have it, and no remote says where the store is: git lfs pull"
    assert f"weights.txt: {reason}" in said


@pytest.fixture
def module(lab: Lab, tmp_path: Path) -> Lab:
    inner = make_repository(tmp_path / "inner", {"inner.txt": "inner"})
    library = make_repository(tmp_path / "library", {"lib.py": "x = 1\n"})
    add = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add"]
    git(library, *add, inner.as_uri(), "nested")
    commit(library, {})
    git(lab.top, *add, library.as_uri(), "vendor/lib")
    lab.spec("  - {name: train, uri: train.py}\n")
    text = lab.text().replace(
        "run: python3", "run: cat vendor/lib/lib.py vendor/lib/nested/inner.txt > out/all.txt; python3"
    )
    write(lab.top, {"experiment.yaml": text.replace("run:", "artifacts: [{path: out/all.txt, store: git}]\nrun:")})
    return lab


def test_run__submodules__their_files_at_the_recorded_commits(module: Lab) -> None:
    git(module.top, "-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init", "--recursive")
    commit(module.top, {})
    write(module.top / "vendor/lib", {"lib.py": "not committed\n"})

    code, said = module.train()

    assert code == 0, said
    (made,) = (module.top / ".gitops-ml/results").rglob("all.txt")
    assert made.read_text() == "x = 1\ninner"


def test_run__submodule_that_is_not_here__names_the_command(module: Lab) -> None:
    code, said = module.train()

    inner = git(module.top / "vendor/lib", "rev-parse", "HEAD:nested")
    assert code == 2
    assert (
        f"vendor/lib/nested is a submodule, and this clone does not have its commit {inner[:12]}: "
        "git submodule update --init --recursive -- vendor/lib"
    ) in said
    shutil.rmtree(module.top / ".git/modules")
    commit_of = git(module.top, "rev-parse", "HEAD:vendor/lib")

    code, said = module.call("run")

    assert code == 2
    assert (
        f"vendor/lib is a submodule, and this clone does not have its commit {commit_of[:12]}: "
        "git submodule update --init -- vendor/lib"
    ) in said
