"""The data cache: one download for all, nothing that was changed, nothing over its limit."""

import hashlib
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from gitops_ml.agent.cache import LIMIT_BYTES, DataCache, limit_from
from gitops_ml.datasets.base import DatasetError, Wanted
from gitops_ml.datasets.web import Web
from tests.fakes.files import FileServer


def wanted(data: bytes, name: str = "x.csv") -> Wanted:
    return Wanted(name=name, digest=f"sha256:{hashlib.sha256(data).hexdigest()}")


def writes(data: bytes, log: list[bytes] | None = None):
    def get(file: Path) -> None:
        (log if log is not None else []).append(data)
        file.write_bytes(data)

    return get


def no_get(file: Path) -> None:
    raise AssertionError("it is here already")


def _fetch_in_a_process(root: str, url: str, digest: str, target: str, ready: object, go: object) -> None:
    from gitops_ml.datasets.base import Outside

    cache = DataCache(Path(root))
    outside = Outside(environ={"GITOPS_ML_ALLOW_HOSTS": "127.0.0.1"}, cache=cache, wait=lambda _: None)
    ready.release()
    go.wait(30)
    cache.place(Wanted(name="large", digest=digest), Path(target), lambda file: Web(outside).download(url, file))


def test_place__two_processes_at_once__one_download(tmp_path: Path) -> None:
    block = bytes(range(256)) * 4096
    data = block * 64
    server = FileServer()
    server.files["/large"] = data
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    context = multiprocessing.get_context("spawn")
    ready, go = context.Semaphore(0), context.Event()
    both = threading.Event()
    server.before_answer = lambda call: both.wait(30) and None
    with server.running():
        processes = [
            context.Process(
                target=_fetch_in_a_process,
                args=(str(tmp_path / "cache"), f"{server.url}/large", digest, str(tmp_path / f"t{n}"), ready, go),
            )
            for n in range(2)
        ]
        for process in processes:
            process.start()
        for _ in processes:
            assert ready.acquire(timeout=60)
        go.set()
        both.set()
        for process in processes:
            process.join(120)

    assert [process.exitcode for process in processes] == [0, 0]
    assert len(server.calls) == 1
    for n in range(2):
        assert (tmp_path / f"t{n}").stat().st_size == len(data)
        assert (tmp_path / f"t{n}").read_bytes() == data


def test_place__holder_dies__the_next_one_goes_on_with_its_part(tmp_path: Path) -> None:
    cache = DataCache(tmp_path)

    def dies(file: Path) -> None:
        file.write_bytes(b"half")
        raise RuntimeError("killed")

    def goes_on(file: Path) -> None:
        with file.open("ab") as rest:
            assert rest.tell() == 4
            rest.write(b" and half")

    with pytest.raises(RuntimeError):
        cache.place(wanted(b"half and half"), tmp_path / "a", dies)
    cache.place(wanted(b"half and half"), tmp_path / "a", goes_on)

    assert (tmp_path / "a").read_bytes() == b"half and half"


def test_place__rest_of_another_file_was_left__begins_anew(tmp_path: Path) -> None:
    cache = DataCache(tmp_path)

    def torn(file: Path) -> None:
        file.write_bytes(b"stale")
        raise RuntimeError("killed")

    def appends(file: Path) -> None:
        with file.open("ab") as rest:
            rest.write(b"new")

    with pytest.raises(RuntimeError):
        cache.place(wanted(b"new"), tmp_path / "a", torn)
    cache.place(wanted(b"new"), tmp_path / "a", appends)

    assert (tmp_path / "a").read_bytes() == b"new"


def test_place__wrong_content__is_refused_and_not_kept(tmp_path: Path) -> None:
    cache = DataCache(tmp_path)

    with pytest.raises(DatasetError) as refused:
        cache.place(wanted(b"right"), tmp_path / "a", writes(b"wrong"))

    assert str(refused.value) == (
        f"x.csv is sha256:{hashlib.sha256(b'wrong').hexdigest()}, but {wanted(b'right').digest} is pinned; "
        "if the change is meant, take it with `gitops-ml lock --update`"
    )
    assert not (tmp_path / "a").exists()
    cache.place(wanted(b"right"), tmp_path / "a", writes(b"right"))


def test_place__cached_file_was_changed__is_got_anew_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    cache = DataCache(tmp_path, say=said.append)
    cache.place(wanted(b"data"), tmp_path / "a", writes(b"data"))
    (kept,) = (file for file in (tmp_path / "data/objects").rglob("*") if file.is_file())
    kept.chmod(0o644)
    kept.write_bytes(b"evil")

    cache.place(wanted(b"data"), tmp_path / "b", writes(b"data"))

    assert (tmp_path / "b").read_bytes() == b"data"
    assert said == [
        "fetching x.csv",
        "x.csv: the cached file was changed, by a training perhaps; it is fetched anew",
        "fetching x.csv",
    ]


