"""What every backend promises; each is trained on here with real agents."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gitops_ml.backends.aws_ec2 import AwsEc2Backend
from gitops_ml.backends.base import Backend, Context, JobState, JobStatus
from gitops_ml.backends.local import LocalBackend
from gitops_ml.bundles import bundle
from gitops_ml.errors import UserError
from gitops_ml.planning import Trial
from gitops_ml.spec import Artifact, Budget, Data, Environment, Gpu, Metrics, Read, Resources
from gitops_ml.storage import opened
from tests.fakes.aws import Cloud
from tests.fakes.trials import WRITES, Objects, trial, until

CALLER = {
    "PATH": os.environ["PATH"],
    "HOME": os.environ.get("HOME", "/"),
    "CANARY_TOKEN": "canary-value",
    "TRAIN_TOKEN": "s3cret-value",
    "PYTHONPATH": "/nowhere",
}
METRICS = Metrics(read=(Read(path="out/metrics.json"),))
HANGS = "echo started; sleep 600"


class Site:
    """One backend with its objects; a second connection is what a new process has."""

    def __init__(self, kind: str, connect: Callable[[], Backend], cloud: Cloud | None = None) -> None:
        self.kind = kind
        self.connect = connect
        self.backend = connect()
        self.cloud = cloud
        self.objects = Objects()
        self.submitted: list[str] = []

    def submit(self, of: Trial) -> JobStatus:
        self.submitted.append(of.key)
        with bundle(of, self.objects.blobs) as made:
            return self.backend.submit(of, made)

    def status(self, of: Trial) -> JobStatus:
        return self.backend.poll([of.key])[of.key]

    def ended(self, of: Trial) -> JobStatus:
        return until(lambda: status if (status := self.status(of)).state.final else None)

    def run(self, of: Trial) -> JobStatus:
        self.submit(of)
        return self.ended(of)

    def log(self, of: Trial) -> list[str]:
        return list(self.backend.logs(of.key, follow=False))

    def has_printed(self, of: Trial, line: str) -> None:
        until(lambda: line in self.log(of))

    def has_saved(self, of: Trial) -> None:
        """A machine elsewhere may be gone at once: what outlives it has left it before."""
        if self.cloud is not None:
            place = {"Bucket": self.cloud.bucket, "Prefix": f"digits/jobs/{of.key}/checkpoints/manifests/"}
            until(lambda: self.cloud is not None and self.cloud.client("s3").list_objects_v2(**place)["KeyCount"])


KINDS: dict[str, Callable[[Context], Backend]] = {"local": LocalBackend, "aws-ec2": AwsEc2Backend}
REPOSITORY = "acme/digits"


def context_of(kind: str, state: Path, environ: Mapping[str, str], bucket: str = "") -> Context:
    """What a backend finds around it; ``environ`` is the caller's."""
    settings = {"local": {"grace_s": 0.3}}.get(kind, {})
    uri = f"s3://{bucket}/digits"
    storage = functools.cache(lambda: opened(uri, state, environ))
    where = {"storage_uri": uri, "storage": storage} if bucket else {}
    return Context(
        state=state,
        settings=settings,
        environ=environ,
        now=lambda: datetime.now(UTC),
        repository=REPOSITORY,
        **where,  # type: ignore[arg-type]
    )


@pytest.fixture(params=list(KINDS))
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    kind = request.param
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(Cloud(tmp_path / "machines")) if kind == "aws-ec2" else None
        environ, bucket = CALLER, ""
        if cloud is not None:
            environ, bucket = {**CALLER, **cloud.environ}, cloud.bucket
            secret = f"/gitops-ml/{REPOSITORY}/TRAIN_TOKEN"
            cloud.client("ssm").put_parameter(Name=secret, Type="SecureString", Value=CALLER["TRAIN_TOKEN"])
        context = context_of(kind, tmp_path / "state", environ, bucket)
        site = Site(kind, lambda: KINDS[kind](context), cloud)
        yield site
        for key in site.submitted:
            site.backend.cancel(key)
        if cloud is not None:
            assert cloud.violations == []
            assert cloud.live() == []


