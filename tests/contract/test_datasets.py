"""What every kind of data URI promises; each is asked here over the protocol that it speaks."""

import dataclasses
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from gitops_ml.agent.cache import DataCache
from gitops_ml.datasets import for_uri
from gitops_ml.datasets.base import Dataset, DatasetError, Outside
from tests.fakes.files import FileServer, Hub, LfsStore
from tests.fakes.s3 import S3, serving
from tests.fakes.server import Answer, Fault

SMALL = b"a,b\n1,2\n"
LARGE = b"".join(b"%d,%d\n" % (n, n * n) for n in range(40_000))
FOLDER = {"one.csv": b"1\n", "deep/er/two.csv": LARGE, "deep/three.csv": b"3\n", "three, too.csv": b"3\n"}


@dataclasses.dataclass(kw_only=True)
class Site:
    """One kind of data, with what it is asked about."""

    root: Path
    uri: str
    folder_uri: str
    environ: Mapping[str, str]
    put: Callable[[bytes], None]
    """Makes this the content of ``uri``, as an owner of the data would: pins of the old one hold no more."""
    put_folder: Callable[[Mapping[str, bytes]], None]
    swap: Callable[[bytes], None]
    """Replaces the content behind the pin, as only an error or an attacker can."""
    requests: Callable[[], int] = lambda: 0
    server: FileServer | None = None
    source: Callable[[str], Mapping[str, str]] = lambda _: {}
    workdir: Path = Path()
    keeps_versions: bool = False
    """What was replaced is still there."""
    said: list[str] = dataclasses.field(default_factory=list)
    paused: list[float] = dataclasses.field(default_factory=list)

    def dataset(self, uri: str) -> Dataset:
        cache = DataCache(self.root / "cache", wait=self._wait, say=self.said.append)
        outside = Outside(
            environ=self.environ, cache=cache, wait=self._wait, say=self.said.append, workdir=self.workdir
        )
        return for_uri(uri, outside, self.source(uri))

    def resolve(self, like: str = "") -> str:
        return self.dataset(self.uri).resolve(self.uri, like=like)

    def fetch(self, version: str, to: str = "trial") -> Path:
        return self.dataset(self.uri).fetch(self.uri, version, self.root / to)

    def fetch_folder(self, version: str, to: str = "trial") -> Path:
        return self.dataset(self.folder_uri).fetch(self.folder_uri, version, self.root / to)

    def _wait(self, seconds: float) -> None:
        if seconds:
            self.paused.append(seconds)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serving() as server:
        yield server


class Bucket:
    """A bucket of a test's own."""

    def __init__(self, s3: S3, *, versions: bool = False) -> None:
        self.name = f"acme-{uuid.uuid4()}"
        self._client = s3.client()
        self._client.create_bucket(Bucket=self.name)
        if versions:
            self._client.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})

    def put(self, files: Mapping[str, bytes], **options: str) -> None:
        for key, data in files.items():
            self._client.put_object(Bucket=self.name, Key=key, Body=data, **options)


KINDS = ("repository", "s3", "s3-versions", "https", "hf", "lfs", "dvc", "dvc-https", "dvc-s3")
CACHED = KINDS[1:]
FOLDERS = ("repository", "s3", "hf", "dvc", "dvc-s3")
SERVED = ("https", "hf", "lfs", "dvc-https")


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    kind = request.param
    environ = {"GITOPS_ML_ALLOW_HOSTS": "127.0.0.1"}
    bucket = None
    if "s3" in kind:
        s3: S3 = request.getfixturevalue("s3")
        environ |= s3.environ
        bucket = Bucket(s3, versions=kind == "s3-versions")
    makers = {
        "repository": _repository, "s3": _s3, "s3-versions": _s3, "https": _https, "hf": _hub, "lfs": _lfs,
        "dvc": _dvc, "dvc-https": _dvc, "dvc-s3": _dvc,
    }  # fmt: skip
    servers = {"https": FileServer, "hf": Hub, "lfs": LfsStore, "dvc-https": FileServer}
    server = servers[kind]() if kind in servers else None
    if server is None:
        yield makers[kind](kind, tmp_path, environ, bucket)
        return
    with server.running():
        yield makers[kind](kind, tmp_path, environ, server)


