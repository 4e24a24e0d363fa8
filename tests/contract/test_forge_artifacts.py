"""What a job fetches that another has left, from GitLab and from where GitLab sends it; nothing sleeps."""

import pytest

from gitops_ml.errors import ServiceError, UserError
from gitops_ml.forges.base import CannotPublishError, KeepsArtifacts
from tests.fakes.forges import place
from tests.fakes.gitlab import Job
from tests.fakes.server import Answer, Fault, Server

NAME = "gitops-ml:run"
ARCHIVE = b"PK\x05\x06" + bytes(18)
SIGNATURE = "X-Amz-Signature=canary7"


@pytest.fixture
def lab(tmp_path):
    with place("gitlab", tmp_path) as opened:
        opened.fake.jobs[5] = [Job(number=31, name=NAME, archive=ARCHIVE)]
        yield opened


class Store(Server):
    """An object storage, which knows nobody's token and must not be shown one."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer

    def handle(self, call):
        return self.answer


@pytest.fixture
def store():
    made = Store(Answer(body=ARCHIVE, headers={"Content-Type": "application/zip"}))
    with made.running():
        yield made


def left(there, folder, name=NAME, limit_bytes=1000, **options):
    return there.forge(**options).left_by_job(name, folder, limit_bytes=limit_bytes)


def sent_on(there, url, status=302):
    there.fake.artifacts_at = lambda job: Answer(status=status, body=b"", headers={"Location": url})


def failed(there, folder, **options):
    """Return the words of a failure, which hold neither the token nor a signed address."""
    with pytest.raises(ServiceError) as caught:
        left(there, folder, **options)
    assert "canary" not in str(caught.value)
    return str(caught.value).replace(there.fake.url.removeprefix("http://"), "GITLAB")


def test_kinds__only_gitlab_keeps_what_jobs_leave(tmp_path):
    for name in ("github", "gitlab", "local"):
        with place(name, tmp_path) as there:
            assert isinstance(there.forge(), KeepsArtifacts) is (name == "gitlab")


def test_left_by_job__archive__is_the_bytes_and_the_token_is_in_the_header_alone(lab, tmp_path):
    found = left(lab, tmp_path)

    assert (found.status, found.archive.read_bytes(), found.expired) == ("success", ARCHIVE, False)
    (call,) = lab.fake.sent("GET", ".*/artifacts")
    assert call.path.endswith("/jobs/31/artifacts")
    assert (call.headers["private-token"], call.headers["accept-encoding"]) == ("glpat-canary0", "identity")


def test_left_by_job__others_by_like_names_and_an_earlier_try__are_not_taken(lab, tmp_path):
    lab.fake.jobs[5] = [
        Job(number=number, name=name, status=status, archive=text)
        for number, name, status, text in [
            (30, NAME, "failed", b"earlier try"),
            (31, NAME, "failed", b"this"),
            (32, f"{NAME} 1/2", "success", b"parallel"),
            (33, "gitops-ml:running", "success", b"longer"),
            (34, "GITOPS-ML:RUN", "success", b"upper case"),
        ]
    ]
    lab.fake.jobs[6] = [Job(number=40, name=NAME, archive=b"another pipeline")]
    # More than a page of them: the one that is meant is on the last.
    lab.fake.jobs[5] += [Job(number=100 + number, name=f"test {number}") for number in range(250)]
    found = left(lab, tmp_path)

    assert (found.status, found.archive.read_bytes()) == ("failed", b"this")


@pytest.mark.parametrize("status", ["failed", "canceled", "skipped", "manual", "created"])
def test_left_by_job__job_that_left_nothing__is_told_by_its_status(lab, tmp_path, status):
    lab.fake.jobs[5] = [Job(number=31, name=NAME, status=status, expires=None)]
    found = left(lab, tmp_path)

    assert (found.status, found.archive, found.expired) == (status, None, False)


@pytest.mark.parametrize("listed", [True, False])
def test_left_by_job__what_it_left_has_expired__is_told(lab, tmp_path, listed):
    job = Job(number=31, name=NAME, archive=ARCHIVE, listed=listed, expires="2026-11-01T00:00:00.000Z")
    lab.fake.jobs[5] = [job]
    lab.fake.artifacts_at = lambda job: Answer(status=404, body={"message": "404 Not found"})
    found = left(lab, tmp_path)

    assert (found.status, found.archive, found.expired) == ("success", None, True)


def test_left_by_job__listed_and_not_given__is_an_error_and_not_nothing(lab, tmp_path):
    lab.fake.artifacts_at = lambda job: Answer(status=404, body={"message": "404 Not found"})

    assert failed(lab, tmp_path) == (
        "cannot download what the job `gitops-ml:run` (31) has left: GitLab lists it, and does not give it"
    )


def test_left_by_job__no_job_of_that_name__is_an_error(lab, tmp_path):
    with pytest.raises(UserError) as caught:
        left(lab, tmp_path, "train")
    assert str(caught.value) == "pipeline 5 has no job `train`, or it cannot be seen with this token"


def test_left_by_job__outside_of_a_pipeline__says_what_is_missing(lab, tmp_path):
    with pytest.raises(UserError) as caught:
        left(lab, tmp_path, run=0)
    assert str(caught.value) == (
        "there is no `CI_PIPELINE_ID` of a pipeline in which the job `gitops-ml:run` could have been"
    )


def test_left_by_job__job_token__goes_by_its_own_header(lab, tmp_path):
    environ = {**lab.environ(), "CI_JOB_TOKEN": "glcbt-canary1"}
    del environ["GITLAB_TOKEN"]

    assert left(lab, tmp_path, environ=environ).archive.read_bytes() == ARCHIVE
    assert "private-token" not in lab.fake.calls[-1].headers


def test_left_by_job__no_token__says_how_to_make_one(lab, tmp_path):
    environ = {name: value for name, value in lab.environ().items() if name != "GITLAB_TOKEN"}

    assert failed(lab, tmp_path, environ=environ).startswith("no GitLab token: create one")


# Where GitLab sends us


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_left_by_job__kept_in_an_object_storage__is_fetched_without_the_token(lab, store, tmp_path, status):
    sent_on(lab, f"{store.url}/bucket/a?{SIGNATURE}", status)

    assert left(lab, tmp_path).archive.read_bytes() == ARCHIVE
    (call,) = store.calls
    assert call.query == {"X-Amz-Signature": "canary7"}
    assert not {"private-token", "job-token", "authorization", "cookie"} & call.headers.keys()
    assert "canary0" not in str(call)


def test_left_by_job__other_port_of_the_same_host__is_another_place(lab, store, tmp_path):
    # 127.0.0.1 in both: what a cookie or a list of hosts would take for one.
    sent_on(lab, f"{store.url}/a")

    left(lab, tmp_path)
    assert "private-token" not in store.calls[0].headers


def test_left_by_job__storage_sends_back_to_gitlab__the_token_does_not_come_back(lab, store, tmp_path):
    sent_on(lab, f"{store.url}/a")
    store.answer = Answer(status=307, headers={"Location": f"{lab.fake.url}/api/v4/projects/42/jobs/31/artifacts"})

    assert "says 401" in failed(lab, tmp_path)
    assert all("private-token" not in call.headers for call in lab.fake.sent("GET", "/api/v4/projects/42/.*"))


def test_left_by_job__netrc_of_the_runner__is_not_sent(lab, store, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login rob password canary9\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    sent_on(lab, f"{store.url}/a")

    left(lab, tmp_path)
    assert "authorization" not in store.calls[0].headers


def test_left_by_job__project_was_renamed__redirect_on_the_same_host_keeps_the_token(lab, tmp_path):
    answer = lab.fake.handle

    def moved(call):
        if "sight" not in call.path:
            return answer(call)
        where = lab.fake.url + call.path.replace("acme%2Fresearch%2Fsight", "acme%2Fresearch%2Fvision")
        return Answer(status=301, body={"message": "Moved"}, headers={"Location": where})

    lab.fake.handle = moved

    environ = lab.environ() | {"CI_PROJECT_PATH": "acme/research/sight"}
    assert left(lab, tmp_path, environ=environ).archive.read_bytes() == ARCHIVE


@pytest.mark.parametrize("location", [None, "", "http://[", "ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_left_by_job__redirect_to_nonsense__is_an_error(lab, tmp_path, location):
    headers = {} if location is None else {"Location": location}
    lab.fake.artifacts_at = lambda job: Answer(status=302, headers=headers)

    assert failed(lab, tmp_path) == (
        "cannot download what the job `gitops-ml:run` (31) has left: GITLAB redirects to something that is no address"
    )


@pytest.mark.parametrize("location", ["http://127.0.0.1:99999999/x", "http://\x7f.invalid/", "http://.invalid/"])
def test_left_by_job__redirect_to_a_host_that_cannot_be__is_an_error(lab, tmp_path, location):
    sent_on(lab, location)

    assert "cannot download what the job" in failed(lab, tmp_path)


def test_left_by_job__redirect_whose_own_answer_is_large__is_followed_unread(lab, store, tmp_path):
    sent_on(lab, f"{store.url}/a")
    lab.fake.artifacts_at = lambda job: Answer(status=302, body=b"x" * 10**7, headers={"Location": f"{store.url}/a"})

    assert left(lab, tmp_path).archive.read_bytes() == ARCHIVE


def test_left_by_job__redirects_in_a_circle__ends(lab, tmp_path):
    sent_on(lab, f"{lab.fake.url}/api/v4/projects/42/jobs/31/artifacts")

    assert failed(lab, tmp_path) == (
        "cannot download what the job `gitops-ml:run` (31) has left: GITLAB redirects more than 5 times"
    )
    assert lab.clock.slept == []


def test_left_by_job__storage_that_does_not_know_the_address_any_more__is_asked_for_anew(lab, store, tmp_path):
    sent_on(lab, f"{store.url}/a?{SIGNATURE}")
    good, store.answer = store.answer, Answer(status=403, body=b"<Error>expired canary7</Error>")
    store.faults.append(Fault(kind="answer", skip=1, answer=good, times=9))

    assert left(lab, tmp_path).archive.read_bytes() == ARCHIVE
    assert len(lab.fake.sent("GET", ".*/artifacts")) == 2


def test_left_by_job__storage_that_refuses__is_named_without_the_signed_address(lab, store, tmp_path):
    sent_on(lab, f"{store.url}/bucket/a?{SIGNATURE}")
    store.answer = Answer(status=403, body=b"<Error>canary7</Error>")

    assert failed(lab, tmp_path) == (
        f"cannot download what the job `gitops-ml:run` (31) has left: {store.url.removeprefix('http://')} says 403; "
        "gave up after 6 tries"
    )


def test_left_by_job__storage_that_is_not_there__is_named_without_the_signed_address(lab, tmp_path):
    sent_on(lab, f"http://127.0.0.1:1/a?{SIGNATURE}")

    assert failed(lab, tmp_path) == (
        "cannot download what the job `gitops-ml:run` (31) has left: 127.0.0.1:1 cannot be reached (ConnectionError); "
        "gave up after 6 tries"
    )


# What goes wrong on the way


@pytest.mark.parametrize("kind", ["reset", "cut", "answer"])
def test_left_by_job__torn_once__is_fetched_again_whole(lab, tmp_path, kind):
    lab.fake.faults.append(Fault(kind=kind, path=".*/artifacts"))

    assert left(lab, tmp_path).archive.read_bytes() == ARCHIVE


def test_left_by_job__cut_each_time__is_no_shorter_archive(lab, tmp_path):
    lab.fake.faults.append(Fault(kind="cut", path=".*/artifacts", times=99))

    assert "gave up after 6 tries" in failed(lab, tmp_path)


def test_left_by_job__drips__is_left(lab, tmp_path):
    lab.fake.faults.append(Fault(kind="drip", path=".*/artifacts", times=99))

    assert failed(lab, tmp_path, archive_s=0.3, cap_s=0, limit_bytes=10**7).startswith(
        "cannot download what the job `gitops-ml:run` (31) has left: it did not come within 0 s"
    )


def test_left_by_job__more_than_the_limit__is_refused_before_it_is_read(lab, tmp_path):
    lab.fake.jobs[5] = [Job(number=31, name=NAME, archive=b"x" * 1001)]

    assert failed(lab, tmp_path) == (
        "cannot download what the job `gitops-ml:run` (31) has left: it has more than 1000 bytes"
    )
    assert lab.clock.slept == []


def test_left_by_job__in_an_encoding__is_not_unpacked_on_the_way(lab, tmp_path):
    lab.fake.artifacts_at = lambda job: Answer(body=b"x", headers={"Content-Encoding": "gzip"})

    assert failed(lab, tmp_path) == (
        "cannot download what the job `gitops-ml:run` (31) has left: it comes in an encoding that was not asked for"
    )


@pytest.mark.parametrize(
    ("status", "kind"), [(401, CannotPublishError), (403, CannotPublishError), (418, ServiceError)]
)
def test_left_by_job__refused__says_what_gitlab_says_without_the_token(lab, tmp_path, status, kind):
    message = {"message": "no, glpat-canary0"}
    lab.fake.faults.append(Fault(kind="answer", path=".*/artifacts", answer=Answer(status=status, body=message)))

    with pytest.raises(kind) as caught:
        left(lab, tmp_path)
    assert f"says {status}: no, ***" in str(caught.value)


def test_left_by_job__rate_limit__waits_as_long_as_it_says(lab, tmp_path):
    limited = Answer(status=429, body={"message": "Retry later"}, headers={"Retry-After": "7"})
    lab.fake.faults.append(Fault(kind="answer", path=".*/artifacts", answer=limited))

    assert left(lab, tmp_path).archive.read_bytes() == ARCHIVE
    assert lab.clock.slept == [7]


def test_left_by_job__disk_that_cannot_be_written__says_so(lab, tmp_path):
    with pytest.raises(UserError) as caught:
        left(lab, tmp_path / "nowhere")
    assert str(caught.value) == f"cannot write into {tmp_path / 'nowhere'}: No such file or directory"