def test_submit__training_that_ends_well__succeeds(site: Site) -> None:
    of = trial(WRITES, metrics=METRICS)

    status = site.run(of)

    assert (status.state, status.reason, status.exit_code, status.attempt) == (JobState.SUCCEEDED, "", 0, 1)
    assert (status.cost_usd > 0) == (site.kind != "local")
    assert status.hardware is not None
    assert status.hardware.cpus >= 1
    assert status.started_at is not None
    assert status.ended_at is not None
    assert status.started_at <= status.ended_at


def test_submit__same_key_twice__starts_one_job(site: Site, tmp_path: Path) -> None:
    of = trial(f"echo x >> {tmp_path}/starts; echo started; cat {_gate(tmp_path)}")
    site.submit(of)
    site.has_printed(of, "started")

    again = site.submit(of)
    _open(tmp_path)

    assert again.state is JobState.RUNNING
    assert site.ended(of).attempt == 1
    assert site.submit(of).state is JobState.SUCCEEDED
    assert (tmp_path / "starts").read_text() == "x\n"


def test_submit__eight_processes_at_once__start_one_job(site: Site, tmp_path: Path) -> None:
    code = "import sys; from tests.contract.test_backends import at_once; sys.stdin.readline(); at_once(*sys.argv[1:])"
    environ = {**CALLER, **site.cloud.environ} if site.cloud else CALLER
    bucket = site.cloud.bucket if site.cloud else ""
    run = f"echo x >> {tmp_path}/starts"
    command = [sys.executable, "-c", code, site.kind, str(tmp_path / "state"), run, json.dumps(environ), bucket]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, text=True)) for _ in range(8)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.close()
        assert [process.wait(60) for process in processes] == [0] * 8
    of = trial(f"echo x >> {tmp_path}/starts")
    site.submitted.append(of.key)

    assert site.ended(of).attempt == 1
    assert (tmp_path / "starts").read_text() == "x\n"


def at_once(kind: str, state: str, run: str, environ: str, bucket: str) -> None:
    """What each of the eight processes does."""
    context = context_of(kind, Path(state), json.loads(environ), bucket)
    of = trial(run)
    with bundle(of, Objects().blobs) as made:
        KINDS[kind](context).submit(of, made)


def test_submit__after_a_failure__starts_the_next_attempt(site: Site, tmp_path: Path) -> None:
    of = trial(f"test -e {tmp_path}/mended")
    first = site.run(of)
    (tmp_path / "mended").touch()

    second = site.run(of)

    assert (first.state, first.reason) == (JobState.FAILED, "the training exited with code 1")
    assert (second.state, second.attempt) == (JobState.SUCCEEDED, 2)


def test_poll__unknown_key__is_absent(site: Site) -> None:
    assert site.backend.poll(["f" * 64]) == {}


def test_poll__from_a_new_process__sees_the_job(site: Site) -> None:
    of = trial("echo hello")
    site.submit(of)

    other = site.connect()

    until(lambda: other.poll([of.key])[of.key].state is JobState.SUCCEEDED)
    assert list(other.logs(of.key, follow=True)) == ["hello"]
    (job,) = other.jobs()
    assert (job.key, job.experiment, job.seed) == (of.key, "digits", 0)
    assert other.jobs(of.key[:12]) == [job]
    assert other.jobs("0" * 64) == []


def test_poll__after_the_end__stays_the_same(site: Site) -> None:
    of = trial("exit 3")
    first = site.run(of)

    assert first.exit_code == 3
    assert site.status(of) == first


def test_logs__followed__ends_with_the_job(site: Site) -> None:
    of = trial("echo one; echo two >&2; printf three")
    site.submit(of)

    assert list(site.backend.logs(of.key, follow=True)) == ["one", "two", "three"]


def test_cancel__running__ends_every_process(site: Site, tmp_path: Path) -> None:
    escapes = (
        f"setsid sh -c 'echo $$ > {tmp_path}/escaped.tmp; mv {tmp_path}/escaped.tmp {tmp_path}/escaped; sleep 600' &"
    )
    of = trial(f"{escapes} {HANGS}")
    site.submit(of)
    pid = int(until(lambda: _text(tmp_path / "escaped")))

    site.backend.cancel(of.key)

    assert site.status(of).state is JobState.CANCELLED
    if site.cloud is None:
        assert not _alive(pid)
    else:  # its process ids are its own
        (machine,) = site.cloud.instances()
        until(lambda: site.cloud is not None and site.cloud.processes(machine.identity) == [])


