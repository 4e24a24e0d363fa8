"""Downloads from servers that tear, lie, redirect and drip; and where a download may not go at all."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gitops_ml.agent.cache import DataCache
from gitops_ml.datasets.base import DatasetError, Outside
from gitops_ml.datasets.web import Web, is_reserved, refuse_reserved, shown
from tests.fakes.files import FileServer, basic
from tests.fakes.server import Answer, Fault

DATA = b"".join(b"%d\n" % n for n in range(50_000))
SECRET = {"Authorization": "Bearer s3cret"}


@pytest.fixture
def server() -> Iterator[FileServer]:
    server = FileServer()
    server.files["/x"] = DATA
    with server.running():
        yield server


@pytest.fixture
def other() -> Iterator[FileServer]:
    server = FileServer()
    server.files["/x"] = DATA
    with server.running():
        yield server


def web(tmp_path: Path, *, allow: str = "127.0.0.1", now: Callable[[], float] | None = None, **options: float) -> Web:
    outside = Outside(
        environ={"GITOPS_ML_ALLOW_HOSTS": allow}, cache=DataCache(tmp_path / "cache"), wait=lambda _: None
    )
    return Web(outside, **({"now": now} if now else {}), **options)


def test_download__whole__is_the_file(server: FileServer, tmp_path: Path) -> None:
    web(tmp_path).download(f"{server.url}/x", tmp_path / "x", size_bytes=len(DATA))

    assert (tmp_path / "x").read_bytes() == DATA
    assert [call.headers["accept-encoding"] for call in server.calls] == ["identity"]


def test_download__torn__goes_on_with_the_rest_of_the_same_file(server: FileServer, tmp_path: Path) -> None:
    server.faults.append(Fault(kind="cut"))

    web(tmp_path).download(f"{server.url}/x", tmp_path / "x")

    second = server.calls[1].headers
    assert (tmp_path / "x").read_bytes() == DATA
    assert second["range"] == f"bytes={len(DATA) // 2}-"
    assert second["if-range"].strip('"').isalnum()


def test_download__torn_and_then_another_file__begins_anew(server: FileServer, tmp_path: Path) -> None:
    server.faults.append(Fault(kind="cut", then=lambda: server.files.update({"/x": DATA[::-1]})))

    web(tmp_path).download(f"{server.url}/x", tmp_path / "x")

    assert (tmp_path / "x").read_bytes() == DATA[::-1]


def test_download__torn_and_no_ranges__begins_anew(server: FileServer, tmp_path: Path) -> None:
    server.ranges = False
    server.faults.append(Fault(kind="cut"))

    web(tmp_path).download(f"{server.url}/x", tmp_path / "x")

    assert (tmp_path / "x").read_bytes() == DATA


def test_download__half_of_it_is_here__asks_for_the_rest(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA[:1000])

    web(tmp_path).download(f"{server.url}/x", tmp_path / "x", size_bytes=len(DATA))

    assert (tmp_path / "x").read_bytes() == DATA
    assert server.calls[0].headers["range"] == "bytes=1000-"


def test_download__all_of_it_is_here__is_done(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)

    web(tmp_path).download(f"{server.url}/x", tmp_path / "x")

    assert (tmp_path / "x").read_bytes() == DATA


def test_download__server_sends_another_part__is_refused(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA[:1000])
    wrong = Answer(status=206, body=DATA[5:], headers={"Content-Range": f"bytes 5-{len(DATA) - 1}/{len(DATA)}"})
    server.faults.append(Fault(kind="answer", answer=wrong))

    with pytest.raises(DatasetError, match="the server sends another part of the file than it was asked for"):
        web(tmp_path).download(f"{server.url}/x", tmp_path / "x")


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
def test_download__another_length_than_expected__is_refused(server: FileServer, tmp_path: Path, size: int) -> None:
    with pytest.raises(DatasetError) as refused:
        web(tmp_path).download(f"{server.url}/x", tmp_path / "x", size_bytes=size)

    assert str(refused.value) == (f"{server.url}/x: the server announces {len(DATA)} bytes, and {size} are expected")


def test_download__drips__is_given_up(server: FileServer, tmp_path: Path) -> None:
    clock = itertools.count(0.0, 61.0)
    server.files["/x"] = DATA[:40_000]

    with pytest.raises(DatasetError) as refused:
        web(tmp_path, now=clock.__next__).download(f"{server.url}/x", tmp_path / "x")

    assert str(refused.value).startswith(f"{server.url}/x: given up after 5 tries in a row: only ")
    assert len(server.calls) == 5


def test_download__no_answer__is_given_up(server: FileServer, tmp_path: Path) -> None:
    server.faults.append(Fault(kind="hang", times=100))

    with pytest.raises(DatasetError) as refused:
        web(tmp_path, silence_s=0.05).download(f"{server.url}/x", tmp_path / "x")

    assert str(refused.value) == f"{server.url}/x: given up after 5 tries in a row: no answer in time"


def test_download__redirects_in_a_circle__is_given_up(server: FileServer, tmp_path: Path) -> None:
    server.redirects |= {"/a": "/b", "/b": "/a"}

    with pytest.raises(DatasetError) as refused:
        web(tmp_path).download(f"{server.url}/a", tmp_path / "x")

    assert str(refused.value) == f"{server.url}/a: redirected more than 5 times"
    assert len(server.calls) == 6


def test_download__redirected_elsewhere__credentials_stay(
    server: FileServer, other: FileServer, tmp_path: Path
) -> None:
    server.redirects["/a"] = f"{other.url}/x?signature=abc"
    server.redirects["/here"] = "/a"

    web(tmp_path).download(f"{server.url}/here", tmp_path / "x", private=SECRET)

    assert (tmp_path / "x").read_bytes() == DATA
    assert [call.headers.get("authorization") for call in server.calls] == ["Bearer s3cret"] * 2
    assert [call.headers.get("authorization") for call in other.calls] == [None]


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("http://169.254.169.254/latest/meta-data/", "data comes over https:// alone"),
        ("https://169.254.169.254/latest/meta-data/", "169.254.169.254 is an address of this machine"),
        ("https://[fd00:ec2::254]/", "fd00:ec2::254 is an address of this machine"),
        ("https://localhost:1/", "localhost is "),
        ("file:///etc/passwd", "is no https:// URL"),
        ("ftp://example.org/x", "is no https:// URL"),
        ("https:///x", "is no https:// URL"),
        ("https://[::1/x", "the server redirects to something that is no URL"),
        ("https://example.org:port/x", "is no https:// URL"),
    ],
)
def test_download__redirected_where_no_data_is__is_refused(
    server: FileServer, tmp_path: Path, to: str, why: str
) -> None:
    server.redirects["/a"] = to

    with pytest.raises(DatasetError, match=why.replace("[", r"\[")):
        web(tmp_path).download(f"{server.url}/a", tmp_path / "x", private=SECRET)

    assert not (tmp_path / "x").exists()


def test_download__host_that_is_not_allowed__is_refused_with_the_way_to_allow_it(
    server: FileServer, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError) as refused:
        web(tmp_path, allow="").download(f"{server.url}/x".replace("http:", "https:"), tmp_path / "x")

    assert str(refused.value) == (
        "127.0.0.1 is an address of this machine or of its cloud's metadata, and no source of data. "
        "If it is meant, name the host in GITOPS_ML_ALLOW_HOSTS"
    )
    assert server.calls == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "169.254.169.254", "169.254.170.2", "fe80::1%eth0", "fd00:ec2::254",
        "fd00:ec2::23", "fd20:ce::254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
        "224.0.0.1", "168.63.129.16", "100.100.100.200", "192.0.0.192", "::",
    ],
)  # fmt: skip
def test_is_reserved__this_machine_or_metadata__yes(address: str) -> None:
    assert is_reserved(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "10.0.0.1", "192.168.1.5", "2606:2800:220:1::1", "fd00::1"])
def test_is_reserved__anything_else__no(address: str) -> None:
    assert not is_reserved(address)


def test_refuse_reserved__allowed_host__may_pass() -> None:
    refuse_reserved("http://127.0.0.1:9000", {"GITOPS_ML_ALLOW_HOSTS": "minio, 127.0.0.1"})

    with pytest.raises(DatasetError, match="no source of data"):
        refuse_reserved("http://127.0.0.1:9000", {"GITOPS_ML_ALLOW_HOSTS": "minio"})


def test_download__too_large_for_the_disk__is_refused_before_it_begins(server: FileServer, tmp_path: Path) -> None:
    size = 2**60
    server.handle = lambda call: Answer(body=DATA)  # type: ignore[method-assign]

    with pytest.raises(DatasetError, match=rf"announces {len(DATA)} bytes, and {size} are expected"):
        web(tmp_path).download(f"{server.url}/x", tmp_path / "x", size_bytes=size)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "the server asks for credentials (401)"),
        (403, "the server refuses (403); are credentials needed, and right?"),
        (404, "there is nothing (404), or nothing that may be seen without credentials"),
        (418, "the server answers 418"),
    ],
)
def test_download__refused__says_so_at_once(server: FileServer, tmp_path: Path, status: int, words: str) -> None:
    server.faults.append(Fault(kind="answer", answer=Answer(status=status)))

    with pytest.raises(DatasetError) as refused:
        web(tmp_path).download(f"{server.url}/x?token=s3cret", tmp_path / "x")

    assert str(refused.value) == f"{server.url}/x: {words}"
    assert len(server.calls) == 1


def test_download__busy_for_a_while__waits_as_long_as_it_is_told(server: FileServer, tmp_path: Path) -> None:
    paused: list[float] = []
    outside = Outside(
        environ={"GITOPS_ML_ALLOW_HOSTS": "127.0.0.1"}, cache=DataCache(tmp_path / "cache"), wait=paused.append
    )
    busy = Answer(status=429, headers={"Retry-After": "7"})
    server.faults += [Fault(kind="answer", answer=busy), Fault(kind="answer", answer=Answer(status=503))]

    Web(outside).download(f"{server.url}/x", tmp_path / "x")

    assert [pause for pause in paused if pause] == [7.0, 4.0]


def test_document__nested_deeper_than_python_can__is_refused(server: FileServer, tmp_path: Path) -> None:
    server.files["/x"] = b"[" * 200_000

    with pytest.raises(DatasetError, match="the answer is no JSON"):
        web(tmp_path).document(f"{server.url}/x")


def test_document__no_json__is_refused(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as refused:
        web(tmp_path).document(f"{server.url}/x")

    assert str(refused.value) == f"{server.url}/x: the answer is no JSON"


def test_shown__user_and_signature__are_left_out() -> None:
    assert shown("https://user:pass@example.org/a/b?X-Amz-Signature=1#f") == "https://example.org/a/b"


def test_download__through_a_proxy__asks_it_with_its_login(server: FileServer, tmp_path: Path) -> None:
    environ = {
        "GITOPS_ML_ALLOW_HOSTS": "data.example",
        "http_proxy": server.url.replace("//", "//user:pass%40word@"),
        "NO_PROXY": "example.org",
    }
    outside = Outside(environ=environ, cache=DataCache(tmp_path / "cache"), wait=lambda _: None)

    Web(outside).download("http://data.example/x", tmp_path / "x")

    assert (tmp_path / "x").read_bytes() == DATA
    (call,) = server.calls
    assert call.headers["host"] == "data.example"
    assert call.headers["proxy-authorization"] == basic("user", "pass@word")


def test_download__characters_that_a_request_cannot_have__are_spelt(server: FileServer, tmp_path: Path) -> None:
    server.files["/a größe"] = DATA
    server.redirects["/b"] = "/a größe".encode().decode("latin-1")

    web(tmp_path).download(f"{server.url}/a größe", tmp_path / "x")

    assert (tmp_path / "x").read_bytes() == DATA


def test_download__place_that_cannot_be_written__is_said(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()

    with pytest.raises(DatasetError) as refused:
        web(tmp_path).download(f"{server.url}/x", tmp_path / "x")

    assert "cannot write" in str(refused.value)


def test_download__nobody_listens__is_given_up(tmp_path: Path) -> None:
    server = FileServer()
    with server.running():
        pass

    with pytest.raises(DatasetError) as refused:
        web(tmp_path).download(f"{server.url}/x", tmp_path / "x")

    assert str(refused.value) == f"{server.url}/x: given up after 5 tries in a row: Connection refused"