def test_place__no_digest__is_known_by_its_identity(tmp_path: Path) -> None:
    cache = DataCache(tmp_path)
    one = Wanted(name="s3://b/k", identity="s3://b/k version 1")

    cache.place(one, tmp_path / "a", writes(b"first"))
    cache.place(one, tmp_path / "b", no_get)
    cache.place(Wanted(name="s3://b/k", identity="s3://b/k version 2"), tmp_path / "c", writes(b"second"))

    assert [(tmp_path / name).read_bytes() for name in "abc"] == [b"first", b"first", b"second"]


def test_place__same_content_elsewhere__is_not_got_again(tmp_path: Path) -> None:
    cache = DataCache(tmp_path)
    digest = cache.learn("https://example.org/x", writes(b"data"))

    cache.place(wanted(b"data"), tmp_path / "a", no_get)

    assert digest == wanted(b"data").digest
    assert list((tmp_path / "data/partial").iterdir()) == []


def test_place__many_threads_and_files__each_is_got_once(tmp_path: Path) -> None:
    cache = DataCache(tmp_path / "cache", wait=lambda _: None)
    log: list[bytes] = []
    files = [b"%d" % n for n in range(5)]

    def all_of(thread: int) -> None:
        for data in files:
            cache.place(wanted(data), tmp_path / f"{thread}-{data.decode()}", writes(data, log))

    threads = [threading.Thread(target=all_of, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(log) == files
    assert sum(1 for _ in tmp_path.glob("?-?")) == 40


def test_trim__over_the_limit__what_was_used_longest_ago_goes(tmp_path: Path) -> None:
    cache = DataCache(tmp_path, limit_bytes=250)
    for n in range(3):
        cache.place(wanted(b"%d" % n * 100), tmp_path / f"a{n}", writes(b"%d" % n * 100))
    for age, n in ((300, 0), (200, 1), (100, 2)):
        (kept,) = (tmp_path / "data/objects").rglob(wanted(b"%d" % n * 100).digest.partition(":")[2])
        os.utime(kept, (1_000_000 - age, 1_000_000 - age))
    cache.place(wanted(b"0" * 100), tmp_path / "again", no_get)

    cache.trim()

    cache.place(wanted(b"0" * 100), tmp_path / "b0", no_get)
    cache.place(wanted(b"2" * 100), tmp_path / "b2", no_get)
    assert (tmp_path / "a1").read_bytes() == b"1" * 100
    with pytest.raises(AssertionError):
        cache.place(wanted(b"1" * 100), tmp_path / "b1", no_get)


def test_trim__while_others_use_the_cache__takes_nothing_out_of_their_hands(tmp_path: Path) -> None:
    cache = DataCache(tmp_path / "cache", limit_bytes=0, wait=lambda _: None)
    over = threading.Event()
    wrong: list[BaseException] = []

    def trims() -> None:
        while not over.is_set():
            cache.trim()

    def uses(number: int) -> None:
        try:
            for turn in range(50):
                one = Wanted(name="s3://b/k", identity=f"s3://b/k version {turn % 3}")
                cache.place(one, tmp_path / f"t{number}", writes(b"%d" % (turn % 3)))
                assert (tmp_path / f"t{number}").read_bytes() == b"%d" % (turn % 3)
        except BaseException as error:  # noqa: BLE001 told to the test below
            wrong.append(error)

    trimmer = threading.Thread(target=trims)
    users = [threading.Thread(target=uses, args=(number,)) for number in range(3)]
    for thread in (trimmer, *users):
        thread.start()
    for thread in users:
        thread.join(60)
    over.set()
    trimmer.join(60)

    assert [str(error) for error in wrong if not isinstance(error, DatasetError)] == []


def test_trim__file_that_is_being_used__stays(tmp_path: Path) -> None:
    cache = DataCache(tmp_path, limit_bytes=0)
    cache.place(wanted(b"data"), tmp_path / "a", writes(b"data"))

    with cache._locked(wanted(b"data").digest, "x.csv"):
        cache.trim()
    cache.place(wanted(b"data"), tmp_path / "b", no_get)
    cache.trim()

    with pytest.raises(AssertionError):
        cache.place(wanted(b"data"), tmp_path / "b", no_get)


@pytest.mark.parametrize(("text", "limit"), [("", LIMIT_BYTES), ("200GB", 200 * 10**9), ("64 GiB", 64 * 2**30)])
def test_limit_from__a_size__is_it(text: str, limit: int) -> None:
    assert limit_from({"GITOPS_ML_CACHE_SIZE": text}) == limit


def test_limit_from__no_size__is_refused() -> None:
    with pytest.raises(DatasetError) as refused:
        limit_from({"GITOPS_ML_CACHE_SIZE": "much"})

    assert str(refused.value) == "GITOPS_ML_CACHE_SIZE is `much`; give a size such as 200GB or 64GiB"