def test_cancel__training_that_ignores_sigterm__is_killed(site: Site) -> None:
    of = trial("trap '' TERM; echo started; while true; do sleep 600; done")
    site.submit(of)
    site.has_printed(of, "started")

    site.backend.cancel(of.key)

    assert site.status(of).state is JobState.CANCELLED


def test_cancel__over_or_unknown__is_quiet(site: Site) -> None:
    of = trial("true")
    site.run(of)

    site.backend.cancel(of.key)
    site.backend.cancel("f" * 64)

    assert site.status(of).state is JobState.SUCCEEDED


def test_collect__declared_outputs__are_brought_repeatably(site: Site, tmp_path: Path) -> None:
    of = trial(
        f"{WRITES}; echo m > model.bin; mkdir deep; echo d > deep/a.txt; echo no > a.txt; ln -s /etc/passwd out/link",
        metrics=METRICS,
        artifacts=(Artifact(path="model.bin"), Artifact(path="deep")),
    )
    site.run(of)

    for into in (tmp_path / "once", tmp_path / "again"):
        site.backend.collect(of.key, into)
        assert _files(into) == ["deep/a.txt", "model.bin", "out/metrics.json"]
    assert json.loads((tmp_path / "once/out/metrics.json").read_text()) == {"accuracy": 0.5}


def test_outputs__stale_one_in_the_repository__does_not_pass_for_a_result(site: Site) -> None:
    stale = site.objects.file("out/metrics.json", '{"accuracy": 1.0}')
    of = trial("true", [stale], metrics=METRICS)

    status = site.run(of)

    assert (status.state, status.exit_code) == (JobState.FAILED, 0)
    assert status.reason == "wrote no metrics: no file matches out/metrics.json"


def test_lost__agent_killed__says_so_and_starts_again(site: Site, tmp_path: Path) -> None:
    once = f"echo $$ > {tmp_path}/pid.tmp; mv {tmp_path}/pid.tmp {tmp_path}/pid"
    of = trial(f"test -e {tmp_path}/pid && exit 0; (sleep 600; true) & {once}; sleep 600")
    site.submit(of)
    pid = int(until(lambda: _text(tmp_path / "pid")))
    if site.cloud is None:
        os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    else:
        site.cloud.kill(site.cloud.instances()[0].identity, r"-m gitops_ml\.agent ")
    status = site.ended(of)
    leftovers = list(site.backend.leftovers(datetime.now(UTC)))
    again = site.run(of)

    assert status.state is JobState.LOST
    assert (again.state, again.attempt) == (JobState.SUCCEEDED, 2)
    if site.cloud is None:
        assert status.reason == "its agent ended without a result: it was killed, or the machine went down"
        assert [leftover.key for leftover in leftovers] == [of.key]
        assert not _alive(pid)
    else:
        assert status.reason == "the agent ended without a result (it was killed)"
        assert leftovers == []


def test_limits__max_duration__times_out(site: Site) -> None:
    status = site.run(trial("while true; do echo on; sleep 0.05; done", budget=Budget(max_duration_s=0.3)))

    assert (status.state, status.reason) == (JobState.TIMED_OUT, "ran longer than max_duration (0.3s)")


def test_limits__no_output__times_out(site: Site) -> None:
    status = site.run(trial("sleep 600", budget=Budget(no_output_s=0.3)))

    assert (status.state, status.reason) == (JobState.TIMED_OUT, "printed nothing for 0.3s (no_output)")


def test_environment__of_the_caller__does_not_reach_the_training(site: Site, tmp_path: Path) -> None:
    of = trial(
        f"env > {tmp_path}/env; echo $TRAIN_TOKEN",
        params={"lr": 0.1},
        environment=Environment(env={"MODE": "fast"}, secrets=("TRAIN_TOKEN",)),
        seed=7,
    )

    site.run(of)

    env = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert "CANARY_TOKEN" not in env
    assert "PYTHONPATH" not in env
    assert {name: env[name] for name in ("MODE", "TRAIN_TOKEN", "GITOPS_ML_SEED", "GITOPS_ML_KEY")} == {
        "MODE": "fast",
        "TRAIN_TOKEN": "s3cret-value",
        "GITOPS_ML_SEED": "7",
        "GITOPS_ML_KEY": of.key,
    }
    assert json.loads(Path(env["GITOPS_ML_PARAMS"]).read_text()) == {"lr": 0.1}
    assert site.log(of) == ["***"]


