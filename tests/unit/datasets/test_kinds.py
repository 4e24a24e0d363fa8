"""What is particular to one kind of data: hostile listings, credentials and where they go, versions and layouts."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gitops_ml.agent.cache import DataCache
from gitops_ml.datasets import for_uri
from gitops_ml.datasets.base import Dataset, DatasetError, Outside, below, digest_of, file_name
from gitops_ml.datasets.local import git_folder
from tests.fakes.files import FileServer, Hub, LfsStore, basic
from tests.fakes.s3 import S3, serving
from tests.fakes.server import Answer, Fault

SMALL = b"a,b\n1,2\n"
LARGE = b"0123456789" * 50


def dataset(
    root: Path,
    uri: str,
    environ: Mapping[str, str] | None = None,
    source: Mapping[str, str] | None = None,
    clone: Path | None = None,
) -> Dataset:
    environ = {"GITOPS_ML_ALLOW_HOSTS": "127.0.0.1", **(environ or {})}
    cache = DataCache(root / "cache", wait=lambda _: None)
    return for_uri(uri, Outside(environ=environ, cache=cache, wait=lambda _: None, clone=clone), source or {})


# Hugging Face


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    hub.put({"data/small.csv": SMALL, "data/large.csv": LARGE, "README.md": b"# Digits\n"})
    with hub.running():
        yield hub


def test_hub__large_file_is_elsewhere__the_token_is_not_sent_there(hub: Hub, tmp_path: Path) -> None:
    hub.token = "Bearer hf_token"
    store = FileServer()
    store.files = dict(hub.files)
    with store.running():
        hub.elsewhere = store.url
        uri = "hf://datasets/acme/digits"
        data = dataset(tmp_path, uri, {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_token"})
        found = data.fetch(uri, data.resolve(uri), tmp_path / "trial")

    assert {file.name for file in found.rglob("*.*")} == {"small.csv", "large.csv", "README.md"}
    assert found.name == "digits"
    assert {call.headers.get("authorization") for call in hub.calls} == {"Bearer hf_token"}
    assert {call.headers.get("authorization") for call in store.calls} == {None}


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a//b"])
def test_hub__listing_leads_out_of_the_folder__is_refused(hub: Hub, tmp_path: Path, path: str) -> None:
    hub.put({"data/x.csv": SMALL})
    hub.listed[f"data/{path}"] = SMALL
    uri = "hf://datasets/acme/digits/data"

    with pytest.raises(DatasetError, match="cannot be a file below a folder"):
        dataset(tmp_path, uri, {"HF_ENDPOINT": hub.url}).fetch(uri, hub.commit, tmp_path / "trial")

    assert not (tmp_path / "evil").exists()


def test_hub__branch_moves__the_pinned_commit_is_fetched(hub: Hub, tmp_path: Path) -> None:
    uri = "hf://datasets/acme/digits@main/data/small.csv"
    data = dataset(tmp_path, uri, {"HF_ENDPOINT": hub.url})
    pin = data.resolve(uri)
    asked = [call.path for call in hub.calls]

    found = data.fetch(uri, pin, tmp_path / "trial")

    assert found.read_bytes() == SMALL
    assert pin == f"{hub.commit}+git:{hashlib.sha1(b'blob %d' % len(SMALL) + bytes(1) + SMALL).hexdigest()}"
    assert data.resolve(uri, like=hub.commit) == hub.commit
    assert asked[0] == "/api/datasets/acme/digits/revision/main"
    assert "/api/datasets/acme/digits/revision/main" not in [call.path for call in hub.calls[len(asked) : -1]]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("@v9", "there is nothing (404), or nothing that may be seen without credentials"),
        ("/data/none.csv", "there is no `data/none.csv` at "),
    ],
)
def test_hub__not_there__is_said(hub: Hub, tmp_path: Path, path: str, words: str) -> None:
    uri = f"hf://datasets/acme/digits{path}"

    with pytest.raises(DatasetError) as refused:
        dataset(tmp_path, uri, {"HF_ENDPOINT": hub.url}).resolve(uri)

    assert str(refused.value).startswith(f"{uri}: ")
    assert words in str(refused.value)


@pytest.mark.parametrize("answer", [{"sha": "main"}, {"sha": None}, [], "x"])
def test_hub__answers_nonsense__is_refused(hub: Hub, tmp_path: Path, answer: object) -> None:
    uri = "hf://datasets/acme/digits"
    hub.faults.append(Fault(kind="answer", answer=Answer(body=answer)))

    with pytest.raises(DatasetError, match="the Hub does not say which commit `main` is"):
        dataset(tmp_path, uri, {"HF_ENDPOINT": hub.url}).resolve(uri)


# Git LFS


@pytest.fixture
def store() -> Iterator[LfsStore]:
    store = LfsStore()
    store.put(LARGE)
    with store.running():
        yield store


def lfs_source(store: LfsStore, data: bytes = LARGE) -> Mapping[str, str]:
    return {"kind": "lfs", "oid": hashlib.sha256(data).hexdigest(), "size": str(len(data)), "url": store.store}


@pytest.mark.parametrize(
    ("server", "token", "user"),
    [
        ("GITHUB_SERVER_URL", "GITHUB_TOKEN", "x-access-token"),
        ("GITHUB_SERVER_URL", "GH_TOKEN", "x-access-token"),
        ("CI_SERVER_URL", "CI_JOB_TOKEN", "gitlab-ci-token"),
        ("CI_SERVER_URL", "GITLAB_TOKEN", "oauth2"),
    ],
)
def test_lfs__token_of_its_forge__logs_in(store: LfsStore, tmp_path: Path, server: str, token: str, user: str) -> None:
    store.token = basic(user, "s3cret")
    environ = {server: store.url, token: "s3cret"}

    found = dataset(tmp_path, "x.bin", environ, lfs_source(store)).fetch("x.bin", None, tmp_path / "trial")

    assert found.read_bytes() == LARGE


def test_lfs__token_of_another_host__is_not_sent(store: LfsStore, tmp_path: Path) -> None:
    environ = {"GITHUB_TOKEN": "s3cret", "GITLAB_TOKEN": "s3cret", "CI_SERVER_URL": "https://gitlab.example"}

    dataset(tmp_path, "x.bin", environ, lfs_source(store)).fetch("x.bin", None, tmp_path / "trial")

    assert {call.headers.get("authorization") for call in store.calls} == {None}


def test_lfs__store_hands_out_headers__they_go_to_the_file_alone(store: LfsStore, tmp_path: Path) -> None:
    store.headers = {"Authorization": "RemoteAuth one-time"}

    dataset(tmp_path, "x.bin", {}, lfs_source(store)).fetch("x.bin", None, tmp_path / "trial")

    assert [call.headers.get("authorization") for call in store.calls] == [None, "RemoteAuth one-time"]


def test_lfs__store_does_not_have_it__says_so(store: LfsStore, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as refused:
        dataset(tmp_path, "x.bin", {}, lfs_source(store, SMALL)).fetch("x.bin", None, tmp_path / "trial")

    assert str(refused.value) == "x.bin: Git LFS: the store does not have it: git lfs push"


@pytest.mark.parametrize("answer", [{}, [], {"objects": []}, {"objects": [{"oid": "x"}]}, {"objects": "x"}])
def test_lfs__store_answers_nonsense__is_refused(store: LfsStore, tmp_path: Path, answer: object) -> None:
    store.faults.append(Fault(kind="answer", answer=Answer(body=answer)))

    with pytest.raises(DatasetError) as refused:
        dataset(tmp_path, "x.bin", {}, lfs_source(store)).fetch("x.bin", None, tmp_path / "trial")

    assert str(refused.value) == "x.bin: the Git LFS store answers with something else than its API says"


def test_lfs__remote_is_a_folder_of_this_machine__is_read_there(tmp_path: Path) -> None:
    oid = hashlib.sha256(LARGE).hexdigest()
    kept = tmp_path / "remote.git/lfs/objects" / oid[:2] / oid[2:4] / oid
    kept.parent.mkdir(parents=True)
    kept.write_bytes(LARGE)
    source = {"kind": "lfs", "oid": oid, "size": str(len(LARGE)), "url": (tmp_path / "remote.git").as_uri()}

    found = dataset(tmp_path, "x.bin", {}, source).fetch("x.bin", None, tmp_path / "trial")

    assert found.read_bytes() == LARGE


def test_git_folder__work_tree_of_its_own__is_the_one_that_all_share(tmp_path: Path) -> None:
    main = tmp_path / "main/.git"
    (main / "worktrees/other").mkdir(parents=True)
    (main / "worktrees/other/commondir").write_text("../..\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.git").write_text(f"gitdir: {main}/worktrees/other\n")

    assert git_folder(tmp_path / "other").resolve() == main
    assert git_folder(tmp_path / "main") == main


# DVC


def dvc_remote(root: Path, files: Mapping[str, bytes]) -> Path:
    for path, data in files.items():
        (root / "remote" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "remote" / path).write_bytes(data)
    return root / "remote"


def test_dvc__before_3__old_layout_and_line_ends(tmp_path: Path) -> None:
    windows = SMALL.replace(b"\n", b"\r\n")
    md5 = hashlib.md5(SMALL).hexdigest()
    remote = dvc_remote(tmp_path, {f"{md5[:2]}/{md5[2:]}": windows})
    source = {"kind": "dvc", "md5": md5, "layout": "", "remote": str(remote)}

    found = dataset(tmp_path, "x.csv", {}, source).fetch("x.csv", f"md5:{md5}", tmp_path / "trial")

    assert found.read_bytes() == windows


@pytest.mark.parametrize(
    "listing",
    [
        b"no JSON",
        b"{}x",
        b'[{"md5": "00000000000000000000000000000000"}]',
        b'[{"md5": "../../../../etc/passwd", "relpath": "a"}]',
        b'[{"md5": 3, "relpath": "a"}]',
        b"[[]]",
        b"[" * 200_000,
    ],
)
def test_dvc__broken_list_of_a_folder__is_refused(tmp_path: Path, listing: bytes) -> None:
    md5 = hashlib.md5(listing).hexdigest()
    remote = dvc_remote(tmp_path, {f"files/md5/{md5[:2]}/{md5[2:]}.dir": listing})
    source = {"kind": "dvc", "md5": f"{md5}.dir", "layout": "files/md5", "remote": str(remote)}

    with pytest.raises(DatasetError) as refused:
        dataset(tmp_path, "raw", {}, source).fetch("raw", None, tmp_path / "trial")

    assert str(refused.value) == "raw: DVC's list of its files is broken"


def test_dvc__list_leads_out_of_the_folder__is_refused(tmp_path: Path) -> None:
    file = hashlib.md5(SMALL).hexdigest()
    listing = json.dumps([{"md5": file, "relpath": "../../evil"}]).encode()
    md5 = hashlib.md5(listing).hexdigest()
    remote = dvc_remote(
        tmp_path,
        {f"files/md5/{md5[:2]}/{md5[2:]}.dir": listing, f"files/md5/{file[:2]}/{file[2:]}": SMALL},
    )
    source = {"kind": "dvc", "md5": f"{md5}.dir", "layout": "files/md5", "remote": str(remote)}

    with pytest.raises(DatasetError, match="cannot be a file below a folder"):
        dataset(tmp_path, "raw", {}, source).fetch("raw", None, tmp_path / "trial")

    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("remote", "words"),
    [
        ("", ".dvc/config names no remote to get it from: dvc remote add"),
        ("ssh://host/x", "the remote ssh://host/x cannot be read; a folder, s3:// or https:// can"),
        ("../store", "the remote ../store is a folder beside the repository, which is not on this machine"),
        ("/none", "the remote does not have it (/none/files/md5/00/000000000000000000000000000000): dvc push"),
    ],
)
def test_dvc__remote_that_cannot_be_read__is_said(tmp_path: Path, remote: str, words: str) -> None:
    source = {"kind": "dvc", "md5": "0" * 32, "layout": "files/md5", "remote": remote}

    with pytest.raises(DatasetError) as refused:
        dataset(tmp_path, "x.csv", {}, source).fetch("x.csv", None, tmp_path / "trial")

    assert str(refused.value) == f"x.csv: DVC: {words}"


def test_dvc__endpoint_in_the_repository_leads_to_metadata__is_refused(tmp_path: Path) -> None:
    source = {
        "kind": "dvc", "md5": "0" * 32, "layout": "files/md5", "remote": "s3://b/dvc", "endpoint": "http://169.254.169.254",
    }  # fmt: skip

    with pytest.raises(DatasetError, match=r"169\.254\.169\.254 is an address of this machine"):
        dataset(tmp_path, "x.csv", {}, source).fetch("x.csv", None, tmp_path / "trial")


# S3


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serving() as server:
        yield server


def test_s3__version_id_without_digest__that_version_is_fetched_and_kept(s3: S3, tmp_path: Path) -> None:
    client = s3.client()
    client.create_bucket(Bucket="kept")
    client.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket="kept", Key="x?.csv", Body=b"first")
    uri = "s3://kept/x?.csv"
    data = dataset(tmp_path, uri, s3.environ)
    pin = data.resolve(uri)
    client.put_object(Bucket="kept", Key="x?.csv", Body=b"second")

    found = data.fetch(uri, pin, tmp_path / "one")

    assert ":" not in pin
    assert data.resolve(uri, like=pin) != pin
    assert (found.name, found.read_bytes()) == ("x_.csv", b"first")
    s3.requests.clear()
    assert data.fetch(uri, pin, tmp_path / "two").read_bytes() == b"first"
    assert s3.requests == []
    client.delete_object(Bucket="kept", Key="x?.csv", VersionId=pin)
    (tmp_path / "cache").rename(tmp_path / "gone")
    with pytest.raises(DatasetError, match=r"s3://kept/x\?\.csv: "):
        dataset(tmp_path, uri, s3.environ).fetch(uri, pin, tmp_path / "three")


def test_s3__key_leads_out_of_the_folder__is_refused(s3: S3, tmp_path: Path) -> None:
    client = s3.client()
    client.create_bucket(Bucket="hostile")
    client.put_object(Bucket="hostile", Key="all/../../evil", Body=b"evil")
    uri = "s3://hostile/all/"
    data = dataset(tmp_path, uri, s3.environ)

    with pytest.raises(DatasetError, match="cannot be a file below a folder"):
        data.fetch(uri, data.resolve(uri), tmp_path / "trial")

    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("size", [10, 9 << 20])
def test_s3__object_changes_between_list_and_download__is_refused_with_both_tags(
    s3: S3, tmp_path: Path, size: int
) -> None:
    client = s3.client()
    client.create_bucket(Bucket=f"moving-{size}")
    client.put_object(Bucket=f"moving-{size}", Key="all/x", Body=b"1" * size)
    uri = f"s3://moving-{size}/all/"
    data = dataset(tmp_path, uri, s3.environ)
    pin = data.resolve(uri)
    asked: list[str] = []

    def changes(environ: Mapping[str, object]) -> None:
        asked.append(str(environ["REQUEST_METHOD"]))
        if "list-type" not in str(environ["QUERY_STRING"]) and environ["REQUEST_METHOD"] != "PUT" and s3.faults:
            s3.faults.clear()
            client.put_object(Bucket=f"moving-{size}", Key="all/x", Body=b"2" * size)

    s3.faults.append(changes)
    try:
        with pytest.raises(DatasetError) as refused:
            data.fetch(uri, pin, tmp_path / "trial")
    finally:
        s3.faults.clear()

    old, new = (hashlib.md5(digit * size).hexdigest() for digit in (b"1", b"2"))
    words = "is pinned; if the change is meant, take it with `gitops-ml lock --update`"
    assert str(refused.value) == f"{uri}x is etag:{new}, but etag:{old} {words}"


def test_s3__many_small_objects__one_request_each(s3: S3, tmp_path: Path) -> None:
    client = s3.client()
    client.create_bucket(Bucket="many")
    for number in range(30):
        client.put_object(Bucket="many", Key=f"all/{number}", Body=b"%d" % number)
    uri = "s3://many/all/"
    data = dataset(tmp_path, uri, s3.environ)
    pin = data.resolve(uri)
    s3.requests.clear()

    found = data.fetch(uri, pin, tmp_path / "trial")

    assert {file.name: file.read_text() for file in found.iterdir()} == {str(n): str(n) for n in range(30)}
    assert len([path for _, path in s3.requests if "list-type" not in path]) == 30


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3://none-there/x", "there is no such "),
        ("s3://empty-one/x", "there is no such object"),
        ("s3://empty-one/all/", "there is no object below it"),
    ],
)
def test_s3__not_there__is_said(s3: S3, tmp_path: Path, uri: str, words: str) -> None:
    s3.client().create_bucket(Bucket="empty-one")

    with pytest.raises(DatasetError, match=f"{uri}: {words}"):
        dataset(tmp_path, uri, s3.environ).resolve(uri)


# All


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("https://example.org/a/train%20set.csv.gz?x=1#y", "train_set.csv.gz"),
        ("https://example.org/", "data"),
        ("https://example.org/..", "data"),
        ("https://example.org/.hidden", "hidden"),
        ("https://example.org/a%2f..%2fb", "b"),
        ("s3://b/digits/train/", "train"),
        ("s3://b/a#b", "a_b"),
        ("data/größe.csv", "größe.csv"),
    ],
)
def test_file_name__of_a_uri__can_be_a_files(uri: str, name: str) -> None:
    assert file_name(uri) == name


@pytest.mark.parametrize("path", ["", "..", "a/..", "/a", "a//b", "a\0b", "./a"])
def test_below__path_that_leads_elsewhere__is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(DatasetError):
        below(tmp_path, path)


@pytest.mark.parametrize(
    ("content", "digest"),
    [
        (b"a\r\nb", hashlib.md5(b"a\nb").hexdigest()),
        (b"a\0\r\nb", hashlib.md5(b"a\0\r\nb").hexdigest()),
        (b"\xff\xfe\xfd\r\n", hashlib.md5(b"\xff\xfe\xfd\r\n").hexdigest()),
        (b"", hashlib.md5(b"").hexdigest()),
    ],
)
def test_digest_of__as_dvc_2_took_it__of_text_with_unix_line_ends(tmp_path: Path, content: bytes, digest: str) -> None:
    (tmp_path / "x").write_bytes(content)

    assert digest_of(tmp_path / "x", "md5-dos2unix") == f"md5-dos2unix:{digest}"