def _repository(_kind: str, root: Path, environ: dict[str, str], _server: None) -> Site:
    def put(data: bytes) -> None:
        (root / "work").mkdir(exist_ok=True)
        (root / "work" / "x.csv").write_bytes(data)

    def put_folder(files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            (root / "work/all" / path).parent.mkdir(parents=True, exist_ok=True)
            (root / "work/all" / path).write_bytes(data)

    return Site(
        root=root, uri="x.csv", folder_uri="all", environ=environ, put=put, put_folder=put_folder, swap=put,
        workdir=root / "work",
    )  # fmt: skip


def _s3(kind: str, root: Path, environ: dict[str, str], bucket: Bucket) -> Site:
    checksum = {"ChecksumAlgorithm": "SHA256"} if kind == "s3-versions" else {}
    return Site(
        root=root, uri=f"s3://{bucket.name}/digits/x.csv", folder_uri=f"s3://{bucket.name}/all/", environ=environ,
        put=lambda data: bucket.put({"digits/x.csv": data}, **checksum),
        put_folder=lambda files: bucket.put({"all/": b""} | {f"all/{path}": data for path, data in files.items()}),
        swap=lambda data: bucket.put({"digits/x.csv": data}), keeps_versions=kind == "s3-versions",
    )  # fmt: skip


def _https(_kind: str, root: Path, environ: dict[str, str], server: FileServer) -> Site:
    def put(data: bytes) -> None:
        server.files["/digits/x.csv"] = data

    return Site(
        root=root, uri=f"{server.url}/digits/x.csv", folder_uri="", environ=environ, put=put, put_folder=lambda _: None,
        swap=put, requests=lambda: len(server.calls), server=server,
        source=lambda uri: {"kind": "https"},
    )  # fmt: skip


def _hub(_kind: str, root: Path, environ: dict[str, str], server: Hub) -> Site:
    def put(data: bytes) -> None:
        server.commit = hashlib.sha1(data).hexdigest()
        server.put({"data/x.csv": data, "README.md": b"# Digits\n"})

    def swap(data: bytes) -> None:
        server.files[f"/datasets/acme/digits/resolve/{server.commit}/data/x.csv"] = data

    return Site(
        root=root, uri="hf://datasets/acme/digits/data/x.csv", folder_uri="hf://datasets/acme/digits/all",
        environ={**environ, "HF_ENDPOINT": server.url}, put=put, swap=swap,
        put_folder=lambda files: server.put({f"all/{path}": data for path, data in files.items()}),
        requests=lambda: len(server.sent("GET", ".*/resolve/.*")), server=server,
    )  # fmt: skip


def _lfs(_kind: str, root: Path, environ: dict[str, str], server: LfsStore) -> Site:
    pointers = {}

    def put(data: bytes) -> None:
        pointers["x.csv"] = server.put(data)

    def swap(data: bytes) -> None:
        (name,) = server.files
        server.files[name] = data

    def source(uri: str) -> Mapping[str, str]:
        oid, size = re.findall("sha256:(.*)\nsize (.*)", pointers[uri])[0]
        return {"kind": "lfs", "oid": oid, "size": size, "url": server.store}

    return Site(
        root=root, uri="x.csv", folder_uri="", environ=environ, put=put, put_folder=lambda _: None, swap=swap,
        requests=lambda: len(server.sent("GET")), server=server, source=source,
    )  # fmt: skip


def _dvc(_kind: str, root: Path, environ: dict[str, str], holder: FileServer | Bucket | None) -> Site:
    server = holder if isinstance(holder, FileServer) else None
    bucket = holder if isinstance(holder, Bucket) else None
    remote = f"{server.url}/remote" if server else f"s3://{bucket.name}/dvc" if bucket else str(root / "remote")
    digests: dict[str, str] = {}

    def store(md5: str, data: bytes) -> None:
        path = f"files/md5/{md5[:2]}/{md5[2:]}"
        if server:
            server.files[f"/remote/{path}"] = data
        elif bucket:
            bucket.put({f"dvc/{path}": data})
        else:
            (root / "remote" / path).parent.mkdir(parents=True, exist_ok=True)
            (root / "remote" / path).write_bytes(data)

    def put(data: bytes) -> None:
        digests["x.csv"] = hashlib.md5(data).hexdigest()
        store(digests["x.csv"], data)

    def put_folder(files: Mapping[str, bytes]) -> None:
        entries = [{"md5": hashlib.md5(data).hexdigest(), "relpath": path} for path, data in files.items()]
        for entry in entries:
            store(entry["md5"], files[entry["relpath"]])
        listing = json.dumps(entries).encode()
        digests["all"] = f"{hashlib.md5(listing).hexdigest()}.dir"
        store(digests["all"], listing)

    return Site(
        root=root, uri="x.csv", folder_uri="all", environ=environ, put=put, put_folder=put_folder,
        swap=lambda data: store(digests["x.csv"], data), server=server,
        requests=lambda: len(server.calls) if server else 0,
        source=lambda uri: {"kind": "dvc", "md5": digests[uri], "layout": "files/md5", "remote": remote},
    )  # fmt: skip


def content(folder: Path) -> dict[str, bytes]:
    """What is below a folder, by path."""
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def kept(site: Site) -> list[Path]:
    return [file for file in (site.root / "cache/data/objects").rglob("*") if file.is_file()]


def test_fetch__as_pinned__is_the_content(site: Site) -> None:
    site.put(LARGE)

    found = site.fetch(site.resolve())

    assert found.read_bytes() == LARGE
    assert (found.name, found.suffix) == ("x.csv", ".csv")


def test_resolve__nothing_changed__is_the_same_and_pins_the_content(site: Site) -> None:
    site.put(SMALL)
    pin = site.resolve()

    assert site.resolve() == site.resolve(like=pin) == pin
    assert re.search(r"(sha256|md5|git):[0-9a-f]{32,64}$", pin) or site.uri.startswith("s3://")


def test_resolve__changed__is_another(site: Site) -> None:
    site.put(SMALL)
    pin = site.resolve()

    site.put(LARGE)

    assert site.resolve(like=pin) != pin


def test_fetch__changed_under_the_pin__is_refused_with_both_digests(site: Site) -> None:
    site.put(LARGE)
    pin = site.resolve()
    digest = pin.rpartition("+")[2]
    site.swap(LARGE[::-1])
    for file in kept(site):  # as on another machine
        file.unlink()

    if site.keeps_versions:
        assert site.fetch(pin).read_bytes() == LARGE
        return
    with pytest.raises(DatasetError) as refused:
        site.fetch(pin)

    algorithm = digest.partition(":")[0]
    found = {"sha256": hashlib.sha256, "md5": hashlib.md5}[algorithm](LARGE[::-1]).hexdigest()
    assert re.fullmatch(
        rf"\S*x\.csv is {algorithm}:{found}, but {re.escape(digest)} is pinned; "
        r"if the change is meant, take it with `gitops-ml lock --update`",
        str(refused.value),
    )
    assert content(site.root / "trial") == {}
    assert kept(site) == []


@pytest.mark.parametrize("site", CACHED, indirect=True)
def test_fetch__again__comes_from_the_cache(site: Site) -> None:
    site.put(LARGE)
    pin = site.resolve()
    first = site.fetch(pin, "one")
    asked = site.requests()

    second = site.fetch(pin, "two")

    assert first.read_bytes() == second.read_bytes() == LARGE
    assert first != second
    assert site.requests() == asked or site.uri.startswith("http")


@pytest.mark.parametrize("site", CACHED, indirect=True)
def test_fetch__file_in_the_trial__is_read_only(site: Site) -> None:
    site.put(LARGE)

    found = site.fetch(site.resolve())

    assert found.stat().st_mode & 0o222 == 0


@pytest.mark.parametrize("site", CACHED, indirect=True)
def test_fetch__training_writes_into_its_data__the_next_trial_gets_the_pinned_one(site: Site) -> None:
    site.put(LARGE)
    pin = site.resolve()
    first = site.fetch(pin, "one")
    first.chmod(0o644)
    with first.open("r+b") as file:
        file.write(b"rubbish")

    assert site.fetch(pin, "two").read_bytes() == LARGE


@pytest.mark.parametrize("site", FOLDERS, indirect=True)
def test_fetch__folder__is_all_below_it(site: Site) -> None:
    site.put_folder(FOLDER)
    pin = site.dataset(site.folder_uri).resolve(site.folder_uri)

    found = site.fetch_folder(pin)

    assert content(found) == FOLDER
    assert site.fetch_folder(pin, "two").name == "all"


@pytest.mark.parametrize("site", FOLDERS, indirect=True)
def test_fetch__folder_with_one_more_file__is_refused_with_both_digests(site: Site) -> None:
    site.put_folder(FOLDER)
    pin = site.dataset(site.folder_uri).resolve(site.folder_uri)
    site.put_folder({**FOLDER, "more.csv": b"4\n"})

    now = site.dataset(site.folder_uri).resolve(site.folder_uri)
    with pytest.raises(DatasetError) as refused:
        site.fetch_folder(pin)

    old, new = pin.rpartition("+")[2], now.rpartition("+")[2]
    assert str(refused.value) == (
        f"{site.folder_uri} is {new}, but {old} is pinned; "
        "if the change is meant, take it with `gitops-ml lock --update`"
    )


def test_fetch__missing__names_what_is_missing(site: Site) -> None:
    site.put(SMALL)
    pin = site.resolve()
    missing = site.uri.replace("x.csv", "y.csv")
    source = site.source
    site.source = lambda uri: {**source(site.uri), "oid": "0" * 64, "md5": "0" * 32}
    if pin.startswith(("sha256:", "md5:")):
        pin = f"sha256:{'0' * 64}" if pin.startswith("sha256:") else f"md5:{'0' * 32}"

    with pytest.raises(DatasetError, match=r"y\.csv"):
        site.dataset(missing).fetch(missing, pin, site.root / "trial")


@pytest.mark.parametrize("site", SERVED, indirect=True)
def test_fetch__connection_tears__goes_on_where_it_stopped(site: Site) -> None:
    assert site.server is not None
    site.put(LARGE)
    pin = site.resolve()
    for file in kept(site):
        file.unlink()
    site.server.faults += [Fault(kind="cut", method="GET", path=r".*(x\.csv|objects/.*|md5/.*)", times=3)]

    assert site.fetch(pin).read_bytes() == LARGE

    ranges = [call.headers["range"] for call in site.server.calls if "range" in call.headers]
    assert ranges == [f"bytes={len(LARGE) * n // 8}-" for n in (4, 6, 7)]


@pytest.mark.parametrize("site", SERVED, indirect=True)
@pytest.mark.parametrize("kind", ["cut", "reset", "answer"])
def test_fetch__server_never_gets_better__is_given_up(site: Site, kind: str) -> None:
    assert site.server is not None
    site.put(SMALL)
    pin = site.resolve()
    for file in kept(site):
        file.unlink()
    site.server.ranges = False
    site.server.faults += [Fault(kind=kind, times=1000, answer=Answer(status=503))]

    with pytest.raises(DatasetError, match="given up after 5 tries in a row: "):
        site.fetch(pin)

    assert site.paused == [2.0, 4.0, 8.0, 16.0]