def test_secrets__value__is_on_no_disk(site: Site, tmp_path: Path) -> None:
    site.run(trial("echo $TRAIN_TOKEN", environment=Environment(secrets=("TRAIN_TOKEN",))))

    held = [file for file in tmp_path.rglob("*") if file.is_file() and b"s3cret-value" in file.read_bytes()]
    assert held == []
    if site.cloud is not None:
        assert [name for name, data in site.cloud.objects().items() if b"s3cret-value" in data] == []


def test_secrets__not_set__is_refused(site: Site) -> None:
    of = trial("true", environment=Environment(secrets=("HF_TOKEN",)))

    with pytest.raises(UserError) as refused:
        site.submit(of)

    said = {
        "local": "not set here: HF_TOKEN; set the environment variable and run again",
        "aws-ec2": (
            "there is no SSM parameter /gitops-ml/acme/digits/HF_TOKEN in us-east-1; "
            "`aws ssm put-parameter --type SecureString --name NAME --value ...` makes it"
        ),
    }
    assert str(refused.value) == f"experiments/digits.yaml: environment.secrets: {said[site.kind]}"
    assert site.backend.poll([of.key]) == {}


def test_gpu__more_than_there_are__is_refused(site: Site) -> None:
    of = trial("true", resources=Resources(gpu=Gpu(type=("Z9000",), count=64)))

    said = {
        "local": r"resources\.gpu: 64 GPU\(s\) of type Z9000 are asked for",
        "aws-ec2": r"resources\.gpu\.type: no machine of EC2 in the catalog has a `Z9000`",
    }
    with pytest.raises(UserError, match=said[site.kind]):
        site.submit(of)


def test_code__files_links_and_data__are_as_in_the_repository(site: Site, tmp_path: Path) -> None:
    files = [
        site.objects.file("model/tool.sh", "#!/bin/sh\necho tool $1", "100755"),
        site.objects.file("model/link.sh", "tool.sh", "120000"),
        site.objects.file("model/data/train.csv", "1,2\n"),
    ]
    of = trial(
        "./link.sh ${params.word}; cat ${data.train}; echo ${trial.output}",
        files,
        workdir="model",
        params={"word": "it's"},
        data=(Data(name="train", uri="data/train.csv"),),
    )

    site.run(of)

    tool, data, output = site.log(of)
    assert (tool, data) == ("tool it's", "1,2")
    assert output.endswith("/code/model/out")


def test_command__list__needs_no_shell(site: Site) -> None:
    of = trial(("printf", "%s|", "$HOME", "${params.word}", "${trial.seed}"), params={"word": "a b"})

    site.run(of)

    assert site.log(of) == ["$HOME|a b|0|"]


def test_command__python__is_the_interpreter_that_runs_the_agent(site: Site) -> None:
    of = trial("python -c 'import sys; print(sys.prefix)'; python3 -c 'import sys; print(sys.prefix)'")

    site.run(of)

    first, second = site.log(of)
    assert first == second
    assert (first == sys.prefix) == (site.kind == "local")  # a machine elsewhere has an interpreter of its own


def test_checkpoints__outlive_an_attempt_that_was_cancelled(site: Site) -> None:
    of = trial(
        "if [ -e ckpt/last ]; then cat ckpt/last; else echo 5 > ckpt/last; echo started; sleep 600; fi",
        checkpoints="ckpt",
    )
    site.submit(of)
    site.has_printed(of, "started")
    site.has_saved(of)
    site.backend.cancel(of.key)

    assert site.run(of).attempt == 2
    assert site.log(of)[-1] == "5"


def _gate(folder: Path) -> Path:
    gate = folder / "gate"
    os.mkfifo(gate)
    return gate


def _open(folder: Path) -> None:
    (folder / "gate").write_text("go\n")


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _files(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
