"""A machine: its user data as a process tree of its own, what the machine can be told, and how it ends.

As root on Linux it gets name spaces of its own, so that it sees no other process and nothing of it survives its end.
Elsewhere it is a process group and what carries its mark in the environment.
"""

import contextlib
import functools
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.fakes.server import Loopback

_SPACES = ("unshare", "--pid", "--fork", "--mount", "--uts", "--kill-child", "--mount-proc")
_PRIVATE = ("/opt", "/mnt", "/srv", "/var/tmp")

_SHUTDOWN = """#!/bin/sh
printf '%s %s\\n' "${0##*/}" "$*" >"$FAKE_MACHINE/power"
"""

_NAPS = """
import time

_sleep = time.sleep
time.sleep = lambda seconds: _sleep(min(seconds, NAP))
"""

_CLOCK = """
import datetime, time

class _Kind(type(datetime.datetime)):
    def __instancecheck__(cls, value):
        return isinstance(value, _real)

class _Clock(datetime.datetime, metaclass=_Kind):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=SKEW)

    @classmethod
    def utcnow(cls):
        return cls.now(datetime.timezone.utc).replace(tzinfo=None)

_real, _time, _gmtime, _localtime, _strftime = (
    datetime.datetime, time.time, time.gmtime, time.localtime, time.strftime
)
datetime.datetime = _Clock
time.time = lambda: _time() + SKEW
time.time_ns = lambda: int(time.time() * 1e9)
time.gmtime = lambda seconds=None: _gmtime(time.time() if seconds is None else seconds)
time.localtime = lambda seconds=None: _localtime(time.time() if seconds is None else seconds)
time.strftime = lambda how, at=None: _strftime(how, time.localtime() if at is None else at)
"""

_NVIDIA_SMI = """#!/bin/sh
if [ -e "$FAKE_MACHINE/gpu-lost" ]; then
  echo "Unable to determine the device handle for GPU0000:00:1E.0: Unknown Error" && exit 15
fi
fields=${1#--query-gpu=}
"""

_BOOT = """#!/bin/sh
if [ "$FAKE_SPACES" = 1 ]; then
  hostname "$FAKE_NAME"
  for place in /sbin /usr/sbin /bin /usr/bin; do
    for tool in shutdown poweroff halt reboot; do
      [ -e "$place/$tool" ] && mount --bind "$FAKE_MACHINE/bin/shutdown" "$place/$tool"
    done
  done
  for place in $FAKE_PRIVATE; do
    [ -d "$place" ] && mkdir -p "$FAKE_MACHINE/private$place" && mount --bind "$FAKE_MACHINE/private$place" "$place"
  done
fi
cd "$HOME" && "$FAKE_MACHINE/user-data" >>"$FAKE_MACHINE/console" 2>&1 </dev/null
exec sleep infinity
"""


