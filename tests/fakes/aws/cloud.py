"""What a test sees of the fake."""

import atexit
import base64
import contextlib
import dataclasses
import itertools
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[3]
ROLE = "gitops-ml-worker"

PRICES = {"g4dn.xlarge": 0.526, "g5.xlarge": 1.006, "g6.xlarge": 0.8048, "m7i.large": 0.1008, "c7i.large": 0.08925}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instance:
    """An instance as the cloud sees it; ``state`` and ``reason`` are EC2's words."""

    identity: str
    state: str
    reason: str
    type: str
    tags: Mapping[str, str]
    region: str
    zone: str
    market: str
    token: str
    user_data: bytes
    launched_at: float
    ended_at: float | None
    parameters: Mapping[str, Any] = dataclasses.field(repr=False)
    """Of the RunInstances that made it."""

    @property
    def live(self) -> bool:
        return self.state not in ("terminated", "shutting-down")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """A request. ``who``: ``caller``, ``stranger``, or the instance that it came from."""

    number: int
    service: str
    action: str
    parameters: Mapping[str, Any]
    region: str
    who: str
    status: int | None
    at: float
    fault: str | None = None
    zone: str | None = None
    type: str | None = None
    market: str | None = None
    subnet: str | None = None


class Held:
    """A request that waits for us."""

    def __init__(self, cloud: "Cloud", name: str) -> None:
        self._cloud = cloud
        self._name = name

    def reached(self, seconds: float = 30) -> bool:
        """Wait until a request is held; False: none came."""
        return bool(self._cloud.tell("reached", name=self._name, seconds=seconds))

    def release(self) -> None:
        """Let it go on, and hold no other."""
        self._cloud.tell("release", name=self._name)


class Cloud:
    """An account on loopback, empty at first: ``with Cloud(tmp_path) as cloud``.

    Args:
        folder: where machines have their disks.
        execute: run the instances' user data.
        minute_s: how long a minute of the machines' ``shutdown`` lasts.
        nap_s: how long the machines' Python sleeps at most when it is told to.
        python: what machines find as ``python3``; by default an interpreter with nothing but its standard library.
        machine_environ: what else machines find in their environment.
    """

    _idle: list["_Process"] = []  # noqa: RUF012 processes are made once and used again

    def __init__(
        self,
        folder: Path,
        *,
        execute: bool = True,
        minute_s: float = 60,
        nap_s: float | None = None,
        python: Path | None = None,
        machine_environ: Mapping[str, str] | None = None,
    ) -> None:
        self._orders = {
            "folder": str(folder),
            "execute": execute,
            "minute_s": minute_s,
            "nap_s": nap_s,
            "python": str(python or base_python()),
            "machine_environ": dict(machine_environ or {}),
        }
        self._names = itertools.count(1)
        self._clients: dict[tuple[str, str, int], Any] = {}

    def __enter__(self) -> Self:
        self._process = Cloud._idle.pop() if Cloud._idle else _Process()
        about = self.tell("start", **self._orders)
        self.url: str = about["url"]
        self.bucket: str = about["bucket"]
        self.images: Mapping[str, str] = about["images"]
        """Region -> the image that all SSM parameters of deep learning images name."""
        self.isolated: bool = about["spaces"]
        self.environ: Mapping[str, str] = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": about["key"],
            "AWS_SECRET_ACCESS_KEY": about["secret"],
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.settings(prices=PRICES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tell("stop")
        Cloud._idle.append(self._process)

    def client(self, service: str, *, region: str = "us-east-1", total_attempts: int = 5) -> Any:
        """Return a boto3 client with the caller's keys; making one takes long, so each is made once."""
        from gitops_ml.aws import client

        key = (service, region, total_attempts)
        if key not in self._clients:
            self._clients[key] = client(service, self.environ, region=region, total_attempts=total_attempts)
        return self._clients[key]

    @property
    def calls(self) -> Sequence[Call]:
        """All requests so far, in the order in which they came in."""
        return [Call(**row) for row in self.tell("calls")]

    def calls_by(self, who: str = "caller") -> Sequence[Call]:
        """Return the requests of one; ``machines``: of all instances."""
        return [c for c in self.calls if c.who == who or (who == "machines" and c.who.startswith("i-"))]

    @property
    def violations(self) -> Sequence[str]:
        """What in requests is against the services' models."""
        return list(self.tell("violations"))

    def instances(self) -> Sequence[Instance]:
        """Return all that were ever started, oldest first."""
        rows = self.tell("instances")
        return [Instance(**{**row, "user_data": base64.b64decode(row["user_data"])}) for row in rows]

    def live(self) -> Sequence[Instance]:
        """Return those that cost money."""
        return [instance for instance in self.instances() if instance.live]

    def fault(
        self,
        action: str,
        code: str = "",
        *,
        status: int = 400,
        message: str = "told to fail",
        when: str = "before",
        times: int | None = 1,
        skip: int = 0,
        kind: str = "answer",
        where: Mapping[str, str] | None = None,
    ) -> None:
        """Let matching requests fail.

        Args:
            action: the API's name, such as ``RunInstances``; a pattern.
            code: of the error that is answered.
            when: ``before`` the request takes effect, or ``after`` it.
            times: how often; None: always.
            skip: how many are let through first.
            kind: ``answer``, or ``reset``: the connection breaks without one.
            where: patterns for what else must match: ``zone``, ``type``, ``market``, ``region``, ``service``, ``who``
                (``machine``: any instance), or a parameter, such as ``Key``.
        """
        self.tell(
            "fault",
            action=action,
            code=code,
            status=status,
            message=message,
            when=when,
            times=times,
            skip=skip,
            kind=kind,
            where=dict(where or {}),
        )

    def no_capacity(self, code: str = "InsufficientInstanceCapacity", **where: str) -> None:
        """Let no machine be had there, from now on."""
        status = 500 if code == "InsufficientInstanceCapacity" else 400
        self.fault("RunInstances", code, status=status, times=None, where=where)

    def refuse_s3(
        self, code: str = "AccessDenied", *, status: int = 403, who: str = ".*", times: int | None = None
    ) -> None:
        """Let S3 refuse, from now on."""
        self.fault(".*", code, status=status, times=times, where={"service": "s3", "who": who})

    def clear_faults(self) -> None:
        """Let everything work again."""
        self.tell("clear")

    @contextlib.contextmanager
    def held(
        self, action: str = ".*", *, when: str = "after", skip: int = 0, where: Mapping[str, str] | None = None
    ) -> Iterator[Held]:
        """Hold the next matching request, by default when it has taken effect and before it is answered."""
        name = str(next(self._names))
        where = {"who": "caller"} if where is None else dict(where)
        self.tell("hold", name=name, action=action, when=when, skip=skip, times=1, kind="hold", code="", where=where)
        held = Held(self, name)
        try:
            yield held
        finally:
            held.release()

    def notice(self, identity: str, seconds: float = 2) -> None:
        """Tell a machine that it will be taken away, and do so."""
        self.tell("notice", identity=identity, seconds=seconds)

    def pull_plug(self, identity: str, code: str = "Server.SpotInstanceTermination") -> None:
        """Take a machine away without a word."""
        self.tell("pull_plug", identity=identity, code=code)

    def kill(self, identity: str, pattern: str) -> Sequence[str]:
        """Send SIGKILL to a machine's processes whose arguments match; returns their arguments."""
        return list(self.tell("kill", identity=identity, pattern=pattern, number=int(signal.SIGKILL)))

    def freeze(self, identity: str) -> None:
        """Stop all processes of a machine, as a wedged kernel does."""
        self.tell("kill", identity=identity, pattern="", number=int(signal.SIGSTOP))

    def pass_deadline(self, identity: str) -> float:
        """Let the time come at which a machine is scheduled to shut down; returns in how many minutes that was."""
        minutes = self.tell("pass_deadline", identity=identity)
        assert minutes is not None, f"{identity} is not scheduled to shut down"
        return float(minutes)

    def lose_gpu(self, identity: str) -> None:
        """Let a machine's driver say that its GPU is lost."""
        self.tell("lose_gpu", identity=identity)

    def processes(self, identity: str) -> Sequence[str]:
        """Return the argument lists of a machine's processes."""
        return list(self.tell("processes", identity=identity))

    def console(self, identity: str) -> str:
        """Return what a machine's user data printed."""
        return str(self.tell("console", identity=identity))

    def skew(self, seconds: float) -> None:
        """Set the clock of machines that are started from now on wrong."""
        self.tell("skew", seconds=seconds)

    def linger(self, on: bool = True) -> None:
        """Let ended instances stay in ``shutting-down``, until this is turned off."""
        self.tell("linger", on=on)

    def expire(self, who: str = "caller") -> None:
        """Let the credentials of the caller, of an instance or of all ``machines`` have expired."""
        self.tell("expire", who=who)

    def renew(self, who: str = "caller") -> None:
        """Let the caller's credentials be good again."""
        self.tell("renew", who=who)

    def enforce(self, *, caller: Sequence[Any], machine: Sequence[Any]) -> None:
        """Enforce policies from now on, these: of the caller's and of the machines' role."""
        self.tell("enforce", caller=list(caller), machine=list(machine))

    def settings(self, *, quotas: Mapping[str, float] | None = None, prices: Mapping[str, float] | None = None) -> None:
        """Set quotas (code -> vCPUs) and prices (type, or ``spot TYPE ZONE`` -> USD per hour)."""
        self.tell("settings", quotas=dict(quotas or {}), prices=dict(prices or {}))

    def names(self, prefix: str = "") -> Sequence[str]:
        """Return the names of what is in the bucket, sorted."""
        return list(self.tell("names", prefix=prefix))

    def objects(self, prefix: str = "") -> Mapping[str, bytes]:
        """Return what is in the bucket."""
        return {name: base64.b64decode(text) for name, text in self.tell("objects", prefix=prefix).items()}

    def tell(self, verb: str, **values: Any) -> Any:
        return self._process.tell(verb, values)


def base_python() -> Path:
    """Return the interpreter that our virtual environment was made from."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return Path(sys.base_prefix, "bin", version).resolve()


class _Process:
    """The server, which ends when we do."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.aws.server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.close)
        assert self._process.stdout is not None
        self._url = self._process.stdout.readline().strip()
        assert self._url, "the fake AWS did not start; its words stand above"
        # Not by way of a proxy that the environment may name.
        self._opener: Callable[..., Any] = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def tell(self, verb: str, values: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(f"{self._url}/_cloud/{verb}", json.dumps(values).encode(), method="POST")
        try:
            with self._opener(request, timeout=150) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(f"the fake AWS broke on `{verb}`:\n{error.read().decode()}") from None

    def close(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            self._process.communicate(timeout=30)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