@functools.cache
def spaces() -> bool:
    """Whether a machine can have name spaces of its own here."""
    try:
        done = subprocess.run([*_SPACES, "true"], capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


class Machine:
    """One machine. ``ended`` is called once when it powered itself off."""

    def __init__(
        self,
        folder: Path,
        *,
        identity: str,
        user_data: bytes,
        environ: Mapping[str, str],
        python: Path,
        gpus: Sequence[tuple[str, int]],
        facts: Mapping[str, str],
        credentials: Callable[[], Mapping[str, str] | None],
        ended: Callable[[], None],
        minute_s: float,
        skew_s: float,
        nap_s: float | None,
    ) -> None:
        self.identity = identity
        self.folder = folder
        self._credentials = credentials
        self._facts = facts
        self._ended = ended
        self._minute_s = minute_s
        self._skew_s = skew_s
        self._nap_s = nap_s
        self._environ = environ
        self._user_data = user_data
        self._python = python
        self._gpus = gpus
        self._timer: threading.Timer | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._dead = False
        self._minutes = 0.0
        self.notice_at: float | None = None

    def start(self) -> None:
        """Boot: the user data begins."""
        for part in ("bin", "home", "tmp"):
            (self.folder / part).mkdir(parents=True)
        script = self.folder / "user-data"
        script.write_bytes(self._user_data)
        script.chmod(0o700)
        for name in ("shutdown", "poweroff", "halt", "reboot"):
            tool = self.folder / "bin" / name
            tool.write_text(_SHUTDOWN)
            tool.chmod(0o755)
        python = self._python
        if self._skew_s or self._nap_s is not None:
            python = _with_clock(python, self._skew_s, self._nap_s, self.folder / "python")
        for name in ("python3", f"python3.{sys.version_info.minor}"):
            # Not a link: through one a virtual environment does not find itself.
            tool = self.folder / "bin" / name
            tool.write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
            tool.chmod(0o755)
        if self._gpus:
            tool = self.folder / "bin" / "nvidia-smi"
            tool.write_text(_nvidia_smi(self._gpus))
            tool.chmod(0o755)
        boot = self.folder / "boot"
        boot.write_text(_BOOT)
        os.mkfifo(self.folder / "power")
        # Opened for both, so that it neither waits for a writer nor ends with one.
        self._power = os.open(self.folder / "power", os.O_RDWR)
        self._metadata = _Metadata(self)
        environ = {
            "PATH": f"{self.folder}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "LANG": "C.UTF-8",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self._metadata.url,
            "FAKE_MACHINE": str(self.folder),
            "FAKE_NAME": self.identity,
            "FAKE_SPACES": "1" if spaces() else "0",
            "FAKE_PRIVATE": " ".join(place for place in _PRIVATE if not str(self.folder).startswith(f"{place}/")),
            **self._environ,
        }
        threading.Thread(target=self._listen, daemon=True).start()
        prefix = _SPACES if spaces() else ()
        self._process = subprocess.Popen(
            [*prefix, "/bin/sh", str(boot)], env=environ, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def power_off(self) -> None:
        """End as when the plug is pulled; returns when no process of it is left."""
        with self._lock:
            if self._dead:
                return
            self._dead = True
            timer, process = self._timer, self._process
        if timer is not None:
            timer.cancel()
        os.write(self._power, b"end\n")
        if process is not None:
            init = _first_child(process.pid) if spaces() else None
            below = [] if spaces() else descendants(process.pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if init is not None:
                # A name space is empty once its first process is gone.
                with contextlib.suppress(OSError):
                    select.select([init], [], [], 20)
                os.close(init)
            else:
                _kill_all(below)
                _kill_marked(f"FAKE_MACHINE={self.folder}")
        self._metadata.close()

    def pass_deadline(self) -> float | None:
        """Let the time come for which a shutdown is scheduled; returns in how many minutes that was."""
        with self._lock:
            timer, minutes = self._timer, self._minutes
        if timer is None:
            return None
        timer.cancel()
        self._power_button()
        return minutes

    def lose_gpu(self) -> None:
        """Let the driver say that a GPU has fallen off the bus."""
        (self.folder / "gpu-lost").touch()

    def kill(self, pattern: str, number: int = signal.SIGKILL) -> list[str]:
        """Send a signal to the machine's processes whose arguments match; returns these."""
        killed = []
        for pid, words in self._members():
            if re.search(pattern, words):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                    killed.append(words)
        return killed

    def processes(self) -> list[str]:
        """Return the argument lists of the machine's processes."""
        return [words for _, words in self._members()]

    def _members(self) -> list[tuple[int, str]]:
        if self._process is None or self._dead:
            return []
        below = descendants(self._process.pid)
        init = below[0] if below else None
        space = _space(init) if spaces() and init is not None else None
        if space is not None:
            return [(pid, words) for pid in _all() if _space(pid) == space and (words := _words(pid))]
        mark = f"FAKE_MACHINE={self.folder}"
        return [(pid, words) for pid in _all() if (pid in below or _has(pid, mark)) and (words := _words(pid))]

    def console(self) -> bytes:
        """Return what the user data printed."""
        try:
            return (self.folder / "console").read_bytes()
        except FileNotFoundError:
            return b""

    def metadata(self, path: str) -> bytes | None:
        """Return what the metadata service says at a path."""
        if path == "spot/instance-action":
            if self.notice_at is None:
                return None
            at = datetime.fromtimestamp(self.notice_at, UTC)
            return json.dumps({"action": "terminate", "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"}).encode()
        if path.startswith("iam/security-credentials"):
            granted = self._credentials()
            if granted is None:
                return None
            name = path.removeprefix("iam/security-credentials").strip("/")
            role = granted["Role"]
            if not name:
                return role.encode()
            shown = {key: value for key, value in granted.items() if key != "Role"}
            return json.dumps(shown).encode() if name == role else None
        value = self._facts.get(path)
        return None if value is None else value.encode()

    def identity_document(self) -> bytes:
        """Return the instance identity document."""
        return json.dumps(
            {
                "instanceId": self.identity,
                "instanceType": self._facts["instance-type"],
                "region": self._facts["placement/region"],
                "availabilityZone": self._facts["placement/availability-zone"],
                "imageId": self._facts["ami-id"],
                "accountId": "123456789012",
                "architecture": "x86_64",
            }
        ).encode()

    def user_data(self) -> bytes:
        return self._user_data

    def _listen(self) -> None:
        with os.fdopen(self._power) as power:
            for line in power:
                if line == "end\n":
                    break
                self._shutdown(line.split())

    def _shutdown(self, words: list[str]) -> None:
        when = next((word for word in words[1:] if not word.startswith("-")), "now" if words[0] != "shutdown" else "+1")
        with self._lock:
            if self._dead:
                return
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if "-c" in words:
                return
            minutes = self._minutes = 0.0 if when == "now" else float(when.removeprefix("+"))
            self._timer = threading.Timer(minutes * self._minute_s, self._power_button)
            self._timer.daemon = True
            self._timer.start()

    def _power_button(self) -> None:
        self.power_off()
        self._ended()


def _with_clock(python: Path, skew_s: float, nap_s: float | None, folder: Path) -> Path:
    """Return an interpreter that is the given one in all but its clock.

    Not libfaketime: with Python's own waiting it either hangs or breaks (0.9.10).
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    configured = python.parent.parent / "pyvenv.cfg"
    base = python.resolve()
    packages = folder / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("python", "python3"):
        (folder / "bin" / name).symlink_to(base)
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    naps = "" if nap_s is None else _NAPS.replace("NAP", str(nap_s))
    (packages / "clock_of_this_machine.py").write_text(naps + (_CLOCK.replace("SKEW", str(skew_s)) if skew_s else ""))
    # Not sitecustomize: Debian's Python has one of its own, which comes first.
    (packages / "clock_of_this_machine.pth").write_text("import clock_of_this_machine\n")
    if configured.exists():
        inner = configured.parent / "lib" / version / "site-packages"
        (packages / "image.pth").write_text(f"import site; site.addsitedir({str(inner)!r})\n")
    return folder / "bin" / "python3"


def _nvidia_smi(gpus: Sequence[tuple[str, int]]) -> str:
    """Return a script that answers what is asked of the GPUs (name, MiB) as nvidia-smi does."""
    lines = [_NVIDIA_SMI]
    for index, (name, mib) in enumerate(gpus):
        facts = {
            "index": str(index),
            "uuid": f"GPU-00000000-0000-0000-0000-{index:012d}",
            "name": f"NVIDIA {name}",
            "utilization.gpu": "40",
            "memory.used": "1024",
            "memory.total": str(mib),
        }
        cases = " ".join(f"{field}) echo {value!r} ;;" for field, value in facts.items())
        lines.append(f"""
for field in $(echo "$fields" | tr , ' '); do
  case "$field" in {cases} esac
done | paste -sd , - | sed 's/,/, /g'
""")
    return "".join(lines)


class _Metadata:
    """IMDSv2 of one machine, on a port of its own."""

    def __init__(self, machine: Machine) -> None:
        tokens: set[str] = set()

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                if self.path != "/latest/api/token" or "X-aws-ec2-metadata-token-ttl-seconds" not in self.headers:
                    return self._answer(400, b"")
                tokens.add(token := os.urandom(16).hex())
                return self._answer(200, token.encode())

            def do_GET(self) -> None:
                if self.headers.get("X-aws-ec2-metadata-token") not in tokens:
                    return self._answer(401, b"")
                if self.path == "/latest/dynamic/instance-identity/document":
                    found: bytes | None = machine.identity_document()
                elif self.path == "/latest/user-data":
                    found = machine.user_data()
                else:
                    found = machine.metadata(self.path.removeprefix("/latest/meta-data/"))
                return self._answer(200, found) if found is not None else self._answer(404, b"")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = Loopback(Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _first_child(pid: int) -> int | None:
    """Return a descriptor of the process's child, readable when that has ended."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        if children:
            with contextlib.suppress(OSError):
                return os.pidfd_open(int(children[0]))
        threading.Event().wait(0.01)
    return None


def _all() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal()]


def descendants(pid: int) -> list[int]:
    """Return the process's descendants, nearest first."""
    found: list[int] = []
    ahead = [pid]
    while ahead:
        at = ahead.pop(0)
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{at}/task").iterdir():  # a child belongs to the thread that started it
                children = [int(word) for word in (thread / "children").read_text().split()]
                found += children
                ahead += children
    return found


def _space(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return None


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _has(pid: int, mark: str) -> bool:
    try:
        return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _kill_all(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _kill_marked(mark: str) -> None:
    while found := [pid for pid in _all() if _has(pid, mark) and _words(pid)]:
        _kill_all(found)
        threading.Event().wait(0.02)
